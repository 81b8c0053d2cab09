"""A custom network for `fashion.yaml`, a plain torch module without code for schedules, studies or Lightning."""

from torch import Tensor, nn


class FashionCNN(nn.Module):
    """Two convolutions with batch normalization, and a dense layer, for 28 x 28 gray images.

    Args:
        width: Channels of the first convolution; the second has twice as many.
        dropout: Share of the dense layer's inputs that is dropped in training.
    """

    def __init__(self, width: int = 16, dropout: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(2 * width * 7 * 7, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [batch, 10] of images [batch, 1, 28, 28]."""
        logits: Tensor = self.layers(images)
        return logits
