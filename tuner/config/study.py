"""A checked study as a frozen dataclass, in which the template of a trial contains ranges."""

import random
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from tuner.config import by_value
from tuner.config.budget import Allowance, Final
from tuner.config.component import Component
from tuner.config.constraints import Constraint, RandomSuggester
from tuner.config.dataset_probe import DatasetProbe
from tuner.config.finite_space import can_repeat
from tuner.config.first_trials import FirstTrials
from tuner.config.kind import Kind
from tuner.config.known_values import Start
from tuner.config.prior import PRIOR_SAMPLERS, draws_of_priors
from tuner.config.rungs import Rungs
from tuner.config.search_space import (
    OneOf,
    Suggester,
    Template,
    grid_point,
    grid_size,
    suggest,
)
from tuner.config.sources import own_sources
from tuner.config.trainings import TRAININGS
from tuner.config.trial import AnyTrial
from tuner.direction import Direction
from tuner.errors import BadInputError
from tuner.text import join_names, pluralize

__all__ = ["Objective", "StudyConfig", "key_of"]


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
        within: Identifier of the study whose run in MLflow is the parent of this study's run; empty if there is none.
        folder: Folder of the user's modules, searched in addition to the usual places: the folder of its file.
        first: The fixed values of its first trials, which the sampler does not choose.
        probe: Measures its data.
        allowance: The total training that all trials may use; None for no limit.
        until: The study ends when the expected gain in the objective is below this; 0 to disable.
        rungs: Where its trials are compared, if that is its pruner.
        final: Its final runs, with fresh seeds, which the limits above do not include; None if there are none.
        start: The earlier studies that it starts from; None if it starts from none.
        has_read: Whether these were read.
        implied: Which of sampler and pruner the file does not name.
        constraints: The conditions that the values of each trial satisfy.
        further: The objectives after the first one.
        kind: What its trials are.
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
    further: tuple[Objective, ...] = ()
    kind: Kind = field(default=TRAININGS, compare=False)

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """Return all objectives."""
        return (self.objective, *self.further)

    def check_single(self, what: str) -> None:
        """Reject a study of several objectives.

        Args:
            what: The subject of the error message, such as a command.

        Raises:
            BadInputError: If it has several.
        """
        if self.further:
            names = join_names([each.metric for each in self.objectives])
            raise BadInputError([f'{what} compares trials by a single objective, but study "{self.name}" has {names}.'])

    def check_trains(self, what: str) -> None:
        """Reject a study of an objective function.

        Args:
            what: The main clause of the error message, such as what a command does.

        Raises:
            BadInputError: If its trials are not training runs.
        """
        if not self.kind.trains:
            raise BadInputError([f'{what}, but study "{self.name}" calls an objective function.'])

    @property
    def longest(self) -> int:
        """Return after how many epochs the longest trial ends; 0 if that is not known."""
        return self.kind.longest(self.trial, self.pruner)

    def with_earlier(self, earlier: Sequence[Mapping[str, Any]]) -> "StudyConfig":
        """Return the same study with values of earlier studies in its first trials.

        Args:
            earlier: Fixed values of each, by their names in Optuna.
        """
        first = replace(self.first, earlier=earlier)
        rungs = self.rungs and replace(self.rungs, whole=list(first.known))
        return replace(self, has_read=True, first=first, rungs=rungs)

    @property
    def fewest_trials(self) -> int:
        """Return the number of trials that the budget allows if all are as long as possible."""
        return min(self.trials, self.allowance.amount // self.allowance.longest) if self.allowance else self.trials

    def whole(self, trial: AnyTrial) -> int:
        """Return how much of the allowance the full run of a trial takes; 0 if there is no allowance."""
        return self.allowance.cost(trial.epochs, trial.epoch_steps) if self.allowance else 0

    @property
    def random_trials(self) -> int | None:
        """Return how many trials the sampler draws at random; None for the sampler's own number."""
        if self.sampler.name == "nsga2":
            return self.sampler.arguments.get("population_size")
        given: int | None = self.sampler.arguments.get("n_startup_trials")
        if given is None and self.rungs:
            return self.rungs.first
        if given is None and self.sampler.name == "curve":
            return (self.first.baseline is not None) + int(PRIOR_SAMPLERS["curve"])
        return given

    @property
    def names_pruner(self) -> bool:
        """Return whether its file asks for a pruner."""
        return self.pruner.name != "none" and "pruner" not in self.implied

    @property
    def limits_trials(self) -> bool:
        """Return whether the budget limits the number of trials, and not only their total training."""
        return self.allowance is None or self.trials < self.allowance.amount

    @property
    def whole_allowance(self) -> Allowance | None:
        """Return the allowance including the final runs; None if there is no limit."""
        last = self.final.trainings if self.final else 0
        return self.allowance and replace(self.allowance, amount=self.allowance.amount + last * self.allowance.longest)

    @property
    def budget(self) -> str:
        """Return the budget as text."""
        last = self.final.trainings if self.final else 0
        text = trials = pluralize(self.trials + last, "trial")
        if self.allowance:
            text = f"{self.whole_allowance}{f' and at most {trials}' if self.limits_trials else ''}"
        return f"{text}, or until the expected gain is below {self.until:g}," if self.until else text

    @property
    def why_alone(self) -> str:
        """Return why trials are trained one by one, judging by the study file; empty if they can be one model."""
        return self._why_alone(self.trial)

    def _why_alone(self, trial: Mapping[str, Any]) -> str:
        reasons = {
            **self.kind.why_alone(trial),
            "the best epoch of each counts": self.objective.epoch == "best",
            "the time of each run is an objective": any(each.metric == "train/seconds" for each in self.further),
        }
        return next((reason for reason, holds in reasons.items() if holds), "")

    @property
    def families(self) -> list[str]:
        """Return the names of the schedules that its trials can have."""
        return self.kind.families(self.trial)

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

    @property
    def labels_tell_all(self) -> bool:
        """Return whether the labels of trials contain all their values."""
        return False

    @property
    def label_width(self) -> int:
        """Return the width that the labels of most trials fit into."""
        return 21 if self.kind.trains else len("#999")  # a call of a function has no schedule

    def label_of(self, number: int, trial: AnyTrial) -> str:
        """Return number and schedule of a trial, for the list of trials."""
        return f"#{number:<3} {trial.family}".rstrip()

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
        return self.kind.measure_data(self.trial, self.probe)

    @property
    def own_names(self) -> list[str]:
        """Return the names of the user's own classes and functions in it, ``package.module:Name``."""
        return [name for name in self.kind.names(self.trial) if ":" in name]

    @property
    def held(self) -> dict[str, by_value.Held]:
        """Return the classes and objects that are sent to training processes by value, by their names."""
        return by_value.select(self.own_names)

    @property
    def sources(self) -> dict[str, str]:
        """Return the digests of the user's own source: of files, and of objects that are sent by value."""
        sent = by_value.digests(self.own_names)
        return own_sources({name.partition(":")[0] for name in self.own_names if name not in sent}) | sent

    @property
    def can_export(self) -> bool:
        """Return whether a trial can be exported: it is a training run, and a script can import its classes."""
        return self.kind.trains and not self.held

    @cached_property
    def can_repeat(self) -> bool:
        """Return whether its sampler can draw a configuration twice: not if each has a continuous value."""
        return self.sampler.name != "grid" and can_repeat(self.trial)

    def fixed(self, number: int, drawn: Iterable[Mapping[str, Any]] | None = None) -> dict[str, Any]:
        """Return the fixed values of a trial, by the names in Optuna; the sampler chooses the others.

        In a grid, a trial has the point with its number. In a study that was begun when grids repeated configurations,
        it has the first unused point.

        Args:
            number: The trial.
            drawn: The values of the other trials of a grid; None if they have the points with their numbers.
        """
        if self.sampler.name != "grid":
            return {**self.of_priors(number), **self.first.of(number)}
        if drawn is None:
            return grid_point(self.trial, self.grid[number])
        taken = {key_of(params) for params in drawn}
        points = (grid_point(self.trial, index) for index in self.grid)
        return next((point for point in points if key_of(point) not in taken), {})

    def of_priors(self, number: int, attempt: int = 0) -> dict[str, Any]:
        """Return the values of a trial that are drawn from priors, by their names in Optuna.

        Args:
            number: The trial.
            attempt: Which draw it is, if earlier ones do not satisfy the constraints.
        """
        return draws_of_priors(self.trial, self.sampler, number, self.random_trials, attempt)

    def repeats(self, drawn: Iterable[Mapping[str, Any]]) -> int:
        """Return how many trials of a grid repeat others, as was possible in grids of earlier versions.

        Args:
            drawn: The values of its trials.
        """
        keys = [key_of(params) for params in drawn if params]
        return len(keys) - len(set(keys))

    def broken(self, values: Mapping[str, Any]) -> Constraint | None:
        """Return the first constraint that a trial does not satisfy; None if it satisfies all.

        Args:
            values: Values from its search space.

        Raises:
            BadInputError: If it depends on the length of a run, and the data cannot be loaded.
            ValueError: If a constraint cannot be evaluated with the values.
        """
        if not self.constraints:
            return None
        with_length = any(each.needs_length for each in self.constraints)
        values, lengths = self.kind.comparable(values, self.probe, with_length)
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

    def suggest(self, trial: Suggester) -> AnyTrial:
        """Return a trial with suggested values, its lengths in steps.

        Raises:
            BadInputError: If it has lengths in epochs or percent and its data cannot be loaded.
        """
        return self.trial_of(suggest(trial, self.trial))

    def trial_of(self, values: Mapping[str, Any]) -> AnyTrial:
        """Return a trial with values from its search space, its lengths in steps and its class weights as numbers.

        Raises:
            BadInputError: If these depend on its data, and they cannot be loaded.
        """
        return self.kind.trial_of(values, self.probe)


def key_of(params: Mapping[str, Any]) -> Hashable:
    """Return a key that is equal for equal points of a grid, whose numbers may differ by rounding.

    Args:
        params: The values of a trial, by their names in Optuna.
    """
    return frozenset(
        (name, float(f"{value:.12g}") if isinstance(value, float) else value) for name, value in params.items()
    )
