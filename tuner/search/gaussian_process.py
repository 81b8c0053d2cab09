"""A Gaussian process with a length scale for each input, and the expected improvement under it.

Small on purpose: a few hundred points, a dozen inputs, priors that keep the fit stable with five points. See
Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006), equations 2.25, 2.26, 5.8 and 5.9.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy  # imports its submodules on first use, so that commands do not wait for them
from numpy.typing import NDArray

__all__ = ["GaussianProcess", "Kernel", "expected_improvement", "fit_kernel"]

Array = NDArray[np.float64]

JITTER = 1e-6
# Centers and widths of the log-normal priors. Inputs are standardized, so a length scale of 1.5 is a smooth function.
LENGTH_SCALE, LENGTH_SCALE_WIDTH = 1.5, 0.7
NOISE, NOISE_WIDTH = 0.02, 1.0
SIGNAL_WIDTH = 1.0
BOUNDS_LENGTH_SCALE, BOUNDS_SIGNAL, BOUNDS_NOISE = (-2.5, 4.5), (-4.0, 4.0), (-9.0, 1.0)
MAX_ITERATIONS = 40


@dataclass(frozen=True)
class Kernel:
    """A squared-exponential kernel with noise.

    Args:
        length_scales: The length scale of each input [inputs].
        signal: Variance of the function.
        noise: Variance of the noise.
    """

    length_scales: Array
    signal: float
    noise: float

    def __call__(self, left: Array, right: Array) -> Array:
        """Return the covariance of the function at the points left [n, inputs] and right [m, inputs], as [n, m]."""
        left, right = left / self.length_scales, right / self.length_scales
        squares = (left**2).sum(1)[:, None] + (right**2).sum(1)[None] - 2 * left @ right.T
        covariance: Array = self.signal * np.exp(-0.5 * np.maximum(squares, 0.0))
        return covariance


def fit_kernel(points: Array, values: Array) -> Kernel:
    """Return the kernel with the highest posterior density.

    Args:
        points: Standardized inputs [n, inputs].
        values: Standardized values [n].
    """
    count, inputs = points.shape
    squares = (points.T[:, :, None] - points.T[:, None, :]) ** 2
    centers = np.array([*[np.log(LENGTH_SCALE)] * inputs, 0.0, np.log(NOISE)])
    widths = np.array([*[LENGTH_SCALE_WIDTH] * inputs, SIGNAL_WIDTH, NOISE_WIDTH])

    def loss(logs: Array) -> tuple[float, Array]:
        """Return the negative log posterior density and its gradient."""
        weights, signal, noise = np.exp(-2 * logs[:inputs]), np.exp(logs[-2]), np.exp(logs[-1])
        covariance = signal * np.exp(-0.5 * np.tensordot(weights, squares, 1))
        off = (logs - centers) / widths
        try:
            factor = scipy.linalg.cho_factor(covariance + (noise + JITTER) * np.eye(count), lower=True)
        except scipy.linalg.LinAlgError:
            return 1e6, np.zeros_like(logs)
        solved = scipy.linalg.cho_solve(factor, values)
        outer = np.outer(solved, solved) - scipy.linalg.cho_solve(factor, np.eye(count))
        weighted = outer * covariance
        gradient = np.concatenate(
            [
                -0.5 * weights * np.tensordot(squares, weighted, 2),
                [-0.5 * weighted.sum(), -0.5 * np.trace(outer) * noise],
            ]
        )
        density = 0.5 * values @ solved + np.log(np.diag(factor[0])).sum() + 0.5 * (off**2).sum()
        return float(density), gradient + off / widths

    bounds = [BOUNDS_LENGTH_SCALE] * inputs + [BOUNDS_SIGNAL, BOUNDS_NOISE]
    logs = scipy.optimize.minimize(
        loss, centers, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": MAX_ITERATIONS}
    ).x
    return Kernel(np.exp(logs[:inputs]), float(np.exp(logs[-2])), float(np.exp(logs[-1])))


class GaussianProcess:
    """A Gaussian process conditioned on noisy values.

    Args:
        points: Standardized inputs [n, inputs].
        values: Values [n]; they need not be standardized.
        kernel: The kernel, of standardized values; None to fit it.
    """

    def __init__(self, points: Array, values: Array, kernel: Kernel | None = None) -> None:
        self._points = points
        self._mean, self._scale = float(values.mean()), float(values.std()) + 1e-9
        standardized = (values - self._mean) / self._scale
        self.kernel = fit_kernel(points, standardized) if kernel is None else kernel
        covariance = self.kernel(points, points) + (self.kernel.noise + JITTER) * np.eye(len(points))
        self._factor = scipy.linalg.cho_factor(covariance, lower=True)
        self._solved = scipy.linalg.cho_solve(self._factor, standardized)

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Return the mean and the standard deviation of the function at points [m, inputs], each as [m]."""
        covariance = self.kernel(self._points, points)
        variance = self.kernel.signal - (covariance * scipy.linalg.cho_solve(self._factor, covariance)).sum(0)
        mean = self._mean + self._scale * covariance.T @ self._solved
        return mean, self._scale * np.sqrt(np.maximum(variance, 1e-12))


def expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """Return by how much a value is expected to be below the best one, where it is.

    Args:
        mean: Mean of the values [m]; lower is better.
        deviation: Their standard deviation [m].
        best: The lowest value so far.

    >>> expected_improvement(np.array([0.0, 0.0]), np.array([1.0, 2.0]), 0.0).round(4)
    array([0.3989, 0.7979])
    """
    z = (best - mean) / deviation
    improvement: Array = deviation * (z * scipy.special.ndtr(z) + np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi))
    return improvement
