"""Checked studies as frozen dataclasses: a `StudyConfig` contains ranges, a `TrialConfig` values."""

import hashlib
import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lightning_modules.losses import Task
from tuner.config import by_value, registry
from tuner.config.annotations import parse_length
from tuner.config.budget import Allowance, Final
from tuner.config.component import Component
from tuner.config.constraints import Constraint, RandomSuggester
from tuner.config.dataset_probe import DatasetProbe, limited
from tuner.config.first_trials import FirstTrials
from tuner.config.known_values import Start
from tuner.config.optimization import OTHER_SCHEDULES, GroupConfig, lengths_of, resolve_all
from tuner.config.prior import draws_of_priors
from tuner.config.rungs import Rungs
from tuner.config.search_space import (
    OneOf,
    Suggester,
    Template,
    component_names,
    corners,
    grid_point,
    grid_size,
    grid_values,
    searched,
    suggest,
)
from tuner.config.sources import own_sources
from tuner.config.trainer import TrainerConfig
from tuner.direction import Direction
from tuner.errors import BadInputError
from tuner.text import join_names, pluralize

__all__ = [
    "COMPONENTS",
    "CROSS_ENTROPY",
    "NAME",
    "NO_AVERAGING",
    "Objective",
    "StudyConfig",
    "TrialConfig",
    "check_name",
    "final_name",
    "flatten",
]

COMPONENTS = ("data", "model", "optimizer", "schedule")
NO_AVERAGING = {"name": "none"}
CROSS_ENTROPY = Component("cross_entropy")
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # what NumPy takes


def check_name(name: str, place: str) -> None:
    """Refuse a name that no study can have.

    Args:
        name: The name.
        place: The option or key that the message names.

    Raises:
        BadInputError: If it is not valid.
    """
    if not NAME.fullmatch(name):
        rule = 'a-z, 0-9, ".", "_", "-", at most 64 characters'
        raise BadInputError([f'{place}: "{name}" is not a valid name: {rule}.'])


@dataclass(frozen=True)
class Objective:
    """The objective of a study.

    Args:
        metric: A metric that trials log at the end of each epoch.
        direction: Whether large or small values are better.
        epoch: The epoch of a trial whose value counts and whose weights are kept and tested: its last or its best.
    """

    metric: str = "val/acc"
    direction: Direction = Direction.MAXIMIZE
    epoch: Literal["last", "best"] = "last"


@dataclass(frozen=True)
class TrialConfig:
    """Everything that a training depends on, as plain values that can be sent, stored and compared.

    Args:
        data: Data module.
        model: Network.
        optimizer: Optimizer.
        schedule: Schedule, with lengths in steps.
        trainer: Arguments of Lightning's Trainer.
        loss: Loss of a network; None if the model is a LightningModule, which has its own.
        seed: The seed of the trial.
        momentum_schedule: Schedule of the momentum or beta1, with lengths in steps; None for none.
        weight_decay_schedule: Schedule of the weight decay, with lengths in steps; None for none.
        groups: Groups of parameters with other settings, by name.
        averaging: Average of the weights, with lengths in steps; None for none.
        task: What the network is for; None for what its loss is for.
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

    @property
    def digest(self) -> str:
        """Return a digest of the values and their types."""
        return hashlib.sha256(json.dumps(self.values(), sort_keys=True).encode()).hexdigest()

    def flat(self) -> dict[str, Any]:
        """Return the values by their dotted paths, and the lengths in epochs or percent by ``<path>.relative``."""
        return dict(flatten(self.values())) | {f"{path}.relative": text for path, text in self.relative.items()}


@dataclass(frozen=True)
class StudyConfig:
    """A checked study.

    Args:
        name: Name of the study in Optuna and of the experiment in MLflow.
        trials: The largest number of trials.
        trial: The template of a trial: values, and a spec for everything that is searched.
        timeout: Seconds after which no further trial is started; None for no limit.
        identity: The values that must not change when the study is continued, by their dotted paths.
        text: The study file, with the values that the command line set.
        values: The content of both together, in the form of a study file; empty if the study has no file.
        experiment: The experiment in MLflow; by default it has the study's name.
        within: Identifier of the study whose run in MLflow is the parent of this study's run; empty for none.
        folder: Folder in which the user's modules are looked for, besides the usual places: that of its file.
        first: The fixed values of its first trials, which the sampler does not choose.
        probe: Measures its data.
        allowance: The training that all trials may have together; None for no limit.
        until: The study ends when no gain in the objective above this is expected; 0 for no such end.
        rungs: Where its trials are compared, if that is its pruner.
        final: Its last trainings, with fresh seeds, which the limits above do not include; None for none.
        start: The earlier studies that it starts from; None if it starts from none.
        has_read: Whether these were read.
        implied: Which of its sampler and pruner the file does not name.
        constraints: The conditions that the values of each trial satisfy.
    """

    RENAMING: ClassVar[str] = "--set name=..."

    name: str
    objective: Objective
    trials: int
    timeout: float | None
    sampler: Component
    pruner: Component
    trial: Template
    identity: Mapping[str, Any]
    text: str
    values: Mapping[str, Any] = field(default_factory=dict, compare=False)
    experiment: str = ""
    within: str = ""
    folder: Path | None = field(default=None, compare=False)
    first: FirstTrials = field(default_factory=FirstTrials, compare=False, repr=False)
    probe: DatasetProbe = field(default_factory=DatasetProbe, compare=False, repr=False)
    allowance: Allowance | None = None
    until: float = 0.0
    rungs: Rungs | None = None
    final: Final | None = None
    start: Start | None = None
    has_read: bool = field(default=False, compare=False)
    implied: frozenset[str] = frozenset()
    constraints: tuple[Constraint, ...] = ()

    def with_earlier(self, earlier: Sequence[Mapping[str, Any]]) -> "StudyConfig":
        """Return the same study with values of earlier studies in its first trials.

        Args:
            earlier: Fixed values of each, by their names in Optuna.
        """
        return replace(self, has_read=True, first=replace(self.first, earlier=earlier))

    @property
    def fewest_trials(self) -> int:
        """Return how many trials the budget allows at least, if all have the longest training."""
        return min(self.trials, self.allowance.amount // self.allowance.longest) if self.allowance else self.trials

    def whole(self, trial: TrialConfig) -> int:
        """Return how much of the allowance the whole training of a trial takes; 0 if there is no allowance."""
        trainer = trial.trainer
        return self.allowance.cost(trainer.evaluations, trainer.val_check_interval) if self.allowance else 0

    @property
    def random_trials(self) -> int | None:
        """Return how many trials the sampler draws at random; None if that is the sampler's own number."""
        given: int | None = self.sampler.arguments.get("n_startup_trials")
        return self.rungs.starts if given is None and self.rungs else given

    @property
    def budget(self) -> str:
        """Return the budget as text."""
        last = self.final.trainings if self.final else 0
        text = trials = pluralize(self.trials + last, "trial")
        if self.allowance:
            whole = replace(self.allowance, amount=self.allowance.amount + last * self.allowance.longest)
            text = f"{whole}{f' and at most {trials}' if self.trials < self.allowance.amount else ''}"
        return f"{text}, or until less than {self.until:g} can be gained," if self.until else text

    @property
    def why_alone(self) -> str:
        """Return why trials are trained one by one, judging by the study file; empty if they can be one model."""
        trainer = self.trial["trainer"]
        reasons = {
            "the model is a LightningModule": _are_modules(self.trial["model"]),
            "the best epoch of each counts": self.objective.epoch == "best",
            "their callbacks watch one training": bool(trainer.get("callbacks")),
            "max_time is the time of one training": trainer.get("max_time") is not None,
        }
        return next((reason for reason, holds in reasons.items() if holds), "")

    @property
    def families(self) -> list[str]:
        """Return the names of the schedules that its trials can have."""
        schedule = self.trial["schedule"]
        return list(schedule.options) if isinstance(schedule, OneOf) else [schedule["name"]]

    def with_family(self, family: str) -> "StudyConfig":
        """Return the same study with a single family of schedules; the sampler chooses all of its trials.

        Args:
            family: One of `families`.
        """
        schedule = self.trial["schedule"]
        if not isinstance(schedule, OneOf):
            return self
        trial = {**self.trial, "schedule": {"name": family, **schedule.options[family]}}
        return replace(self, trial=trial, first=FirstTrials())

    def name_of(self, number: int) -> str:
        """Return the name of a trial in messages."""
        return f"trial #{number}"

    def label_of(self, number: int, trial: TrialConfig) -> str:
        """Return number and schedule of a trial, for the list of trials."""
        return f"#{number:<3} {trial.schedule.name}"

    def identity_with(self, digests: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return the values that must not change when the study is continued, including the digest of the data."""
        return {**self.identity, "data digest": " ".join(dict.fromkeys(digest for _, digest in digests))}

    def difference_from(self, identity: Mapping[str, Any]) -> str:
        """Return a sentence on how the stored identity of a study differs from this one; empty to have it listed."""
        return ""

    def measure_data(self) -> tuple[list[tuple[str, str]], int | None]:
        """Fetch and load the data, and return names and digests of the data sets, and the number of validation images.

        Raises:
            BadInputError: If they cannot be fetched, loaded or used.
        """
        infos = [(values["name"], self.probe.info(values)) for values in corners(self.trial["data"])]
        for trainer in corners(self.trial["trainer"]):
            needed = trainer.get("val_check_interval", 0) * trainer.get("accumulate_grad_batches", 1)
            for name, info in infos:
                if info.batches:
                    limited(info.batches, trainer.get("limit_train_batches"))
                if (
                    info.batches
                    and info.batches < needed
                    and not registry.accepted("data", name, {"batches_per_epoch": needed})
                ):
                    fault = f"the {needed} batches to the next validation are more than the {info.batches} of {name}"
                    raise BadInputError(
                        [f"trial.trainer.val_check_interval: {fault}; it would have to take batches_per_epoch."]
                    )
        counts = [info.validation_images for _, info in infos if info.validation_images is not None]
        return [(name, info.digest) for name, info in infos], min(counts, default=None)

    @property
    def own_names(self) -> list[str]:
        """Return the names ``package.module:Name`` in it, which are of the user's own classes."""
        return [name for name in component_names(self.trial) if ":" in name]

    @property
    def held(self) -> dict[str, by_value.Held]:
        """Return the classes and objects that are sent to trainings by value, by their names."""
        return by_value.select(self.own_names)

    @property
    def sources(self) -> dict[str, str]:
        """Return the digests of the user's own source: of files, and of what is sent by value."""
        sent = by_value.digests(self.own_names)
        return own_sources({name.partition(":")[0] for name in self.own_names if name not in sent}) | sent

    def fixed(self, number: int, drawn: Iterable[Mapping[str, Any]] | None = None) -> dict[str, Any]:
        """Return the fixed values of a trial, by the names in Optuna; the sampler chooses the others.

        In a grid, a trial has the point with its number. In a study that was begun when grids repeated configurations,
        it has the first point that no other trial has.

        Args:
            number: The trial.
            drawn: The values of the other trials of a grid; None if they have the points with their numbers.
        """
        if self.sampler.name != "grid":
            first = self.first.params[number] if number < len(self.first.params) else {}
            return {**self.of_priors(number), **first}
        if drawn is None:
            return grid_point(self.trial, self.grid[number])
        taken = {_key(params) for params in drawn}
        points = (grid_point(self.trial, index) for index in self.grid)
        return next((point for point in points if _key(point) not in taken), {})

    def of_priors(self, number: int, attempt: int = 0) -> dict[str, Any]:
        """Return the values of a trial that are drawn from priors, by their names in Optuna.

        Args:
            number: The trial.
            attempt: Which draw it is, if earlier ones do not satisfy the constraints.
        """
        return draws_of_priors(self.trial, self.sampler, number, self.random_trials, attempt)

    def repeats(self, drawn: Iterable[Mapping[str, Any]]) -> int:
        """Return how many trials of a grid repeat others, as grids of earlier versions could.

        Args:
            drawn: The values of its trials.
        """
        keys = [_key(params) for params in drawn if params]
        return len(keys) - len(set(keys))

    @property
    def beginning(self) -> list[str]:
        """Return notes for the user about the fixed trials, a line for each."""
        sentences = []
        if self.first.outside:
            known = self.first.queued or self.first.earlier
            begins = "each family once" if self.first.params else "what the sampler draws"
            begins = "the values that are known to be good" if known else begins
            why = f"the file's trial is outside of the search space ({self.first.outside})"
            sentences.append(f"begins with {begins}: {why}")
        families = [[turn for turn in each.items() if turn[0].endswith(".name")] for each in self.first.params]
        reached = {turn for each in families[: self.fewest_trials] for turn in each}
        late = dict.fromkeys(turn for each in families for turn in each if turn not in reached)
        if late:
            names = join_names([f"{path.removesuffix('.name')} {name}" for path, name in late], 10)
            trials = pluralize(self.fewest_trials, "trial")
            sentences.append(f"{trials} are too few to try every family: {names} may be left out")
        if self.final:
            amount = pluralize(self.final.trainings, "training")
            if self.allowance:
                amount = f"{self.final.trainings * self.allowance.longest} {self.allowance.unit}"
            which = f"the best {self.final.trials}, its own trial and a constant lr"
            sentences.append(f"keeps {amount} to train {which} again with {self.final.seeds} fresh seeds")
        return [*sentences, *(self._repeated_lengths() if self.sampler.name == "grid" else ())]

    def _repeated_lengths(self) -> Iterator[str]:
        """Yield a line for each length in a grid whose values are not all different numbers of steps."""
        trainings = [
            {"data": data, "trainer": trainer}
            for data in corners(self.trial["data"])
            for trainer in corners(self.trial["trainer"])
        ]
        for path, spec in searched(self.trial):
            values = grid_values(spec)
            if not any(map(parse_length, values)):
                continue
            for length in map(self.probe.length, trainings):
                steps = {length.in_steps(value) if parse_length(value) else value for value in values}
                if len(steps) < len(values):
                    yield (
                        f"the grid repeats trainings: in {length.steps} steps, the {len(values)} values of {path} are "
                        f"only {len(steps)} different lengths"
                    )
                    break

    def broken(self, values: Mapping[str, Any]) -> Constraint | None:
        """Return the first constraint that a trial does not satisfy; None if it satisfies all.

        Args:
            values: Values from its search space.

        Raises:
            BadInputError: If it depends on the length of a training, and the data cannot be loaded.
            ValueError: If a constraint cannot be evaluated with the values.
        """
        if not self.constraints:
            return None
        lengths: dict[str, float] = {}
        if any(each.needs_length for each in self.constraints):
            length = self.probe.length(values)
            lengths = {"steps": length.steps, "epochs": length.epochs}
        # Not those of a `TrialConfig`, which leaves out what has its default.
        if lengths_of(values):
            values = resolve_all(values, self.probe.length(values))
        return next((each for each in self.constraints if not each.holds(values, lengths)), None)

    @cached_property
    def grid(self) -> Sequence[int]:
        """Return the indices of the grid's points in the order of the trials, shuffled for budgets below its size.

        Points that do not satisfy the constraints are left out.
        """
        size = grid_size(self.trial)
        points = random.Random(f"grid:{self.sampler.arguments.get('seed', 0)}").sample(range(size), size)
        return [index for index in points if not self.constraints or self._is_feasible_point(index)]

    def _is_feasible_point(self, index: int) -> bool:
        given = RandomSuggester(random.Random(0), grid_point(self.trial, index))
        return self.broken(suggest(given, self.trial)) is None

    def described(self, number: int) -> dict[str, Any]:
        """Return additional parameters that MLflow shows for a trial."""
        return {}

    def suggest(self, trial: Suggester) -> TrialConfig:
        """Return a trial with suggested values, its lengths in steps.

        Raises:
            BadInputError: If it has lengths in epochs or percent and its data cannot be loaded.
        """
        return self.trial_of(suggest(trial, self.trial))

    def trial_of(self, values: Mapping[str, Any]) -> TrialConfig:
        """Return a trial with values from its search space, its lengths in steps.

        Raises:
            BadInputError: If it has lengths in epochs or percent and its data cannot be loaded.
        """
        if relative := lengths_of(values):
            values = resolve_all(values, self.probe.length(values))
        return TrialConfig.from_values(values, relative)


def final_name(study: str, configurations: Mapping[str, Any]) -> str:
    """Return the name of the study that consists of the last trainings of another.

    Args:
        study: The other study.
        configurations: The values of the configurations that are trained, by their names.
    """
    content = json.dumps(configurations, sort_keys=True)
    return f"{study}-final-{hashlib.sha256(content.encode()).hexdigest()[:6]}"


def _are_modules(model: Template) -> bool:
    """Return whether every model of a checked template is a LightningModule."""
    return all(registry.is_module(name) for name in (model.options if isinstance(model, OneOf) else [model["name"]]))


def _key(params: Mapping[str, Any]) -> frozenset[tuple[str, Any]]:
    """Return a key that is equal for equal points of a grid, whose numbers may differ by rounding."""
    return frozenset((name, f"{value:.12g}" if isinstance(value, float) else value) for name, value in params.items())


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of nested mappings under its dotted path."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
            if key == "one_of":  # the choices and their order are part of Optuna's distribution
                yield f"{prefix}{key}", list(value)
        else:
            yield f"{prefix}{key}", value
