"""The contenders of a league: which parts of a trial they replace, their shapes, and their base lrs.

Each option of ``search_space.schedule`` is a contender, or, of several such choices (schedule, optimizer, averaging),
each combination. The section ``contenders`` names others::

    contenders:
      constant, averaged: {schedule: {name: constant}, averaging: {name: ema, decay: {low: 0.9, high: 0.999}}}
      schedule-free: {optimizer: {name: schedule_free_adamw, initial_lr: {low: 1e-3, high: 1e-1, log: true}}}

What a contender searches, without the initial lr, is its shape; everything else in a trial is the same for all.
"""

import dataclasses
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuner.config.document import NO_LINE, Document
from tuner.config.loader import check_study
from tuner.config.optimization import OTHER_SCHEDULES
from tuner.config.search_space import Choices, Range, grid_values, searched, suggest
from tuner.config.shares import ShareSuggester
from tuner.config.study import StudyConfig
from tuner.config.trainings import as_training
from tuner.config.trial import TrialConfig
from tuner.errors import BadInputError
from tuner.text import join_names, shown

__all__ = ["PARTS", "Contender", "at_lr", "read_contenders", "unsearched", "unused_sections"]

LR = "optimizer.initial_lr"
INITIAL_LR = "initial_lr"
PARTS = ("schedule", "optimizer", "averaging", *OTHER_SCHEDULES)
SEARCHED = (*PARTS, "groups")
UNUSED = ("budget", "final", "enqueue", "start", "constraints")
CONSTANT = "constant"
MOST_TRIES = 100
STEP = 2.0
"""Ratio of neighbouring base lrs around an lr for which the file gives no range."""


@dataclass(frozen=True)
class Contender:
    """A contender.

    Args:
        name: Its name.
        study: A study of its search space.
        initial_lrs: Its base lrs, in ascending order.
    """

    name: str
    study: StudyConfig
    initial_lrs: Sequence[float]

    @property
    def searched(self) -> list[str]:
        """Return the paths of what its shapes differ in."""
        return [path for path, _ in searched(self._template)]

    def shapes(self, count: int, seed: int) -> list[TrialConfig]:
        """Return different shapes, at the first base lr.

        The first has the middle of each range (with ``log``, the geometric one); the others are drawn at random. A
        larger count only adds shapes.

        Args:
            count: The largest number; there are fewer if the search space does not contain more.
            seed: The seed of the draws.

        Raises:
            BadInputError: If lengths depend on data that cannot be loaded.
        """
        found: dict[str, TrialConfig] = {}
        for index in range(MOST_TRIES * count):
            config = as_training(
                self.study.trial_of(suggest(ShareSuggester(self._shares(seed, index)), self._template))
            )
            found.setdefault(config.digest, config)
            if len(found) == count or not self.searched:
                break
        return list(found.values())

    def _shares(self, seed: int, index: int) -> Callable[[str], float]:
        """Return the shares of the ranges, by parameter, at which a shape lies."""
        key = f"league:{seed}:{self.name}:{index}"
        return lambda name: random.Random(f"{key}:{name}").random() if index else 0.5

    @property
    def _template(self) -> dict[str, Any]:
        template: Mapping[str, Any] = self.study.trial
        return {**template, "optimizer": {**template["optimizer"], INITIAL_LR: self.initial_lrs[0]}}


def at_lr(config: TrialConfig, initial_lr: float) -> TrialConfig:
    """Return a configuration with another initial lr."""
    arguments = {**config.optimizer.arguments, INITIAL_LR: initial_lr}
    return dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, arguments=arguments))


def unused_sections(study: StudyConfig) -> list[str]:
    """Return the sections of a study file that a league does not use, without the pruner."""
    return [key for key in UNUSED if study.values.get(key)]


def unsearched(study: StudyConfig) -> list[str]:
    """Return what a study file searches and a league does not, because it is the same for all contenders."""
    return [path for path in study.values.get("search_space") or {} if path.partition(".")[0] not in SEARCHED]


def read_contenders(study: StudyConfig, file: str, lrs: int) -> list[Contender]:
    """Return the contenders of a league.

    If the study file names none, these are its own schedule and a constant lr.

    Args:
        study: The study file's study.
        file: Its name in messages.
        lrs: Number of base lrs, if the file gives a range or nothing to search.

    Raises:
        BadInputError: If there are faults; it lists all of them.
    """
    faults: list[str] = []
    found: list[Contender] = []
    named = _named(study, faults)
    faulty: dict[str, list[str]] = {}
    for name, parts in named.items():
        try:
            found.append(_contender(study, file, name, parts, lrs))
        except BadInputError as error:
            for fault in error.faults:
                faulty.setdefault(fault.removeprefix(f"{file}: contender {name}: "), []).append(name)
    for fault, names in faulty.items():  # contenders with the same error share its cause, such as the data
        faults.append(f"contender {names[0]}: {fault}" if len(names) == 1 else fault)
    if len(named) == 1:
        faults.append("contenders: there is only one; add another, such as one with {schedule: {name: constant}}.")
    if faults:
        raise BadInputError([f"{file}: {fault}" for fault in faults])
    return found


def _named(study: StudyConfig, faults: list[str]) -> dict[str, Mapping[str, Any]]:
    """Return the parts that each contender replaces."""
    named: dict[str, Mapping[str, Any]] = {}
    own = study.values.get("contenders")
    for name, parts in _combinations(study.values):
        named[name] = parts
    if own is None and not named:
        schedule = study.values["trial"].get("schedule", {"name": CONSTANT})["name"]
        return {schedule: {}} | ({} if schedule == CONSTANT else {CONSTANT: {"schedule": {"name": CONSTANT}}})
    if own is not None and not isinstance(own, Mapping):
        faults.append(f"contenders: must be {{NAME: {{schedule: ..., optimizer: ...}}}} (got {shown(own)}).")
        return named
    for name, parts in (own or {}).items():
        if not isinstance(name, str) or not name or ": " in name:
            faults.append(f'contenders: {shown(name)} is not a valid name: it must be text without ": ".')
        elif wrong := _parts_fault(parts):
            faults.append(f"contenders.{name}: {wrong}")
        elif name in named:
            faults.append(f"contenders.{name}: search_space already has a contender of that name; rename it.")
        else:
            named[name] = parts
    return named


def _parts_fault(parts: Any) -> str:
    """Return why a contender does not have its form; empty if it does."""
    allowed = join_names([f"{key}" for key in PARTS], len(PARTS))
    if not isinstance(parts, Mapping) or not parts:
        return f"must replace parts of trial: {allowed} (got {shown(parts)})."
    if unknown := [key for key in parts if key not in PARTS]:
        return f"cannot replace {join_names(unknown)}, which is the same for all contenders; it can replace {allowed}."
    wrong = next((key for key, part in parts.items() if not isinstance(part, Mapping) or "name" not in part), None)
    return f"{wrong} must be {{name: ..., argument: ...}} (got {shown(parts[wrong])})." if wrong else ""


def _combinations(values: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield name and parts of each combination of the choices of components in a search space."""
    space = values.get("search_space") or {}
    choices = {key: space[key]["one_of"] for key in PARTS if _is_choice(space.get(key))}
    for names in itertools.product(*choices.values()) if choices else ():
        parts = {}
        for key, name in zip(choices, names, strict=True):
            default = values["trial"].get(key) or {}
            parts[key] = {
                **(default if default.get("name") == name else {}),
                **(choices[key][name] or {}),
                "name": name,
            }
        yield ", ".join(names), parts


def _is_choice(spec: Any) -> bool:
    return isinstance(spec, Mapping) and "one_of" in spec


def _contender(study: StudyConfig, file: str, name: str, parts: Mapping[str, Any], lrs: int) -> Contender:
    """Read one contender.

    Raises:
        BadInputError: If its values would not be valid in a study file.
    """
    values = study.values
    trial = dict(values["trial"])
    space = {
        path: spec
        for path, spec in (values.get("search_space") or {}).items()
        if (root := path.partition(".")[0]) in SEARCHED and root not in parts and not _is_choice(spec)
    }
    for key, part in parts.items():
        trial[key] = _extract_ranges(part, key, space)
    has_own_lr = INITIAL_LR in parts.get("optimizer", {})
    if "optimizer" in parts and not has_own_lr:
        if LR in (values.get("search_space") or {}):
            space[LR] = values["search_space"][LR]
        elif INITIAL_LR in values["trial"].get("optimizer", {}):
            trial["optimizer"] = {**trial["optimizer"], INITIAL_LR: values["trial"]["optimizer"][INITIAL_LR]}
    sampler = {"name": "random", "seed": study.sampler.arguments.get("seed", 0)}
    data = {key: values[key] for key in ("name", "objective") if key in values}
    data |= {"sampler": sampler, "pruner": {"name": "none"}, "trial": trial}
    document = Document(f"{file}: contender {name}", {**data, "search_space": space}, {(): NO_LINE})
    checked = check_study(document, (), study.name, folder=study.folder, probe=study.probe)
    spec = checked.trial["optimizer"].get(INITIAL_LR)
    if spec is None:
        fault = f"{checked.trial['optimizer']['name']} has no initial_lr to compare."
        raise BadInputError([f"{file}: contender {name}: {fault}"])
    return Contender(name, checked, _base_lrs(spec, lrs, is_fixed=has_own_lr))


def _base_lrs(spec: Any, count: int, is_fixed: bool) -> list[float]:
    """Return the base lrs that a range, choices or a single initial lr stand for, in ascending order."""
    if isinstance(spec, Choices) or (isinstance(spec, Range) and spec.step):
        return sorted(grid_values(spec))
    if isinstance(spec, Range):
        shares = [0.5] if count == 1 else [index / (count - 1) for index in range(count)]
        low, high = spec.low, spec.high
        numbers = (low * (high / low) ** share if spec.log else low + share * (high - low) for share in shares)
        return sorted({min(max(float(f"{number:.4g}"), low), high) for number in numbers})
    if is_fixed:
        return [float(spec)]
    return [float(f"{spec * STEP ** (index - count // 2):.4g}") for index in range(count)]


def _extract_ranges(value: Any, path: str, space: dict[str, Any]) -> Any:
    """Move ranges and choices from the arguments of a component into a search space; return the rest.

    Args:
        value: The arguments, or a part of them.
        path: Dotted path of the value in ``trial``.
        space: Gets the ranges and choices, by their dotted paths.
    """
    if isinstance(value, list):
        return [_extract_ranges(item, f"{path}.{index}", space) for index, item in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    if value.keys() & {"low", "high", "choices", "one_of"}:
        space[path] = value
        return value.get("low", value.get("choices", [None])[0])  # a placeholder: the entry in `space` replaces it
    inner = {key: _extract_ranges(each, f"{path}.{key}", space) for key, each in value.items()}
    return {key: each for key, each in inner.items() if f"{path}.{key}" not in space}
