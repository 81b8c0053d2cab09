"""Names to classes: the only place where a name in a study file becomes code.

Wherever a short name is accepted, ``package.module:Name`` is too. Importing it runs that module, by design, so such
names come from the study file that the user gave and from nowhere else.
"""

import functools
import inspect
import pkgutil
import re
import sys
import typing
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import NoneType
from typing import Any

import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping

from lightning_modules import (
    AVERAGINGS,
    DATASETS,
    LOSSES,
    MODELS,
    OPTIMIZERS,
    SCHEDULES,
    SGD,
    Averaging,
    Constant,
    Plateau,
    Schedule,
)
from lightning_modules.lightning_import import uncompiled_optimizers
from tuner.config import by_value
from tuner.config.annotations import did_you_mean, members
from tuner.config.own_modules import expect_changes, import_own
from tuner.config.synonyms import LIBRARIES, is_torch_optimizer, synonym
from tuner.config.user_code import contained
from tuner.errors import in_a_line, place_of
from tuner.process import user_module_folders
from tuner.text import shown

__all__ = [
    "BASES",
    "FUNCTION",
    "GIVEN_TO_MODULES",
    "KINDS",
    "TRAINER_ARGUMENTS",
    "WHOLE",
    "Argument",
    "Signature",
    "accepted",
    "arguments_of",
    "begin_study",
    "is_function",
    "is_module",
    "is_schedule",
    "is_torch_optimizer",
    "resolve",
    "sample_optimizer",
    "signature_of",
]


def no_averaging() -> None:
    """Return None, which means no average of the weights."""


FUNCTION = "objective_function"

KINDS: dict[str, Mapping[str, Any]] = {
    "averaging": {"none": no_averaging, **AVERAGINGS},
    "callback": {"early_stopping": EarlyStopping},
    "data": DATASETS,
    "loss": LOSSES,
    "model": MODELS,
    FUNCTION: {},
    "optimizer": OPTIMIZERS,
    "schedule": {**SCHEDULES, "plateau": Plateau},
}

TRAINER_ARGUMENTS = frozenset(inspect.signature(Trainer).parameters)
"""The arguments of Lightning's Trainer."""

WHOLE = {
    "cosine": "decay_steps",
    "five_point_spline": "total_steps",
    "linear_cosine": "decay_steps",
    "one_cycle": "total_steps",
    "polynomial": "decay_steps",
    "rex": "decay_steps",
    "sqrt": "decay_steps",
    "two_point_spline": "decay_steps",
}
"""Lengths of schedules that default to the whole run, 100%, if a study file does not give them."""

GIVEN_TO_MODULES = {"optimizer": SGD(initial_lr=0.1), "schedule": Constant()}
"""Arguments that the tuner gives to a LightningModule, and the values that it is checked with."""

# The required base classes of each kind, and their description.
BASES: dict[str, tuple[tuple[Any, ...], str]] = {
    "averaging": ((Averaging, NoneType), "a lightning_modules.Averaging"),
    "callback": ((Callback,), "a Callback of pytorch_lightning"),
    "data": ((LightningDataModule,), "a LightningDataModule"),
    "loss": ((Callable,), "a function or module that takes outputs and labels"),
    "model": ((torch.nn.Module,), "a torch.nn.Module"),  # or a whole LightningModule, which is one
    FUNCTION: ((Callable,), "a function that takes a trial"),
    "optimizer": ((torch.optim.Optimizer, Callable), "a factory of optimizers"),
    "schedule": ((Schedule, Plateau), "a lightning_modules.Schedule"),
}


@dataclass(frozen=True)
class Argument:
    """An argument that a study file can give.

    Args:
        hint: Its type annotation; Any where there is none.
        required: Whether it has no default.
        default: Its default.
    """

    hint: Any
    required: bool
    default: Any = field(default=None, compare=False)


@dataclass(frozen=True)
class Signature:
    """The arguments that can be given to a class or function by name.

    Args:
        arguments: Its arguments.
        open: Whether it accepts other arguments as well.
        others: Type of each of those.
    """

    arguments: Mapping[str, Argument]
    open: bool = False
    others: Any = Any

    def hint(self, name: str) -> Any:
        """Return the type of an argument."""
        return self.arguments[name].hint if name in self.arguments else self.others


def resolve(kind: str, name: str) -> Any:
    """Return the class or function of a name.

    Raises:
        ValueError: If the name is unknown, cannot be imported or is not of this kind.
    """
    known = KINDS[kind]
    if name in known:
        return known[name]
    module_name, colon, attribute = name.partition(":")
    held = by_value.find(name)
    if held is None and not colon:
        hint = synonym(kind, name, known) or did_you_mean(name, known)
        names = f"Known: {', '.join(sorted(known))}, or package.module:Name" if known else "Write module:name"
        raise ValueError(f"unknown {kind} {shown(name)}. {names}.{hint}")
    try:
        found = _imported(name, module_name, attribute) if held is None else held
        bases, wanted = BASES[kind]
        if isinstance(found, type) and not issubclass(found, bases):
            raise ValueError(f"{shown(name)} is not {wanted}.")
    except ValueError as error:
        hint = "" if "Did you mean" in str(error) else synonym(kind, name, known)
        raise ValueError(f"{error}{hint}") from error
    return found


def begin_study() -> None:
    """Forget what earlier studies in this process found in the user's modules."""
    expect_changes()
    arguments_of.cache_clear()


def _imported(name: str, module_name: str, attribute: str) -> Any:
    if module_name in ("__main__", "__mp_main__"):
        raise ValueError(
            f"{shown(name)} is in the running script or notebook, which training processes do not import: "
            f"put {attribute} into a module, and write module:{attribute}, or pass the class itself to tuner.Study."
        )
    try:
        with contained():
            module = import_own(module_name)
            found = getattr(module, attribute, None)
    except ModuleNotFoundError as error:
        where = ""
        if f"{module_name}.".startswith(f"{error.name}."):  # the module itself, not one that it imports
            where = f" Looked in {', '.join(user_module_folders())} and among the installed packages."
            where += _near_module(error.name or "")
        raise ValueError(f"cannot import {shown(name)}: {error}.{where}") from error
    except Exception as error:  # a user's module can raise anything
        reason = in_a_line(error).removesuffix(".") + place_of(error)
        raise ValueError(f"cannot import {shown(name)}: {reason}.") from error
    if not callable(found):
        hint = did_you_mean(attribute, [key for key, value in vars(module).items() if callable(value)])
        raise ValueError(f"{module_name} has no class or function {shown(attribute)}.{hint}")
    return found


def _near_module(name: str) -> str:
    """Return " Did you mean ...?" if a module of the user, or of the same package, has a name near this one."""
    package, _, last = name.rpartition(".")
    if name.partition(".")[0] in LIBRARIES:  # not a mistyped module of the user
        return ""
    folders = getattr(sys.modules.get(package), "__path__", []) if package else user_module_folders()
    hint = did_you_mean(last, [each.name for each in pkgutil.iter_modules(folders)])
    return hint.replace("mean ", f"mean {package}.") if package else hint


@lru_cache
def arguments_of(kind: str, name: str) -> Signature:
    """Return the arguments that a study file may give to a name.

    Raises:
        ValueError: If the name is unknown, cannot be imported or is not of this kind.
    """
    target = resolve(kind, name)
    if kind == FUNCTION:
        return _arguments_after_trial(target, name)
    signature = signature_of(target)
    arguments = dict(signature.arguments)
    if kind == "data":
        for key in ("seed", "batches_per_epoch"):  # these come from trial.seed and trial.trainer
            arguments.pop(key, None)
    if kind == "model" and is_module(name):
        for key in GIVEN_TO_MODULES:
            if key not in arguments:
                raise ValueError(f"{shown(name)} has no argument {key}: a LightningModule gets the one of the trial.")
            del arguments[key]
    if kind == "loss" and is_function(target):
        arguments = dict(list(arguments.items())[2:])  # the first two are outputs and labels
    if is_torch_optimizer(target):
        arguments.pop("params", None)
        arguments["initial_lr"] = arguments.pop("lr", Argument(float, required=True))
    if kind == "optimizer":
        if "initial_lr" not in arguments and not signature.open:
            raise ValueError(f"{shown(name)} has no argument initial_lr for a schedule to multiply.")
        arguments["initial_lr"] = Argument(float, required=True)
    return Signature(arguments, signature.open, signature.others)


NOT_CALLED_ONCE: Mapping[str, Callable[[Any], bool]] = {
    "an async function": inspect.iscoroutinefunction,
    "a generator": inspect.isgeneratorfunction,
    "an async generator": inspect.isasyncgenfunction,
}


def _arguments_after_trial(target: Any, name: str) -> Signature:
    """Return the arguments of an objective function after its first one, which is the trial."""
    if isinstance(target, type):
        raise ValueError(f"{shown(name)} is a class: name a function, or pass an object that can be called.")
    called = target.original if isinstance(target, by_value.Copies) else target
    code = called if inspect.isroutine(called) or isinstance(called, functools.partial) else called.__call__
    for kind, is_kind in NOT_CALLED_ONCE.items():
        if is_kind(code):
            raise ValueError(f"{shown(name)} is {kind}: an objective function returns its value when it is called.")
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        whole = inspect.signature(called)
    except (TypeError, ValueError):  # built in, without a signature
        return Signature({}, open=True)
    parameters = list(whole.parameters.values())
    if not parameters or parameters[0].kind not in (*kinds, inspect.Parameter.VAR_POSITIONAL):
        takes = f"is {name.partition(':')[2]}{whole}"
        raise ValueError(f"{shown(name)} must take the trial as its first argument, but {takes}.")
    arguments = dict(signature_of(called).arguments)
    arguments.pop(parameters[0].name, None)
    return Signature(arguments, signature_of(called).open)


def signature_of(target: Any) -> Signature:
    """Return the arguments of a class or function that can be given by name."""
    parameters = _parameters(target)
    try:
        function = inspect.getattr_static(target, "__init__") if isinstance(target, type) else target
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception:  # the annotations cannot be resolved, so the types are unknown
        hints = {}
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    arguments = {
        name: Argument(hints.get(name, Any), parameter.default is parameter.empty, parameter.default)
        for name, parameter in parameters.items()
        if parameter.kind in by_name
    }
    others = [hints.get(name, Any) for name, each in parameters.items() if each.kind is each.VAR_KEYWORD]
    return Signature(arguments, bool(others), others[0] if others else Any)


@functools.cache
def _parameters(target: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(target).parameters
    except (TypeError, ValueError):  # built in, without a signature
        return {"arguments": inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD)}


def is_module(name: str) -> bool:
    """Return whether the name of a model refers to a LightningModule, not to a network.

    Raises:
        ValueError: If the name is unknown, cannot be imported or is not of a model.
    """
    target = resolve("model", name)
    return isinstance(target, type) and issubclass(target, LightningModule)


def is_function(target: Any) -> bool:
    """Return whether the target of a name is called directly; otherwise it builds the callable."""
    return not isinstance(target, type | by_value.Copies)


def is_schedule(hint: Any) -> bool:
    """Return whether an argument of this type is a schedule, which a study file gives as ``{name: ...}``."""
    return any(isinstance(each, type) and issubclass(each, Schedule | Plateau) for each in members(hint))


def accepted(kind: str, name: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return the additional arguments that a class accepts."""
    known = _parameters(resolve(kind, name))
    return {key: value for key, value in extra.items() if key in known}


def sample_optimizer(make: Callable[..., Any]) -> Any:
    """Return the optimizer of one small parameter: a vector, a matrix (as Muon needs), or a kernel of convolutions.

    Raises:
        Exception: If it accepts none of them, the error that the fewest have: the others are about the shape.
    """
    errors: list[Exception] = []
    for dimensions in range(1, 6):
        try:
            with uncompiled_optimizers():
                return make([torch.nn.Parameter(torch.zeros([1] * dimensions))])
        except Exception as error:  # from the user's class
            errors.append(error)
    counts = Counter(map(_without_numbers, errors))
    raise min(errors, key=lambda error: counts[_without_numbers(error)])


def _without_numbers(error: Exception) -> str:
    """Return the text of an error without the sizes of a shape."""
    return re.sub(r"[\d, ]", "", str(error))
