"""Constraints between the values of a trial, such as ``schedule.steps < 0.2 * steps``.

Python's parser reads an expression, a list of allowed parts checks it, and simpleeval evaluates it, as for the formula
of a schedule: it cannot run anything.
"""

import ast
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from simpleeval import SimpleEval

from lightning_modules.schedules.formula import FUNCTIONS, OPERATORS
from tuner.text import shown

__all__ = ["LENGTHS", "Constraint", "RandomSuggester", "paths_of"]

LENGTHS = ("steps", "epochs")
"""Names of the length of a run in expressions."""

LONGEST = 1000
GRAMMAR = (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Call, ast.Constant)


class _MissingError(Exception):
    """A trial has no value for a path."""


@dataclass(frozen=True)
class Constraint:
    """A condition on the values of a trial.

    Args:
        text: The expression: dotted paths in a trial, numbers, quoted texts, ``steps`` and ``epochs`` for the length
            of the run, ``+ - * / // % **``, comparisons, ``and``, ``or``, ``not``, ``a if b else c``, and the functions
            of a schedule's formula. Lengths of schedules are in steps.

    >>> constraint = Constraint("schedule.steps < 0.2 * steps")
    >>> constraint.holds({"schedule": {"steps": 5}}, {"steps": 100}), constraint.holds({"schedule": {}}, {"steps": 100})
    (True, True)
    """

    text: str

    @cached_property
    def paths(self) -> frozenset[str]:
        """Return the dotted paths in it, including the names of the length.

        Raises:
            ValueError: If it is not such an expression.
        """
        return frozenset(_parsed(self.text)[1].values())

    @property
    def needs_length(self) -> bool:
        """Return whether it depends on the length of the run."""
        return not self.paths.isdisjoint(LENGTHS)

    def holds(self, values: Mapping[str, Any], lengths: Mapping[str, float]) -> bool:
        """Return whether it holds. It does for a trial that lacks one of its paths.

        Args:
            values: The nested values of the trial.
            lengths: The length of the run, by the names in `LENGTHS`.

        Raises:
            ValueError: If it cannot be evaluated with the values.
        """
        tree, names = _parsed(self.text)
        try:
            known = {name: lengths[path] if path in lengths else _value(values, path) for name, path in names.items()}
        except _MissingError:
            return True
        try:
            return bool(SimpleEval(operators=OPERATORS, functions=FUNCTIONS, names=known).eval(self.text, tree))
        except Exception as error:  # an operator fails for the types or sizes of the values
            given = ", ".join(f"{names[name]}={value!r}" for name, value in known.items())
            raise ValueError(f"cannot be evaluated{' with ' if given else ''}{given}: {error}") from error


class RandomSuggester:
    """Suggests values that are given, and draws the others uniformly.

    Args:
        generator: Draws them.
        given: Values by their names in Optuna.
    """

    def __init__(self, generator: random.Random, given: Mapping[str, Any]) -> None:
        self._generator, self._given = generator, given

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Return a whole number."""
        if name in self._given:
            return int(self._given[name])
        if log:
            return min(high, max(low, round(self._log(low, high))))
        return self._generator.randrange(low, high + 1, step)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Return a number."""
        if name in self._given:
            return float(self._given[name])
        if step:
            return low + step * self._generator.randint(0, round((high - low) / step))
        return self._log(low, high) if log else self._generator.uniform(low, high)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of the choices."""
        return self._given[name] if name in self._given else self._generator.choice(choices)

    def _log(self, low: float, high: float) -> float:
        return min(high, max(low, math.exp(self._generator.uniform(math.log(low), math.log(high)))))


def _value(values: Mapping[str, Any], path: str) -> Any:
    """Return the value at a path.

    Raises:
        _MissingError: If there is none.
    """
    here: Any = values
    for part in path.split("."):
        if isinstance(here, Mapping) and part in here:
            here = here[part]
        elif isinstance(here, list | tuple) and part.isdecimal() and int(part) < len(here):
            here = here[int(part)]
        else:
            raise _MissingError(path)
    return here


def paths_of(values: Any, path: str = "") -> Iterator[str]:
    """Yield the dotted path of every value in nested mappings and lists.

    >>> list(paths_of({"a": {"b": 1, "c": [2, 3]}}))
    ['a.b', 'a.c.0', 'a.c.1']
    """
    inner = values.items() if isinstance(values, Mapping) else enumerate(values) if isinstance(values, list) else None
    if inner is None:
        yield path
    for key, value in inner or ():
        yield from paths_of(value, f"{path}.{key}" if path else str(key))


@lru_cache
def _parsed(text: str) -> tuple[ast.expr, Mapping[str, str]]:
    """Return the tree of an expression, whose paths are replaced by names, and the path of each name.

    Raises:
        ValueError: If it is not an expression of the allowed parts.
    """
    if len(text) > LONGEST:
        raise ValueError(f"must have at most {LONGEST} characters (got {len(text)}).")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"is not an expression: {error.msg} (got {shown(text)}).") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"is not an expression: {error}.") from error
    reader = _Reader()
    tree = reader.visit(tree)
    if not isinstance(tree, ast.Compare | ast.BoolOp) and not (
        isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.Not)
    ):
        raise ValueError("must be a condition, such as schedule.steps < 0.2 * steps.")
    return tree, reader.names


class _Reader(ast.NodeTransformer):
    """Replaces dotted paths by names, and rejects what an expression must not contain."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}

    def visit(self, node: ast.AST) -> Any:
        """Return a node with names in place of paths."""
        if isinstance(node, ast.Name | ast.Attribute | ast.Subscript):
            path = _path(node)
            name = f"value_{len(self.names)}"
            self.names[name] = path
            return ast.copy_location(ast.Name(name, ast.Load()), node)
        allowed = isinstance(node, ast.expr_context | ast.boolop)
        if isinstance(node, ast.Call):
            allowed = isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS and not node.keywords
            if allowed:
                node.args = [self.visit(argument) for argument in node.args]
                return node
        elif isinstance(node, ast.Constant):
            allowed = type(node.value) in (int, float, str, bool)
        elif isinstance(node, ast.operator | ast.unaryop | ast.cmpop):
            allowed = type(node) in OPERATORS
        elif isinstance(node, ast.expr):
            allowed = isinstance(node, GRAMMAR)
        if not allowed:
            part = ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__
            known = ", ".join(["dotted paths in trial", *LENGTHS, *FUNCTIONS])
            raise ValueError(f"contains {part}, which is not allowed in a constraint; allowed: {known}.")
        return self.generic_visit(node)


def _path(node: ast.expr) -> str:
    """Return a path that is written as names, attributes and indices, such as ``model.channels[0]``."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=inner, attr=name):
            return f"{_path(inner)}.{name}"
        case ast.Subscript(value=inner, slice=ast.Constant(value=int() as index)):
            return f"{_path(inner)}.{index}"
    raise ValueError(f"contains {ast.unparse(node)}, which is not a dotted path in trial.")
