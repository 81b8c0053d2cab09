"""Networks that ship with the tuner."""

from collections.abc import Sequence
from typing import Literal, cast

from torch import Tensor, nn

from lightning_modules.checks import require

__all__ = ["MNISTCNN", "MODELS"]


class MNISTCNN(nn.Module):
    """The reference CNN for 28 x 28 grey images: three convolutions and three dense layers.

    A 5 x 5 and two 3 x 3 convolutions of stride 1 with "same" padding and bias, each followed by ReLU and a 2 x 2
    maximum with "same" padding (28, 14, 7, 4 pixels wide); then two dense layers with ReLU, dropout after the first of
    them, and the dense layer of the classes. 12,843,694 parameters at the default widths.

    Args:
        channels: Output channels of the three convolutions.
        hidden: Widths of the two hidden dense layers.
        dropout: Share of the first dense layer's outputs that is dropped in training, in [0, 1).
        init: "default" for PyTorch's own initialisation, or "truncated_normal" for weights from a normal distribution
            with standard deviation 0.1, cut off at two of them, and zero biases.
        num_classes: Classes to tell apart.

    Shape:
        Input [batch, 1, 28, 28], output (logits) [batch, num_classes].

    >>> sum(parameter.numel() for parameter in MNISTCNN().parameters())
    12843694
    """

    def __init__(
        self,
        *,
        channels: tuple[int, int, int] = (32, 64, 128),
        hidden: tuple[int, int] = (5000, 500),
        dropout: float = 0.2,
        init: Literal["default", "truncated_normal"] = "default",
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        self.channels, self.hidden, self.dropout, self.num_classes = (
            tuple(channels),
            tuple(hidden),
            dropout,
            num_classes,
        )
        require(self, "channels", _are_widths(self.channels, 3), "three channels of 1 or more")
        require(self, "hidden", _are_widths(self.hidden, 2), "two hidden widths of 1 or more")
        require(self, "dropout", 0 <= dropout < 1, "0 <= dropout < 1")
        require(self, "num_classes", num_classes >= 2, "num_classes >= 2")
        first, second, third = self.channels
        self.layers = nn.Sequential(
            nn.Conv2d(1, first, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(second, third, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),  # 7 -> 4, as "same" padding does
            nn.Flatten(),
            nn.Linear(third * 4 * 4, self.hidden[0]),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(self.hidden[0], self.hidden[1]),
            nn.ReLU(),
            nn.Linear(self.hidden[1], num_classes),
        )
        if init == "truncated_normal":
            self.apply(_truncated_normal)
        elif init != "default":
            raise ValueError(f'init "default" or "truncated_normal" must hold, but got init={init!r}')

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        return cast(Tensor, self.layers(images))


def _are_widths(widths: Sequence[int], count: int) -> bool:
    return len(widths) == count and all(width >= 1 for width in widths)


def _truncated_normal(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.1, a=-0.2, b=0.2)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


MODELS: dict[str, type[nn.Module]] = {"mnist_cnn": MNISTCNN}
