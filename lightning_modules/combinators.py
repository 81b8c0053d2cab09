"""Schedules that are made of others, or of a formula; import them from `lightning_modules.schedules`."""

import ast
import importlib
import math
import operator
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from lightning_modules._schedule import Schedule, Steps, has_reached, steps_since
from lightning_modules.checks import require

__all__ = ["HoldThenDecay", "Join", "Lambda", "Scaled", "Warmup", "join", "scaled", "warmup"]


@dataclass(frozen=True, kw_only=True)
class HoldThenDecay(Schedule):
    """The initial lr for a while, and then any schedule.

    1 up to step `hold_steps`, then ``factor(s) = decay(s - hold_steps)``: the step that `decay` sees starts at 0 again.

    Args:
        hold_steps: Steps at the initial lr, at least 0.
        decay: The schedule after them.

    Synonyms: torch ``SequentialLR`` after ``ConstantLR(factor=1)``; in Keras the usual example of a function for the
    ``LearningRateScheduler`` callback.

    >>> from lightning_modules.schedules import StepDecay
    >>> schedule = HoldThenDecay(hold_steps=100, decay=StepDecay(decay_rate=0.5, decay_steps=10))
    >>> [schedule(step) for step in (0, 100, 109, 110, 120)]
    [1.0, 1.0, 1.0, 0.5, 0.25]
    """

    hold_steps: Steps
    decay: Schedule

    def _check(self) -> None:
        require(self, "hold_steps", 0 <= self.hold_steps < math.inf, "hold_steps >= 0")
        require(self, "decay", isinstance(self.decay, Schedule), "a schedule as decay")

    def _factor(self, step: float) -> float:
        if not has_reached(step, self.hold_steps):
            return 1.0
        return self.decay(steps_since(step, self.hold_steps))


@dataclass(frozen=True, kw_only=True)
class Warmup(Schedule):
    """Rise in a straight line to the first value of any schedule, and then that schedule.

    ``factor(s) = schedule(0) * (start + (1 - start) * s / steps)`` before step `steps`, then ``schedule(s - steps)``.
    ``start * schedule(0)`` at step 0, ``schedule(0)`` at step `steps`. The schedule is put off, not cut: a decay of a
    thousand steps after a warmup of a hundred ends at step 1100.

    Args:
        schedule: The schedule after the warmup.
        steps: Steps of the warmup, at least 0.
        start: Share of the schedule's first value that the warmup starts with, between 0 and 1.

    Source: Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017.
    Synonyms: the ``warmup_steps`` of Keras's ``CosineDecay``; torch ``SequentialLR`` after
    ``LinearLR(start_factor=start, total_iters=steps)``; timm ``warmup_t`` with ``warmup_prefix=True``.

    >>> from lightning_modules.schedules import CosineDecay
    >>> schedule = warmup(CosineDecay(decay_steps=100), 10)
    >>> [round(schedule(step), 6) for step in (0, 5, 10, 60, 110)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """

    schedule: Schedule
    steps: Steps
    start: float = 0.0

    def _check(self) -> None:
        require(self, "schedule", isinstance(self.schedule, Schedule), "a schedule as schedule")
        require(self, "steps", 0 <= self.steps < math.inf, "steps >= 0")
        require(self, "start", 0 <= self.start <= 1, "0 <= start <= 1")

    def _factor(self, step: float) -> float:
        if has_reached(step, self.steps):
            return self.schedule(steps_since(step, self.steps))
        return self.schedule(0) * (self.start + (1 - self.start) * step / self.steps)


@dataclass(frozen=True, kw_only=True)
class Join(Schedule):
    """One schedule after the other.

    Up to the first of `starts` ``factor(s) = schedules[0](s)``, and from ``starts[i]`` on, that step included,
    ``schedules[i + 1](s - starts[i])``: each begins at its own step 0, and the last goes on for ever.

    Args:
        schedules: The schedules in their order, at least one.
        starts: Steps at which the second and further ones begin, rising, above 0; one less than there are schedules.

    Synonyms: torch ``SequentialLR`` (milestones = starts); optax ``join_schedules``.

    >>> from lightning_modules.schedules import Constant, PolynomialDecay
    >>> schedule = join([Constant(), PolynomialDecay(decay_steps=10, end_factor=0.0)], [100])
    >>> [schedule(step) for step in (0, 100, 105, 110)]
    [1.0, 1.0, 0.5, 0.0]
    """

    schedules: tuple[Schedule, ...]
    starts: tuple[Steps, ...]

    def _check(self) -> None:
        require(self, "schedules", all(isinstance(each, Schedule) for each in self.schedules), "schedules as schedules")
        require(self, "starts", len(self.starts) == len(self.schedules) - 1, "one start less than schedules")
        require(self, "starts", all(0 < each < math.inf for each in self.starts), "starts > 0")
        require(self, "starts", all(left < right for left, right in pairwise(self.starts)), "rising starts")

    def _factor(self, step: float) -> float:
        for schedule, start in zip(self.schedules[:0:-1], self.starts[::-1], strict=True):
            if has_reached(step, start):
                return schedule(steps_since(step, start))
        return self.schedules[0](step)


@dataclass(frozen=True, kw_only=True)
class Scaled(Schedule):
    """Any schedule, times a constant.

    ``scaled(s) = factor * schedule(s)``

    Args:
        schedule: The schedule that is multiplied.
        factor: What it is multiplied by, above 0.

    Synonyms: none needed where the lr itself is multiplied; it serves the parts of a `Join`.

    >>> from lightning_modules.schedules import StepDecay
    >>> schedule = scaled(StepDecay(decay_rate=0.5, decay_steps=10), 0.1)
    >>> [schedule(step) for step in (0, 10, 20)]
    [0.1, 0.05, 0.025]
    """

    schedule: Schedule
    factor: float

    def _check(self) -> None:
        require(self, "schedule", isinstance(self.schedule, Schedule), "a schedule as schedule")
        require(self, "factor", 0 < self.factor < math.inf, "factor > 0")

    def _factor(self, step: float) -> float:
        return self.factor * self.schedule(step)


def warmup(schedule: Schedule, steps: float, start: float = 0.0) -> Warmup:
    """Return the schedule, put off by a straight rise; see `Warmup`."""
    return Warmup(schedule=schedule, steps=steps, start=start)


def join(schedules: Sequence[Schedule], starts: Sequence[float]) -> Join:
    """Return the schedules one after the other, each from its start on; see `Join`."""
    return Join(schedules=tuple(schedules), starts=tuple(starts))


def scaled(schedule: Schedule, factor: float) -> Scaled:
    """Return the schedule times a factor; see `Scaled`."""
    return Scaled(schedule=schedule, factor=factor)


@dataclass(frozen=True, kw_only=True)
class Lambda(Schedule):
    """Anything else: a formula, or a function of your own.

    ``factor(s) = function(s)``. Steps 0 and 1 are tried at once, so that most mistakes show before a training.

    Args:
        function: A formula of ``step``, or "package.module:name" of a function that takes a step and returns the
            factor. A formula has numbers, ``step``, ``pi``, ``+ - * / // % **``, comparisons, ``and``, ``or``, ``not``,
            ``a if b else c`` and the functions abs, ceil, cos, exp, floor, log, max, min, sin, sqrt, tanh; it runs
            nothing else, so one in somebody else's study file is safe to try. "package.module:name" is imported and run
            as it is.

    Raises:
        ValueError: If `function` is neither, and at each call whose result is negative, not finite or not a number.
        ImportError: If it is a formula and simpleeval is not installed.

    Synonyms: torch ``LambdaLR``; Keras ``LearningRateScheduler``.

    >>> schedule = Lambda(function="0.5 ** floor(step / 10) if step < 20 else 0.1")
    >>> [schedule(step) for step in (0, 9, 10, 20)]
    [1.0, 1.0, 0.5, 0.1]
    >>> Lambda(function="1 - step / 10")(11)
    Traceback (most recent call last):
    ValueError: a finite factor >= 0 must hold, but got -0.10000000000000009 at step=11 from \
Lambda(function='1 - step / 10')
    """

    function: str

    def _check(self) -> None:
        require(self, "function", isinstance(self.function, str), "a formula or package.module:name as function")
        self(0)
        self(1)

    def _factor(self, step: float) -> float:
        factor = _function(self.function)(step)
        if not hasattr(factor, "__float__"):
            raise ValueError(f"a number must be the factor, but got {factor!r} at step={step!r} from {self!r}")
        return float(factor)


# A formula is read by Python's own parser, checked against this list, and evaluated by simpleeval, which looks every
# name and operator up in the tables it is given.
_GRAMMAR = (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Call, ast.Name, ast.Constant)
_NAMES = {"pi": math.pi}
_FUNCTIONS: dict[str, Callable[..., float]] = {
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
_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: math.pow,  # always of floats: 9 ** 9 ** 9 of whole numbers would fill the memory
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
def _function(text: str) -> Callable[[float], Any]:
    """Return the function that a text is the formula or the name of."""
    named = re.fullmatch(r"([\w.]+):([\w.]+)", text)
    if named is None:
        return _formula(text)
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


def _formula(text: str) -> Callable[[float], Any]:
    """Return the function of the step that a formula means."""
    tree = _parse(text)
    try:
        simpleeval = importlib.import_module("simpleeval")
    except ImportError as error:
        raise ImportError(f"the formula {text!r} of a Lambda needs simpleeval: pip install simpleeval") from error
    evaluator = simpleeval.SimpleEval(operators=_OPERATORS, functions=_FUNCTIONS, names=_NAMES, allowed_attrs={})
    lock = threading.Lock()  # the evaluator holds the names of one call at a time

    def evaluate(step: float) -> Any:
        with lock:
            evaluator.names = {**_NAMES, "step": step}
            try:
                return evaluator.eval(text, previously_parsed=tree)
            except Exception as error:
                raise ValueError(f"function={text!r} fails at step={step!r}: {error}") from error

    return evaluate


def _parse(text: str) -> ast.expr:
    """Return the syntax tree of a formula, every part of which is on the list."""
    if len(text) > _LONGEST_FORMULA:
        raise ValueError(f"function of at most {_LONGEST_FORMULA} characters must hold, but got {len(text)} of them")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"function={text!r} is neither a formula of step nor package.module:name: {error}") from error
    called = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        allowed = True
        if isinstance(node, ast.Name):
            allowed = node.id in (_FUNCTIONS if node in called else {"step", *_NAMES})
        elif isinstance(node, ast.Constant):
            allowed = type(node.value) in (int, float)
        elif isinstance(node, ast.Call):
            allowed = isinstance(node.func, ast.Name) and not node.keywords
        elif isinstance(node, ast.operator | ast.unaryop | ast.cmpop):
            allowed = type(node) in _OPERATORS
        elif isinstance(node, ast.expr):
            allowed = isinstance(node, _GRAMMAR)
        if not allowed:
            part = ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__
            known = ", ".join(["step", *_NAMES, *_FUNCTIONS])
            raise ValueError(f"function={text!r} has {part!r}, which a formula cannot have; it can have {known}")
    return tree
