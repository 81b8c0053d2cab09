"""Checks the parts of a study file against the signatures of the classes that they configure.

The file is first turned into nodes: values with their paths. The entries of `search_space` replace values of `trial`
(see `tuner.config.placement`), and the tree is then checked against the signatures of the named classes. The result is
a template (see `tuner.config.search_space`); every error is recorded in the document.
"""

import contextlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from pytorch_lightning.callbacks import EarlyStopping

from lightning_modules import Plateau
from lightning_modules.schedules.formula import parse_formula
from lightning_modules.tasks import RISING, logged_metrics
from tuner.config import registry
from tuner.config.annotations import check_value, did_you_mean, item_hint, members, parse_length, takes_steps
from tuner.config.component import rehearse
from tuner.config.document import Document, Keys, Node, Nodes
from tuner.config.lengths import WITH_LENGTHS, Length, relative_lengths, resolve
from tuner.config.registry import Signature, is_schedule
from tuner.config.search_space import (
    Choices,
    OneOf,
    Range,
    Template,
    component_names,
    corners,
    is_spec,
    searched,
)
from tuner.config.spec_reader import MAX_CHOICES, parse_spec
from tuner.config.user_code import contained
from tuner.errors import place_of, reason_of
from tuner.text import format_value, shown

__all__ = ["FORM_OF_COMPONENT", "FORM_OF_ONE_OF", "FORM_OF_SPEC", "Checker", "alternatives", "listed", "mode_fault"]

MAX_TRIED_STEPS = 100_000
FORM_OF_COMPONENT = ", {name: ..., argument: value, ...}"

FORM_OF_SPEC = "{low: ..., high: ...} or {choices: [...]}"
FORM_OF_ONE_OF = "{one_of: {name: {argument: range or value}, ...}}"


def listed(names: Iterable[str]) -> str:
    """Return sorted names for a message."""
    return ", ".join(sorted(names))


class Checker:
    """Checks parts of a document and returns their templates, which are valid only if the document has no faults.

    Args:
        document: The document, which records the faults.
        lengths: Returns the possible lengths of runs; its argument is whether unknown lengths are an error.
    """

    def __init__(self, document: Document, lengths: Callable[[bool], Sequence[Length]] = lambda needed: ()) -> None:
        self._fault = document.fault
        self._document = document
        self._lengths = lengths
        self._looked_at: set[Keys] = set()
        self.metrics: Sequence[str] | None = logged_metrics("classification")
        """The metrics that can be monitored; None for any, since a user's LightningModule can log any."""

    def mapping(self, node: Node, form: str = "") -> dict[str, Node]:
        """Return the entries of a mapping; if it is something else, report it and return none."""
        if isinstance(node.value, dict):
            return node.value
        is_name = form == FORM_OF_COMPONENT and isinstance(node.value, str) and node.value.isidentifier()
        advice = f": write {{name: {node.value}}}" if is_name else ""
        self._fault(node.path, f"must be a mapping{form} (got {shown(node.raw)}){advice}.", spoils=True)
        return {}

    def keys(self, nodes: Nodes, known: Collection[str], elsewhere: Mapping[str, str] = MappingProxyType({})) -> None:
        """Reject unknown keys.

        Args:
            nodes: The values by their keys.
            known: The known keys.
            elsewhere: Keys that are known elsewhere, and where.
        """
        for key, node in nodes.items():
            if key not in known:
                advice = f" {elsewhere[key]}" if key in elsewhere else alternatives(key, known)
                self._fault(node.path, f"unknown key.{advice}")

    def settings(self, signature: Signature, node: Node, refused: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Check a section of fixed keys.

        Args:
            signature: The known keys.
            node: The section.
            refused: Other keys that a user might try, and why they are rejected.
        """
        nodes = self.mapping(node)
        for key, reason in (refused or {}).items():
            if key in nodes:
                self._fault(nodes[key].path, f"{reason} Known: {listed(signature.arguments)}.")
        self.keys({key: each for key, each in nodes.items() if key not in (refused or {})}, signature.arguments)
        return self.arguments(signature, {key: nodes[key] for key in nodes if key in signature.arguments}, node.path)

    def arguments(self, signature: Signature, nodes: Nodes, path: Keys, owner: str = "") -> dict[str, Any]:
        """Check arguments, and report missing ones.

        Args:
            signature: The known arguments.
            nodes: The given ones.
            path: Path of their mapping.
            owner: Name of their class, for messages.
        """
        values = self._given(signature, nodes, owner)
        for key, argument in signature.arguments.items():
            if argument.required and key not in nodes:
                option = f"write --set {'.'.join(map(str, (*path[1:], key)))}=VALUE"
                place = "give it here or in search_space" if self._document.is_file else option
                self._fault((*path, key), f"required by {owner}: {place}." if owner else "required.")
        return values

    def _given(self, signature: Signature, nodes: Nodes, owner: str) -> dict[str, Any]:
        values, known = {}, signature.arguments
        for key, node in nodes.items():
            if key in known:
                values[key] = self.value(known[key].hint, node)
            elif signature.open and key.isidentifier():
                values[key] = self.value(signature.others, node)
            else:
                self._fault(node.path, f"{owner} has no argument {key}.{alternatives(key, known)}")
        return values

    # -- named components ----------------------------------------------------------------------------------------------

    def component(self, kind: str, node: Node, hint: Any = None) -> Template:
        """Check ``{name: ..., argument: ...}``, or a choice of several.

        Args:
            kind: A key of `registry.KINDS`.
            node: The component.
            hint: Its required type, if it is an argument of another component.
        """
        has_choice = node.searched and isinstance(node.value, dict) and "one_of" in node.value
        if has_choice or node.base is not None:
            return self._one_of(kind, node, hint)
        return self._named(kind, self.mapping(node, FORM_OF_COMPONENT), node.path, hint)

    def _named(self, kind: str, nodes: Nodes, path: Keys, hint: Any) -> dict[str, Any]:
        name, signature = self._name(kind, nodes, path, hint)
        if signature is None:
            return {}
        if kind == "schedule" and hint is None and (whole := registry.WHOLE.get(name)):  # not within another schedule
            nodes = {whole: Node("100%", (*path, whole)), **nodes}
        before = self._document.fault_count
        if kind == "schedule" and name == "lambda":
            self._formula({key: node for key, node in nodes.items() if key != "name"})
        values = self.arguments(signature, self._without_name(kind, nodes), path, name)
        if self._document.fault_count == before:
            self._rehearse(kind, {"name": name, **values}, nodes, path, whole=hint is None)
        return {"name": name, **values}

    def _name(self, kind: str, nodes: Nodes, path: Keys, hint: Any) -> tuple[str, Signature | None]:
        """Return the name of a component and, if it is valid, its signature."""
        if "name" not in nodes:
            self._fault((*path, "name"), f"required. Known: {listed(registry.KINDS[kind])}, or package.module:Name.")
            return "", None
        name, path = nodes["name"].value, nodes["name"].path
        if not isinstance(name, str):
            advice = "; to search among several, use one_of" if nodes["name"].searched else ""
            self._fault(path, f"must be a name (got {shown(nodes['name'].raw)}){advice}.")
            return "", None
        try:
            signature, target = registry.arguments_of(kind, name), registry.resolve(kind, name)
        except ValueError as error:
            self._fault(path, str(error))
            return name, None
        wanted = tuple(each for each in members(hint) if is_schedule(each))
        if wanted and isinstance(target, type) and not issubclass(target, wanted):
            self._fault(path, f"{name} cannot be used inside another schedule.")
            return name, None
        return name, signature

    def _without_name(self, kind: str, nodes: Nodes) -> Nodes:
        """Return the arguments of a component."""
        if kind == "data" and "seed" in nodes:
            self._fault(nodes["seed"].path, "remove it: the only seed of a trial is trial.seed.")
            return {key: node for key, node in nodes.items() if key not in ("name", "seed")}
        return {key: node for key, node in nodes.items() if key != "name"}

    def overrides(self, kind: str, names: Iterable[str], node: Node) -> dict[str, Any]:
        """Check arguments that override a component's, for each name that it can have.

        Args:
            kind: A key of `registry.KINDS`.
            names: The names that the component can have.
            node: The arguments.
        """
        nodes, values = self.mapping(node, " of arguments"), {}
        if "name" in nodes:
            self._fault(nodes["name"].path, f"remove it: the {kind} comes from the trial.")
            return {}
        for name in names:
            with contextlib.suppress(ValueError):  # the check of the component reports an unknown name
                values = self._given(registry.arguments_of(kind, name), nodes, name)
        return values

    def _one_of(self, kind: str, node: Node, hint: Any) -> OneOf | None:
        nodes = node.value if isinstance(node.value, dict) else {}
        if nodes.keys() != {"one_of"} or not isinstance(nodes["one_of"].value, dict):
            options, advice = nodes["one_of"].raw if nodes.keys() == {"one_of"} else None, ""
            if isinstance(options, list) and all(isinstance(each, str) for each in options):
                advice = f": write {{one_of: {{{', '.join(f'{each}: {{}}' for each in options)}}}}}"
            self._fault(node.path, f"to search a whole {kind}, write {FORM_OF_ONE_OF} (got {shown(node.raw)}){advice}.")
            return None
        choices = nodes["one_of"]
        if not 2 <= len(choices.value) <= MAX_CHOICES:
            self._fault(choices.path, f"needs 2 to {MAX_CHOICES} choices (got {len(choices.value)}).")
        base = self._base(kind, node.base, hint)
        options = {name: self._option(kind, name, choice, base, hint) for name, choice in choices.value.items()}
        return OneOf(options)

    def _base(self, kind: str, base: Node | None, hint: Any) -> Nodes:
        """Check the component in `trial` that a choice replaces; it need not be complete."""
        nodes = {} if base is None else self.mapping(base, FORM_OF_COMPONENT)
        if base is not None and nodes:
            name, signature = self._name(kind, nodes, base.path, hint)
            if signature is not None:
                self._given(signature, self._without_name(kind, nodes), name)
        return nodes

    def _option(self, kind: str, name: str, choice: Node, base: Nodes, hint: Any) -> dict[str, Any]:
        nodes = {} if choice.value is None else self.mapping(choice, " of arguments")
        if "name" in nodes:
            self._fault(nodes["name"].path, "remove it: the name of a choice is its key.")
        if "name" in base and base["name"].value == name:  # values of trial apply unless the choice has its own
            nodes = {**base, **nodes}
        values = self._named(kind, {**nodes, "name": Node(name, choice.path)}, choice.path, hint)
        return {key: value for key, value in values.items() if key != "name"}

    def _formula(self, nodes: Nodes) -> None:
        """Check a formula on its own: it is tried only if its arguments and the length of the run are valid."""
        text = nodes["function"].value if "function" in nodes else None
        if isinstance(text, str) and ":" not in text:
            try:
                parse_formula(text, tuple(key for key in nodes if key != "function"))
            except ValueError as error:
                key = str(error).partition(" must be ")[0]
                self._fault(nodes.get(key, nodes["function"]).path, _sentence(str(error)))

    def _rehearse(self, kind: str, template: Template, nodes: Nodes, path: Keys, whole: bool) -> None:
        """Build a component at the extremes of its ranges, to report values that break a rule.

        Args:
            kind: A key of `registry.KINDS`.
            template: The component.
            nodes: Its arguments.
            path: Its path.
            whole: Whether it is not an argument of another component.
        """
        reported = set()
        replaced = {key: node.base for key, node in nodes.items() if node.base is not None}
        cases = [(values, nodes) for values in corners(template)]
        if replaced and not any(base.searched for base in replaced.values()):  # `trial` as it is written
            as_written = {key: base.raw for key, base in replaced.items()}
            cases.append(({**cases[0][0], **as_written}, {**nodes, **replaced}))
        for values, places, steps in self._rehearsals(kind, cases, whole):
            message = _try(kind, values, steps, self.metrics)
            if message is None:
                continue
            named = re.search(r"got (\w+)=|^(\w+)(?:=| must)", message)
            key = named[named.lastindex or 0] if named else ""
            if key not in nodes:
                rehearsals = self._rehearsals(kind, cases, whole)
                if any(_try(kind, others, at, self.metrics) is None for others, _, at in rehearsals):
                    tried = [each for each in values if next(searched({each: template.get(each)}), None)]
                    with_values = ", ".join(f"{each} {format_value(values[each])}" for each in tried)
                    message = f"{message.removesuffix('.')} (tried with {with_values})."
                self._fault(path, message)
                return
            if key not in reported:
                reported.add(key)
                self._fault(places[key].path, message)

    def _rehearsals(
        self, kind: str, cases: Sequence[tuple[Mapping[str, Any], Nodes]], whole: bool
    ) -> Iterator[tuple[Mapping[str, Any], Nodes, Sequence[int]]]:
        """Yield values with lengths in steps, for each possible length of a run, and the steps to try."""
        for values, places in cases:
            relative = kind in WITH_LENGTHS and bool(relative_lengths(values, kind, kind))
            free = kind == "schedule" and whole and _is_free(values)
            lengths = self._lengths(relative) if relative or free else ()
            if not relative and not lengths:
                yield values, places, (0,)
            for length in lengths:
                steps = length.spread(max(1000, MAX_TRIED_STEPS // len(cases))) if free else (0,)
                yield resolve(values, length, kind) if relative else values, places, steps

    # -- values --------------------------------------------------------------------------------------------------------

    def value(self, hint: Any, node: Node, advice: str = "") -> Template:
        """Check a value, a range or choices for an argument of a type, and the value in `trial` that it replaces.

        Args:
            hint: The type.
            node: The value.
            advice: A sentence to add to the message about a wrong value.
        """
        self._looked_at.add(node.path)
        if node.base is not None and not node.base.searched and not is_schedule(hint):
            self._check(hint, node.base.raw, node.base.path, advice)
        if is_schedule(hint) and not (node.value is None and type(None) in members(hint)):
            return self.component("schedule", node, hint)
        if isinstance(node.value, list):
            return self._list(hint, node)
        raw = node.raw
        if isinstance(raw, dict):
            if node.searched and "one_of" in raw:
                self._fault(node.path, f"one_of is for named components; write {FORM_OF_SPEC}.")
                return None
            if node.searched and (is_spec(raw) or check_value(hint, raw)):
                return self._spec(hint, raw, node.path)
            if is_spec(raw):
                belongs = "search_space" if self._document.is_file else "a study file; write one value"
                self._fault(node.path, f"a range belongs in {belongs}.")
                return None
        self._check(hint, raw, node.path, advice)
        return raw

    def _list(self, hint: Any, node: Node) -> Template:
        before = self._document.fault_count
        values = [self.value(item_hint(hint, index), item) for index, item in enumerate(node.value)]
        is_plain = not is_schedule(item_hint(hint, 0)) and next(searched(values), None) is None
        if is_plain and self._document.fault_count == before:
            self._check(hint, node.raw, node.path)
        return values

    def _spec(self, hint: Any, raw: Mapping[str, Any], path: Keys) -> Range | Choices | None:
        unit = ""
        if takes_steps(hint) and any(isinstance(raw.get(key), str) for key in ("low", "high", "step")):
            raw, unit = self._without_unit(raw, path)
            if not unit:
                return None
        types = members(hint)
        whole = all(isinstance(raw[key], int) for key in ("low", "high", "step") if key in raw)
        is_whole = int in types and float not in types
        integer = (is_whole or (whole and (int in types or Any in types))) and not unit
        spec = parse_spec(raw, integer, lambda inner, message: self._fault((*path, *inner), message))
        if isinstance(spec, Range):
            self._check(hint, spec.low, (*path, "low"))
            self._check(hint, spec.high, (*path, "high"))
            return replace(spec, unit=unit, is_guess=integer and not is_whole and not takes_steps(hint, only=True))
        elif isinstance(spec, Choices):
            for index, value in enumerate(spec.values):
                self._check(hint, value, (*path, "choices", index))
        return spec

    def forms(self, node: Node) -> None:
        """Check the form of ranges and choices whose argument is unknown, so that all errors are reported together."""
        raw = node.raw
        if node.path in self._looked_at:
            return
        if is_spec(raw):
            has_length = any(parse_length(raw.get(key)) for key in ("low", "high", "step"))
            raw, unit = self._without_unit(raw, node.path) if has_length else (raw, "number")
            if unit:
                parse_spec(raw, False, lambda inner, message: self._fault((*node.path, *inner), message))
            return
        inner = node.value.values() if isinstance(node.value, dict) else node.value
        for each in inner if isinstance(node.value, dict | list) else ():
            self.forms(each)

    def _without_unit(self, raw: Mapping[str, Any], path: Keys) -> tuple[Mapping[str, Any], str]:
        """Return a range of lengths as numbers, and their unit; an empty unit, and an error, if the units differ."""
        bounds = [key for key in ("low", "high", "step") if key in raw]
        lengths = [length for length in (parse_length(raw[key]) for key in bounds) if length]
        units = {unit for _, unit in lengths}
        if len(lengths) == len(bounds) and len(units) == 1:
            unit = units.pop()
            numbers: dict[str, Any] = dict(zip(bounds, (number for number, _ in lengths), strict=True))
            if isinstance(prior := raw.get("prior"), dict):
                numbers["prior"] = {key: _in_unit(value, unit) for key, value in prior.items()}
            return {**raw, **numbers}, unit
        form = "{low: 1 epochs, high: 3 epochs} or {low: 10%, high: 50%}"
        self._fault(path, f"low, high and step must be numbers, or lengths in one unit: {form} (got {shown(raw)}).")
        return raw, ""

    def _check(self, hint: Any, value: Any, path: Keys, advice: str = "") -> None:
        if wrong := check_value(hint, value):
            self._fault(path, f"{wrong} {advice}" if advice and not wrong.endswith("?") else wrong)


def _in_unit(value: Any, unit: str) -> Any:
    """Return the number of a length in a unit; anything else unchanged."""
    length = parse_length(value)
    return length[0] if length and length[1] == unit else value


def _is_free(schedule: Mapping[str, Any]) -> bool:
    """Return whether a schedule, or a nested one, can return any factor: a formula, or a class of the user."""
    return any(name == "lambda" or ":" in name for name in component_names(schedule))


def _try(kind: str, values: Mapping[str, Any], steps: Sequence[int], metrics: Sequence[str] | None) -> str | None:
    """Return why a component cannot be built or a schedule fails at a step, as a sentence; None if neither."""
    try:
        with contained():
            made = rehearse(kind, values, steps)
    except Exception as error:  # a user's class can raise anything
        place = "" if isinstance(error, ValueError) else place_of(error)  # a ValueError is about the values
        return f"{reason_of(error).removesuffix('.')}{place}."
    if isinstance(made, Plateau | EarlyStopping) and metrics is not None and made.monitor not in metrics:
        *others, last = metrics
        rule = f"monitor must be {', '.join(others)} or {last}, but got monitor={made.monitor!r}"
        return f"{rule}.{did_you_mean(made.monitor, metrics)}"
    if isinstance(made, Plateau) and metrics is not None:
        return mode_fault(made.monitor, made.mode) or None
    return None


def mode_fault(monitor: str, mode: object) -> str:
    """Return a sentence if a callback or a plateau takes a better value of a known metric for a worse one."""
    rises = monitor.rpartition("/")[2] in RISING
    if mode == ("max" if rises else "min"):
        return ""
    return f"{monitor} is better when it {'rises: write mode: max' if rises else 'falls: write mode: min'}."


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?")) else f"{text}."


def alternatives(key: str, known: Collection[str]) -> str:
    """Return a sentence on the known names, for the message about an unknown one."""
    return did_you_mean(key, known) or (f" Known: {listed(known)}." if known else " There are none.")
