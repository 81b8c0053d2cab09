"""Time of a step in Lightning's Trainer: of one `Classifier`, and of K trials as one model, plain and recorded.

A recorded step is a CUDA graph on a GPU. On a CPU, where nothing is recorded, both columns are of plain steps.

The last column is the share of the memory bandwidth (of copying a large tensor) that the recorded step reaches if
each parameter moves 34 bytes, as in `benchmarks/floor.py`.

    python benchmarks/graph_step.py --network cnn --trials 1 8 32 64
    python benchmarks/graph_step.py --network narrow --trials 1 32 512
"""

import argparse
import gc
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.floor import BYTES, bandwidth, read_options
from lightning_modules import MLP, MNISTCNN, Adam, Classifier, ExponentialDecay, FusedClassifier, MNIST5kDataModule
from lightning_modules.fused.recorded_step import Work
from tuner.training.throughput import StopWatch, is_out_of_memory

NETWORKS = {
    "cnn": MNISTCNN,
    "narrow": lambda: MNISTCNN(channels=(8, 16, 32), hidden=(64, 64)),
    "dense": lambda: MLP(layers=1, neurons=64),
}


class Plain:
    """Refuses to record, so that all steps are plain ones."""

    @staticmethod
    def warm_up(work: Work) -> None:
        raise RuntimeError("this benchmark measures plain steps")

    record = warm_up


def classifiers(network: nn.Module, count: int) -> list[Classifier]:
    schedule = ExponentialDecay(decay_rate=0.9, decay_steps=100)
    return [Classifier(network, Adam(initial_lr=1e-4 * (1 + index % 50)), schedule) for index in range(count)]


def milliseconds(module: pl.LightningModule, data: MNIST5kDataModule, options: argparse.Namespace) -> float:
    """Return the time of a step, once it is known how steps are made."""
    watch = StopWatch()
    watch.STEPS = options.steps
    trainer = pl.Trainer(
        max_epochs=1 if options.device == "cpu" else 3,
        limit_train_batches=8 if options.device == "cpu" else None,
        limit_val_batches=0,
        accelerator="gpu" if options.device == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed",
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    return 1000 * watch.seconds


def fused(network: nn.Module, count: int, data: MNIST5kDataModule, options: argparse.Namespace) -> tuple[float, ...]:
    """Return the times of a plain step and of a recorded one."""
    times = []
    for recorder in (Plain, None):
        notes: list[str] = []
        chosen: Any = recorder if options.device == "cuda" else None
        module = FusedClassifier(classifiers(network, count), [0] * count, recorder=chosen, note=notes.append)
        times.append(milliseconds(module, data, options))
        if recorder is None and notes:
            print(f"K = {count}: {notes[0]}", flush=True)
        del module
        gc.collect()
        torch.cuda.empty_cache()
    return tuple(times)


def main() -> None:
    options = read_options(__doc__)
    torch.manual_seed(0)
    network, data = NETWORKS[options.network](), MNIST5kDataModule(batch_size=50)
    size = sum(parameter.numel() for parameter in network.parameters())
    peak = bandwidth(options.device)
    (alone,) = classifiers(NETWORKS[options.network](), 1)
    print(f"{options.network}, {size:,} parameters, copying moves {peak / 1e9:.0f} GB/s")
    print(f"one Classifier: {milliseconds(alone, data, options):.2f} ms per step\n")
    print("| K | ms per step, plain | recorded | share of bandwidth |\n|---|---|---|---|")
    for count in options.trials:
        try:
            plain, recorded = fused(network, count, data, options)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            print(f"| {count} | does not fit into memory | | |", flush=True)
            break
        reached = BYTES * size * count / (recorded / 1000) / peak
        print(f"| {count} | {plain:.2f} | {recorded:.2f} | {reached:.0%} |", flush=True)


if __name__ == "__main__":
    main()
