"""A trial's schedules of momentum and weight decay and its parameter groups, as values, and their checks.

::

    trial:
      momentum_schedule: {name: ...}
      weight_decay_schedule: {name: ...}
      groups:
        head: {parameters: fc, optimizer: {initial_lr: 1e-2}, schedule: {name: ...}}
"""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from lightning_modules import Optimization, ParameterGroup
from lightning_modules.lr_scheduler import OPTIONS, scheduled_values
from lightning_modules.parameter_groups import group_names
from tuner.config import registry
from tuner.config.component import Component, rehearse
from tuner.config.lengths import Length, in_percent, relative_lengths, resolve
from tuner.config.user_code import contained
from tuner.errors import reason_of

__all__ = [
    "GROUP_KEYS",
    "GROUP_NAME",
    "OTHER_SCHEDULES",
    "SCHEDULE_KEYS",
    "GroupConfig",
    "build_optimization",
    "in_percent_all",
    "is_of_trial",
    "lengths_of",
    "map_schedules",
    "names_fault",
    "resolve_all",
    "settings_fault",
    "values_at",
]

OTHER_SCHEDULES = tuple(f"{option}_schedule" for option in OPTIONS)
"""The schedules that a trial or a group can have in addition to `schedule`."""

AVERAGING = "averaging"
SCHEDULE_KEYS = ("schedule", *OTHER_SCHEDULES)
GROUP_KEYS = ("parameters", "optimizer", *SCHEDULE_KEYS)
GROUP_NAME = re.compile(r"(?!name$)[A-Za-z0-9_-]{1,64}")

Values = Mapping[str, Any]


@dataclass(frozen=True)
class GroupConfig:
    """A group of parameters, as values.

    Args:
        parameters: Names of parameters or modules; "*" stands for any text.
        optimizer: Arguments of the optimizer that differ from those of the trial.
        schedules: Schedules that differ from those of the trial, by their keys.
    """

    parameters: str | Sequence[str]
    optimizer: Values = field(default_factory=dict)
    schedules: Mapping[str, Component] = field(default_factory=dict)

    @classmethod
    def from_values(cls, values: Values) -> "GroupConfig":
        """Read a group of a study file, with lengths in steps."""
        schedules = {key: Component.from_values(values[key]) for key in SCHEDULE_KEYS if key in values}
        return cls(values["parameters"], values.get("optimizer", {}), schedules)

    def values(self) -> dict[str, Any]:
        """Return the values, as in a study file."""
        optimizer = {"optimizer": dict(self.optimizer)} if self.optimizer else {}
        schedules = {key: schedule.values() for key, schedule in self.schedules.items()}
        return {"parameters": self.parameters, **optimizer, **schedules}

    def optimizer_of(self, optimizer: Component) -> Component | None:
        """Return the optimizer of the group; None if it uses the trial's."""
        return Component(optimizer.name, {**optimizer.arguments, **self.optimizer}) if self.optimizer else None


def map_schedules(values: Values, change: Callable[[str, Values], Any]) -> dict[str, Any]:
    """Return the values of a trial with a function applied to the path and the values of each schedule.

    >>> trial = {"seed": 0, "schedule": {"name": "constant"}, "groups": {"a": {"schedule": {"name": "step"}}}}
    >>> map_schedules(trial, lambda path, schedule: path)
    {'seed': 0, 'schedule': 'schedule', 'groups': {'a': {'schedule': 'groups.a.schedule'}}}
    """

    def mapped(inner: Values, path: str) -> dict[str, Any]:
        return {key: change(f"{path}{key}", each) if key in SCHEDULE_KEYS else each for key, each in inner.items()}

    changed = mapped(values, "")
    if "groups" in values:
        changed["groups"] = {name: mapped(group, f"groups.{name}.") for name, group in values["groups"].items()}
    return changed


def is_of_trial(place: str) -> bool:
    """Return whether a dotted path in a trial leads to a schedule that is not part of another.

    >>> is_of_trial("momentum_schedule"), is_of_trial("groups.head.schedule"), is_of_trial("schedule.schedule")
    (True, True, False)
    """
    parent, _, key = place.rpartition(".")
    return key in SCHEDULE_KEYS and (not parent or (parent.startswith("groups.") and parent.count(".") == 1))


def lengths_of(values: Values) -> dict[str, str]:
    """Return the lengths of a trial that are in epochs or percent, by their dotted paths."""
    found: dict[str, str] = {}
    map_schedules(values, lambda path, schedule: found.update(relative_lengths(schedule, path)))
    if AVERAGING in values:
        found |= relative_lengths(values[AVERAGING], AVERAGING, AVERAGING)
    return found


def resolve_all(values: Values, length: Length) -> dict[str, Any]:
    """Return the values of a trial with all its lengths in steps."""
    averaging = {AVERAGING: resolve(values[AVERAGING], length, AVERAGING)} if AVERAGING in values else {}
    return map_schedules(values, lambda path, schedule: resolve(schedule, length)) | averaging


def in_percent_all(values: Values, length: Length) -> dict[str, Any]:
    """Return the values of a trial with all its lengths in percent of its run."""
    averaging = {AVERAGING: in_percent(values[AVERAGING], length, AVERAGING)} if AVERAGING in values else {}
    return map_schedules(values, lambda path, schedule: in_percent(schedule, length)) | averaging


def build_optimization(
    optimizer: Component, schedules: Mapping[str, Component], groups: Mapping[str, GroupConfig]
) -> Optimization:
    """Return the optimizer of a trial with its schedules and groups.

    Args:
        optimizer: The optimizer.
        schedules: The schedules by their keys.
        groups: The groups by name.

    Raises:
        ValueError: If an argument breaks a rule of its class.
    """
    made = {
        name: ParameterGroup(
            parameters=group.parameters,
            optimizer=own.build("optimizer") if (own := group.optimizer_of(optimizer)) else None,
            **{key: schedule.build("schedule") for key, schedule in group.schedules.items()},
        )
        for name, group in groups.items()
    }
    built = {key: schedule.build("schedule") for key, schedule in schedules.items()}
    return Optimization(optimizer=optimizer.build("optimizer"), groups=made, **built)


def settings_fault(values: Values, steps: Iterable[int]) -> str | None:
    """Return why the optimizer of a trial cannot have its schedules or groups, as a sentence; None if it can.

    Args:
        values: ``optimizer``, schedules and ``groups`` of a trial, with lengths in steps.
        steps: Steps at which the schedules are tried.
    """
    optimizer = Component.from_values(values["optimizer"])
    groups = {name: GroupConfig.from_values(each) for name, each in values.get("groups", {}).items()}
    for name, group in groups.items():
        try:
            with contained():
                (group.optimizer_of(optimizer) or optimizer).build("optimizer")
        except Exception as error:  # a user's class can raise anything
            return f"{name}: {reason_of(error)}"
    try:
        schedules = {key: Component.from_values(values[key]) for key in SCHEDULE_KEYS if key in values}
        with contained():
            optimization = build_optimization(optimizer, schedules, groups)
            values_at(optimization, steps)
    except Exception as error:  # a user's class can raise anything
        return reason_of(error)
    return None


def values_at(optimization: Optimization, steps: Iterable[int]) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Return the initial values of all scheduled quantities, and their values at some steps, by metric name.

    Raises:
        ValueError: If the optimizer lacks a scheduled quantity, or if a value breaks a rule.
    """
    made: list[tuple[dict[str, float], list[dict[str, float]]]] = []

    def build(params: Sequence[torch.nn.Parameter]) -> None:
        """Build the optimizer of one small parameter in each group, and one in none."""
        (sample,) = params
        named = [(name, torch.nn.Parameter(sample.detach().clone())) for name in ("", *optimization.groups)]
        chosen = {name: replace(group, parameters=name) for name, group in optimization.groups.items()}
        optimizer, scheduler = replace(optimization, groups=chosen).build(named)
        by_name = {group.get("group", ""): group for group in reversed(optimizer.param_groups)}
        initial = {}
        for metric in scheduled_values(optimizer.param_groups):
            kind, _, name = metric.partition("/")
            initial[metric] = float(by_name[name][f"initial_{kind}"])
        state = scheduler.state_dict()
        values = []
        for step in steps:
            scheduler.load_state_dict({**state, "step": step})
            values.append(scheduled_values(optimizer.param_groups))
        made.append((initial, values))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        registry.sample_optimizer(build)
    return made[-1]


def names_fault(groups: Mapping[str, Values], model: Values) -> str | None:
    """Return why the groups do not fit the parameters of a network, as a sentence; None if they do.

    Args:
        groups: The groups by name.
        model: The network, ``{name: ..., argument: value}``.
    """
    try:
        names = [name for name, _ in rehearse("model", model).named_parameters()]
    except Exception:  # the check of the model reports it
        return None
    try:
        group_names({name: ParameterGroup(parameters=each["parameters"]) for name, each in groups.items()}, names)
    except ValueError as error:
        return str(error)
    return None
