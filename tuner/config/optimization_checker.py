"""Checks the schedules of a trial in a study file, and its groups of parameters."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lightning_modules import Plateau
from tuner.config import registry
from tuner.config.checker import Checker
from tuner.config.document import Document, Node
from tuner.config.lengths import Length
from tuner.config.optimization import (
    GROUP_KEYS,
    GROUP_NAME,
    OTHER_SCHEDULES,
    SCHEDULE_KEYS,
    lengths_of,
    names_fault,
    resolve_all,
    settings_fault,
)
from tuner.config.search_space import OneOf, Template, corners
from tuner.text import shown

__all__ = ["OptimizationChecker"]


class OptimizationChecker:
    """Checks schedules and groups, and whether optimizer, schedules, groups and network fit together.

    Args:
        document: The document, which records the errors.
        checker: Checks components and values.
        lengths: Returns the possible lengths of runs; its argument is whether unknown lengths are an error.
    """

    def __init__(self, document: Document, checker: Checker, lengths: Callable[[bool], Sequence[Length]]) -> None:
        self._document = document
        self._fault = document.fault
        self._checker = checker
        self._lengths = lengths

    def schedule(self, node: Node, key: str, of_group: bool = False) -> Template:
        """Check a schedule; only the lr of all parameters can have a plateau."""
        template = self._checker.component("schedule", node)
        names = template.options if isinstance(template, OneOf) else [(template or {}).get("name")]
        if (key != "schedule" or of_group) and any(map(_is_plateau, names)):
            self._fault(node.path, "a plateau is only for trial.schedule, the lr of all parameters.")
        return template

    def groups(self, node: Node, optimizers: Sequence[str]) -> dict[str, Template]:
        """Check the groups of parameters."""
        groups = {}
        for name, group in self._checker.mapping(node, " of groups, {name: {parameters: ..., ...}}").items():
            if not isinstance(name, str) or not GROUP_NAME.fullmatch(name):
                rule = "Use letters, digits, '_' and '-', at most 64 characters, but not 'name'"
                self._fault(group.path, f"{shown(name)} is not a valid name for a group. {rule}.")
            nodes = self._checker.mapping(group, ", {parameters: ..., optimizer: ..., schedule: ...}")
            self._checker.keys(nodes, GROUP_KEYS)
            if "parameters" not in nodes:
                self._fault((*group.path, "parameters"), "required: names of parameters or modules, such as fc.")
                continue
            values: dict[str, Template] = {
                "parameters": self._checker.value(str | tuple[str, ...], nodes["parameters"])
            }
            if "optimizer" in nodes:
                values["optimizer"] = self._checker.overrides("optimizer", optimizers, nodes["optimizer"])
            values |= {key: self.schedule(nodes[key], key, of_group=True) for key in SCHEDULE_KEYS if key in nodes}
            groups[name] = values
        return groups

    def check_together(self, template: Mapping[str, Template], trial: Node, has_modules: bool) -> None:
        """Reject schedules that the optimizer cannot have, and groups that the network cannot."""
        keys = [key for key in (*OTHER_SCHEDULES, "groups") if key in template]
        if not keys or self._document.fault_count:
            return
        if has_modules:
            for key in keys:
                self._fault(
                    trial.value[key].path,
                    "remove it: a LightningModule configures its own optimizer; "
                    "lightning_modules.Optimization builds one with groups and schedules.",
                )
            return
        parts = {key: template[key] for key in ("optimizer", "schedule", *keys)}
        for values in corners(parts):
            for resolved, steps in self._in_steps(values):
                if fault := settings_fault(resolved, steps):
                    key = next((key for key in keys if key.removesuffix("_schedule") in fault), keys[-1])
                    self._fault(trial.value[key].path, f"{fault}.")
                    return
        for groups in corners(template["groups"]) if "groups" in template else ():
            for model in corners(template["model"]):
                if fault := names_fault(groups, model):
                    self._fault(trial.value["groups"].path, f"{fault}.")
                    return

    def _in_steps(self, values: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Sequence[int]]]:
        """Yield values with their lengths in steps, and steps to try, for each possible length of a run."""
        relative = bool(lengths_of(values))
        lengths = self._lengths(relative)
        for length in lengths:
            yield resolve_all(values, length), length.spread(100)
        if not lengths and not relative:
            yield values, (0,)


def _is_plateau(name: Any) -> bool:
    """Return whether the name of a schedule is a plateau's."""
    try:
        target = registry.resolve("schedule", str(name))
    except ValueError:
        return False
    return isinstance(target, type) and issubclass(target, Plateau)
