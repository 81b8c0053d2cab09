"""Checks the section ``trainer`` of a study file."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from pytorch_lightning.callbacks import (
    BatchSizeFinder,
    Checkpoint,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    Timer,
)

from tuner.config import registry
from tuner.config.checker import FORM_OF_COMPONENT, Checker, mode_fault
from tuner.config.document import Document, Node
from tuner.config.registry import signature_of
from tuner.config.search_space import Choices, Template, component_names, corners
from tuner.config.trainer import TrainerConfig, length_faults
from tuner.text import parse_duration, shown

__all__ = ["TrainerChecker"]

OTHERS = dict.fromkeys(
    registry.TRAINER_ARGUMENTS - {each.name for each in dataclasses.fields(TrainerConfig)},
    "unknown key: Lightning's Trainer has it, but a study does not set it.",
)
REFUSED: dict[type, str] = {
    Checkpoint: "a study saves and resumes its runs automatically; objective.epoch says which weights are kept",
    Timer: "write trainer.max_time",
    GradientAccumulationScheduler: "write trainer.accumulate_grad_batches: lengths depend on the steps of an epoch",
    BatchSizeFinder: "search data.batch_size",
    LearningRateFinder: "search optimizer.initial_lr, or use lr-tuner range",
}
"""Callbacks that a study does not allow, and what to do instead."""


class TrainerChecker:
    """Checks the settings and callbacks of a trial's Trainer.

    Args:
        document: The document, which records the errors.
        checker: Checks components and values.
    """

    def __init__(self, document: Document, checker: Checker) -> None:
        self._document = document
        self._fault = document.fault
        self._checker = checker

    def template(self, node: Node) -> dict[str, Template]:
        """Return the template of the section."""
        if node.searched:
            self._fault(node.path, "name what is searched within it, such as trainer.max_epochs.")
            return {}
        before = self._document.fault_count
        nodes = self._checker.mapping(node)
        plain = {key: each for key, each in nodes.items() if key != "callbacks"}
        template = self._checker.settings(signature_of(TrainerConfig), dataclasses.replace(node, value=plain), OTHERS)
        if "max_epochs" not in nodes and "max_steps" not in nodes:
            self._fault((*node.path, "max_epochs"), "required.")
        if self._document.fault_count == before:
            for key, message in (*length_faults(template), *_setting_faults(template)):
                place = node.child(key)
                self._fault(place.path if place else (*node.path, key), message)
        if "callbacks" in nodes and nodes["callbacks"].value != []:
            template["callbacks"] = self._callbacks(nodes["callbacks"])
        return template

    def _callbacks(self, node: Node) -> list[Template]:
        if not isinstance(node.value, list):
            self._fault(node.path, f"must be a list, each item{FORM_OF_COMPONENT[1:]} (got {shown(node.raw)}).")
            return []
        callbacks = []
        for item in node.value:
            before = self._document.fault_count
            template = self._checker.component("callback", item)
            callbacks.append(template)
            if self._document.fault_count == before:
                self._check_callback(template, item)
        return callbacks

    def _check_callback(self, template: Template, node: Node) -> None:
        """Reject a callback that contradicts the study."""
        for name in component_names(template):
            target = registry.resolve("callback", name)
            for kind, instead in REFUSED.items():
                if isinstance(target, type) and issubclass(target, kind):
                    self._fault(node.path, f"a study cannot have {name}: {instead}.")
        if self._checker.metrics is not None:
            for message in dict.fromkeys(_early_stopping_faults(template)):
                self._fault(node.path, message)


def _setting_faults(template: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield key and message of each error other than those in the length."""
    if template.get("gradient_clip_algorithm") is not None and template.get("gradient_clip_val") is None:
        yield "gradient_clip_algorithm", "needs gradient_clip_val, the limit."
    limit = template.get("max_time")
    for each in limit.values if isinstance(limit, Choices) else [limit]:
        if each is not None and not isinstance(each, str | int | float):
            yield "max_time", "must be a duration or choices; write 90s, 30m, 2h or 1h30m."
        elif each is not None:
            try:
                parse_duration(each)
            except ValueError as error:
                yield "max_time", f"{error}."


def _early_stopping_faults(template: Template) -> Iterator[str]:
    """Yield a sentence for each early stopping whose patience or mode makes no sense."""
    for values in corners(template):
        if registry.resolve("callback", values["name"]) is not EarlyStopping:
            continue
        if isinstance(patience := values.get("patience"), int | float) and patience < 0:
            yield f"patience must be at least 0 (got {patience})."
        if fault := mode_fault(str(values.get("monitor")), values.get("mode", "min")):
            yield fault
