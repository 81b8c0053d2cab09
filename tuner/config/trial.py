"""A trial as plain values: what all kinds of trials have in common, and a training run as a frozen dataclass."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Self

from pydantic import Field

from lightning_modules.tasks import Task
from tuner.config.component import Component
from tuner.config.optimization import OTHER_SCHEDULES, GroupConfig
from tuner.config.trainer import TrainerConfig

__all__ = ["COMPONENTS", "CROSS_ENTROPY", "NO_AVERAGING", "PARTS", "AnyTrial", "Seed", "TrialConfig", "flatten"]

COMPONENTS = ("data", "model", "optimizer", "schedule")
PARTS = (*COMPONENTS, *OTHER_SCHEDULES, "groups", "averaging", "trainer", "loss", "task", "seed")
"""The keys of a training run in a study file."""

NO_AVERAGING = {"name": "none"}
CROSS_ENTROPY = Component("cross_entropy")

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # what NumPy accepts


class AnyTrial(ABC):
    """Everything that a trial depends on, as plain values that can be sent, stored and compared.

    Attributes:
        seed: The seed of the trial.
        relative: Lengths that were given in epochs or percent, as they were given, by their dotted paths.
    """

    seed: int
    relative: Mapping[str, str]

    @abstractmethod
    def values(self) -> dict[str, Any]:
        """Return the nested values, as in a study file."""

    @abstractmethod
    def with_seed(self, seed: int) -> Self:
        """Return the same trial with another seed."""

    @property
    @abstractmethod
    def family(self) -> str:
        """Return what follows its number in names: its schedule; empty if it has none."""

    @property
    @abstractmethod
    def brief(self) -> str:
        """Return the values at the end of its line in the terminal."""

    @property
    @abstractmethod
    def epochs(self) -> int:
        """Return the number of its epochs, each of which ends with a report; 0 if that is not known."""

    @property
    @abstractmethod
    def epoch_steps(self) -> int:
        """Return the steps of an epoch, if its length is in steps; otherwise 0."""

    @property
    @abstractmethod
    def sizes(self) -> str:
        """Return the values that its memory depends on, for a message."""

    @property
    @abstractmethod
    def dataset(self) -> Component | None:
        """Return its data module; None if it has none."""

    @property
    def digest(self) -> str:
        """Return a digest of the values and their types."""
        return hashlib.sha256(json.dumps(self.values(), sort_keys=True).encode()).hexdigest()

    def flat(self) -> dict[str, Any]:
        """Return the values by their dotted paths, and the lengths in epochs or percent by ``<path>.relative``."""
        return dict(flatten(self.values())) | {f"{path}.relative": text for path, text in self.relative.items()}


@dataclass(frozen=True)
class TrialConfig(AnyTrial):
    """Everything that a training run depends on.

    Args:
        data: Data module.
        model: Network.
        optimizer: Optimizer.
        schedule: Schedule, with lengths in steps.
        trainer: Arguments of Lightning's Trainer.
        loss: Loss of a network; None if the model is a LightningModule, which has its own.
        seed: The seed of the trial.
        momentum_schedule: Schedule of the momentum or beta1, with lengths in steps, or None.
        weight_decay_schedule: Schedule of the weight decay, with lengths in steps, or None.
        groups: Groups of parameters with other settings, by name.
        averaging: Average of the weights, with lengths in steps, or None.
        task: Task of the network; None for the task of its loss.
        relative: Lengths that were given in epochs or percent, as they were given, by their dotted paths.
    """

    data: Component
    model: Component
    optimizer: Component
    schedule: Component
    trainer: TrainerConfig
    loss: Component | None = CROSS_ENTROPY
    seed: int = 0
    momentum_schedule: Component | None = None
    weight_decay_schedule: Component | None = None
    groups: Mapping[str, GroupConfig] = field(default_factory=dict)
    averaging: Component | None = None
    task: Task | None = None
    relative: Mapping[str, str] = field(default_factory=dict, compare=False)

    @classmethod
    def from_values(cls, values: Mapping[str, Any], relative: Mapping[str, str] | None = None) -> "TrialConfig":
        """Read the ``trial`` of a study file that contains values only, with lengths in steps."""
        given = (*COMPONENTS, *(key for key in OTHER_SCHEDULES if key in values))
        components: dict[str, Any] = {kind: Component.from_values(values[kind]) for kind in given}
        trainer, loss = TrainerConfig.from_values(values["trainer"]), values.get("loss", "cross_entropy")
        groups = {name: GroupConfig.from_values(group) for name, group in values.get("groups", {}).items()}
        averaging = Component.from_values(values.get("averaging", NO_AVERAGING))
        return cls(
            **components,
            trainer=trainer,
            loss=Component(loss) if isinstance(loss, str) else loss and Component.from_values(loss),
            task=values.get("task"),
            seed=values["seed"],
            groups=groups,
            averaging=None if averaging.values() == NO_AVERAGING else averaging,
            relative=relative or {},
        )

    def values(self) -> dict[str, Any]:
        """Return the nested values, as in a study file."""
        nested: dict[str, Any] = {kind: getattr(self, kind).values() for kind in COMPONENTS}
        nested |= {key: schedule.values() for key, schedule in self.schedules.items()}
        if self.groups:
            nested["groups"] = {name: group.values() for name, group in self.groups.items()}
        if self.averaging is not None:
            nested["averaging"] = self.averaging.values()
        nested["trainer"] = self.trainer.values()
        if self.loss is not None:
            nested["loss"] = self.loss.values() if self.loss.arguments or ":" in self.loss.name else self.loss.name
        if self.task is not None:
            nested["task"] = self.task
        return nested | {"seed": self.seed}

    @property
    def schedules(self) -> dict[str, Component]:
        """Return its schedules by their keys."""
        keys = ("schedule", *OTHER_SCHEDULES)
        return {key: schedule for key in keys if (schedule := getattr(self, key)) is not None}

    def with_seed(self, seed: int) -> Self:
        """Return the same training run with another seed."""
        return replace(self, seed=seed)

    @property
    def family(self) -> str:
        """Return the name of its schedule."""
        return self.schedule.name

    @property
    def brief(self) -> str:
        """Return its initial lr."""
        return f"lr {self.optimizer.arguments['initial_lr']:.3g}"

    @property
    def epochs(self) -> int:
        """Return the number of its epochs."""
        return self.trainer.evaluations

    @property
    def epoch_steps(self) -> int:
        """Return the steps from one validation to the next, if its length is in steps; otherwise 0."""
        return self.trainer.val_check_interval

    @property
    def sizes(self) -> str:
        """Return its network, and the arguments of data and network."""
        arguments = {**self.data.arguments, **self.model.arguments}
        return ", ".join([self.model.name, *(f"{key}={value}" for key, value in arguments.items())])

    @property
    def dataset(self) -> Component:
        """Return its data module."""
        return self.data


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of nested mappings under its dotted path."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
            if key == "one_of":  # the choices and their order are part of Optuna's distribution
                yield f"{prefix}{key}", list(value)
        else:
            yield f"{prefix}{key}", value
