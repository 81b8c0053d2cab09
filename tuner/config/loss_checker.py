"""Checks the loss of a network that is not a LightningModule, and its task, in a study file."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lightning_modules.losses import LOSSES
from lightning_modules.tasks import TASKS, Task
from tuner.config.annotations import check_value
from tuner.config.checker import FORM_OF_COMPONENT, Checker, listed
from tuner.config.document import Document, Node
from tuner.config.search_space import Choices, Template, is_spec
from tuner.text import join_names, shown

__all__ = ["LossChecker", "as_component"]

BY_TASK: dict[Task, str] = {
    "classification": "cross_entropy",
    "multi_label": "binary_cross_entropy",
    "regression": "squared_error",
}
"""The losses of trials that name none."""


def as_component(node: Node) -> Node:
    """Return a loss that is a bare name as ``{name: ...}``."""
    return Node({"name": node}, node.path) if isinstance(node.value, str) else node


class LossChecker:
    """Checks ``trial.loss`` and ``trial.task``.

    Args:
        document: The document, which records the errors.
        checker: Checks components and values.

    Attributes:
        task: The task of all trials.
    """

    def __init__(self, document: Document, checker: Checker) -> None:
        self._fault = document.fault
        self._checker = checker
        self.task: Task = "classification"

    def default(self, task: Any) -> str:
        """Return the loss of a trial that names none."""
        return BY_TASK[task] if task in TASKS else BY_TASK["classification"]

    def template(self, loss: Node, task: Node | None) -> Template:
        """Return the template of the loss."""
        template = self._loss(loss)
        given: Task | None = None
        if task is not None and (wrong := check_value(Task, task.raw)):
            self._fault(task.path, wrong)
        elif task is not None:
            given = task.raw
        names = _names(template)
        tasks: dict[str, Task] = {name: LOSSES[name].task if name in LOSSES else given or self.task for name in names}
        for name, of_loss in tasks.items():
            if given and of_loss != given:
                others = [each for each, kind in LOSSES.items() if kind.task == given]
                known = f"its losses are {listed(others)}, or package.module:Name"
                self._fault(loss.path, f"{name} is a loss for {of_loss}, and task is {given}: {known}.")
        possible = [given] if given else sorted(set(tasks.values()))
        if len(possible) > 1:
            self._fault(loss.path, f"the losses must be for one task, but are for {join_names(possible)}.")
        self.task = possible[0] if possible else self.task
        return template

    def _loss(self, node: Node) -> Template:
        raw = node.raw
        if node.searched and is_spec(raw):
            return self._choices(node)
        if not isinstance(raw, dict):
            form = f"the name of a loss{FORM_OF_COMPONENT.replace(',', ', or', 1)}"
            self._fault(node.path, f"must be {form} (got {shown(raw)}).")
            return BY_TASK["classification"]
        template = self._checker.component("loss", node)
        is_bare = isinstance(template, dict) and template.keys() == {"name"} and template["name"] in LOSSES
        return template["name"] if is_bare else template

    def _choices(self, node: Node) -> Template:
        """Return choices of names, without arguments."""
        values = node.raw.get("choices")
        if node.base is not None and node.base.value:
            self._checker.component("loss", node.base)
        spec = self._checker.value(str, replace(node, base=None))
        for index, name in enumerate(values if isinstance(values, list) else ()):
            if isinstance(name, str) and ":" in name:
                self._fault((*node.path, "choices", index), "use one_of to search among losses of your own.")
            elif isinstance(name, str):
                place = (*node.path, "choices", index)
                self._checker.component("loss", Node({"name": Node(name, place)}, place))
        return spec


def _names(template: Template) -> Sequence[str]:
    """Return the names of the losses that a template can have."""
    if isinstance(template, Choices):
        return [str(name) for name in template.values]
    if isinstance(template, str):
        return [template]
    options = getattr(template, "options", None)
    if options is not None:
        return list(options)
    return [template["name"]] if isinstance(template, dict) and template.get("name") else []
