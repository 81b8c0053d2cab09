"""Reads tables of training runs."""

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from simulation import Table

__all__ = ["REPORTS", "RecordedRuns", "read_llama", "read_taskset", "read_trained"]

REPORTS = 25
"""How often a run of a language model is validated in a study."""

FEWEST = 8
"""Smallest number of runs for a study."""


def content_of(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file, possibly compressed with gzip."""
    stored = path.read_bytes()
    content: dict[str, Any] = json.loads(gzip.decompress(stored) if path.suffix == ".gz" else stored)
    return content


def read_taskset(path: Path, lrs: tuple[float, float] | None = None) -> Iterator[tuple[str, Table]]:
    """Yield the name and the table of each task of a file of TaskSet (Metz et al., 2020).

    Its keys are ``hyperparameters`` (names), ``configurations`` (a list of values each) and ``valid_loss`` (for each
    task, the losses of each configuration: before the training and after each epoch).

    Args:
        path: The file.
        lrs: The lowest and the highest lr, for a search of the lr alone: tables have the configurations between them
            in which epsilon is below 1 and both penalties are below 0.001, beyond which hardly any learns.
    """
    content = content_of(path)
    columns = dict(zip(content["hyperparameters"], np.array(content["configurations"], float).T, strict=True))
    params = {
        "optimizer.initial_lr": columns["learning_rate"],
        "optimizer.eps": columns["epsilon"],
        "model.gap1": 1 - columns["beta1"],
        "model.gap2": 1 - columns["beta2"],
        "model.l1": columns["l1"],
        "model.l2": columns["l2"],
        "schedule.linear": columns["linear_decay"],
        "schedule.exponential": columns["exponential_decay"],
    }
    rows = [dict(zip(params, map(float, values), strict=True)) for values in zip(*params.values(), strict=True)]
    chosen = [number for number, row in enumerate(rows) if lrs is None or _has_lr_between(row, *lrs)]
    for name, losses in content["valid_loss"].items():
        yield name, Table([rows[number] for number in chosen], np.array(losses, float)[chosen, 1:])


def _has_lr_between(row: dict[str, float], low: float, high: float) -> bool:
    """Return whether a configuration of TaskSet has a suitable lr, and other values with which most learn."""
    is_usual = row["optimizer.eps"] < 1 and max(row["model.l1"], row["model.l2"]) < 1e-3
    return is_usual and low <= row["optimizer.initial_lr"] <= high


def read_trained(path: Path, lrs: tuple[float, float] | None = None) -> Iterator[tuple[str, Table]]:
    """Yield the name and the table of a file that `train.py` has written.

    Args:
        path: The file.
        lrs: The lowest and the highest lr, to leave out the other configurations.
    """
    content = content_of(path)
    low, high = lrs or (0.0, np.inf)
    rows = [row for row, params in enumerate(content["params"]) if low <= params["optimizer.initial_lr"] <= high]
    losses = np.array(content["losses"], float)
    yield path.name, Table([content["params"][row] for row in rows], losses[rows])


@dataclass(frozen=True)
class RecordedRuns:
    """Published runs of one model, data set and length.

    Args:
        name: The model, the data set and the length.
        table: Their losses at `REPORTS` evenly spaced steps; the only value of each is its row, as ``seed``.
        curves: The lr of each at 128 evenly spaced steps.
        steps: The length of each in steps.
    """

    name: str
    table: Table
    curves: Sequence[NDArray[np.float64]]
    steps: int


def read_llama(path: Path) -> Iterator[RecordedRuns]:
    """Yield the runs of each model, data set and length that has at least `FEWEST` of them.

    The file has ``runs``, with their ``size``, ``dataset``, ``iterations`` and, at some ``steps``, their ``val_loss``
    and ``lr_at_steps``. Left out are runs that were continued from other runs, and those whose lr is 0 for the last
    third of their steps: their losses still fall, so that lr is wrong.

    Args:
        path: The file.
    """
    groups: dict[tuple[Any, str, int], list[Any]] = {}
    for run in content_of(path)["runs"]:
        groups.setdefault((run["size"], run["dataset"], run["iterations"]), []).append(run)
    for (size, dataset, steps), runs in groups.items():
        reports = np.linspace(0, steps, REPORTS + 1)[1:]
        losses, curves = [], []
        for run in runs:
            at = np.array(run["steps"])
            if (np.diff(at) <= 0).any() or at[-1] < steps * (1 - 0.5 / REPORTS):
                continue
            lr = np.interp((np.arange(128) + 0.5) / 128 * steps, at, run["lr_at_steps"])
            if lr[len(lr) * 2 // 3 :].max() < 1e-3 * lr.max():
                continue
            losses.append(np.interp(reports, at, run["val_loss"]))
            curves.append(lr)
        if len(losses) >= FEWEST:
            table = Table([{"seed": row} for row in range(len(losses))], np.array(losses))
            yield RecordedRuns(f"{size} M parameters, {dataset}, {steps} steps", table, curves, steps)
