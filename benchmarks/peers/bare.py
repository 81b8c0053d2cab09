"""The floor: plain PyTorch with the tuner's choices, one process per core, and nothing saved but results.

The libraries are imported once, by the process that forks the others. The lr of every step, losses and accuracies are
collected in memory, and the first process writes them to MLflow at the end of each run.
"""

import gc
import os
import sys
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

import torch
from torch import nn
from work import CONFIGS, EPOCHS, EXPERIMENT, URI, factor, images

from lightning_modules import MNISTCNN, MNIST5kDataModule
from lightning_modules.kernels.bf16_linear import RoundedWeights
from tuner.training.build import resolve_precision

CORES = len(os.sched_getaffinity(0))


def train(data: MNIST5kDataModule, initial_lr: float, decay_rate: float) -> list[tuple[str, int, float]]:
    half = torch.autocast("cpu", torch.bfloat16, enabled=resolve_precision("auto", "cpu") == "bf16-mixed")
    model = MNISTCNN().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=initial_lr, fused=True)
    rounded = RoundedWeights(model, optimizer)
    loader, step, points = data.train_dataloader(), 0, []
    for epoch in range(EPOCHS):
        loader.set_epoch(epoch)
        model.train()
        losses, correct, seen = torch.zeros(()), torch.zeros((), dtype=torch.int64), 0
        for inputs, labels in loader:
            lr = optimizer.param_groups[0]["lr"] = initial_lr * factor(decay_rate, step)
            points.append(("lr", step, lr))
            with half, rounded:
                logits = model(inputs)
                loss = nn.functional.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            rounded.after_backward()
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


def worker(index: int, data: MNIST5kDataModule, pipe: Connection) -> None:
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[index]})
    for number in range(index, len(CONFIGS), CORES):
        torch.manual_seed(number)
        pipe.send(train(data, *CONFIGS[number]))
    pipe.close()
    os._exit(0)  # the interpreter's cleanup of torch takes a while


def main() -> None:
    gc.freeze()  # the objects of the libraries are not garbage
    data = images()
    pipes = []
    for index in range(CORES):
        ours, theirs = Pipe(duplex=False)
        if os.fork() == 0:
            worker(index, data, theirs)
        theirs.close()
        pipes.append(ours)
    # While the others train, import the library that records the results.
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client = MlflowClient(tracking_uri=URI)
    experiment = client.create_experiment(EXPERIMENT)
    while pipes:
        for pipe in wait(pipes):
            try:
                points = pipe.recv()
            except EOFError:
                pipes.remove(pipe)
                continue
            run, now = client.create_run(experiment), int(time.time() * 1000)
            client.log_batch(run.info.run_id, [Metric(key, value, now, step) for key, step, value in points])
            client.set_terminated(run.info.run_id)
    if any(os.wait()[1] for _ in range(CORES)):
        raise SystemExit("a worker failed")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
