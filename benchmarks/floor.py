"""How fast a step of K trials can be: a bare model of K networks, hand-written for this purpose.

Nothing of lr-tuner is used. Weights are bf16 tensors [K, ...] with fp32 copies, convolutions are grouped, dense layers
are batched products, and one kernel updates a tensor of all K networks with Adam, each with its own lr and eps, and
writes the bf16 weights. On a GPU the step is a CUDA graph. `benchmarks/fused_step.py` measures what lr-tuner does.

    python benchmarks/floor.py --network cnn --trials 1 8 32 64
    python benchmarks/floor.py --network narrow --trials 1 32 512 --device cpu --steps 2

The last column is the share of the memory bandwidth (measured by copying a large tensor) that the step reaches if each
parameter moves 34 bytes: bf16 weights are read forward and backward and their gradients written; Adam reads gradient,
fp32 weight and two moments, and writes the latter three and the bf16 weight.
"""

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

try:
    import triton
    import triton.language as tl
except ImportError:  # a machine without a GPU
    triton = None

BETAS, BATCH, CLASSES, BYTES = (0.9, 0.999), 50, 10, 34
NETWORKS = {  # channels of convolutions with their kernels, and neurons
    "cnn": ((32, 64, 128), (5, 3, 3), (5000, 500)),
    "narrow": ((8, 16, 32), (5, 3, 3), (64, 64)),
    "dense": ((), (), (64,)),
}

if triton is not None:

    @triton.jit  # type: ignore[untyped-decorator]
    def _adam(  # type: ignore[no-untyped-def]
        weight, low, grad, first, second, lrs, epses, corrections, size, BLOCK: tl.constexpr
    ):
        trial = tl.program_id(1)
        index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        inside = index < size
        at = trial.to(tl.int64) * size + index
        g = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
        m = tl.load(first + at, mask=inside, other=0.0)
        v = tl.load(second + at, mask=inside, other=0.0)
        m += 0.1 * (g - m)
        v += 0.001 * (g * g - v)
        root = tl.sqrt(v / tl.load(corrections + 1)) + tl.load(epses + trial)
        w = tl.load(weight + at, mask=inside, other=0.0)
        w -= tl.load(lrs + trial) / tl.load(corrections) * m / root
        tl.store(first + at, m, mask=inside)
        tl.store(second + at, v, mask=inside)
        tl.store(weight + at, w, mask=inside)
        tl.store(low + at, w.to(tl.bfloat16), mask=inside)


class Bare:
    """K networks as tensors, and a training step of all of them."""

    def __init__(self, network: str, count: int, device: str) -> None:
        channels, self.kernels, hidden = NETWORKS[network]
        self.count = count
        shapes: list[tuple[int, ...]] = []
        side, before = 28, 1
        for after, kernel in zip(channels, self.kernels, strict=True):
            shapes += [(after, before, kernel, kernel), (after,)]
            side, before = -(-side // 2), after
        for one, other in itertools.pairwise((before * side * side, *hidden, CLASSES)):
            shapes += [(one, other), (other,)]
        self.size = sum(math.prod(shape) for shape in shapes)
        self.weights = [0.05 * torch.randn(count, *shape, device=device) for shape in shapes]
        self.low = [weight.bfloat16().requires_grad_() for weight in self.weights]
        self.moments = [(torch.zeros_like(weight), torch.zeros_like(weight)) for weight in self.weights]
        self.lrs = torch.full((count,), 1e-4, device=device)
        self.epses = torch.full((count,), 1e-8, device=device)
        self.corrections = torch.tensor([1 - beta for beta in BETAS], device=device)

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Train on images [batch, 1, 28, 28] and labels [batch]."""
        count, layers = self.count, iter(self.low)
        at = images.bfloat16().repeat(1, count, 1, 1).to(memory_format=torch.channels_last)
        for kernel in self.kernels:
            weight, bias = next(layers), next(layers)
            at = functional.conv2d(at, weight.flatten(0, 1), bias.flatten(), padding=kernel // 2, groups=count)
            at = functional.max_pool2d(functional.relu(at), 2, ceil_mode=True)
        at = at.reshape(len(images), count, -1).transpose(0, 1)
        left = (len(self.low) - 2 * len(self.kernels)) // 2
        for index in range(left):
            weight, bias = next(layers), next(layers)
            at = torch.baddbmm(bias[:, None], at, weight)
            at = functional.relu(at) if index < left - 1 else at
        losses = functional.cross_entropy(at.flatten(0, 1).float(), labels.repeat(count), reduction="sum")
        grads = torch.autograd.grad(losses / len(images), self.low)
        with torch.no_grad():
            for weight, low, grad, moments in zip(self.weights, self.low, grads, self.moments, strict=True):
                self.update(weight, low.detach(), grad.contiguous(), *moments)

    def update(self, weight: Tensor, low: Tensor, grad: Tensor, first: Tensor, second: Tensor) -> None:
        """Update a tensor [K, ...] of all networks by Adam."""
        if weight.is_cuda and triton is not None:
            size, block = weight[0].numel(), 1024
            settings = self.lrs, self.epses, self.corrections
            _adam[(triton.cdiv(size, block), self.count)](weight, low, grad, first, second, *settings, size, block)
            return
        shape = (self.count, *[1] * (weight.ndim - 1))
        first.lerp_(grad.float(), 1 - BETAS[0])
        second.lerp_(grad.float().square(), 1 - BETAS[1])
        root = (second / self.corrections[1]).sqrt_().add_(self.epses.view(shape))
        weight.sub_(self.lrs.view(shape) / self.corrections[0] * first / root)
        low.copy_(weight)


def seconds(call: Callable[[], Any], steps: int, device: str) -> float:
    """Return the median time of a call, of three rounds."""
    rounds = []
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(steps):
            call()
        if device == "cuda":
            torch.cuda.synchronize()
        rounds.append((time.perf_counter() - began) / steps)
    return statistics.median(rounds)


def bandwidth(device: str) -> float:
    """Return the bytes that copying a large tensor reads and writes in a second."""
    source = torch.ones((1 << 28) if device == "cuda" else (1 << 24), device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source), 5, device)


def as_graph(step: Callable[[], None]) -> Callable[[], None]:
    """Return a step as a CUDA graph, after a few steps on another stream, as torch asks for."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def read_options(description: str | None) -> argparse.Namespace:
    """Return the options of a benchmark over several numbers of trials."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="cnn")
    parser.add_argument("--trials", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=20)
    return parser.parse_args()


def main() -> None:
    options = read_options(__doc__)
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    peak = bandwidth(options.device)
    print(f"{options.network}, copying moves {peak / 1e9:.0f} GB/s\n")
    print("| K | ms per step | as a CUDA graph | share of bandwidth |\n|---|---|---|---|")
    images = torch.rand(BATCH, 1, 28, 28, device=options.device)
    labels = torch.randint(0, CLASSES, (BATCH,), device=options.device)
    for count in options.trials:
        try:
            bare = Bare(options.network, count, options.device)

            def step(bare: Bare = bare) -> None:
                bare.step(images, labels)

            step()
            eager = seconds(step, options.steps, options.device)
            fastest = seconds(as_graph(step), options.steps, options.device) if options.device == "cuda" else eager
        except torch.OutOfMemoryError:
            print(f"| {count} | does not fit into memory | | |", flush=True)
            break
        reached = BYTES * bare.size * count / fastest / peak
        graph = f"{1000 * fastest:.2f}" if options.device == "cuda" else ""
        print(f"| {count} | {1000 * eager:.2f} | {graph} | {reached:.0%} |", flush=True)


if __name__ == "__main__":
    main()
