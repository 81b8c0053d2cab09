"""A study file, checked whole: YAML in, frozen dataclasses out, every fault in one list.

`StudyConfig` holds ranges, `TrialConfig` values. Nothing is created before `load_study` has returned.
"""

import dataclasses
import json
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from lightning_modules.checks import require
from tuner import registry
from tuner.errors import BadInputError
from tuner.registry import did_you_mean
from tuner.search_space import Choices, OneOf, Range, Template, corners, parse_spec, searched
from tuner.study_file import Document, read_document, read_value

__all__ = [
    "Component",
    "StudyConfig",
    "TrainerConfig",
    "TrialConfig",
    "load_study",
    "parse_duration",
    "shipped_studies",
]

METRICS = ("train/acc", "train/loss", "val/acc", "val/loss")
COMPONENTS = ("data", "model", "optimizer", "schedule")
MAX_TRIALS = 1_000_000
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

Path_ = tuple[str | int, ...]
T = TypeVar("T")


@dataclass(frozen=True)
class Objective:
    """What a study looks for: `metric` at the end of a trial's last epoch."""

    metric: str = "val/acc"
    direction: Literal["maximize", "minimize"] = "maximize"


@dataclass(frozen=True)
class Budget:
    """How much a study may use: trials in all, and the time after which no further trial is started."""

    trials: int = 20
    timeout: str | int | float | None = None


@dataclass(frozen=True)
class TrainerConfig:
    """What Lightning's Trainer is told.

    Args:
        max_epochs: Passes over the training data.
        precision: Lightning's precision, or "auto": bf16-mixed where the device computes in it, else 32-true.
        gradient_clip_val: Largest norm of the gradient; None for no clipping.
        accumulate_grad_batches: Batches whose gradients are summed up for one step.
    """

    max_epochs: int
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true"] = "auto"
    gradient_clip_val: float | None = None
    accumulate_grad_batches: int = 1

    def __post_init__(self) -> None:
        require(self, "max_epochs", 1 <= self.max_epochs <= 1_000_000, "1 <= max_epochs <= 1000000")
        clip = self.gradient_clip_val
        require(self, "gradient_clip_val", clip is None or clip > 0, "gradient_clip_val > 0")
        require(self, "accumulate_grad_batches", self.accumulate_grad_batches >= 1, "accumulate_grad_batches >= 1")


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
    """Everything that one training depends on, as plain values: it can be sent, stored and compared."""

    data: Component
    model: Component
    optimizer: Component
    schedule: Component
    trainer: TrainerConfig
    seed: int = 0

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "TrialConfig":
        """Read the ``trial`` of a study file, once it holds values only."""
        components = {kind: Component.from_values(values[kind]) for kind in COMPONENTS}
        return cls(**components, trainer=TrainerConfig(**values["trainer"]), seed=values["seed"])

    def values(self) -> dict[str, Any]:
        """Return the nested values, as in a study file."""
        nested: dict[str, Any] = {}
        for kind in COMPONENTS:
            component: Component = getattr(self, kind)
            nested[kind] = {"name": component.name, **component.arguments}
        return nested | {"trainer": dataclasses.asdict(self.trainer), "seed": self.seed}

    def flat(self) -> dict[str, Any]:
        """Return the values under their dotted paths."""
        return dict(_flatten(self.values()))


@dataclass(frozen=True)
class StudyConfig:
    """A checked study.

    Args:
        name: Name of the study in Optuna and of the experiment in MLflow.
        trial: The template of a trial: values, with a spec at every place that is searched.
        timeout: Seconds after which no further trial is started; None for no limit.
        identity: What may not change when a study is continued, under dotted paths.
        text: The study file, with what the command line set in it.
    """

    name: str
    objective: Objective
    trials: int
    timeout: float | None
    sampler: Component
    pruner: Component
    trial: Template
    identity: Mapping[str, Any]
    text: str


# What a sampler or pruner may be told beside its name; the rest is Optuna's own default.
SAMPLERS: dict[str, dict[str, Any]] = {
    "tpe": {"seed": int, "n_startup_trials": int, "multivariate": bool, "group": bool, "constant_liar": bool},
    "random": {"seed": int},
    "gp": {"seed": int, "n_startup_trials": int},
    "cmaes": {"seed": int, "n_startup_trials": int},
    "qmc": {"seed": int, "qmc_type": Literal["sobol", "halton"]},
    "grid": {"seed": int},
}
PRUNERS: dict[str, dict[str, Any]] = {
    "none": {},
    "median": {"n_startup_trials": int, "n_warmup_steps": int, "interval_steps": int, "n_min_trials": int},
    "hyperband": {"min_resource": int, "max_resource": int, "reduction_factor": int},
    "successive_halving": {"min_resource": int, "reduction_factor": int, "min_early_stopping_rate": int},
    "wilcoxon": {"p_threshold": float, "n_startup_steps": int},
}


def shipped_studies() -> dict[str, Path]:
    """Return the study files that come with the tuner, by name."""
    package = Path(__file__).parent
    installed = package / "studies"
    folder = installed if installed.is_dir() else package.parent / "studies"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def parse_duration(value: str | int | float) -> float:
    """Return a duration in seconds.

    Raises:
        ValueError: If it is not a number of seconds or a text such as ``90s``, ``30m`` or ``1h30m``.

    >>> parse_duration("1h30m")
    5400.0
    """
    text = str(value).strip()
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text)
    seconds = (
        sum(float(n or 0) * unit for n, unit in zip(parts.groups(), (86400, 3600, 60, 1), strict=True)) if parts else 0
    )
    if seconds <= 0:
        raise ValueError(f'"{value}" is not a duration; write 90s, 30m, 2h or 1h30m')
    return float(seconds)


def load_study(source: str, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read and check a study.

    Args:
        source: Path of a study file, or the name of a shipped one.
        overrides: ``dotted.path=value`` each, put over what the file says.

    Raises:
        BadInputError: With every fault that was found.
    """
    path = Path(source)
    shipped = shipped_studies()
    if not path.exists() and source in shipped:
        path = shipped[source]
    elif not path.exists() and path.suffix not in (".yaml", ".yml"):
        hint = did_you_mean(source, shipped)
        raise BadInputError([f"{source}: no such file, and no shipped study ({', '.join(shipped)}).{hint}"])
    document = read_document(path)
    faults: list[str] = []
    for override in overrides:
        _override(document, override, faults)
    if faults:
        raise BadInputError(faults)
    checker = _Checker(document, faults)
    config = checker.study(default_name=path.stem)
    if faults or config is None:
        raise BadInputError(faults)
    return config


def _override(document: Document, override: str, faults: list[str]) -> None:
    target, equals, text = override.partition("=")
    if not equals or not target:
        faults.append(f"--set {override}: write it as dotted.path=value.")
        return
    try:
        value = read_value(text, f"--set {override}")
    except BadInputError as error:
        faults.extend(error.faults)
        return
    node: Any = document.data
    parts = target.split(".")
    while True:
        # A key may hold dots itself, as those of search_space do: the longest known one is meant.
        length = next((n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in node), 1)
        key, parts = ".".join(parts[:length]), parts[length:]
        if not parts:
            node[key] = value
            document.text += f"# --set {override}\n"
            return
        if not isinstance(node.get(key), dict):
            if node.get(key) is not None:
                faults.append(f"--set {override}: {key} is a single value; it has no {parts[0]}.")
                return
            node[key] = {}
        node = node[key]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> typing.Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


class _Checker:
    """Checks a document part by part, collecting faults, and builds the config if there are none."""

    def __init__(self, document: Document, faults: list[str]) -> None:
        self.document = document
        self.faults = faults

    def fault(self, path: Path_, message: str) -> None:
        self.faults.append(f"{self.document.locate(path)}: {message}")

    def study(self, default_name: str) -> StudyConfig | None:
        data = self.document.data
        known = {"name", "objective", "budget", "sampler", "pruner", "trial", "search_space"}
        self.keys(data, known, ())
        name = data.get("name", default_name)
        if not isinstance(name, str) or not NAME.fullmatch(name) or ".." in name:
            self.fault(
                ("name",),
                f"{json.dumps(name)} is not a valid name. Use a-z, 0-9, '.', '_', '-', at most 64 characters, "
                "starting with a letter or digit.",
            )
        objective = self.section(Objective, "objective")
        budget = self.section(Budget, "budget")
        timeout = self.budget(budget) if budget else None
        if objective and objective.metric not in METRICS:
            self.fault(
                ("objective", "metric"),
                f'"{objective.metric}" is not logged during training. Logged: {", ".join(METRICS)}.'
                + did_you_mean(objective.metric, METRICS),
            )
        sampler = self.option("sampler", SAMPLERS, "tpe")
        pruner = self.option("pruner", PRUNERS, "median")
        before = len(self.faults)
        template = self.template()
        if sampler and sampler.name == "grid" and len(self.faults) == before:
            for path, spec in searched(template):
                if isinstance(spec, Range) and spec.step is None:
                    self.fault(("sampler",), f"grid needs step or choices for every parameter; {path} has neither.")
        if self.faults or not (objective and budget and sampler and pruner):
            return None
        identity = {key: data.get(key) for key in ("trial", "search_space")}
        identity |= {"objective": dataclasses.asdict(objective)}
        identity |= {"sampler": {"name": sampler.name, **sampler.arguments}}
        identity |= {"pruner": {"name": pruner.name, **pruner.arguments}}
        return StudyConfig(
            name=name,
            objective=objective,
            trials=budget.trials,
            timeout=timeout,
            sampler=sampler,
            pruner=pruner,
            trial=template,
            identity=dict(_flatten({key: value for key, value in identity.items() if value is not None})),
            text=self.document.text,
        )

    # -- plain sections ------------------------------------------------------------------------------------------------

    def keys(self, raw: Mapping[str, Any], known: typing.Collection[str], path: Path_) -> None:
        for key in raw:
            if key not in known:
                self.fault((*path, key), "unknown key." + (did_you_mean(key, known) or f" Known: {_listed(known)}."))

    def mapping(self, *path: str) -> dict[str, Any] | None:
        """Return the mapping at a path, empty if it is not given, None if it is something else."""
        raw: Any = self.document.data
        for part in path:
            raw = raw.get(part, {})
        if isinstance(raw, dict):
            return raw
        self.fault(path, f"must be a mapping (got {json.dumps(raw)}).")
        return None

    def section(self, cls: type[T], name: str) -> T | None:
        raw = self.mapping(name)
        if raw is None:
            return None
        before = len(self.faults)
        values = self.arguments(registry.signature_of(cls), _items(raw, (name,)), (name,), cls.__name__)
        return cls(**values) if len(self.faults) == before else None

    def option(self, kind: str, known: Mapping[str, Mapping[str, Any]], default: str) -> Component | None:
        raw = self.mapping(kind)
        if raw is None:
            return None
        name = raw.get("name", default)
        if name not in known:
            hint = did_you_mean(str(name), known)
            self.fault((kind, "name"), f"unknown {kind} {json.dumps(name)}. Known: {_listed(known)}.{hint}")
            return None
        arguments = {key: registry.Argument(hint, required=False) for key, hint in known[name].items()}
        items = {key: item for key, item in _items(raw, (kind,)).items() if key != "name"}
        return Component(name, self.arguments(arguments, items, (kind,), name))

    def budget(self, budget: Budget) -> float | None:
        if not 1 <= budget.trials <= MAX_TRIALS:
            self.fault(("budget", "trials"), f"must be a whole number from 1 to {MAX_TRIALS} (got {budget.trials}).")
        if budget.timeout is None:
            return None
        try:
            return parse_duration(budget.timeout)
        except ValueError as error:
            self.fault(("budget", "timeout"), f"{error}.")
            return None

    # -- the trial and what is searched in it --------------------------------------------------------------------------

    def template(self) -> Template:
        """Return `trial` with the specs of `search_space` in their places."""
        trial, space = self.mapping("trial"), self.mapping("search_space")
        if trial is None or space is None:
            return {}
        self.keys(trial, (*COMPONENTS, "trainer", "seed"), ("trial",))
        sections: dict[str, _Items] = {}
        for name in (*COMPONENTS, "trainer"):
            raw = trial.get(name, {"name": "constant"} if name == "schedule" else {})
            if not isinstance(raw, dict):
                self.fault(("trial", name), f"must be a mapping (got {json.dumps(raw)}).")
                return {}
            sections[name] = _items(raw, ("trial", name))
        seed = _Item(trial.get("seed", 0), ("trial", "seed"))
        one_of: dict[str, Any] = {}
        for path, raw in space.items():
            where = ("search_space", path)
            section, _, rest = path.partition(".")
            if path == "seed":
                seed = _Item(raw, where, searched=True)
            elif section not in sections:
                known = (*sections, "seed")
                self.fault(where, f"the trial has no {section}. Known: {_listed(known)}.{did_you_mean(section, known)}")
            elif rest:
                self.place(sections[section], rest.split("."), raw, where)
            elif section == "trainer":
                self.fault(where, "name what is searched in it, such as trainer.max_epochs.")
            else:
                one_of[section] = raw
        template: dict[str, Any] = {}
        for name in COMPONENTS:
            if name in one_of:
                inside = [key for key in space if key.startswith(f"{name}.")]
                if inside:
                    self.fault(
                        ("search_space", inside[0]), f"{name} is chosen by one_of: put it into each choice there."
                    )
                template[name] = self.one_of(name, one_of[name], ("search_space", name), sections[name])
            else:
                template[name] = self.component(name, sections[name], ("trial", name))
        known_trainer = registry.signature_of(TrainerConfig)
        template["trainer"] = self.arguments(known_trainer, sections["trainer"], ("trial", "trainer"), "trainer")
        template["seed"] = self.argument(int, seed)
        if not self.faults:
            self.try_corners(template)
        return template

    def place(self, items: "_Items", parts: list[str], raw: Any, where: Path_) -> None:
        """Put a spec where its dotted path points, also inside a nested component."""
        *outer, last = parts
        for part in outer:
            nested = items.get(part)
            if nested is None or not isinstance(nested.value, dict):
                self.fault(where, f"the trial has no {where[-1]}.")
                return
            if not isinstance(next(iter(nested.value.values()), None), _Item):
                nested = _Item(dict(_items(nested.value, nested.path)), nested.path)
                items[part] = nested
            items = nested.value
        items[last] = _Item(raw, where, searched=True)

    def one_of(self, kind: str, raw: Any, path: Path_, base: "_Items") -> OneOf | None:
        if not isinstance(raw, dict) or raw.keys() != {"one_of"} or not isinstance(raw["one_of"], dict):
            self.fault(path, f"a whole {kind} is searched by one_of: {{name: {{argument: range or value}}, ...}}.")
            return None
        choices = raw["one_of"]
        if len(choices) < 2:
            self.fault((*path, "one_of"), f"needs at least 2 choices (got {len(choices)}).")
        options = {}
        for name, arguments in choices.items():
            where = (*path, "one_of", name)
            if not isinstance(arguments, dict | None):
                self.fault(where, f"must be a mapping of arguments (got {json.dumps(arguments)}).")
                continue
            items = _items(arguments or {}, where, searched=True)
            if "name" in base and base["name"].value == name:
                items = base | items  # what trial says of the same name holds unless the choice says otherwise
            option = self.component(kind, items | {"name": _Item(name, where)}, where)
            options[name] = {key: value for key, value in option.items() if key != "name"}
        return OneOf(options)

    def component(self, kind: str, items: "_Items", path: Path_) -> dict[str, Any]:
        """Return the template of a named component."""
        if "name" not in items:
            self.fault(path, f"required: {{name: ...}}. Known: {_listed(registry.KINDS[kind])}.")
            return {}
        name = items["name"].value
        if not isinstance(name, str):
            self.fault(items["name"].path, "must be a plain name; to search among several, use one_of.")
            return {}
        try:
            known = registry.arguments_of(kind, name)
        except ValueError as error:
            self.fault(items["name"].path, str(error))
            return {}
        rest = {key: item for key, item in items.items() if key != "name"}
        return {"name": name, **self.arguments(known, rest, path, name)}

    def arguments(
        self, known: Mapping[str, registry.Argument] | None, items: "_Items", path: Path_, owner: str
    ) -> dict[str, Any]:
        """Check arguments against a signature; `known` is None where any are taken."""
        result = {}
        for key, item in items.items():
            if known is not None and key not in known:
                hint = did_you_mean(key, known) or f" Known: {_listed(known)}."
                if key == "seed":
                    hint = " The one seed of a trial is trial.seed."
                self.fault(item.path, f"{owner} has no argument {key}.{hint}")
            else:
                result[key] = self.argument(known[key].hint if known else Any, item)
        for key, argument in (known or {}).items():
            if argument.required and key not in items:
                self.fault((*path, key), f"required by {owner}: give it here or in search_space.")
        return result

    def argument(self, hint: Any, item: "_Item") -> Any:
        value = item.value
        if item.searched and isinstance(value, dict) and value.keys() & {"low", "high", "choices"}:
            return self.spec(hint, value, item.path)
        if registry.is_schedule(hint):
            if isinstance(value, dict) and "one_of" in value and item.searched:
                return self.one_of("schedule", value, item.path, {})
            if not isinstance(value, dict):
                self.fault(item.path, f"must be a schedule, {{name: ...}} (got {json.dumps(value)}).")
                return None
            nested = value if isinstance(next(iter(value.values()), None), _Item) else None
            return self.component("schedule", nested or _items(value, item.path, item.searched), item.path)
        if item.searched and len(item.path) == 2:
            self.fault(item.path, f"must be a range {{low, high}} or {{choices}} (got {json.dumps(value)}).")
            return None
        if isinstance(value, dict) and {"low", "high"} <= value.keys():
            self.fault(item.path, "a range belongs in search_space.")
            return None
        self.check(hint, value, item.path)
        return value

    def spec(self, hint: Any, raw: dict[str, Any], path: Path_) -> Range | Choices | None:
        before = len(self.faults)
        types = typing.get_args(hint) or (hint,)
        bounds = [raw.get(key) for key in ("low", "high", "step") if raw.get(key) is not None]
        whole = all(isinstance(bound, int) for bound in bounds)
        integer = (int in types and (float not in types or whole)) or (hint is Any and whole)

        def fault(key: str, message: str) -> None:
            self.fault((*path, key) if key else path, message)

        spec = parse_spec(raw, integer, fault)
        if isinstance(spec, Range) and len(self.faults) == before:
            self.check(hint, spec.low, (*path, "low"))
        elif isinstance(spec, Choices):
            for index, value in enumerate(spec.values):
                self.check(hint, value, (*path, "choices", index))
        return spec

    def check(self, hint: Any, value: Any, path: Path_) -> None:
        message = registry.check_value(hint, value)
        if message:
            self.fault(path, f"{message}.")

    def try_corners(self, template: Mapping[str, Any]) -> None:
        """Build every component at the extremes of its ranges: a value that breaks a rule is told now."""
        told = set()
        for kind in (*COMPONENTS, "trainer"):
            for values in corners(template[kind]):
                try:
                    if kind == "trainer":
                        TrainerConfig(**values)
                    else:
                        with torch.device("meta"):  # shapes without memory
                            Component.from_values(values).build(kind)
                except Exception as error:  # whatever a user's class raises
                    prefix = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                    where = self.where(kind, values, str(error))
                    if where not in told:
                        told.add(where)
                        self.fault(where, f"{prefix}{error}.")

    def where(self, kind: str, values: Mapping[str, Any], message: str) -> Path_:
        """Return the place of the argument that a rule names, or of its section."""
        named = re.search(r"got (\w+)=", message)
        key = named.group(1) if named else ""
        candidates: list[Path_] = [
            ("search_space", kind, "one_of", values.get("name", ""), key),
            ("search_space", f"{kind}.{key}"),
            ("trial", kind, key),
        ]
        known = [path for path in candidates if path in self.document.lines]
        return (
            known[0]
            if known
            else ("search_space", kind)
            if kind in self.document.data.get("search_space", {})
            else ("trial", kind)
        )


@dataclass(frozen=True)
class _Item:
    """A value of the file, where it stands, and whether it may be a range."""

    value: Any
    path: Path_
    searched: bool = False


_Items = dict[str, _Item]


def _items(raw: Mapping[str, Any], path: Path_, searched: bool = False) -> _Items:
    return {key: _Item(value, (*path, key), searched) for key, value in raw.items()}


def _listed(names: typing.Iterable[str]) -> str:
    return ", ".join(sorted(names))
