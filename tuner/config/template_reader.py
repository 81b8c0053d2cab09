"""Reads the trial of a study file, and its search space."""

import dataclasses
from collections.abc import Mapping, Sequence

from lightning_modules.tasks import logged_metrics
from tuner.config import registry
from tuner.config.averaging import averaging_optimizers, unaveraged_monitors
from tuner.config.checker import FORM_OF_COMPONENT, Checker
from tuner.config.dataset_probe import DatasetProbe
from tuner.config.document import Document, Node
from tuner.config.lengths import Length
from tuner.config.loss_checker import LossChecker, as_component
from tuner.config.optimization import OTHER_SCHEDULES, SCHEDULE_KEYS
from tuner.config.optimization_checker import OptimizationChecker
from tuner.config.placement import place
from tuner.config.search_space import Template, corners
from tuner.config.trainer_checker import TrainerChecker
from tuner.config.trial import COMPONENTS, NO_AVERAGING, PARTS, Seed, TrialConfig
from tuner.errors import BadInputError

__all__ = ["TemplateReader"]


class TemplateReader:
    """Reads the template of a trial, and computes the possible lengths of its run.

    Args:
        document: The study file.
        probe: Measures its data.

    Attributes:
        checker: Checks the values of the document; after `template`, it knows the metrics of the trials.
    """

    def __init__(self, document: Document, probe: DatasetProbe) -> None:
        self._document, self._probe = document, probe
        self._fault = document.fault
        self._measured: dict[str, Template] = {}
        self._known_lengths: list[Length] | None = None
        self._why_unknown: list[str] = []
        self.checker = Checker(document, self.lengths)
        self._optimization = OptimizationChecker(document, self.checker, self.lengths)

    def template(self, section: Node, searched: Node) -> Template:
        """Return the template of a trial, with specs in place of searched values.

        Args:
            section: The section ``trial``.
            searched: The section ``search_space``.
        """
        given = self.checker.mapping(section)
        space = self.checker.mapping(searched)
        self.checker.keys(given, PARTS)
        losses, task = LossChecker(self._document, self.checker), given.get("task")
        defaults = {"loss": losses.default(task and task.raw), "seed": TrialConfig.seed}
        trial = Node({key: given.get(key, Node(each, ("trial", key))) for key, each in defaults.items()}, ("trial",))
        trial.put("loss", as_component(trial.value["loss"]))
        for name in (*COMPONENTS, "trainer"):
            default = {"name": "constant"} if name == "schedule" else {}
            component = given.get(name, Node.of(default, ("trial", name)))
            form = FORM_OF_COMPONENT if name in COMPONENTS else ""
            trial.put(name, dataclasses.replace(component, value=self.checker.mapping(component, form)))
        for name in OTHER_SCHEDULES:
            if name in given or any(key.partition(".")[0] == name for key in space):
                trial.put(name, given.get(name, Node.of({"name": "constant"}, ("trial", name))))
        if "groups" in given:
            trial.put("groups", given["groups"])
        if "averaging" in given or any(key.partition(".")[0] == "averaging" for key in space):
            trial.put("averaging", given.get("averaging", Node.of(NO_AVERAGING, ("trial", "averaging"))))
        place(self._document, trial, space)
        are_modules = [_is_module(name) for name in _names(trial.value["model"])]
        own_modules = bool(are_modules) and all(are_modules)
        loss = None if own_modules else losses.template(trial.value["loss"], task)
        is_named = bool(are_modules) and None not in are_modules and not own_modules
        self.checker.metrics = logged_metrics(losses.task) if is_named else None
        checked = {kind: self.checker.component(kind, trial.value[kind]) for kind in COMPONENTS if kind != "schedule"}
        trainer = TrainerChecker(self._document, self.checker).template(trial.value["trainer"])
        self._measured = {
            "data": checked["data"],
            "trainer": trainer,
        }  # determines the length of a run, which the schedule may need
        schedules = {
            key: self._optimization.schedule(trial.value[key], key) for key in SCHEDULE_KEYS if key in trial.value
        }
        template = {**checked, **schedules, "trainer": trainer}
        if "groups" in trial.value:
            template["groups"] = self._optimization.groups(trial.value["groups"], _names(trial.value["optimizer"]))
        self._optimization.check_together(template, trial, has_modules=any(are_modules))
        if "averaging" in trial.value:
            template["averaging"] = self.checker.component("averaging", trial.value["averaging"])
            self._check_averaging(template, trial)
        template["loss"] = loss
        if task is not None:
            template["task"] = task.raw
        if own_modules and ("loss" in given or any(key.partition(".")[0] == "loss" for key in space)):
            self._fault(trial.value["loss"].path, "remove it: a LightningModule has its own loss.")
        if own_modules and task is not None:
            self._fault(task.path, "remove it: a LightningModule has its own metrics.")
        template["seed"] = self.checker.value(Seed, trial.value["seed"])
        for node in space.values():
            self.checker.forms(node)
        return template

    def _check_averaging(self, template: Mapping[str, Template], trial: Node) -> None:
        """Reject an average together with settings that it cannot be combined with."""
        if self._document.fault_count or set(_names(trial.value["averaging"])) <= {NO_AVERAGING["name"]}:
            return
        for name in averaging_optimizers(template["optimizer"]):
            message = f"cannot be combined with {name}, which does its own averaging of the weights."
            self._fault(trial.value["averaging"].path, message)
        for monitor in unaveraged_monitors(template["schedule"]):
            message = f"a plateau must monitor a validation metric with averaging (got {monitor}): a training metric"
            self._fault(trial.value["schedule"].path, f"{message} is computed without averaging.")

    def lengths(self, needed: bool) -> Sequence[Length]:
        """Return the possible lengths of the study's runs; none if the file has errors, without loading data."""
        if self._known_lengths is None:
            self._known_lengths = []
            try:
                if not self._document.fault_count:
                    lengths = [self._probe.length(values) for values in corners(self._measured)]
                    self._known_lengths = list(dict.fromkeys(lengths))
            except BadInputError as error:
                self._why_unknown = [message.removeprefix("trial.data: ") for message in error.faults]
        for message in self._why_unknown if needed else ():
            self._fault(("trial", "data"), message)
        return self._known_lengths


def _is_module(name: str) -> bool | None:
    """Return whether a model is a LightningModule; None if there is no such model."""
    try:
        return registry.is_module(name)
    except ValueError:
        return None


def _names(component: Node) -> list[str]:
    """Return the names that a component can have, valid or not."""
    choices, name = component.child("one_of"), component.child("name")
    if choices is not None and isinstance(choices.value, dict):
        return list(choices.value)
    return [name.value] if name is not None and isinstance(name.value, str) else []
