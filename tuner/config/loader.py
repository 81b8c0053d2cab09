"""Reads a study file and checks the whole of it: YAML in, a `StudyConfig` out, every fault in one list.

Nothing is created before `load_study` has returned.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from lightning_modules import Plateau, Schedule
from lightning_modules.losses import RISING, logged_metrics
from tuner.config import registry
from tuner.config.annotations import check_value, did_you_mean
from tuner.config.averaging import averaging_optimizers, unaveraged_monitors
from tuner.config.budget import Budget, Final, Limits, Positive, read_limits
from tuner.config.checker import FORM_OF_COMPONENT, Checker, listed
from tuner.config.component import Component
from tuner.config.dataset_probe import DatasetProbe
from tuner.config.document import Document, Node
from tuner.config.feasibility import broken_by, feasible, read_constraints
from tuner.config.first_trials import FirstTrials, first_trials
from tuner.config.known_values import Start, read_queue
from tuner.config.lengths import Length, resolve
from tuner.config.loss_checker import LossChecker, as_component
from tuner.config.optimization import OTHER_SCHEDULES, SCHEDULE_KEYS, is_of_trial
from tuner.config.optimization_checker import OptimizationChecker
from tuner.config.prior import PRIOR_SAMPLERS
from tuner.config.registry import Argument, Signature, signature_of
from tuner.config.rungs import decades, default_pruner, read_rungs
from tuner.config.search_space import OneOf, Range, Template, corners, grid_size, lowest, searched
from tuner.config.study import Objective, StudyConfig
from tuner.config.study_name import NAME, final_name
from tuner.config.trainer import TrainerConfig, epochs_of, numbers_of
from tuner.config.trainer_checker import TrainerChecker
from tuner.config.trial import COMPONENTS, NO_AVERAGING, Seed, TrialConfig, flatten
from tuner.config.yaml_reader import override, read_document
from tuner.direction import Direction
from tuner.errors import BadInputError
from tuner.process import add_study_folder
from tuner.text import parse_duration, shown

__all__ = [
    "PRUNERS",
    "SAMPLERS",
    "check_study",
    "load_study",
    "read_schedule",
    "schema_file",
    "shipped_studies",
    "with_further",
]

MAX_GRID = 1_000_000
KNOWN = ("enqueue", "start", "constraints")
"""Sections that belong to the identity of a study, if they are given."""
SECTIONS = ("name", "objective", "budget", "sampler", "pruner", "final", "trial", "search_space", "contenders", *KNOWN)

Count = Annotated[int, Field(ge=0)]

# The options of samplers and pruners; all others keep Optuna's defaults.
SAMPLERS: dict[str, dict[str, Any]] = {
    "tpe": {"seed": Seed, "n_startup_trials": Count, "multivariate": bool, "group": bool, "constant_liar": bool},
    "curve": {"seed": Seed, "n_startup_trials": Count},
    "random": {"seed": Seed},
    "gp": {"seed": Seed, "n_startup_trials": Count},
    "cmaes": {"seed": Seed, "n_startup_trials": Count},
    "qmc": {"seed": Seed, "qmc_type": Literal["sobol", "halton"]},
    "grid": {"seed": Seed},
}
_Factor = Annotated[int, Field(ge=2)]
PRUNERS: dict[str, dict[str, Any]] = {
    "none": {},
    "median": {
        "n_startup_trials": Count,
        "n_warmup_steps": Count,
        "interval_steps": Positive,
        "n_min_trials": Positive,
    },
    "predicted": {"n_startup_trials": Annotated[int, Field(ge=4)]},
    "hyperband": {"min_resource": Positive, "max_resource": Positive, "reduction_factor": _Factor},
    "successive_halving": {"min_resource": Positive, "reduction_factor": _Factor, "min_early_stopping_rate": Count},
    "rungs": {
        "starts": Positive,
        "epochs": Sequence[Positive],
        "reduction_factor": _Factor,
        "applies_to": Literal["all", "starts"],
    },
    "wilcoxon": {"p_threshold": Annotated[float, Field(ge=0, le=1)], "n_startup_steps": Count},
}


def shipped_studies() -> dict[str, Path]:
    """Return the study files that come with the tuner, by name."""
    return {path.stem: path for path in sorted(_shipped().glob("*.yaml"))}


def schema_file() -> Path:
    """Return the JSON schema of study files that comes with the tuner, for editors."""
    return _shipped() / "study.schema.json"


def _shipped() -> Path:
    package = Path(__file__).parent.parent
    installed = package / "studies"
    return installed if installed.is_dir() else package.parent / "studies"


def load_study(
    source: str, overrides: Sequence[str] = (), *, is_past: bool = False, folder: Path | None = None
) -> StudyConfig:
    """Read and check a study.

    Args:
        source: Path of a study file, or the name of a shipped one.
        overrides: ``dotted.path=value`` each; they replace values of the file.
        is_past: Whether the study was run before and is only read: its grid may have had more points then.
        folder: Folder of the user's modules, searched besides the usual places; by default that of the study file.

    Raises:
        BadInputError: If there are faults; it lists all of them.
    """
    path = _find(source)
    document = read_document(path)
    if folder is None and path not in shipped_studies().values():
        folder = path.parent
    return check_study(document, overrides, path.stem, is_past=is_past, folder=folder)


def check_study(
    document: Document,
    overrides: Sequence[str],
    default_name: str,
    *,
    is_past: bool = False,
    folder: Path | None = None,
    probe: DatasetProbe | None = None,
) -> StudyConfig:
    """Check a study whose content was read.

    Args:
        document: The content of its file.
        overrides: As in `load_study`.
        default_name: Its name, if the content has none.
        is_past: As in `load_study`.
        folder: Folder of the user's modules; None for none besides the usual places.
        probe: Measures its data; None for a new one, which has loaded nothing.

    Raises:
        BadInputError: If there are faults; it lists all of them.
    """
    for assignment in overrides:
        override(document, assignment)
    add_study_folder(folder)
    registry.begin_study()
    return _StudyReader(document, folder, probe or DatasetProbe()).study(default_name, is_past)


def with_further(config: StudyConfig, values: Mapping[str, Any], place: str) -> StudyConfig:
    """Return a study that tries further values after its first trials.

    Args:
        config: The study.
        values: The values by their dotted paths, as in ``enqueue``.
        place: Their place in messages.

    Raises:
        BadInputError: If they are not in the search space.
    """
    faults: list[str] = []
    queue = read_queue([dict(values)], config.trial, lambda path, message: faults.append(f"{place}: {message}"))
    if not faults and config.constraints:
        faults += [f"{place}: does not satisfy {text}." for each in queue if (text := broken_by(config, each))]
    if config.sampler.name == "grid":
        faults.append(f"{place}: a grid has its own values; name another sampler.")
    if faults:
        raise BadInputError(faults)
    return dataclasses.replace(config, first=dataclasses.replace(config.first, further=(*config.first.further, *queue)))


def read_schedule(document: Document, length: Length) -> Schedule | Plateau:
    """Check a schedule outside a study, by the same rules, and build it.

    Args:
        document: Contains the schedule under the key ``schedule``.
        length: Length of the training.

    Raises:
        BadInputError: If there are faults; it lists all of them.
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
    except OSError:  # name too long, or no permission: reading the file reports it
        return path
    if not is_file and source in shipped:
        return shipped[source]
    if not is_file and not path.is_dir() and path.suffix not in (".yaml", ".yml"):
        hint = did_you_mean(source, shipped)
        raise BadInputError([f"{source}: no such file, and no shipped study ({listed(shipped)}).{hint}"])
    return path


class _StudyReader:
    """Builds a study from a document, section by section, and reports the faults of all sections together."""

    def __init__(self, document: Document, folder: Path | None, probe: DatasetProbe) -> None:
        self._document = document
        self._folder = folder
        self._fault = document.fault
        self._probe = probe
        self._measured: dict[str, Template] = {}
        self._known_lengths: list[Length] | None = None
        self._why_unknown: list[str] = []
        self._own_modules = False  # whether all models are LightningModules
        self._checker = Checker(document, self._lengths)
        self._optimization = OptimizationChecker(document, self._checker, self._lengths)
        self._nodes = self._checker.mapping(Node.of(document.data, ()))

    def study(self, default_name: str, is_past: bool) -> StudyConfig:
        """Return the study.

        Raises:
            BadInputError: With every fault of the document.
        """
        self._checker.keys(self._nodes, SECTIONS)
        name = self._name(default_name)
        goal = self._checker.settings(signature_of(Objective), self._section("objective"))
        budget = self._checker.settings(signature_of(Budget), self._section("budget"))
        timeout = self._timeout(budget.get("timeout"))
        sampler = self._option("sampler", SAMPLERS, ("curve", "tpe"))
        pruner = self._option("pruner", PRUNERS, ("rungs", "median"))
        template = self._template()
        implied = frozenset(kind for kind in ("sampler", "pruner") if not self._is_named(kind))
        if "sampler" in implied and not is_past and not (any(searched(template)) and self._lengths(needed=False)):
            sampler = Component("tpe", sampler.arguments)
        self._check_objective(goal, is_past)
        self._check_together(sampler, pruner)
        if pruner.name == "predicted" and goal.get("direction", Objective.direction) != Direction.MINIMIZE:
            message = "predicted predicts losses, so the objective must be one (direction: minimize)."
            self._fault(("pruner", "name"), message)
        if not is_past and (sampler.name == "curve" or pruner.name == "predicted"):
            self._lengths(needed=True)  # both need the lr curves, which depend on the steps of an epoch
        if "until" in budget and sampler.name != "curve":
            message = f"needs the sampler curve, which knows how much it expects to gain ({sampler.name} does not)."
            self._fault(("budget", "until"), message)
        limits = self._limits(budget, template, name)
        trials = limits.trials
        allowance = limits.allowance
        if "pruner" in implied and pruner.name == "rungs" and not self._document.fault_count:
            every = math.lcm(*numbers_of(template["trainer"].get("check_val_every_n_epoch", 1)))
            validations = epochs_of(template["trainer"])[0] // every
            pruner = Component(default_pruner(sampler.name, template, validations, allowance))
        if sampler.name == "grid":
            size = self._grid_size(template)
            if allowance and "trials" not in budget:
                trials = min(trials, size)
            elif size and not is_past and size < trials:
                self._fault(("budget", "trials"), f"must not be above the {size} points of the grid (got {trials}).")
        rungs = None
        if pruner.name == "rungs" and not self._document.fault_count:
            rungs = read_rungs(
                pruner.arguments,
                epochs_of(template["trainer"]),
                trials,
                allowance,
                int(lowest(template["trainer"].get("val_check_interval", 0))),
                list(numbers_of(template["trainer"].get("check_val_every_n_epoch", 1))),
                decades(template),
                lambda key, message: self._fault(("pruner", key), message),
            )
        first = self._first(template, sampler)
        start = self._start(name)
        constraints = read_constraints(self._document.data.get("constraints"), template, self._fault)
        self._document.check()
        objective = Objective(**{**goal, "direction": Direction(goal.get("direction", Objective.direction))})
        config = StudyConfig(
            name=name,
            objective=objective,
            trials=trials,
            timeout=timeout,
            sampler=sampler,
            pruner=pruner,
            trial=template,
            identity=self._identity(objective, sampler, pruner),
            text=self._document.text,
            values={**self._document.data, "name": name},
            folder=self._folder,
            first=first,
            probe=self._probe,
            start=start,
            allowance=allowance,
            final=limits.final,
            until=budget.get("until", 0.0),
            rungs=rungs,
            implied=implied,
            constraints=constraints,
        )
        if constraints and not is_past:
            config = feasible(config, "trials" in budget, self._fault)
            self._document.check()
        return config

    def _limits(self, budget: Mapping[str, Any], template: Template, name: str) -> Limits:
        """Return how much the study may train."""
        is_given = self._document.data.get("final") is not None
        values = self._checker.settings(signature_of(Final), self._section("final")) if is_given else {}
        if self._document.fault_count:
            return Limits()
        limits = read_limits(budget, Final(**values) if is_given else None, template["trainer"], self._fault)
        if limits.final and not NAME.fullmatch(final_name(name, {})):
            self._fault(("name",), f"{name} is too long for the name of its last trainings; shorten it.")
        return limits

    def _first(self, template: Template, sampler: Component) -> FirstTrials:
        """Return the first trials, without those of earlier studies."""
        known = [key for key in ("enqueue", "start") if self._document.data.get(key)]
        priors = [path for path, spec in searched(template) if isinstance(spec, Range) and spec.prior]
        if sampler.name == "grid":
            for key in known:
                self._fault((key,), "leave it out: a grid trains its own points.")
        if priors and sampler.name not in PRIOR_SAMPLERS:
            message = f"{sampler.name} draws nothing at random, so a prior is of no use ({priors[0]} has one)."
            self._fault(("sampler", "name"), f"{message} Use {listed(PRIOR_SAMPLERS)}.")
        if sampler.name == "grid" or self._document.fault_count:
            return FirstTrials()
        queue = read_queue(self._document.data.get("enqueue") or [], template, self._fault)
        return dataclasses.replace(first_trials(template, self._trial(template), _default), queued=queue)

    def _start(self, name: str) -> Start | None:
        """Return which earlier studies the study starts from; None if it starts from none."""
        if not self._document.data.get("start"):
            return None
        before = self._document.fault_count
        values = self._checker.settings(signature_of(Start), self._section("start"))
        if self._document.fault_count > before:
            return None
        for index, study in enumerate(values["studies"]):
            if study == name:
                self._fault(("start", "studies", index), "is the study itself; name others.")
            elif not NAME.fullmatch(study):
                self._fault(("start", "studies", index), f"{shown(study)} is not the name of a study.")
        return Start(**values)

    def _trial(self, template: Template) -> dict[str, Any]:
        """Return `trial` as it is in the file, with the defaults of its optional sections."""
        given = self._document.data["trial"]
        loss = template["loss"] if isinstance(template["loss"], str | None) else given.get("loss")
        if isinstance(loss, str) and isinstance(template["loss"], Mapping | OneOf):
            loss = {"name": loss}
        schedules = {key: {"name": "constant"} for key in SCHEDULE_KEYS}
        return {**schedules, "averaging": NO_AVERAGING, "seed": TrialConfig.seed, **given, "loss": loss}

    def _section(self, name: str) -> Node:
        return self._nodes.get(name, Node({}, (name,)))

    def _check_objective(self, goal: Mapping[str, Any], is_past: bool) -> None:
        """Refuse a metric that a classifier does not log; those of a LightningModule are not known before training."""
        metric, known = goal.get("metric", Objective.metric), self._checker.metrics
        if known is None or not isinstance(metric, str):
            return
        if wrong := check_value(Literal[*known], metric):
            self._fault(("objective", "metric"), wrong)
        elif not is_past and "direction" not in goal and metric.rpartition("/")[2] not in RISING:
            self._fault(("objective", "direction"), f"required: {metric} is better when it falls; write minimize.")

    def _name(self, default: str) -> str:
        name = self._nodes["name"].raw if "name" in self._nodes else default
        if not isinstance(name, str) or not NAME.fullmatch(name):
            rule = "Use a-z, 0-9, '.', '_', '-', at most 64 characters, starting with a letter or digit."
            origin = "" if "name" in self._nodes else ", the name of the file,"
            self._fault(("name",), f"{shown(name)}{origin} is not a valid name. {rule}")
        return str(name)

    def _timeout(self, timeout: Any) -> float | None:
        if isinstance(timeout, bool) or not isinstance(timeout, str | int | float):
            return None  # absent, or already reported as a fault
        try:
            return parse_duration(timeout)
        except ValueError as error:
            self._fault(("budget", "timeout"), f"{error}.")
            return None

    def _is_named(self, kind: str) -> bool:
        """Return whether the document names its sampler or pruner."""
        section = self._document.data.get(kind)
        return isinstance(section, Mapping) and "name" in section

    def _option(self, kind: str, known: Mapping[str, Mapping[str, Any]], defaults: Sequence[str]) -> Component:
        """Read the name and the options of a sampler or pruner.

        Args:
            kind: "sampler" or "pruner".
            known: The options of each.
            defaults: What it is if the document does not name it: the first that has the options which are given.
        """
        nodes = self._checker.mapping(self._section(kind), FORM_OF_COMPONENT)
        default = next((each for each in defaults if nodes.keys() <= known[each].keys()), defaults[0])
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

    def _grid_size(self, template: Template) -> int:
        """Return the number of points of the grid, and refuse one that is endless or too large."""
        endless = [path for path, spec in searched(template) if isinstance(spec, Range) and spec.step is None]
        for path in endless:
            self._fault(("sampler",), f"grid needs step or choices for every parameter; {path} has neither.")
        size = 0 if self._document.faults else grid_size(template)
        if size > MAX_GRID:
            self._fault(("sampler",), f"the grid has {size} points; the limit is {MAX_GRID}.")
            return 0
        return size

    # -- the trial and what is searched in it --------------------------------------------------------------------------

    def _template(self) -> Template:
        """Return `trial` with the specs of `search_space` in their places."""
        given = self._checker.mapping(self._section("trial"))
        space = self._checker.mapping(self._section("search_space"))
        others = ("groups", "averaging", "trainer", "loss", "task", "seed")
        self._checker.keys(given, (*COMPONENTS, *OTHER_SCHEDULES, *others))
        losses, task = LossChecker(self._document, self._checker), given.get("task")
        defaults = {"loss": losses.default(task and task.raw), "seed": TrialConfig.seed}
        trial = Node({key: given.get(key, Node(each, ("trial", key))) for key, each in defaults.items()}, ("trial",))
        trial.put("loss", as_component(trial.value["loss"]))
        for name in (*COMPONENTS, "trainer"):
            default = {"name": "constant"} if name == "schedule" else {}
            section = given.get(name, Node.of(default, ("trial", name)))
            form = FORM_OF_COMPONENT if name in COMPONENTS else ""
            trial.put(name, dataclasses.replace(section, value=self._checker.mapping(section, form)))
        for name in OTHER_SCHEDULES:
            if name in given or any(key.partition(".")[0] == name for key in space):
                trial.put(name, given.get(name, Node.of({"name": "constant"}, ("trial", name))))
        if "groups" in given:
            trial.put("groups", given["groups"])
        if "averaging" in given or any(key.partition(".")[0] == "averaging" for key in space):
            trial.put("averaging", given.get("averaging", Node.of(NO_AVERAGING, ("trial", "averaging"))))
        self._checker.place(trial, space)
        are_modules = [_is_module(name) for name in _names(trial.value["model"])]
        self._own_modules = bool(are_modules) and all(are_modules)
        loss = None if self._own_modules else losses.template(trial.value["loss"], task)
        is_named = bool(are_modules) and None not in are_modules and not self._own_modules
        self._checker.metrics = logged_metrics(losses.task) if is_named else None
        checked = {kind: self._checker.component(kind, trial.value[kind]) for kind in COMPONENTS if kind != "schedule"}
        trainer = TrainerChecker(self._document, self._checker).template(trial.value["trainer"])
        self._measured = {
            "data": checked["data"],
            "trainer": trainer,
        }  # determines the length of a training, which the schedule may need
        schedules = {
            key: self._optimization.schedule(trial.value[key], key) for key in SCHEDULE_KEYS if key in trial.value
        }
        template = {**checked, **schedules, "trainer": trainer}
        if "groups" in trial.value:
            template["groups"] = self._optimization.groups(trial.value["groups"], _names(trial.value["optimizer"]))
        self._optimization.check_together(template, trial, has_modules=any(are_modules))
        if "averaging" in trial.value:
            template["averaging"] = self._checker.component("averaging", trial.value["averaging"])
            self._check_averaging(template, trial)
        template["loss"] = loss
        if task is not None:
            template["task"] = task.raw
        if self._own_modules and ("loss" in given or any(key.partition(".")[0] == "loss" for key in space)):
            self._fault(trial.value["loss"].path, "leave it out: a LightningModule has a loss of its own.")
        if self._own_modules and task is not None:
            self._fault(task.path, "leave it out: a LightningModule has metrics of its own.")
        template["seed"] = self._checker.value(Seed, trial.value["seed"])
        for node in space.values():
            self._checker.forms(node)
        return template

    def _check_averaging(self, template: Mapping[str, Template], trial: Node) -> None:
        """Refuse an average together with what cannot be combined with it."""
        if self._document.fault_count or set(_names(trial.value["averaging"])) <= {NO_AVERAGING["name"]}:
            return
        for name in averaging_optimizers(template["optimizer"]):
            message = f"cannot be combined with {name}, which averages the weights by itself."
            self._fault(trial.value["averaging"].path, message)
        for monitor in unaveraged_monitors(template["schedule"]):
            message = f"a plateau must monitor a validation metric with averaging (got {monitor}): a training metric"
            self._fault(trial.value["schedule"].path, f"{message} is of the weights without averaging.")

    def _lengths(self, needed: bool) -> Sequence[Length]:
        """Return the possible lengths of the study's trainings; none if the file has faults, without loading data."""
        if self._known_lengths is None:
            self._known_lengths = []
            try:
                if not self._document.fault_count:
                    lengths = [self._probe.length(values) for values in corners(self._measured)]
                    self._known_lengths = list(dict.fromkeys(lengths))
            except BadInputError as error:
                self._why_unknown = [message.removeprefix("trial.data: ") for message in error.faults]
        for message in self._why_unknown if needed else ():
            self._fault(("trial", "data"), message)
        return self._known_lengths

    def _identity(self, objective: Objective, sampler: Component, pruner: Component) -> dict[str, Any]:
        """Return the values that must not change when the study is continued, by their dotted paths."""
        parts = {key: self._document.data[key] for key in ("trial", "search_space") if key in self._document.data}
        parts |= {key: self._document.data[key] for key in KNOWN if self._document.data.get(key)}
        parts["objective"] = dataclasses.asdict(objective)
        if objective.epoch == Objective.epoch:
            del parts["objective"]["epoch"]
        parts["sampler"] = {"name": sampler.name, **sampler.arguments}
        parts["pruner"] = {"name": pruner.name, **pruner.arguments}
        return dict(flatten(parts))


def _default(place: str, name: str, key: str) -> Any:
    """Return the default value of an argument, as a study file could say it.

    Args:
        place: Path of its component in `trial`.
        name: Name of the component; empty for the trainer.
        key: The argument.

    Raises:
        KeyError: If it has none.
    """
    if place == "trainer":
        argument = signature_of(TrainerConfig).arguments[key]
        is_given = key not in ("max_epochs", "max_steps", "val_check_interval")
    elif is_of_trial(place) and registry.WHOLE.get(name) == key:
        return "100%"
    elif not name:  # a section of trial, or a key in a mapping that is an argument
        raise KeyError(key)
    else:
        kind = "callback" if place.startswith("trainer.callbacks") else place
        argument = registry.arguments_of(kind if kind in registry.KINDS else "schedule", name).arguments[key]
        is_given = not argument.required and isinstance(argument.default, str | int | float | None | list | tuple)
    if not is_given:
        raise KeyError(key)
    return argument.default


def _is_module(name: str) -> bool | None:
    """Return whether a model is a LightningModule; None if there is no such model."""
    try:
        return registry.is_module(name)
    except ValueError:
        return None


def _names(component: Node) -> list[str]:
    """Return the names that a component can have, valid or not."""
    choices, name = component.child("one_of"), component.child("name")
    if choices is not None and isinstance(choices.value, dict):
        return list(choices.value)
    return [name.value] if name is not None and isinstance(name.value, str) else []
