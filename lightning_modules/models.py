"""The networks that ship with the library."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, cast

from torch import Tensor, nn

from lightning_modules._validation import require, require_to

__all__ = ["MLP", "MNISTCNN", "MODELS"]


class MNISTCNN(nn.Module):
    """The reference CNN for 28 x 28 grey images: three convolutions and three dense layers.

    A 5 x 5 and two 3 x 3 convolutions of stride 1 with "same" padding and bias, each followed by ReLU and a 2 x 2
    maximum with "same" padding (28, 14, 7, 4 pixels wide); then two dense layers with ReLU, dropout after the first of
    them, and the dense layer of the classes. 12,843,694 parameters at the default widths.

    Args:
        channels: Output channels of the three convolutions.
        hidden: Widths of the two hidden dense layers.
        dropout: Share of the first dense layer's outputs that is dropped in training, in [0, 1).
        init: "default" for PyTorch's own initialization, or "truncated_normal" for weights from a normal distribution
            with standard deviation 0.1, truncated at two standard deviations, and zero biases.
        num_classes: Number of classes, or of other outputs.

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
        require_to(self, "channels", _are_widths(self.channels, 3), "be three widths >= 1")
        require_to(self, "hidden", _are_widths(self.hidden, 2), "be two widths >= 1")
        require(self, "dropout", 0 <= dropout < 1, "0 <= dropout < 1")
        require(self, "num_classes", num_classes >= 1, "num_classes >= 1")
        first, second, third = self.channels
        self.layers = nn.Sequential(
            nn.Conv2d(1, first, 5, padding=2),
            nn.MaxPool2d(2),
            nn.ReLU(),  # after the pooling it gives the same result with a quarter of the work
            nn.Conv2d(first, second, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(second, third, 3, padding=1),
            nn.MaxPool2d(2, ceil_mode=True),  # 7 -> 4, as "same" padding does
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(third * 4 * 4, self.hidden[0]),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(self.hidden[0], self.hidden[1]),
            nn.ReLU(),
            nn.Linear(self.hidden[1], num_classes),
        )
        if init == "truncated_normal":
            self.apply(_weights_by(_truncated_normal))
        elif init != "default":
            raise ValueError(f'init must be "default" or "truncated_normal", but got init={init!r}')

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [batch, num_classes] of images [batch, 1, 28, 28]."""
        return cast(Tensor, self.layers(images))


class MLP(nn.Module):
    """A multilayer perceptron, for rows of a table or for images, which are flattened.

    ``layers`` times a dense layer, the activation and dropout; then the dense layer of the classes.

    Args:
        inputs: Numbers in an input: 784 pixels, or the columns of a table.
        layers: Hidden layers, 0 or more.
        neurons: Width of each hidden layer; or a list, with the width of each.
        activation: Activation function after each hidden layer.
        dropout: Share of each hidden layer's outputs that is dropped in training, in [0, 1).
        init: "default" for PyTorch's own initialization of the weights (uniform, with variance ``1 / (3 n)`` at ``n``
            inputs); "glorot_uniform", Keras's default; "he_normal"; or "truncated_normal", with standard deviation 0.1,
            truncated at two standard deviations. All but the first set the biases to zero.
        num_classes: Number of classes, or of other outputs.

    Shape:
        Input [batch, ...] with `inputs` numbers in each, output (logits) [batch, num_classes].

    Source: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS
    2010; He et al., "Delving Deep into Rectifiers", ICCV 2015.

    >>> sum(parameter.numel() for parameter in MLP(inputs=4, layers=2, neurons=(4, 6), num_classes=3).parameters())
    71
    """

    def __init__(
        self,
        *,
        inputs: int = 784,
        layers: int = 2,
        neurons: int | tuple[int, ...] = 128,
        activation: Literal["relu", "leaky_relu", "elu", "gelu", "tanh", "sigmoid"] = "relu",
        dropout: float = 0.0,
        init: Literal["default", "glorot_uniform", "he_normal", "truncated_normal"] = "default",
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        self.inputs, self.dropout, self.num_classes = inputs, dropout, num_classes
        self.neurons = (neurons,) * layers if isinstance(neurons, int) else tuple(neurons)
        self.activation, self.init = activation, init
        require(self, "inputs", inputs >= 1, "inputs >= 1")
        require_to(self, "neurons", _are_widths(self.neurons, layers), f"be {layers} widths >= 1, one per layer")
        require(self, "dropout", 0 <= dropout < 1, "0 <= dropout < 1")
        require(self, "num_classes", num_classes >= 1, "num_classes >= 1")
        require_to(self, "activation", activation in _ACTIVATIONS, f"be one of {', '.join(_ACTIVATIONS)}")
        require_to(self, "init", init in _INITS, f"be one of {', '.join(_INITS)}")
        stack: list[nn.Module] = [nn.Flatten()]
        width = inputs
        for neurons_of_layer in self.neurons:
            stack += [nn.Linear(width, neurons_of_layer), _ACTIVATIONS[activation](), nn.Dropout(dropout)]
            width = neurons_of_layer
        self.layers = nn.Sequential(*stack, nn.Linear(width, num_classes))
        if init != "default":
            self.apply(_weights_by(_INITS[init]))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits [batch, num_classes] of inputs [batch, ...]."""
        return cast(Tensor, self.layers(inputs))


def _are_widths(widths: Sequence[int], count: int) -> bool:
    return len(widths) == count and all(width >= 1 for width in widths)


def _truncated_normal(weight: Tensor) -> Tensor:
    return nn.init.trunc_normal_(weight, std=0.1, a=-0.2, b=0.2)


def _weights_by(init: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], None]:
    """Return a function that initializes the weights of a layer and sets its biases to zero."""

    def apply(module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            init(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    return apply


_ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
_INITS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "default": nn.Identity(),
    "glorot_uniform": nn.init.xavier_uniform_,
    "he_normal": nn.init.kaiming_normal_,
    "truncated_normal": _truncated_normal,
}

MODELS: dict[str, type[nn.Module]] = {"mlp": MLP, "mnist_cnn": MNISTCNN}
