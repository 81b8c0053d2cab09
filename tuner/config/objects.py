"""A study in Python as the content of a study file: classes, functions and objects become names and plain values.

Where a study file has a name, Python can have the class or the function; where it has ``{name: ..., argument: ...}``,
also `functools.partial` of it, or an object. Anything that a training process can import gets its name there;
everything else, such as a class of a notebook, is sent by value (see `by_value`).
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule

from lightning_modules import Lambda, Loss, ParameterGroup, Plateau, Schedule
from lightning_modules.averaging import Averaging
from lightning_modules.optimizers import Optimizer
from tuner.config import by_value, registry
from tuner.config.document import Document, Keys, dotted
from tuner.config.function_trial import is_of_function
from tuner.config.optimization import SCHEDULE_KEYS
from tuner.config.sources import has_file
from tuner.config.study_name import NAME
from tuner.config.yaml_reader import as_document
from tuner.errors import BadInputError
from tuner.text import shown

__all__ = ["PLACE", "plain_values", "study_document"]

PLACE = "Study"
"""Place of the values of a study in Python, in messages."""

SECTIONS = (
    "name",
    "objective",
    "budget",
    "sampler",
    "pruner",
    "final",
    "enqueue",
    "start",
    "constraints",
    "trial",
    "search_space",
)
SETTINGS = (Averaging, Loss, Optimizer, Schedule, Plateau, LightningDataModule)
"""Objects whose arguments are their fields, if they are dataclasses."""


def study_document(values: Mapping[str, Any]) -> tuple[Document, Mapping[str, by_value.Held]]:
    """Return the content of a study file, and the objects in it that are sent by value.

    Args:
        values: The sections of a study file, in which classes, functions and objects can stand.

    Raises:
        BadInputError: With every value that cannot be in a study file.
    """
    reader = _Reader()
    content = reader.study(values)
    if reader.faults:
        raise BadInputError(reader.faults)
    return as_document(PLACE, content), reader.held


def plain_values(values: Mapping[str, Any], of_function: bool) -> dict[str, Any]:
    """Return values by their dotted paths as a study file can have them.

    Args:
        values: The values.
        of_function: Whether they belong to an objective function, which has no components.

    Raises:
        BadInputError: With every value that cannot be in a study file.
    """
    reader = _Reader()
    read = reader.value if of_function else reader.component
    plain = {str(key): read(str(key), value, (str(key),)) for key, value in values.items()}
    if reader.faults:
        raise BadInputError(reader.faults)
    return plain


class _Reader:
    """Turns objects into plain values.

    Attributes:
        faults: Sentences about what cannot be in a study file.
        held: The objects that are sent by value, by their names.
    """

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.held: dict[str, by_value.Held] = {}
        self._named: dict[str, Any] = {}

    def study(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return all sections."""
        content = {
            key: self._plain(each, (key,)) for key, each in values.items() if key not in ("trial", "search_space")
        }
        of_function = is_of_function(values.get("trial"))
        component, searched = (self.value, self.value) if of_function else (self.component, self._searched)
        content["trial"] = self._sections(values.get("trial"), ("trial",), component)
        content["search_space"] = self._sections(values.get("search_space"), ("search_space",), searched)
        if "name" not in values:
            trial = content["trial"] if isinstance(content["trial"], dict) else {}
            content = {"name": _default_name(trial.get(registry.FUNCTION, trial.get("model"))), **content}
        order = {key: rank for rank, key in enumerate(SECTIONS)}
        return dict(sorted(content.items(), key=lambda item: order.get(item[0], len(order))))

    def _sections(self, values: Any, path: Keys, read: Callable[[str, Any, Keys], Any]) -> Any:
        if values is None:
            return {}
        if not isinstance(values, Mapping):
            return self._plain(values, path)
        return {str(key): read(str(key), each, (*path, str(key))) for key, each in values.items()}

    def value(self, key: str, value: Any, path: Keys) -> Any:
        """Return a value of an objective function's trials, or the function."""
        if key != registry.FUNCTION or path[0] != "trial":
            return self._plain(value, path)
        function = self.component(key, value, path)
        return function["name"] if isinstance(function, dict) and function.keys() == {"name"} else function

    def component(self, kind: str, value: Any, path: Keys) -> Any:
        """Return a section of `trial`."""
        if kind == "groups" and isinstance(value, Mapping):
            return {str(name): self._group(group, (*path, str(name))) for name, group in value.items()}
        if kind == "trainer" and isinstance(value, Mapping):
            return {str(key): self._setting(str(key), each, (*path, str(key))) for key, each in value.items()}
        kind = "schedule" if kind in SCHEDULE_KEYS else kind
        if kind not in registry.KINDS or (kind == "loss" and isinstance(value, str)):
            return self._plain(value, path)
        name, arguments = self._split(kind, value, path)
        return ({} if name is None else {"name": name}) | self._arguments(arguments, path)

    def _setting(self, key: str, value: Any, path: Keys) -> Any:
        """Return a setting of the Trainer."""
        if key != "callbacks" or not isinstance(value, list | tuple):
            return self._plain(value, path)
        return [self.component("callback", each, (*path, index)) for index, each in enumerate(value)]

    def _group(self, value: Any, path: Keys) -> Any:
        """Return a group of parameters."""
        if not isinstance(value, ParameterGroup):
            return self._plain(value, path)
        group: dict[str, Any] = {"parameters": list(value.parameters)}
        if value.optimizer is not None:
            _, arguments = self._split("optimizer", value.optimizer, (*path, "optimizer"))
            group["optimizer"] = self._arguments(arguments, (*path, "optimizer"))
        schedules = {key: getattr(value, key) for key in SCHEDULE_KEYS}
        group |= {key: self._plain(each, (*path, key)) for key, each in schedules.items() if each is not None}
        return group

    def _split(self, kind: str, value: Any, path: Keys) -> tuple[Any, Mapping[str, Any]]:
        """Return the name of a component, None if it is missing, and its arguments."""
        if isinstance(value, str):
            return value, {}
        if isinstance(value, Mapping):
            name = value.get("name")
            rest = {str(key): each for key, each in value.items() if key != "name"}
            return name if name is None or isinstance(name, str) else self._name(kind, name, path), rest
        if isinstance(value, functools.partial):
            if value.args:
                self._fault(path, f"pass the arguments of {_title(value.func)} by name (got {value.args!r}).")
            arguments = dict(value.keywords)
            if registry.is_torch_optimizer(value.func) and "lr" in arguments:
                arguments["initial_lr"] = arguments.pop("lr")
            return self._name(kind, value.func, path), arguments
        if dataclasses.is_dataclass(value) and isinstance(value, SETTINGS):
            return self._name(kind, type(value), path), dict(_changed_fields(kind, value))
        if kind == "model" and isinstance(value, LightningModule):
            self._fault(path, "give the class of a LightningModule: each trial builds one, with its own optimizer.")
            return None, {}
        return self._name(kind, value, path), {}

    def _arguments(self, values: Mapping[str, Any], path: Keys) -> dict[str, Any]:
        return {str(key): self._plain(each, (*path, str(key))) for key, each in values.items()}

    def _searched(self, place: str, value: Any, path: Keys) -> Any:
        """Return an entry of `search_space`."""
        if not isinstance(value, Mapping) or "one_of" not in value:
            return self._plain(value, path)
        options = value["one_of"]
        kind = place if place in registry.KINDS else "schedule"
        pairs: list[tuple[Any, Mapping[str, Any]]] = []
        if isinstance(options, Mapping):
            for key, arguments in options.items():
                name = key if isinstance(key, str) else self._name(kind, key, (*path, "one_of"))
                pairs.append((name, {} if arguments is None else arguments))
        elif isinstance(options, Sequence) and not isinstance(options, str):
            pairs += [self._split(kind, option, (*path, "one_of", index)) for index, option in enumerate(options)]
        else:
            return self._plain(value, path)
        read: dict[str, Any] = {}
        for name, arguments in pairs:
            if name in read:
                self._fault((*path, "one_of"), f"{shown(name)} is given twice.")
            read[str(name)] = (
                self._arguments(arguments, (*path, "one_of", str(name)))
                if isinstance(arguments, Mapping)
                else self._plain(arguments, (*path, "one_of", str(name)))
            )
        return {**self._plain({key: each for key, each in value.items() if key != "one_of"}, path), "one_of": read}

    def _plain(self, value: Any, path: Keys) -> Any:
        """Return a plain value; a schedule as ``{name: ..., argument: ...}``."""
        if isinstance(value, Schedule | Plateau) or (isinstance(value, type) and issubclass(value, Schedule | Plateau)):
            return self.component("schedule", value, path)
        if isinstance(value, functools.partial):
            return self.component("schedule", value, path)
        if isinstance(value, Enum):
            value = value.value
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, bool | int | float | str) or value is None:
            return value if value is None or type(value) in (bool, int, float, str) else _base(value)
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, Mapping):
            return {str(key): self._plain(each, (*path, str(key))) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self._plain(each, (*path, index)) for index, each in enumerate(value)]
        self._fault(
            path, f"must be a number, text, true, false, None, or a list or mapping of these (got {_short(value)})."
        )
        return None

    def _name(self, kind: str, target: Any, path: Keys) -> str | None:
        """Return the name of a class, a function or an object; if it cannot be imported, it is held by value."""
        if isinstance(target, type | torch.nn.Module | LightningDataModule | Callback) or callable(target):
            known = {each: name for name, each in registry.KINDS[kind].items()}
            if isinstance(target, type) and target in known:
                return known[target]
            is_made = not isinstance(target, type) and not hasattr(target, "__qualname__")
            if not is_made and (name := _importable(target)):
                return name
            if is_made:
                target = by_value.Copies(target)
            name = f"{target.__module__}:{target.__qualname__.rpartition('<locals>.')[2]}"
            return self._held(name, target, path)
        self._fault(path, f"must be a class, a function, an object, or a name (got {_short(target)}).")
        return None

    def _held(self, name: str, target: Any, path: Keys) -> str | None:
        original = target.original if isinstance(target, by_value.Copies) else target
        if self._named.setdefault(name, original) is not original:
            self._fault(path, f"this study contains another {name}; rename one of them.")
            return None
        if name not in self.held:
            try:
                self.held[name] = by_value.hold(name, target)
            except ValueError as error:
                self._fault(path, str(error))
        return name

    def _fault(self, path: Keys, message: str) -> None:
        self.faults.append(f"{PLACE}: {dotted(path)}: {message}")


def _default_name(model: Any) -> str:
    """Return the default name of a study: the name of its network or its function."""
    named = model.get("name") if isinstance(model, Mapping) else model
    name = str(named or "study").rpartition(":")[2].removesuffix("()").lower()
    return name if NAME.fullmatch(name) else "study"


def _changed_fields(kind: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the arguments of a dataclass that differ from their defaults; of a data module, without its seed."""
    if isinstance(value, Lambda):
        yield "function", value.function
        yield from value.arguments
        return
    for each in dataclasses.fields(value):
        given = getattr(value, each.name)
        is_given_by_trial = kind == "data" and each.name in ("seed", "batches_per_epoch")
        if each.init and not is_given_by_trial and (each.default is dataclasses.MISSING or given != each.default):
            yield each.name, given


def _importable(target: Any) -> str:
    """Return ``package.module:Name`` of a class or function that another process can import; empty if it cannot.

    If its package exposes it too, the shortest name: ``torch.optim:NAdam``.
    """
    module, name = str(target.__module__), str(target.__qualname__)
    if module in ("__main__", "__mp_main__") or not name.isidentifier() or not has_file(module):
        return ""
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        place = ".".join(parts[:count])
        if getattr(sys.modules.get(place), name, None) is target:
            return f"{place}:{name}"
    return ""


def _base(value: Any) -> Any:
    """Return a number or text of a derived type as the plain one."""
    return next(kind(value) for kind in (int, float, str) if isinstance(value, kind))


def _title(target: Any) -> str:
    return str(getattr(target, "__name__", type(target).__name__))


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}..."
