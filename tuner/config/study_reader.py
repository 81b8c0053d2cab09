"""Reads a study from a document, section by section, and reports the errors in all of them."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuner.config import registry
from tuner.config.annotations import did_you_mean
from tuner.config.budget import Budget, Final, Limits, read_limits
from tuner.config.checker import FORM_OF_COMPONENT, listed
from tuner.config.class_weights import check_class_weights
from tuner.config.component import Component
from tuner.config.constraints import LENGTHS
from tuner.config.dataset_probe import DatasetProbe
from tuner.config.document import Document, Keys, Node, dotted
from tuner.config.feasibility import feasible, read_constraints
from tuner.config.first_trials import FirstTrials, first_trials
from tuner.config.known_values import Start, read_queue
from tuner.config.objectives import check_metrics, check_several, read_objectives
from tuner.config.optimization import SCHEDULE_KEYS, is_of_trial
from tuner.config.prior import PRIOR_SAMPLERS
from tuner.config.registry import Argument, Signature, signature_of
from tuner.config.rungs import default_pruner, read_rungs
from tuner.config.sampler_options import PRUNERS, SAMPLERS
from tuner.config.search_space import OneOf, Range, Template, grid_size, searched
from tuner.config.study import Objective, StudyConfig
from tuner.config.study_name import NAME, final_name
from tuner.config.template_reader import TemplateReader
from tuner.config.trainer import TrainerConfig, epochs_of, numbers_of
from tuner.config.trial import NO_AVERAGING, PARTS, TrialConfig, flatten
from tuner.direction import Direction
from tuner.text import parse_duration, shown

__all__ = ["StudyReader"]

MAX_GRID = 1_000_000
KNOWN = ("enqueue", "start", "constraints")
"""Sections that belong to the identity of a study, if they are given."""
SECTIONS = ("name", "objective", "budget", "sampler", "pruner", "final", "trial", "search_space", "contenders", *KNOWN)


class StudyReader:
    """Builds a study from a document, section by section, and reports the errors in all sections together."""

    def __init__(self, document: Document, folder: Path | None, probe: DatasetProbe) -> None:
        self._document = document
        self._folder = folder
        self._fault = document.fault
        self._probe = probe
        for kind in ("sampler", "pruner"):
            if isinstance(document.data, dict) and isinstance(document.data.get(kind), str):
                document.data[kind] = {"name": document.data[kind]}
        self._template = TemplateReader(document, probe)
        self._checker = self._template.checker
        self._nodes = self._checker.mapping(Node.of(document.data, ()))

    def _in_trial(self, key: str) -> str:
        """Return where a section of the trial belongs, with the whole path of a value from the command line."""
        node, path = self._nodes.get(key), Keys(("trial", key))
        if node is None or not self._document.is_from_command_line(node.path):
            return "It belongs in trial."
        while isinstance(node.value, dict) and len(node.value) == 1:
            (node,) = node.value.values()
            path = ("trial", *node.path)
        return f"It belongs in trial: write {dotted(path)}."

    def study(self, default_name: str, is_past: bool) -> StudyConfig:
        """Return the study.

        Raises:
            BadInputError: With every error in the document.
        """
        self._checker.keys(self._nodes, SECTIONS, {key: self._in_trial(key) for key in PARTS})
        name = self._name(default_name)
        goals = read_objectives(self._checker, self._section("objective"), self._fault)
        is_single = len(goals) == 1
        budget = self._checker.settings(signature_of(Budget), self._section("budget"))
        timeout = self._timeout(budget.get("timeout"))
        sampler = self._option("sampler", SAMPLERS, ("curve", "tpe") if is_single else ("tpe", "nsga2"))
        pruner = self._option("pruner", PRUNERS, ("rungs", "median") if is_single else ("none",))
        template = self._template.template(self._section("trial"), self._section("search_space"))
        implied = self._implied()
        if (
            "sampler" in implied
            and not is_past
            and not (any(searched(template)) and self._template.lengths(needed=False))
        ):
            sampler = Component("tpe", sampler.arguments)
        check_metrics(goals, self._checker.metrics, is_past, self._fault)
        check_several(goals, sampler.name, pruner.name, budget, self._document.data.get("final"), self._fault)
        self._check_together(sampler, pruner)
        if not (is_past or self._document.fault_count):
            check_class_weights(template, self._probe, self._fault)
        if pruner.name == "predicted" and goals[0].get("direction", Objective.direction) != Direction.MINIMIZE:
            message = "predicted predicts losses, so the objective must be a loss (direction: minimize)."
            self._fault(("pruner", "name"), message)
        if not is_past and (sampler.name == "curve" or pruner.name == "predicted"):
            self._template.lengths(needed=True)  # both need the lr curves, which depend on the steps of an epoch
        if "until" in budget and sampler.name != "curve" and is_single:
            message = f"needs the sampler curve, which can estimate the expected gain ({sampler.name} cannot)."
            self._fault(("budget", "until"), message)
        asks_for_rungs = pruner.name == "rungs" and "pruner" not in implied and not self._document.fault_count
        limits = self._limits(budget, template, name, is_single)
        trials = limits.trials
        allowance = limits.allowance
        first = self._first(template, sampler)
        start = self._start(name)
        whole = range(first.known.start, first.known.stop + (start.trials if start else 0))
        if "pruner" in implied and pruner.name == "rungs" and not self._document.fault_count:
            every = math.lcm(*numbers_of(template["trainer"].get("check_val_every_n_epoch", 1)))
            validations = epochs_of(template["trainer"])[0] // every
            pruner = Component(default_pruner(sampler.name, template, validations, allowance, len(whole)))
        if sampler.name == "grid":
            trials = self._trials_of_grid(template, trials, "trials" in budget or not allowance, is_past)
        rungs, is_valid = None, not self._document.fault_count
        if asks_for_rungs or (pruner.name == "rungs" and is_valid):
            rungs = read_rungs(
                pruner.arguments,
                template,
                dataclasses.replace(limits, trials=trials) if is_valid else None,
                list(whole),
                lambda key, message: self._fault(("pruner", key), message),
            )
        return self._checked(
            goals,
            "trials" in budget,
            is_past,
            LENGTHS,
            name=name,
            trials=trials,
            timeout=timeout,
            sampler=sampler,
            pruner=pruner,
            trial=template,
            allowance=allowance,
            final=limits.final,
            until=budget.get("until", 0.0),
            rungs=rungs,
            implied=implied,
            first=first,
            start=start,
        )

    def _checked(
        self,
        goals: Sequence[Mapping[str, Any]],
        has_trials: bool,
        is_past: bool,
        lengths: Sequence[str],
        *,
        name: str,
        sampler: Component,
        pruner: Component,
        trial: Template,
        **settings: Any,
    ) -> StudyConfig:
        """Read the sections that are the same for all kinds of trials, and return the study.

        Args:
            goals: The settings of each objective.
            has_trials: Whether the budget has a number of trials.
            is_past: Whether the study was run before and is only read.
            lengths: Names of the length of a trial in constraints.
            name: Its name.
            sampler: Its sampler.
            pruner: Its pruner.
            trial: The template of a trial.
            settings: Its other fields.
        """
        constraints = read_constraints(self._document.data.get("constraints"), trial, self._fault, lengths)
        self._document.check()
        objective, *further = (
            Objective(**{**goal, "direction": Direction(goal.get("direction", Objective.direction))}) for goal in goals
        )
        config = StudyConfig(
            name=name,
            objective=objective,
            sampler=sampler,
            pruner=pruner,
            trial=trial,
            identity=self._identity(objective, further, sampler, pruner),
            text=self._document.text,
            values={**self._document.data, "name": name},
            folder=self._folder,
            probe=self._probe,
            constraints=constraints,
            further=tuple(further),
            **settings,
        )
        if constraints and not is_past:
            config = feasible(config, has_trials, self._fault)
            self._document.check()
        return config

    def _limits(self, budget: Mapping[str, Any], template: Template, name: str, is_single: bool) -> Limits:
        """Return how much the study may train; with final runs only if it has a single objective."""
        is_given = self._document.data.get("final") is not None
        values = self._checker.settings(signature_of(Final), self._section("final")) if is_given else {}
        if self._document.fault_count:
            return Limits()
        final = Final(trials=0) if not is_single else Final(**values) if is_given else None
        limits = read_limits(budget, final, template.get("trainer", {}), self._fault)
        if limits.final and not NAME.fullmatch(final_name(name, {})):
            self._fault(("name",), f"{name} is too long: the study of its final runs adds a suffix; shorten it.")
        return limits

    def _first(self, template: Template, sampler: Component) -> FirstTrials:
        """Return the first trials, without those of earlier studies."""
        known = [key for key in ("enqueue", "start") if self._document.data.get(key)]
        priors = [path for path, spec in searched(template) if isinstance(spec, Range) and spec.prior]
        if sampler.name == "grid":
            for key in known:
                self._fault((key,), "remove it: a grid trains its own points.")
        if priors and sampler.name not in PRIOR_SAMPLERS:
            message = f"{sampler.name} makes no random draws, so the prior on {priors[0]} has no effect."
            self._fault(("sampler", "name"), f"{message} Use {listed(PRIOR_SAMPLERS)}.")
        if sampler.name == "grid" or self._document.fault_count:
            return FirstTrials()
        queue = read_queue(self._document.data.get("enqueue") or [], template, self._fault)
        return dataclasses.replace(first_trials(template, self._trial(template), _default), queued=queue)

    def _start(self, name: str) -> Start | None:
        """Return which earlier studies the study starts from; None if it starts from none."""
        if not self._document.data.get("start"):
            return None
        before = self._document.fault_count
        values = self._checker.settings(signature_of(Start), self._section("start"))
        if self._document.fault_count > before:
            return None
        for index, study in enumerate(values["studies"]):
            if study == name:
                self._fault(("start", "studies", index), "is the study itself; name other studies.")
            elif not NAME.fullmatch(study):
                self._fault(("start", "studies", index), f"{shown(study)} is not the name of a study.")
        return Start(**values)

    def _trial(self, template: Template) -> dict[str, Any]:
        """Return `trial` as it is in the file, with the defaults of its optional sections."""
        given = self._document.data["trial"]
        loss = template["loss"] if isinstance(template["loss"], str | None) else given.get("loss")
        if isinstance(loss, str) and isinstance(template["loss"], Mapping | OneOf):
            loss = {"name": loss}
        schedules = {key: {"name": "constant"} for key in SCHEDULE_KEYS}
        return {**schedules, "averaging": NO_AVERAGING, "seed": TrialConfig.seed, **given, "loss": loss}

    def _section(self, name: str) -> Node:
        return self._nodes.get(name, Node({}, (name,)))

    def _name(self, default: str) -> str:
        name = self._nodes["name"].raw if "name" in self._nodes else default
        if not isinstance(name, str) or not NAME.fullmatch(name):
            rule = "Use a-z, 0-9, '.', '_', '-', at most 64 characters, starting with a letter or digit."
            origin = "" if "name" in self._nodes else ", the name of the file,"
            self._fault(("name",), f"{shown(name)}{origin} is not a valid name. {rule}")
        return str(name)

    def _timeout(self, timeout: Any) -> float | None:
        if isinstance(timeout, bool) or not isinstance(timeout, str | int | float):
            return None  # absent, or already reported as an error
        try:
            return parse_duration(timeout)
        except ValueError as error:
            self._fault(("budget", "timeout"), f"{error}.")
            return None

    def _is_named(self, kind: str) -> bool:
        """Return whether the document names its sampler or pruner."""
        section = self._document.data.get(kind)
        return isinstance(section, Mapping) and "name" in section

    def _option(self, kind: str, known: Mapping[str, Mapping[str, Any]], defaults: Sequence[str]) -> Component:
        """Read the name and the options of a sampler or pruner.

        Args:
            kind: "sampler" or "pruner".
            known: The options of each.
            defaults: The defaults if the document does not name one: the first with the given options.
        """
        nodes = self._checker.mapping(self._section(kind), FORM_OF_COMPONENT)
        default = next((each for each in defaults if nodes.keys() <= known[each].keys()), defaults[0])
        name = nodes["name"].raw if "name" in nodes else default
        if not isinstance(name, str) or name not in known:
            hint = did_you_mean(name, known) if isinstance(name, str) else ""
            self._fault((kind, "name"), f"unknown {kind} {shown(name)}. Known: {listed(known)}.{hint}")
            return Component(default)
        signature = Signature({key: Argument(hint, required=False) for key, hint in known[name].items()})
        given = {key: node for key, node in nodes.items() if key != "name"}
        return Component(name, self._checker.arguments(signature, given, (kind,), name))

    def _check_together(self, sampler: Component, pruner: Component) -> None:
        options = sampler.arguments
        if options.get("group") and options.get("multivariate") is False:
            self._fault(("sampler", "group"), "needs multivariate: true.")
        lowest, highest = (pruner.arguments.get(key) for key in ("min_resource", "max_resource"))
        if isinstance(lowest, int) and isinstance(highest, int) and lowest > highest:
            self._fault(("pruner", "min_resource"), f"{lowest} must not be above max_resource ({highest}).")

    def _implied(self) -> frozenset[str]:
        """Return which of sampler and pruner the document does not name."""
        return frozenset(kind for kind in ("sampler", "pruner") if not self._is_named(kind))

    def _trials_of_grid(self, template: Template, trials: int, are_given: bool, is_past: bool) -> int:
        """Return the number of trials of a grid: by default at most its points; report a larger given number."""
        size = self._grid_size(template)
        if not are_given:
            return min(trials, size)
        if size and not is_past and size < trials:
            self._fault(("budget", "trials"), f"must not be above the {size} points of the grid (got {trials}).")
        return trials

    def _grid_size(self, template: Template) -> int:
        """Return the number of points of the grid, and refuse one that is endless or too large."""
        endless = [path for path, spec in searched(template) if isinstance(spec, Range) and spec.step is None]
        for path in endless:
            self._fault(("sampler",), f"grid needs step or choices for every parameter; {path} has neither.")
        size = 0 if self._document.faults else grid_size(template)
        if size > MAX_GRID:
            self._fault(("sampler",), f"the grid has {size} points; the limit is {MAX_GRID}.")
            return 0
        return size

    def _identity(
        self, objective: Objective, further: Sequence[Objective], sampler: Component, pruner: Component
    ) -> dict[str, Any]:
        """Return the values that must not change when the study is continued, by their dotted paths."""
        parts = {key: self._document.data[key] for key in ("trial", "search_space") if key in self._document.data}
        parts |= {key: self._document.data[key] for key in KNOWN if self._document.data.get(key)}
        parts["objective"] = dataclasses.asdict(objective)
        if objective.epoch == Objective.epoch:
            del parts["objective"]["epoch"]
        if further:
            parts["objective"] |= {
                "further": [each.metric for each in further],
                "further directions": [each.direction.value for each in further],
            }
        parts["sampler"] = {"name": sampler.name, **sampler.arguments}
        parts["pruner"] = {"name": pruner.name, **pruner.arguments}
        return dict(flatten(parts))


def _default(place: str, name: str, key: str) -> Any:
    """Return the default value of an argument, as a study file could say it.

    Args:
        place: Path of its component in `trial`.
        name: Name of the component; empty for the trainer.
        key: The argument.

    Raises:
        KeyError: If it has none.
    """
    if place == "trainer":
        argument = signature_of(TrainerConfig).arguments[key]
        is_given = key not in ("max_epochs", "max_steps", "val_check_interval")
    elif is_of_trial(place) and registry.WHOLE.get(name) == key:
        return "100%"
    elif not name:  # a section of trial, or a key in a mapping that is an argument
        raise KeyError(key)
    else:
        kind = "callback" if place.startswith("trainer.callbacks") else place
        argument = registry.arguments_of(kind if kind in registry.KINDS else "schedule", name).arguments[key]
        is_given = not argument.required and isinstance(argument.default, str | int | float | None | list | tuple)
    if not is_given:
        raise KeyError(key)
    return argument.default
