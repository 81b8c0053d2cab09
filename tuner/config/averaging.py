"""Checks of settings that cannot be combined with an average of the weights."""

from collections.abc import Iterator

from lightning_modules import Plateau
from lightning_modules.callbacks import is_of_training
from lightning_modules.evaluation import has_switch
from tuner.config import registry
from tuner.config.component import Component
from tuner.config.search_space import Template, corners

__all__ = ["averaging_optimizers", "unaveraged_monitors"]


def averaging_optimizers(optimizer: Template) -> list[str]:
    """Return the names of the optimizers of a checked template that do their own averaging of the weights."""
    first = {values["name"]: Component.from_values(values) for values in reversed(corners(optimizer))}
    return [name for name, each in first.items() if has_switch(registry.sample_optimizer(each.build("optimizer")))]


def unaveraged_monitors(schedule: Template) -> list[str]:
    """Return the training metrics that plateaus of a checked template monitor."""
    return list(dict.fromkeys(monitor for monitor in _monitors(schedule) if is_of_training(monitor)))


def _monitors(schedule: Template) -> Iterator[str]:
    for values in corners(schedule):
        target = registry.resolve("schedule", values["name"])
        if isinstance(target, type) and issubclass(target, Plateau):
            default = registry.arguments_of("schedule", values["name"]).arguments["monitor"].default
            yield str(values.get("monitor", default))
