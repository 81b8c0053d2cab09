"""Schedules given by a formula of the step, or by the user's function."""

import ast
import difflib
import importlib
import math
import operator
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

from lightning_modules._validation import of_python, require_to
from lightning_modules.schedules.base import InSteps, Schedule

__all__ = ["FUNCTIONS", "OPERATORS", "Lambda", "parse_formula"]


@dataclass(frozen=True, init=False, repr=False)
class Lambda(Schedule):
    """Any other schedule: a formula, or your own function.

    ``factor(s) = function(s)``, or ``function(s, **arguments)`` with further arguments, which the formula can use by
    name. Steps 0 and 1 are evaluated at construction, so most errors show up before training.

    Args:
        function: A formula of ``step``, or "package.module:name" of a function that takes a step and returns the
            factor. A formula may contain numbers, ``step``, ``pi``, ``+ - * / // % **``, comparisons, ``and``, ``or``,
            ``not``, ``a if b else c`` and the functions abs, ceil, cos, exp, floor, log, max, min, sin, sqrt, tanh. It
            cannot run anything else, so formulas in other people's study files are safe. "package.module:name" is
            imported and called without restrictions.
        arguments: Any other argument by its name: a number, which a study file may give as a length and search.

    Raises:
        ValueError: If `function` is neither; if an argument is not a number, or is not used in the formula; or if the
            result of a call is negative, not finite or not a number.
        ImportError: If it is a formula and simpleeval is not installed.

    Synonyms: torch ``LambdaLR``; Keras ``LearningRateScheduler``.

    >>> schedule = Lambda(function="0.5 ** floor(step / 10) if step < 20 else 0.1")
    >>> [schedule(step) for step in (0, 9, 10, 20)]
    [1.0, 1.0, 0.5, 0.1]
    >>> Lambda(function="max(0, 1 - step / total) ** power", total=10, power=2)(5)
    0.25
    >>> Lambda(function="1 - step / 10")(11)
    Traceback (most recent call last):
    ValueError: the factor must be finite and >= 0, but got -0.10000000000000009 at step=11 from \
Lambda(function='1 - step / 10')
    """

    function: str
    arguments: tuple[tuple[str, float], ...]

    def __init__(self, *, function: str, **arguments: Annotated[int | float, InSteps(only=False)]) -> None:
        object.__setattr__(self, "function", function)
        values = {name: of_python(value) for name, value in sorted(arguments.items())}
        object.__setattr__(self, "arguments", tuple(values.items()))
        self.__post_init__()

    def __repr__(self) -> str:
        given = {"function": self.function, **dict(self.arguments)}
        return f"Lambda({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    def _check(self) -> None:
        require_to(self, "function", isinstance(self.function, str), "be a formula or package.module:name")
        for name, value in self.arguments:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not abs(value) <= sys.float_info.max:
                raise ValueError(f"{name} must be a finite number, but got {name}={value!r}")
        self(0)
        self(1)

    def _factor(self, step: float) -> float:
        arguments = dict(self.arguments)
        factor = _function(self.function, tuple(arguments))(step, **arguments)
        if not hasattr(factor, "__float__"):
            raise ValueError(f"the function must return a number, but got {factor!r} at step={step!r} from {self!r}")
        return float(factor)


# A formula is parsed by Python's parser, checked against this list, and evaluated by simpleeval, which looks up every
# name and operator in the given tables.
_GRAMMAR = (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Call, ast.Name, ast.Constant)
_NAMES = {"pi": math.pi}
FUNCTIONS: dict[str, Callable[..., float]] = {
    "abs": abs,
    "ceil": math.ceil,
    "cos": math.cos,
    "exp": math.exp,
    "floor": math.floor,
    "log": math.log,
    "max": max,
    "min": min,
    "sin": math.sin,
    "sqrt": math.sqrt,
    "tanh": math.tanh,
}
OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: math.pow,  # on floats: 9 ** 9 ** 9 on integers would fill the memory
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_LONGEST_FORMULA = 1000


@lru_cache(maxsize=256)
def _function(text: str, arguments: tuple[str, ...]) -> Callable[..., Any]:
    """Return the function that a text defines as a formula with further arguments, or names."""
    named = re.fullmatch(r"([\w.]+):([\w.]+)", text)
    if named is None:
        return _formula(text, arguments)
    module, name = named.groups()
    try:
        function = importlib.import_module(module)
        for part in name.split("."):
            function = getattr(function, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"function={text!r} cannot be imported as package.module:name: {error}") from error
    if not callable(function):
        raise ValueError(f"function={text!r} must name a function, but it is {function!r}")
    return function


def _formula(text: str, arguments: tuple[str, ...]) -> Callable[..., Any]:
    """Return a formula as a function of the step and of further arguments."""
    tree = parse_formula(text, arguments)
    try:
        simpleeval = importlib.import_module("simpleeval")
    except ImportError as error:
        raise ImportError(f"the formula {text!r} of a Lambda needs simpleeval: pip install simpleeval") from error
    evaluator = simpleeval.SimpleEval(operators=OPERATORS, functions=FUNCTIONS, names=_NAMES, allowed_attrs={})
    lock = threading.Lock()  # the evaluator stores the names of one call at a time

    def evaluate(step: float, **values: float) -> Any:
        with lock:
            evaluator.names = {**_NAMES, **values, "step": step}
            try:
                return evaluator.eval(text, previously_parsed=tree)
            except Exception as error:
                raise ValueError(f"function={text!r} fails at step={step!r}: {error}") from error

    return evaluate


def parse_formula(text: str, arguments: tuple[str, ...]) -> ast.expr:
    """Return the syntax tree of a formula, after checking that every part of it is allowed and every argument used.

    Args:
        text: The formula.
        arguments: Names of its arguments other than ``step``.

    Raises:
        ValueError: If that is not so.
    """
    for name in arguments:
        if name in ("step", *_NAMES, *FUNCTIONS):
            raise ValueError(f"{name} must be renamed, since formulas reserve that name")
    if len(text) > _LONGEST_FORMULA:
        raise ValueError(f"function must have at most {_LONGEST_FORMULA} characters, but has {len(text)}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"function={text!r} is neither a formula of step nor package.module:name: {error}") from error
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if unused := [name for name in arguments if name not in used]:
        raise ValueError(f"{unused[0]} must be used in the formula, but function={text!r} does not use it")
    called = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        allowed = True
        if isinstance(node, ast.Name):
            allowed = node.id in (FUNCTIONS if node in called else {"step", *_NAMES, *arguments})
        elif isinstance(node, ast.Constant):
            allowed = type(node.value) in (int, float)
        elif isinstance(node, ast.Call):
            allowed = isinstance(node.func, ast.Name) and not node.keywords
        elif isinstance(node, ast.operator | ast.unaryop | ast.cmpop):
            allowed = type(node) in OPERATORS
        elif isinstance(node, ast.expr):
            allowed = isinstance(node, _GRAMMAR)
        if not allowed:
            part = ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__
            known = ["step", *arguments, *_NAMES, *FUNCTIONS]
            near = difflib.get_close_matches(part, known, n=1)
            hint = f". Did you mean {near[0]}?" if near and isinstance(node, ast.Name) else ""
            rule = f"which is not allowed in a formula; allowed: {', '.join(known)}{hint}"
            raise ValueError(f"function={text!r} contains {part!r}, {rule}")
    return tree
