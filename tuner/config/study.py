"""A study file, checked whole: YAML in, frozen dataclasses out, every fault in one list.

`StudyConfig` holds ranges, `TrialConfig` values. Nothing is created before `load_study` has returned.
"""

import dataclasses
import hashlib
import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lightning_modules import Plateau, Schedule
from lightning_modules.classifier import Loss
from tuner.config import registry
from tuner.config.annotations import check_value, did_you_mean, parse_length
from tuner.config.checker import FORM_OF_COMPONENT, Checker, listed
from tuner.config.document import Document, Node
from tuner.config.first_trials import FirstTrials, first_trials
from tuner.config.lengths import Length, Meter, relative_lengths, resolve
from tuner.config.registry import Argument, Signature, signature_of
from tuner.config.search_space import (
    Choices,
    Drawing,
    OneOf,
    Range,
    Template,
    component_names,
    corners,
    grid_point,
    grid_size,
    grid_values,
    searched,
    suggest,
)
from tuner.config.yaml_reader import override, read_document
from tuner.errors import BadInputError
from tuner.process import look_in
from tuner.text import counted, joined, parse_duration, shown

__all__ = [
    "Component",
    "Objective",
    "StudyConfig",
    "TrainerConfig",
    "TrialConfig",
    "evaluations",
    "load_study",
    "read_schedule",
    "shipped_studies",
]

OWN_LOSS = "For class weights, label smoothing or another loss, name a LightningModule as the model: it has its own."
COMPONENTS = ("data", "model", "optimizer", "schedule")
MAX_GRID = 1_000_000
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

ClassifierMetric = Literal["train/acc", "train/loss", "val/acc", "val/loss"]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Million = Annotated[int, Field(ge=1, le=1_000_000)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # what NumPy takes


@dataclass(frozen=True)
class Objective:
    """What a study looks for.

    Args:
        metric: A metric that trials log at the end of each epoch.
        direction: Whether it should be high or low.
        epoch: Whose value counts, and whose weights are kept and tested: those of a trial's last epoch, or of its best.
    """

    metric: str = "val/acc"
    direction: Literal["maximize", "minimize"] = "maximize"
    epoch: Literal["last", "best"] = "last"

    @property
    def best_epoch(self) -> Literal["maximize", "minimize"] | None:
        """Return the direction if it is the best epoch that counts, else None."""
        return self.direction if self.epoch == "best" else None


@dataclass(frozen=True)
class Budget:
    """How much a study may use: trials in all, and the time after which no further trial is started."""

    trials: Million = 20
    timeout: str | int | float | None = None


@dataclass(frozen=True)
class TrainerConfig:
    """What Lightning's Trainer is told.

    A training is so many epochs long, or so many steps. A trial is validated, reported, pruned and resumed at the end
    of an epoch; of a training in steps, `val_check_interval` steps are what is called an epoch there.

    Args:
        max_epochs: Passes over the training data; or
        max_steps: optimizer steps, a multiple of `val_check_interval`.
        val_check_interval: Steps from one validation to the next, if the training is in steps.
        precision: Lightning's precision, or "auto": bf16-mixed where the device computes in it, else 32-true.
        gradient_clip_val: Largest norm of the gradient; None for no clipping.
        accumulate_grad_batches: Batches whose gradients are summed up for one step.
    """

    max_epochs: Million = 0  # as are the next two: 0 means that it is not given
    max_steps: Million = 0
    val_check_interval: Million = 0
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true"] = "auto"
    gradient_clip_val: Annotated[float, Field(gt=0)] | None = None
    accumulate_grad_batches: Positive = 1

    @property
    def evaluations(self) -> int:
        """Return how often a trial is validated: its epochs."""
        return evaluations(self.max_epochs, self.max_steps, self.val_check_interval)

    @property
    def batches(self) -> int | None:
        """Return the batches from one validation to the next; None for all of a pass over the data."""
        return self.val_check_interval * self.accumulate_grad_batches or None


OTHERS_OF_TRAINER = dict.fromkeys(
    registry.TRAINER_ARGUMENTS - {each.name for each in dataclasses.fields(TrainerConfig)},
    "unknown key: Lightning's Trainer has it, but a study does not set it; a LightningModule can add callbacks by "
    "configure_callbacks.",
)


def evaluations(max_epochs: int, max_steps: int, val_check_interval: int) -> int:
    """Return how often a training is validated."""
    return max_epochs or max_steps // val_check_interval


@dataclass(frozen=True)
class Component:
    """A registered name and its arguments, as plain values."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "Component":
        """Split ``{name: ..., argument: ...}``."""
        return cls(values["name"], {key: value for key, value in values.items() if key != "name"})

    def build(self, kind: str, **extra: Any) -> Any:
        """Build the object; see `registry.build`."""
        return registry.build(kind, self.name, self.arguments, **extra)


@dataclass(frozen=True)
class TrialConfig:
    """Everything that one training depends on, as plain values: it can be sent, stored and compared.

    Args:
        data: Data module.
        model: Network.
        optimizer: Optimizer.
        schedule: Schedule, its lengths in steps.
        trainer: What Lightning's Trainer is told.
        loss: What a classifier minimises; None if the model is a LightningModule, which knows itself.
        seed: The one seed of the trial.
        relative: The lengths that were given in epochs or percent, as they were given, under their dotted paths.
    """

    data: Component
    model: Component
    optimizer: Component
    schedule: Component
    trainer: TrainerConfig
    loss: Loss | None = "cross_entropy"
    seed: int = 0
    relative: Mapping[str, str] = field(default_factory=dict, compare=False)

    @classmethod
    def from_values(cls, values: Mapping[str, Any], relative: Mapping[str, str] | None = None) -> "TrialConfig":
        """Read the ``trial`` of a study file, once it holds values only, and lengths in steps."""
        components = {kind: Component.from_values(values[kind]) for kind in COMPONENTS}
        trainer, loss = TrainerConfig(**values["trainer"]), values.get("loss", cls.loss)
        return cls(**components, trainer=trainer, loss=loss, seed=values["seed"], relative=relative or {})

    def values(self) -> dict[str, Any]:
        """Return the nested values, as in a study file."""
        nested: dict[str, Any] = {}
        for kind in COMPONENTS:
            component: Component = getattr(self, kind)
            nested[kind] = {"name": component.name, **component.arguments}
        given = {key: value for key, value in dataclasses.asdict(self.trainer).items() if key not in self._absent}
        loss = {} if self.loss is None else {"loss": self.loss}
        return nested | {"trainer": given, **loss, "seed": self.seed}

    @property
    def _absent(self) -> tuple[str, ...]:
        """Return what the trainer is not told, as the length of a training is in epochs, or in steps."""
        return ("max_steps", "val_check_interval") if self.trainer.max_epochs else ("max_epochs",)

    @property
    def digest(self) -> str:
        """Return a digest that other values do not have, nor the same ones of other types."""
        return hashlib.sha256(json.dumps(self.values(), sort_keys=True).encode()).hexdigest()

    def flat(self) -> dict[str, Any]:
        """Return the values under their dotted paths; with ``.relative``, what a length in epochs or percent was."""
        return dict(_flatten(self.values())) | {f"{path}.relative": text for path, text in self.relative.items()}


@dataclass(frozen=True)
class StudyConfig:
    """A checked study.

    Args:
        name: Name of the study in Optuna and of the experiment in MLflow.
        trial: The template of a trial: values, with a spec at every place that is searched.
        timeout: Seconds after which no further trial is started; None for no limit.
        identity: What may not change when a study is continued, under dotted paths.
        text: The study file, with what the command line set in it.
        values: What both say together, as `load_study` reads it from a file; empty if the study is of no file.
        experiment: The experiment in MLflow; by default it has the study's name.
        within: Identifier of the study in whose run, in MLflow, this one's lies; empty for none.
        folder: Where its own modules are looked for besides the usual places: beside its file.
        first: What its first trials draw, whatever the sampler says.
        meter: What has measured its data.
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
    meter: Meter = field(default_factory=Meter, compare=False, repr=False)

    @property
    def can_fuse(self) -> bool:
        """Tell whether its trials can be trained as one model, as far as the study file tells."""
        return self.objective.epoch == "last" and not _are_modules(self.trial["model"])

    def identity_with(self, digests: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return what may not change when the study is continued, the data included."""
        return {**self.identity, "data digest": " ".join(dict.fromkeys(digest for _, digest in digests))}

    def measure_data(self) -> tuple[list[tuple[str, str]], int | None]:
        """Fetch and load the data, and return names and digests of the data sets, and how many images decide.

        Raises:
            BadInputError: If they cannot be fetched, loaded or used.
        """
        facts = [(values["name"], self.meter.data(values)) for values in corners(self.trial["data"])]
        for trainer in corners(self.trial["trainer"]):
            needed = trainer.get("val_check_interval", 0) * trainer.get("accumulate_grad_batches", 1)
            for name, fact in facts:
                if (
                    fact.batches
                    and fact.batches < needed
                    and not registry.accepted("data", name, {"batches_per_epoch": needed})
                ):
                    fault = f"the {needed} batches to the next validation are more than the {fact.batches} of {name}"
                    raise BadInputError(
                        [f"trial.trainer.val_check_interval: {fault}; it would have to take batches_per_epoch."]
                    )
        counts = [fact.validation_images for _, fact in facts if fact.validation_images is not None]
        return [(name, fact.digest) for name, fact in facts], min(counts, default=None)

    @property
    def own_modules(self) -> set[str]:
        """Return the modules of the classes that its trials can have by ``package.module:Name``."""
        return {name.partition(":")[0] for name in component_names(self.trial) if ":" in name}

    def fixed(self, number: int, drawn: Iterable[Mapping[str, Any]] | None = None) -> dict[str, Any]:
        """Return what a trial is to draw, by the names in Optuna; the sampler decides about the rest.

        Of a grid, that is the point of its number. In a study that was begun when grids had the same configuration
        several times, it is the first point that no other trial has.

        Args:
            number: The trial.
            drawn: What the other trials of a grid have drawn; None if that is the points of their numbers.
        """
        if self.sampler.name != "grid":
            return dict(self.first.params[number]) if number < len(self.first.params) else {}
        if drawn is None:
            return grid_point(self.trial, self._grid[number])
        taken = {_key(params) for params in drawn}
        points = (grid_point(self.trial, index) for index in self._grid)
        return next((point for point in points if _key(point) not in taken), {})

    def repeats(self, drawn: Iterable[Mapping[str, Any]]) -> int:
        """Return how many trials of a grid repeat others: earlier versions had the same point several times in a grid.

        Args:
            drawn: What its trials have drawn.
        """
        keys = [_key(params) for params in drawn if params]
        return len(keys) - len(set(keys))

    @property
    def beginning(self) -> list[str]:
        """Return what the user should know of the trials that are fixed, each as a line."""
        told = []
        if self.first.outside:
            begins = "each family once" if self.first.params else "what the sampler draws"
            told.append(f"begins with {begins}: trial is outside of the search space ({self.first.outside})")
        families = [[turn for turn in each.items() if turn[0].endswith(".name")] for each in self.first.params]
        reached = {turn for each in families[: self.trials] for turn in each}
        late = dict.fromkeys(turn for each in families for turn in each if turn not in reached)
        if late:
            names = joined([f"{path.removesuffix('.name')} {name}" for path, name in late], 10)
            trials = counted(self.trials, "trial")
            told.append(f"not every family gets its turn in {trials}: {names} may be left out")
        return [*told, *(self._repeated_lengths() if self.sampler.name == "grid" else ())]

    def _repeated_lengths(self) -> Iterator[str]:
        """Yield a line for each length in a grid that is the same number of steps several times."""
        trainings = [
            {"data": data, "trainer": trainer}
            for data in corners(self.trial["data"])
            for trainer in corners(self.trial["trainer"])
        ]
        for path, spec in searched(self.trial["schedule"], "schedule"):
            values = grid_values(spec)
            if not any(map(parse_length, values)):
                continue
            for length in map(self.meter.length, trainings):
                steps = {length.in_steps(value) if parse_length(value) else value for value in values}
                if len(steps) < len(values):
                    yield (
                        f"the grid repeats trainings: in {length.steps} steps, the {len(values)} values of {path} are "
                        f"only {len(steps)} different lengths"
                    )
                    break

    @cached_property
    def _grid(self) -> Sequence[int]:
        """Return the indices of the grid's points in the order of the trials: shuffled, for budgets below its size."""
        size = grid_size(self.trial)
        return random.Random(f"grid:{self.sampler.arguments.get('seed', 0)}").sample(range(size), size)

    def described(self, number: int) -> dict[str, Any]:
        """Return what MLflow shows of a trial besides its values."""
        return {}

    def draw(self, drawing: Drawing) -> TrialConfig:
        """Return a trial with the values that are drawn for it, its lengths in steps.

        Raises:
            BadInputError: If it has lengths in epochs or percent and its data cannot be loaded.
        """
        return self.trial_of(suggest(drawing, self.trial))

    def trial_of(self, values: Mapping[str, Any]) -> TrialConfig:
        """Return a trial with values from its search space, its lengths in steps.

        Raises:
            BadInputError: If it has lengths in epochs or percent and its data cannot be loaded.
        """
        relative = relative_lengths(values["schedule"])
        if relative:
            values = {**values, "schedule": resolve(values["schedule"], self.meter.length(values))}
        return TrialConfig.from_values(values, relative)


# What a sampler or pruner may be told beside its name; the rest is Optuna's own default.
_SAMPLERS: dict[str, dict[str, Any]] = {
    "tpe": {"seed": Seed, "n_startup_trials": Count, "multivariate": bool, "group": bool, "constant_liar": bool},
    "random": {"seed": Seed},
    "gp": {"seed": Seed, "n_startup_trials": Count},
    "cmaes": {"seed": Seed, "n_startup_trials": Count},
    "qmc": {"seed": Seed, "qmc_type": Literal["sobol", "halton"]},
    "grid": {"seed": Seed},
}
_Factor = Annotated[int, Field(ge=2)]
_PRUNERS: dict[str, dict[str, Any]] = {
    "none": {},
    "median": {
        "n_startup_trials": Count,
        "n_warmup_steps": Count,
        "interval_steps": Positive,
        "n_min_trials": Positive,
    },
    "hyperband": {"min_resource": Positive, "max_resource": Positive, "reduction_factor": _Factor},
    "successive_halving": {"min_resource": Positive, "reduction_factor": _Factor, "min_early_stopping_rate": Count},
    "wilcoxon": {"p_threshold": Annotated[float, Field(ge=0, le=1)], "n_startup_steps": Count},
}


def shipped_studies() -> dict[str, Path]:
    """Return the study files that come with the tuner, by name."""
    package = Path(__file__).parent.parent
    installed = package / "studies"
    folder = installed if installed.is_dir() else package.parent / "studies"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_study(
    source: str, overrides: Sequence[str] = (), *, is_past: bool = False, folder: Path | None = None
) -> StudyConfig:
    """Read and check a study.

    Args:
        source: Path of a study file, or the name of a shipped one.
        overrides: ``dotted.path=value`` each, put over what the file says.
        is_past: Whether the study was run and is only looked at: its grid may have had more points then.
        folder: Where modules of the user's are looked for besides the usual places; by default beside the study file.

    Raises:
        BadInputError: With every fault that was found.
    """
    path = _find(source)
    document = read_document(path)
    for assignment in overrides:
        override(document, assignment)
    if folder is None and path not in shipped_studies().values():
        folder = path.parent
    look_in(folder)
    return _StudyReader(document, folder).study(default_name=path.stem, is_past=is_past)


def read_schedule(document: Document, length: Length) -> Schedule | Plateau:
    """Check a schedule that stands alone, as one in a study file is, and build it.

    Args:
        document: Has it under the key ``schedule``.
        length: How long the training is that it is for.

    Raises:
        BadInputError: With every fault that was found.
    """
    checker = Checker(document, lambda needed: [length])
    values = checker.component("schedule", Node.of(document.data["schedule"], ("schedule",)))
    document.check()
    schedule: Schedule | Plateau = Component.from_values(resolve(values, length)).build("schedule")
    return schedule


def _find(source: str) -> Path:
    path, shipped = Path(source), shipped_studies()
    try:
        is_file = path.is_file()
    except OSError:  # a name that is too long, a folder that may not be looked into: reading it tells
        return path
    if not is_file and source in shipped:
        return shipped[source]
    if not is_file and not path.is_dir() and path.suffix not in (".yaml", ".yml"):
        hint = did_you_mean(source, shipped)
        raise BadInputError([f"{source}: no such file, and no shipped study ({listed(shipped)}).{hint}"])
    return path


class _StudyReader:
    """Makes a study of a document, section by section; nothing of it counts before all of it is checked."""

    def __init__(self, document: Document, folder: Path | None) -> None:
        self._document = document
        self._folder = folder
        self._fault = document.fault
        self._meter = Meter()
        self._measured: dict[str, Template] = {}
        self._known_lengths: list[Length] | None = None
        self._why_unknown: list[str] = []
        self._own_modules = False  # whether all models are LightningModules
        self._knows_metrics = False  # whether no model can be one
        self._checker = Checker(document, self._lengths)
        self._nodes = self._checker.mapping(Node.of(document.data, ()))

    def study(self, default_name: str, is_past: bool) -> StudyConfig:
        """Return the study.

        Raises:
            BadInputError: With every fault of the document.
        """
        self._checker.keys(self._nodes, ("name", "objective", "budget", "sampler", "pruner", "trial", "search_space"))
        name = self._name(default_name)
        objective = self._checker.settings(signature_of(Objective), self._section("objective"))
        budget = self._checker.settings(signature_of(Budget), self._section("budget"))
        timeout = self._timeout(budget.get("timeout"))
        sampler = self._option("sampler", _SAMPLERS, "tpe")
        pruner = self._option("pruner", _PRUNERS, "median")
        template = self._template()
        self._check_metric(objective.get("metric", Objective.metric))
        trials = budget.get("trials", Budget.trials)
        self._check_together(sampler, pruner)
        if sampler.name == "grid":
            self._check_grid(template, 0 if is_past else trials)
        self._document.check()
        return StudyConfig(
            name=name,
            objective=Objective(**objective),
            trials=trials,
            timeout=timeout,
            sampler=sampler,
            pruner=pruner,
            trial=template,
            identity=self._identity(Objective(**objective), sampler, pruner),
            text=self._document.text,
            values={**self._document.data, "name": name},
            folder=self._folder,
            first=FirstTrials() if sampler.name == "grid" else first_trials(template, self._trial(), _default),
            meter=self._meter,
        )

    def _trial(self) -> dict[str, Any]:
        """Return `trial` as it stands in the file, with the sections that it need not name."""
        loss = None if self._own_modules else TrialConfig.loss
        given = self._document.data["trial"]
        return {"schedule": {"name": "constant"}, "loss": loss, "seed": TrialConfig.seed, **given}

    def _section(self, name: str) -> Node:
        return self._nodes.get(name, Node({}, (name,)))

    def _check_metric(self, metric: Any) -> None:
        """Refuse a metric that a classifier does not log; what a LightningModule logs, only its training tells."""
        if not self._knows_metrics or not isinstance(metric, str):
            return
        if wrong := check_value(ClassifierMetric, metric):
            self._fault(("objective", "metric"), wrong)

    def _name(self, default: str) -> str:
        name = self._nodes["name"].raw if "name" in self._nodes else default
        if not isinstance(name, str) or not NAME.fullmatch(name):
            rule = "Use a-z, 0-9, '.', '_', '-', at most 64 characters, starting with a letter or digit."
            origin = "" if "name" in self._nodes else ", the name of the file,"
            self._fault(("name",), f"{shown(name)}{origin} is not a valid name. {rule}")
        return str(name)

    def _timeout(self, timeout: Any) -> float | None:
        if isinstance(timeout, bool) or not isinstance(timeout, str | int | float):
            return None  # there is none, or it is told already
        try:
            return parse_duration(timeout)
        except ValueError as error:
            self._fault(("budget", "timeout"), f"{error}.")
            return None

    def _option(self, kind: str, known: Mapping[str, Mapping[str, Any]], default: str) -> Component:
        """Read what configures an object of Optuna."""
        nodes = self._checker.mapping(self._section(kind), FORM_OF_COMPONENT)
        name = nodes["name"].raw if "name" in nodes else default
        if not isinstance(name, str) or name not in known:
            hint = did_you_mean(name, known) if isinstance(name, str) else ""
            self._fault((kind, "name"), f"unknown {kind} {shown(name)}. Known: {listed(known)}.{hint}")
            return Component(default)
        signature = Signature({key: Argument(hint, required=False) for key, hint in known[name].items()})
        given = {key: node for key, node in nodes.items() if key != "name"}
        return Component(name, self._checker.arguments(signature, given, (kind,), name))

    def _check_together(self, sampler: Component, pruner: Component) -> None:
        options = sampler.arguments
        if options.get("group") and options.get("multivariate") is False:
            self._fault(("sampler", "group"), "needs multivariate: true.")
        lowest, highest = (pruner.arguments.get(key) for key in ("min_resource", "max_resource"))
        if isinstance(lowest, int) and isinstance(highest, int) and lowest > highest:
            self._fault(("pruner", "min_resource"), f"{lowest} must not be above max_resource ({highest}).")

    def _check_grid(self, template: Template, trials: int) -> None:
        endless = [path for path, spec in searched(template) if isinstance(spec, Range) and spec.step is None]
        for path in endless:
            self._fault(("sampler",), f"grid needs step or choices for every parameter; {path} has neither.")
        if self._document.faults:
            return
        size = grid_size(template)
        if size > MAX_GRID:
            self._fault(("sampler",), f"the grid has {size} points; the limit is {MAX_GRID}.")
        elif size < trials:
            self._fault(("budget", "trials"), f"must not be above the {size} points of the grid (got {trials}).")

    # -- the trial and what is searched in it --------------------------------------------------------------------------

    def _template(self) -> Template:
        """Return `trial` with the specs of `search_space` in their places."""
        given = self._checker.mapping(self._section("trial"))
        space = self._checker.mapping(self._section("search_space"))
        self._checker.keys(given, (*COMPONENTS, "trainer", "loss", "seed"))
        defaults = {"loss": TrialConfig.loss, "seed": TrialConfig.seed}
        trial = Node({key: given.get(key, Node(each, ("trial", key))) for key, each in defaults.items()}, ("trial",))
        for name in (*COMPONENTS, "trainer"):
            default = {"name": "constant"} if name == "schedule" else {}
            section = given.get(name, Node.of(default, ("trial", name)))
            form = FORM_OF_COMPONENT if name in COMPONENTS else ""
            trial.put(name, dataclasses.replace(section, value=self._checker.mapping(section, form)))
        self._checker.place(trial, space)
        are_modules = [_is_module(name) for name in _names(trial.value["model"])]
        self._own_modules = bool(are_modules) and all(are_modules)
        self._knows_metrics = bool(are_modules) and None not in are_modules and not self._own_modules
        self._checker.any_metric = not self._knows_metrics
        checked = {kind: self._checker.component(kind, trial.value[kind]) for kind in COMPONENTS if kind != "schedule"}
        trainer = self._trainer(trial.value["trainer"])
        self._measured = {"data": checked["data"], "trainer": trainer}  # how long a training is: a schedule may need it
        schedule = self._checker.component("schedule", trial.value["schedule"])
        template = {**checked, "schedule": schedule, "trainer": trainer}
        template["loss"] = None if self._own_modules else self._checker.value(Loss, trial.value["loss"], OWN_LOSS)
        if self._own_modules and ("loss" in given or "loss" in space):
            self._fault(trial.value["loss"].path, "leave it out: a LightningModule has a loss of its own.")
        template["seed"] = self._checker.value(Seed, trial.value["seed"])
        for node in space.values():
            self._checker.forms(node)
        return template

    def _lengths(self, needed: bool) -> Sequence[Length]:
        """Return how long the trainings of the study can be; a file with faults is not worth loading data for."""
        if self._known_lengths is None:
            self._known_lengths = []
            try:
                if not self._document.fault_count:
                    lengths = [self._meter.length(values) for values in corners(self._measured)]
                    self._known_lengths = list(dict.fromkeys(lengths))
            except BadInputError as error:
                self._why_unknown = [message.removeprefix("trial.data: ") for message in error.faults]
        for message in self._why_unknown if needed else ():
            self._fault(("trial", "data"), message)
        return self._known_lengths

    def _trainer(self, node: Node) -> Template:
        if node.searched:
            self._fault(node.path, "name what is searched in it, such as trainer.max_epochs.")
            return {}
        before = self._document.fault_count
        template = self._checker.settings(signature_of(TrainerConfig), node, OTHERS_OF_TRAINER)
        if node.child("max_epochs") is None and node.child("max_steps") is None:
            self._fault((*node.path, "max_epochs"), "required.")
        if self._document.fault_count == before:
            for key, message in _length_faults(template):
                place = node.child(key)
                self._fault(place.path if place else (*node.path, key), message)
        return template

    def _identity(self, objective: Objective, sampler: Component, pruner: Component) -> dict[str, Any]:
        """Return what may not change when the study is continued, under dotted paths."""
        parts = {key: self._document.data[key] for key in ("trial", "search_space") if key in self._document.data}
        parts["objective"] = dataclasses.asdict(objective)
        if objective.epoch == Objective.epoch:
            del parts["objective"]["epoch"]
        parts["sampler"] = {"name": sampler.name, **sampler.arguments}
        parts["pruner"] = {"name": pruner.name, **pruner.arguments}
        return dict(_flatten(parts))


def _default(place: str, name: str, key: str) -> Any:
    """Return the default value of an argument, as a study file could say it.

    Args:
        place: Where its component stands in `trial`.
        name: What is named there; empty in the trainer.
        key: The argument.

    Raises:
        KeyError: If it has none.
    """
    if place == "trainer":
        argument = signature_of(TrainerConfig).arguments[key]
        is_given = key not in ("max_epochs", "max_steps", "val_check_interval")
    elif not name:  # a section of trial, or an entry of a mapping that is an argument
        raise KeyError(key)
    else:
        argument = registry.arguments_of(place if place in COMPONENTS else "schedule", name).arguments[key]
        is_given = not argument.required and isinstance(argument.default, str | int | float | None | list | tuple)
    if not is_given:
        raise KeyError(key)
    return argument.default


def _are_modules(model: Template) -> bool:
    """Return whether every model that a checked template allows is a LightningModule."""
    return all(_is_module(name) for name in (model.options if isinstance(model, OneOf) else [model["name"]]))


def _is_module(name: str) -> bool | None:
    """Return whether a model is a LightningModule; None if there is no such model."""
    try:
        return registry.is_module(name)
    except ValueError:
        return None


def _names(component: Node) -> list[str]:
    """Return the names that a component can have, right or wrong."""
    choices, name = component.child("one_of"), component.child("name")
    if choices is not None and isinstance(choices.value, dict):
        return list(choices.value)
    return [name.value] if name is not None and isinstance(name.value, str) else []


def _length_faults(trainer: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the length of a training, and where: it is in epochs, or in steps."""
    epochs, steps, interval = (trainer.get(key) for key in ("max_epochs", "max_steps", "val_check_interval"))
    if epochs is not None and steps is not None:
        yield "max_steps", "leave it out, or max_epochs: a training is in epochs or in steps."
    elif epochs is not None and interval is not None:
        yield "val_check_interval", "is for a training in steps; with max_epochs, each epoch is validated once."
    elif steps is not None and interval is None:
        yield "val_check_interval", "required by max_steps: the steps from one validation to the next."
    elif steps is not None:
        if isinstance(interval, Range):
            yield "val_check_interval", "must be a number or choices, of which max_steps is a multiple."
        else:
            for each in _numbers(interval):
                if odd := [number for number in _numbers(steps) if number % each]:
                    yield "max_steps", f"must be a multiple of val_check_interval ({each}), but can be {odd[0]}."


def _numbers(spec: Any) -> Iterable[int]:
    """Return the whole numbers that a value, choices or a range can be; of a range, enough to tell what divides all."""
    if isinstance(spec, Range):
        return (int(spec.low), int(spec.low + (spec.step or 1)), int(spec.high))
    return [int(number or 0) for number in spec.values] if isinstance(spec, Choices) else [int(spec)]


def _key(params: Mapping[str, Any]) -> frozenset[tuple[str, Any]]:
    """Return what tells two points of a grid apart; their numbers may differ by roundings."""
    return frozenset((name, f"{value:.12g}" if isinstance(value, float) else value) for name, value in params.items())


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
            if key == "one_of":  # which choices there are, and their order, is a part of Optuna's distribution
                yield f"{prefix}{key}", list(value)
        else:
            yield f"{prefix}{key}", value
