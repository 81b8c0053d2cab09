"""Time of a training step of K trials, as one model and as K models one after the other.

Both do the same work (a CNN or a dense network on MNIST-5k, batch 50, Adam and an exponential schedule each): forward,
backward, update, next lr. Rounds alternate, and ratios are between adjacent rounds.

The last column is the share of the memory bandwidth that the fused step reaches: the minimum that it must move, 40
bytes per parameter in fp32 (the weights are read forward and backward, the gradients written; Adam reads weights,
gradients and both moments, and writes weights and moments), relative to copying a large tensor in the same time.

    python benchmarks/fused_step.py --trials 1 4 16 --device cuda
    python benchmarks/fused_step.py --trials 1 4 --channels 8 16 32 --hidden 64 64
    python benchmarks/fused_step.py --trials 4 8 --dense 128 --steps 40
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from lightning_modules import (
    MLP,
    MNISTCNN,
    Adam,
    Classifier,
    ExponentialDecay,
    FusedClassifier,
    MNIST5kDataModule,
    ScheduleLR,
)
from lightning_modules.fused.optimizer import FusedOptimizer

Step = Callable[[Tensor, Tensor], None]

BYTES_A_PARAMETER = 4 * (2 + 1 + 4 + 3)


def network(options: argparse.Namespace) -> torch.nn.Module:
    if options.dense:
        return MLP(layers=len(options.dense), neurons=tuple(options.dense))
    return MNISTCNN(channels=tuple(options.channels), hidden=tuple(options.hidden))


def classifiers(options: argparse.Namespace, count: int) -> list[Classifier]:
    made = []
    for index in range(count):
        schedule = ExponentialDecay(decay_rate=0.9, decay_steps=100)
        made.append(Classifier(network(options), Adam(initial_lr=1e-4 * (index + 1)), schedule).to(options.device))
    return made


def singles(options: argparse.Namespace, count: int) -> Step:
    trials = []
    for classifier in classifiers(options, count):
        optimizer = classifier.optimizer(classifier.parameters())
        trials.append((classifier, optimizer, ScheduleLR(optimizer, classifier.schedule)))

    def step(images: Tensor, labels: Tensor) -> None:
        for classifier, optimizer, scheduler in trials:
            with torch.autocast(options.device, torch.bfloat16, enabled=options.bf16):
                loss = functional.cross_entropy(classifier(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()

    return step


def fused(options: argparse.Namespace, count: int) -> Step:
    trials = classifiers(options, count)
    module = FusedClassifier(trials).to(options.device)
    settings = {str(index): each.optimization for index, each in enumerate(trials)}
    optimizer = FusedOptimizer(module.model.named_parameters(), settings)

    def step(images: Tensor, labels: Tensor) -> None:
        with torch.autocast(options.device, torch.bfloat16, enabled=options.bf16):
            loss = module.training_step((images, labels), 0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def seconds(step: Step, batches: list[tuple[Tensor, Tensor]], device: str) -> float:
    """Return the time of a step, including the work of the device."""
    began = time.perf_counter()
    for images, labels in batches:
        step(images, labels)
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / len(batches)


def bandwidth(device: str) -> float:
    """Return the memory bandwidth in bytes per second: the best of ten copies of 256 MB, counting reads and writes."""
    source = torch.ones(64 << 20, device=device)
    target = torch.empty_like(source)

    def copy(images: Tensor, labels: Tensor) -> None:
        target.copy_(source)

    fastest = min(seconds(copy, [(source, source)], device) for _ in range(10))
    return 2 * 4 * source.numel() / fastest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--channels", type=int, nargs=3, default=[32, 64, 128])
    parser.add_argument("--hidden", type=int, nargs=2, default=[5000, 500])
    parser.add_argument(
        "--dense", type=int, nargs="+", help="neurons of each layer of a dense network, instead of the CNN"
    )
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = MNIST5kDataModule(batch_size=50)
    data.prepare_data()
    data.setup("fit")
    batches = [(images.to(options.device), labels.to(options.device)) for images, labels in data.train_dataloader()]
    shape = f"dense {options.dense}" if options.dense else f"channels {options.channels}, hidden {options.hidden}"
    print(f"{options.device}, {shape}, {'bf16' if options.bf16 else 'fp32'}, torch {torch.__version__}\n")
    peak = bandwidth(options.device)
    moved = BYTES_A_PARAMETER * sum(parameter.numel() for parameter in network(options).parameters())
    print(f"copying moves {peak / 1e9:.0f} GB/s\n")
    print(
        "| K | ms per step, K models | ms per step, one model | ratio, median | lowest | highest | share of bandwidth |"
    )
    print("|---|---|---|---|---|---|---|")
    for count in options.trials:
        steps = singles(options, count), fused(options, count)
        for step in steps:
            seconds(step, batches[:3], options.device)
        pairs = [
            [seconds(step, batches[: options.steps], options.device) for step in steps] for _ in range(options.rounds)
        ]
        ratios = [one / other for one, other in pairs]
        medians = [statistics.median(times) * 1000 for times in zip(*pairs, strict=True)]
        reached = moved * count / (medians[1] / 1000) / peak
        print(
            f"| {count} | {medians[0]:.1f} | {medians[1]:.1f} | {statistics.median(ratios):.2f} "
            f"| {min(ratios):.2f} | {max(ratios):.2f} | {reached:.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
