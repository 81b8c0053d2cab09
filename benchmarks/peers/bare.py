"""The floor: plain PyTorch in a process for each core, with the tuner's choices, and nothing kept but results.

The lr of every step, losses and accuracies are collected in memory and written to MLflow at the end.
"""

import json
import os
import subprocess
import sys
import time

import torch
from torch import nn

from tuner.engines.local import KEEP_MEMORY

CORES = len(os.sched_getaffinity(0))


def train(initial_lr: float, decay_rate: float) -> list[tuple[str, int, float]]:
    from work import EPOCHS, factor, images

    from lightning_modules import MNISTCNN
    from tuner.lightning_config import resolve_precision

    half = torch.autocast("cpu", torch.bfloat16, enabled=resolve_precision("auto", "cpu") == "bf16-mixed")
    data = images()
    model = MNISTCNN().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=initial_lr, fused=True)
    loader, step, points = data.train_dataloader(), 0, []
    for epoch in range(EPOCHS):
        loader.set_epoch(epoch)
        model.train()
        losses, correct, seen = torch.zeros(()), torch.zeros((), dtype=torch.int64), 0
        for inputs, labels in loader:
            lr = optimizer.param_groups[0]["lr"] = initial_lr * factor(decay_rate, step)
            points.append(("lr", step, lr))
            with half:
                logits = model(inputs)
                loss = nn.functional.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += loss.detach() * len(labels)
            correct += (logits.argmax(dim=1) == labels).sum()
            seen += len(labels)
            step += 1
        points += [("train/loss", step, losses.item() / seen), ("train/acc", step, correct.item() / seen)]
        model.eval()
        with torch.no_grad(), half:
            losses, correct, seen = 0.0, 0, 0
            for inputs, labels in data.val_dataloader():
                logits = model(inputs)
                losses += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
                correct += (logits.argmax(dim=1) == labels).sum().item()
                seen += len(labels)
        points += [("val/loss", step, losses / seen), ("val/acc", step, correct / seen)]
    return points


def worker(index: int) -> None:
    from work import CONFIGS

    torch.set_num_threads(1)
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[index]})
    for number in range(index, len(CONFIGS), CORES):
        torch.manual_seed(number)
        print(json.dumps(train(*CONFIGS[number])), flush=True)


def main() -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, str(index)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"GLIBC_TUNABLES": KEEP_MEMORY},
        )
        for index in range(CORES)
    ]
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from work import EXPERIMENT, URI

    client = MlflowClient(tracking_uri=URI)
    experiment = client.create_experiment(EXPERIMENT)
    for process in workers:
        for line in process.stdout or ():
            points, run = json.loads(line), client.create_run(experiment)
            now = int(time.time() * 1000)
            client.log_batch(run.info.run_id, [Metric(key, value, now, step) for key, step, value in points])
            client.set_terminated(run.info.run_id)
        if process.wait():
            raise SystemExit("a worker failed")


if __name__ == "__main__":
    worker(int(sys.argv[1])) if sys.argv[1:] else main()
