"""A study file as a text, with lines changed, and the faults that are reported of it."""

from pathlib import Path

import pytest

from lightning_modules import SCHEDULES
from tests.rules import shortened
from tuner.config.loader import load_study
from tuner.config.study import StudyConfig
from tuner.errors import BadInputError

FILE = Path("studies/x.yaml")

STUDY = """\
name: x
objective: {metric: val/acc, direction: maximize}
budget: {trials: 5}
sampler: {name: tpe, seed: 0}
pruner: {name: median}
trial:
  data: {name: mnist_5k, batch_size: 50}
  model: {name: mnist_cnn, channels: [4, 4, 4], hidden: [16, 16]}
  optimizer: {name: adam, initial_lr: 1e-3, eps: 1e-8}
  schedule: {name: exponential, decay_rate: 0.96, decay_steps: 500, staircase: true}
  trainer: {max_epochs: 5, precision: bf16-mixed}
search_space:
  optimizer.initial_lr: {low: 1e-4, high: 1e-1, log: true}
"""

SCHEDULE_NAMES = ", ".join(sorted({*SCHEDULES, "plateau"}))
MANY = "<whole number> from 1 to 1000000"
EXPLODES = (
    r'RuntimeError: gamma explodes (users_classes.py, line 29, in __init__: raise RuntimeError("gamma\n explodes"))'
)
USERS_OWN = """\
from dataclasses import dataclass
from typing import Any
import torch
from pytorch_lightning import LightningDataModule, LightningModule
from lightning_modules import Schedule

Steps = int | float

@dataclass(frozen=True, kw_only=True)
class Mixed(Schedule):
    count: int = 1
    steps: Steps = 1
    rate: float = 1.0
    anything: Any = None
    parts: tuple[Schedule, ...] = ()
    boundaries: tuple[float, ...] = ()

    def _check(self):
        if list(self.boundaries) != sorted(self.boundaries):
            raise ValueError(f"boundaries must be increasing, but got boundaries={self.boundaries}")

    def _factor(self, step):
        return 1.0

class Net(torch.nn.Module):
    def __init__(self, gamma: float = 1.0, *, depth):
        super().__init__()
        if gamma > 5:
            raise RuntimeError("gamma\\n  explodes")

class Bare(LightningModule):
    def __init__(self, optimizer):
        super().__init__()

class Kwargs(LightningModule):
    def __init__(self, **options):
        super().__init__()

class Endless(LightningDataModule):
    def train_dataloader(self):
        return iter(())

class Greedy(torch.nn.Module):
    def __init__(self, width: int = 3, **others):
        super().__init__()
"""


def load(text: str, *overrides: str) -> StudyConfig:
    FILE.write_text(text)
    return load_study(str(FILE), overrides)


def faults(text: str, *overrides: str) -> list[str]:
    with pytest.raises(BadInputError) as caught:
        load(text, *overrides)
    return [shortened(fault) for fault in caught.value.faults]


def edited(*changes: tuple[str, str]) -> str:
    """Return the study with lines changed; each replaces the line with the same first word."""
    lines = STUDY.splitlines()
    for start, line in changes:
        (index,) = [index for index, each in enumerate(lines) if each.startswith(start)]
        lines[index] = line
    return "\n".join(lines) + "\n"


def space(entry: str) -> str:
    """Return the study with this one entry in its search space, on line 13."""
    return edited(("  optimizer.initial_lr", f"  {entry}"))


def trial(section: str, content: str) -> str:
    """Return the study with another section of `trial`, on its own line."""
    return edited((f"  {section}:", f"  {section}: {content}"))


def load_or_faults(text: str, *overrides: str) -> list[str]:
    try:
        load(text, *overrides)
    except BadInputError as error:
        return list(error.faults)
    return []
