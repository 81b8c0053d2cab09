"""Milliseconds per step of a trial in the tuner, and of bare loops with the same network.

Three contenders do the same work (the reference CNN on MNIST-5k in batches of 50 with Adam, one epoch of 80 steps; or a
dense network, after five epochs) in turn, each round in a new order, in this process with the given number of
threads:

- tuner: `tuner.training.run`, with its Trainer, callbacks, history and the lr of every step recorded;
- bare: a loop in plain PyTorch with the same choices (tensors in memory, channels-last, fused Adam);
- usual: the loop of most examples (DataLoader over a dataset, NCHW, Adam without fused).

Run it on an idle machine:

    python benchmarks/step_time.py --threads 1 --rounds 5
    python benchmarks/step_time.py --dense 64
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules import MLP, MNISTCNN, ExponentialDecay, MNIST5kDataModule
from tuner.config.study import Objective
from tuner.config.trial import TrialConfig
from tuner.protocol import Assignment, Decision, EpochReport, StepReport, TrainingGroup
from tuner.training.reporter import Reporter
from tuner.training.run import run

BATCH, STEPS, INITIAL_LR = 50, 80, 1e-3
DECAY_RATE, DECAY_STEPS = 0.96, 20


class Clock:
    """A channel that records when each step report came."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, float]] = []

    def report(self, reports: Mapping[int, EpochReport]) -> dict[int, Decision]:
        return dict.fromkeys(reports, "continue")

    def progress(self, number: int, report: StepReport) -> None:
        self.seen.append((report.epoch, report.step, time.perf_counter()))

    def fuse_at_most(self, count: int, reason: str) -> None:
        raise AssertionError(reason)

    def note(self, text: str) -> None:
        pass


def tuner(dense: int | None) -> float:
    config = TrialConfig.from_values(
        {
            "data": {"name": "mnist_5k", "batch_size": BATCH},
            "model": {"name": "mlp", "layers": 1, "neurons": dense} if dense else {"name": "mnist_cnn"},
            "optimizer": {"name": "adam", "initial_lr": INITIAL_LR},
            "schedule": {"name": "exponential", "decay_rate": DECAY_RATE, "decay_steps": DECAY_STEPS},
            "trainer": {"max_epochs": epochs(dense), "precision": "32-true"},
            "seed": 0,
        }
    )
    clock = Clock()
    Reporter.PROGRESS_SECONDS = 0.02  # an epoch of a dense network takes less than the default half second
    with tempfile.TemporaryDirectory() as folder:
        run(TrainingGroup((Assignment(0, config, Objective(), Path(folder)),)), clock)
    last = [(step, at) for epoch, step, at in clock.seen if epoch == epochs(dense) - 1]
    return (last[-1][1] - last[0][1]) / (last[-1][0] - last[0][0])


def epochs(dense: int | None) -> int:
    return 6 if dense else 1


def loop(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    schedule = ExponentialDecay(decay_rate=DECAY_RATE, decay_steps=DECAY_STEPS)
    seconds = []
    model.train()
    began = time.perf_counter()
    for step, (images, labels) in enumerate(batches):
        optimizer.param_groups[0]["lr"] = INITIAL_LR * schedule(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        ended = time.perf_counter()
        seconds.append(ended - began)
        began = ended
    return statistics.mean(seconds[1:])


def data() -> MNIST5kDataModule:
    module = MNIST5kDataModule(batch_size=BATCH)
    module.prepare_data()
    module.setup("fit")
    return module


def network(dense: int | None) -> nn.Module:
    return MLP(layers=1, neurons=dense) if dense else MNISTCNN()


def bare(dense: int | None) -> float:
    model = network(dense).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=INITIAL_LR, fused=True)
    batches = data().train_dataloader()
    return [loop(model, optimizer, batches) for _ in range(epochs(dense))][-1]


def usual(dense: int | None) -> float:
    batches = list(data().train_dataloader())
    images = torch.cat([images for images, _ in batches]).contiguous()
    labels = torch.cat([labels for _, labels in batches])
    model = network(dense)
    loader = DataLoader(TensorDataset(images, labels), batch_size=BATCH, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=INITIAL_LR)
    return [loop(model, optimizer, loader) for _ in range(epochs(dense))][-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dense", type=int, help="neurons of a dense layer, instead of the CNN")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    contenders = {"tuner": tuner, "bare": bare, "usual": usual}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    rng = random.Random(0)
    for _ in range(options.rounds):
        for name in rng.sample(list(contenders), len(contenders)):
            times[name].append(contenders[name](options.dense) * 1000)
    print(f"{options.threads} thread(s), {options.rounds} rounds, torch {torch.__version__}\n")
    print("| | median ms per step | lowest | highest | median of the ratio to bare |")
    print("|---|---|---|---|---|")
    for name, values in times.items():
        ratio = statistics.median(value / base for value, base in zip(values, times["bare"], strict=True))
        print(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} | {max(values):.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
