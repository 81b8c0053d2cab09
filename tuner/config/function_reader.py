"""Reads a study of an objective function from a document, and reports the errors in all its sections."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from tuner.config.budget import Million
from tuner.config.checker import listed
from tuner.config.component import Component
from tuner.config.document import Document, Keys, Node
from tuner.config.first_trials import FirstTrials
from tuner.config.function_trial import FUNCTIONS, SEED
from tuner.config.given_values import Given, Misfit, given_values
from tuner.config.known_values import SHIPPED
from tuner.config.loss_checker import as_component
from tuner.config.objectives import check_several
from tuner.config.placement import place
from tuner.config.registry import FUNCTION, signature_of
from tuner.config.sampler_options import PRUNERS, SAMPLERS
from tuner.config.search_space import OneOf, Template, is_spec
from tuner.config.spec_reader import MAX_CHOICES
from tuner.config.study import Objective, StudyConfig
from tuner.config.study_reader import SECTIONS, StudyReader
from tuner.config.trial import PARTS, Seed
from tuner.text import shown

__all__ = ["FunctionStudyReader", "refuse_misplaced_function"]

FORMS = "{low: ..., high: ...}, {choices: [...]} or {one_of: {name: {argument: range or value}, ...}}"
PLAIN = "a number, text, true, false, null, or a list of these"
OF_TRAININGS = {
    "sampler": {"curve": "reads the lr curves of training runs, which an objective function does not have"},
    "pruner": {
        "predicted": "reads the loss curves of training runs, which an objective function does not have",
        "rungs": "interrupts training runs and continues some of them later, which is not possible with a function",
    },
}
"""The samplers and pruners that need training runs, and why."""


@dataclasses.dataclass(frozen=True)
class _Goal:
    """The section ``objective`` of an objective function."""

    metric: str = "value"
    direction: Any = None


@dataclasses.dataclass(frozen=True)
class _Calls:
    """The section ``budget`` of an objective function."""

    trials: Million = 0
    timeout: str | int | float | None = None


def refuse_misplaced_function(document: Document) -> None:
    """Reject an ``objective_function`` outside ``trial``, or misspelt.

    All else in the file would be checked as a study of training runs, whose errors would hide this one.

    Raises:
        BadInputError: If there is one.
    """
    before = document.fault_count
    sections: list[tuple[Keys, Any]] = [
        ((key,), section) for key, section in document.data.items() if isinstance(section, Mapping)
    ]
    for path, section in [((), document.data), *sections]:
        for key in section:
            word = str(key).lower().replace("-", "_")
            if word != "function" and not difflib.get_close_matches(word, [FUNCTION], cutoff=0.78):
                continue
            if path == ("trial",):
                document.fault((*path, key), f"unknown key. Did you mean {FUNCTION}?")
            else:
                value = section[key] if isinstance(section[key], str) else "..."
                document.fault((*path, key), f'unknown key. Write trial: {{{FUNCTION}: "{value}"}}.')
    if document.fault_count > before:
        document.check()


class FunctionStudyReader(StudyReader):
    """Builds a study of an objective function from a document."""

    def study(self, default_name: str, is_past: bool) -> StudyConfig:
        """Return the study.

        Raises:
            BadInputError: With every error in the document.
        """
        self._checker.keys(self._nodes, SECTIONS)
        name = self._name(default_name)
        goals = self._goals(is_past)
        reason = "is the length of training runs, and a function has none."
        refused = {"epochs": reason, "steps": reason, "until": "needs the sampler curve, which reads lr curves."}
        budget = self._checker.settings(signature_of(_Calls), self._section("budget"), refused)
        timeout = self._timeout(budget.get("timeout"))
        sampler = self._chosen("sampler", SAMPLERS, "tpe")
        pruner = self._chosen("pruner", PRUNERS, "median" if len(goals) == 1 else "none")
        if pruner.name == "hyperband" and "max_resource" not in pruner.arguments:
            self._fault(("pruner", "max_resource"), "required: the last step that the function reports.")
        template = self._function_template()
        check_several(goals, sampler.name, pruner.name, budget, self._document.data.get("final"), self._fault)
        self._check_together(sampler, pruner)
        if self._document.data.get("contenders"):
            self._fault(("contenders",), "remove it: a league compares training runs, not calls of a function.")
        limits = self._limits(budget, template, name, len(goals) == 1)
        trials = limits.trials
        if sampler.name == "grid":
            trials = self._trials_of_grid(template, trials, "trials" in budget, is_past)
        return self._checked(
            goals,
            "trials" in budget,
            is_past,
            (),
            name=name,
            trials=trials,
            timeout=timeout,
            sampler=sampler,
            pruner=pruner,
            trial=template,
            final=limits.final,
            first=self._first(template, sampler),
            start=self._start(name),
            implied=self._implied(),
            kind=FUNCTIONS,
        )

    def _goals(self, is_past: bool) -> list[dict[str, Any]]:
        """Return the settings of each objective; there is at least one."""
        section = self._section("objective")
        is_list = isinstance(section.value, list)
        nodes: Sequence[Node] = section.value if is_list else [section]
        if is_list and len(nodes) < 2:
            self._fault(section.path, f"a list needs two or more objectives (got {len(nodes)}).")
        refused = {"epoch": "remove it: the value that counts is what the function returns."}
        goals: list[dict[str, Any]] = []
        for node in nodes:
            goal = self._checker.settings(signature_of(_Goal), node, refused)
            path: Keys = node.path
            metric = goal.setdefault("metric", _Goal.metric)
            if any(metric == other["metric"] for other in goals):
                self._fault((*path, "metric"), f"{metric} is already an objective.")
            if "direction" in goal:
                self._checker.value(signature_of(Objective).hint("direction"), node.value["direction"])
            elif not is_past:
                self._fault((*path, "direction"), "required: minimize or maximize what the function returns.")
            goals.append(goal)
        return goals or [{"metric": _Goal.metric}]

    def _chosen(self, kind: str, known: Mapping[str, Mapping[str, Any]], default: str) -> Component:
        """Read the name and the options of a sampler or pruner, and reject any that needs training runs."""
        chosen = self._option(kind, known, (default,))
        if reason := OF_TRAININGS[kind].get(chosen.name):
            possible = listed(known.keys() - OF_TRAININGS[kind].keys())
            self._fault((kind, "name"), f"{chosen.name} {reason}. Known: {possible}.")
        return chosen

    # -- the values of a trial -----------------------------------------------------------------------------------------

    def _function_template(self) -> Template:
        """Return the template of a trial: the function, its values, and the seed."""
        given = self._checker.mapping(self._section("trial"))
        space = self._checker.mapping(self._section("search_space"))
        parts = {FUNCTION: as_component(given[FUNCTION]), SEED: given.get(SEED, Node(0, ("trial", SEED)))}
        trial = Node(dict(parts), ("trial",))
        place(self._document, trial, {key: node for key, node in space.items() if key.partition(".")[0] in parts})
        template = {FUNCTION: self._checker.component(FUNCTION, trial.value[FUNCTION])}
        for name, node in {**space, **given}.items():
            if name.partition(".")[0] in parts:
                continue
            if not name.isidentifier():
                rule = "a name has only letters, digits and _, and does not begin with a digit, such as lr"
                self._fault(node.path, f"{rule} (got {shown(name)}).")
            elif name in given:
                template[name] = self._fixed(name, given[name])
            if name in space:
                template[name] = self._searched(space[name])
        template[SEED] = self._checker.value(Seed, trial.value[SEED])
        return template

    def _fixed(self, name: str, node: Node) -> Any:
        """Return a value that is not searched."""
        items = node.raw if isinstance(node.value, list) else [node.raw]
        if isinstance(node.raw, dict) and name in PARTS:
            self._fault(node.path, f"remove it: {FUNCTION} is the whole trial, and builds its own {name}.")
        elif is_spec(node.raw):
            self._fault(node.path, "a range belongs in search_space.")
        elif any(isinstance(item, dict | list) for item in items):
            self._fault(node.path, f"must be {PLAIN} (got {shown(node.raw)}).")
        return node.raw

    def _searched(self, node: Node) -> Template:
        """Return a value that is searched."""
        if isinstance(node.value, list):  # short for {choices: [...]}
            node = Node({"choices": Node(node.value, (*node.path, "choices"))}, node.path)
        raw = node.raw
        if is_spec(raw):
            return self._checker.value(Any, node)
        options = raw.get("one_of") if isinstance(raw, dict) and raw.keys() == {"one_of"} else None
        if not isinstance(options, dict):
            advice = "" if isinstance(raw, dict) else "; a fixed value belongs in trial"
            if isinstance(options, list):
                advice = "; a list of values is {choices: [...]}"
            self._fault(node.path, f"must be {FORMS} (got {shown(raw)}){advice}.")
            return None
        if not 2 <= len(options) <= MAX_CHOICES:
            self._fault((*node.path, "one_of"), f"needs 2 to {MAX_CHOICES} choices (got {len(options)}).")
        return OneOf({name: self._choice(each) for name, each in node.value["one_of"].value.items()})

    def _choice(self, node: Node) -> dict[str, Any]:
        """Return the arguments of a choice."""
        if node.path[-1] and "." in str(node.path[-1]):
            self._fault(node.path, "the name of a choice must not contain a dot.")
        nodes = {} if node.value is None else self._checker.mapping(node, " of arguments")
        values = {}
        for name, each in nodes.items():
            if name == "name" or not name.isidentifier():
                self._fault(each.path, f"an argument's name has only letters, digits and _ (got {shown(name)}).")
            values[name] = self._checker.value(Any, each) if is_spec(each.raw) else self._fixed("", each)
        return values

    # -- the first trials ----------------------------------------------------------------------------------------------

    def _first(self, template: Template, sampler: Component) -> FirstTrials:
        """Return the first trials; the very first one has the searched values that are in `trial`, however few."""
        first = super()._first(template, sampler)
        if first.baseline is not None or self._document.fault_count or sampler.name == "grid":
            return first
        given, space = self._document.data["trial"], self._document.data.get("search_space") or {}
        values = {name: value for name, value in given.items() if name in space}
        found = list(given_values(template, values))
        if any(isinstance(each, Misfit) and not each.is_missing for each in found):
            return first
        params = {each.name: each.value for each in found if isinstance(each, Given)}
        return dataclasses.replace(first, queued=[*([params] if params else []), *first.queued], outside="")

    def _trial(self, template: Template) -> dict[str, Any]:
        """Return `trial` as it is in the document, with the default seed."""
        given = self._document.data["trial"]
        function = given[FUNCTION]
        return {SEED: 0, **given, FUNCTION: {"name": function} if isinstance(function, str) else function}

    def _start(self, name: str) -> Any:
        """Return which earlier studies the study starts from; None if it starts from none."""
        start = super()._start(name)
        if start and SHIPPED in start.studies:
            self._fault(("start", "studies"), f"{SHIPPED} is for schedules and optimizers; name a study.")
        return start
