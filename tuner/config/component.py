"""A component of a trial: a registered name and its arguments, which may include further components."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from lightning_modules import OwnLoss, Plateau, Schedule
from tuner.config import by_value, registry
from tuner.config.annotations import converted, item_hint
from tuner.config.registry import is_schedule
from tuner.config.search_space import component_names

__all__ = ["Component", "rehearse"]

_BY_VALUE = "by value"


@dataclass(frozen=True)
class Component:
    """A registered name and its arguments, as plain values.

    An argument that is itself a schedule is ``{name: ..., argument: ...}``. `map_arguments` and `walk` tell such
    arguments from the others by the types in the signature.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "Component":
        """Split ``{name: ..., argument: ...}``."""
        return cls(values["name"], {key: value for key, value in values.items() if key != "name"})

    def values(self) -> dict[str, Any]:
        """Return ``{name: ..., argument: ...}``."""
        return {"name": self.name, **self.arguments}

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, with the objects behind its names that another process cannot import."""
        return {**vars(self), _BY_VALUE: by_value.select(component_names(self.values()))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the pickled state."""
        by_value.receive(state.pop(_BY_VALUE))
        vars(self).update(state)

    def build(self, kind: str, **extra: Any) -> Any:
        """Build the object that the name and the arguments stand for; for one of torch's optimizers, its factory.

        An objective function is returned with its arguments, to be called with a trial.

        Args:
            kind: A key of `registry.KINDS`.
            extra: Further arguments, passed on if the class takes them.

        Raises:
            ValueError: If an argument breaks a rule of the class.
        """
        target = registry.resolve(kind, self.name)
        arguments = self.map_arguments(kind, converted, lambda schedule: schedule.build("schedule"))
        arguments |= registry.accepted(kind, self.name, extra)
        if kind == "loss" and registry.is_function(target):
            return OwnLoss(target, arguments)
        if kind == registry.FUNCTION:
            return partial(target if registry.is_function(target) else target(), **arguments)
        if registry.is_torch_optimizer(target):
            return partial(target, lr=arguments.pop("initial_lr"), **arguments)
        return target(**arguments)

    def map_arguments(
        self, kind: str, plain: Callable[[Any, Any], Any], nested: Callable[["Component"], Any]
    ) -> dict[str, Any]:
        """Return the arguments with a function applied to each; a list of schedules becomes a tuple.

        Args:
            kind: A key of `registry.KINDS`.
            plain: Applied to the type and the value of an argument that is not a schedule.
            nested: Applied to a schedule.

        Raises:
            ValueError: If `plain` raises one; the name of the argument precedes its message.
        """

        def mapped(key: str, hint: Any, value: Any) -> Any:
            if isinstance(value, Mapping) and is_schedule(hint):
                return nested(Component.from_values(value))
            if isinstance(value, list) and is_schedule(item_hint(hint, 0)):
                return tuple(mapped(key, item_hint(hint, index), item) for index, item in enumerate(value))
            try:
                return plain(hint, value)
            except ValueError as error:
                raise ValueError(f"{key} {error}") from error

        return {key: mapped(key, hint, value) for key, hint, value in self._typed(kind)}

    def walk(self, kind: str, path: str) -> Iterator[tuple[str, Any, Any]]:
        """Yield dotted path, type and value of every argument, in nested schedules and in lists as well.

        Args:
            kind: A key of `registry.KINDS`.
            path: The place of the component.
        """

        def leaves(path: str, hint: Any, value: Any) -> Iterator[tuple[str, Any, Any]]:
            if isinstance(value, Mapping) and is_schedule(hint):
                yield from Component.from_values(value).walk("schedule", path)
            elif isinstance(value, list):
                for index, item in enumerate(value):
                    yield from leaves(f"{path}.{index}", item_hint(hint, index), item)
            else:
                yield path, hint, value

        for key, hint, value in self._typed(kind):
            yield from leaves(f"{path}.{key}", hint, value)

    def _typed(self, kind: str) -> Iterator[tuple[str, Any, Any]]:
        """Yield name, type and value of each argument."""
        signature = registry.arguments_of(kind, self.name)
        for key, value in self.arguments.items():
            yield key, signature.hint(key), value


def rehearse(kind: str, values: Mapping[str, Any], steps: Iterable[int] = (0,)) -> Any:
    """Build an object as a trial would, try it if that is cheap, and return it.

    Args:
        kind: A key of `registry.KINDS`.
        values: ``{name: ..., argument: value}``.
        steps: Steps at which a schedule is tried.

    Raises:
        Exception: If the values break a rule of the class; of any type if the class is the user's.
    """
    component = Component.from_values(values)
    given = {"seed": 0} if kind == "data" else {}
    made = _without_memory(component) if kind == "model" else component.build(kind, **given)
    bases, wanted = registry.BASES[kind]
    if not isinstance(made, bases):
        raise ValueError(f"{component.name} builds a {type(made).__name__}, not {wanted}")
    if kind == "optimizer":
        optimizer = registry.sample_optimizer(made)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ValueError(
                f"{component.name} builds a {type(optimizer).__name__} from parameters, not a torch.optim.Optimizer"
            )
    schedule = made.schedule if isinstance(made, Plateau) else made
    if isinstance(schedule, Schedule):
        for step in steps:
            schedule(step)
    return made


def _without_memory(model: Component) -> Any:
    """Build a model on the meta device, or in memory if it computes with numbers in its constructor."""
    given = registry.GIVEN_TO_MODULES if registry.is_module(model.name) else {}
    try:
        with torch.device("meta"):
            return model.build("model", **given)
    except Exception:  # if it is not caused by the meta device, the second attempt raises it again
        return model.build("model", **given)
