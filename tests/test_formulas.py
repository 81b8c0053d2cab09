"""Schedules that are a function or a formula."""

import pickle
import re
import sys

import numpy as np
import pytest

from lightning_modules.schedules import Lambda
from tests.schedule_samples import curve


def half(step):
    return 0.5


def falling(step, total):
    return 1 - step / total


def becomes_negative(step):
    return 3 - step


class Curves:
    @staticmethod
    def quarter(step):
        return 0.25


def gives_text(step):
    return "0.5"


def test_lambda_calls_the_function_of_that_name():
    schedule = Lambda(function=f"{__name__}:half")
    assert schedule(7) == 0.5


def test_an_argument_that_a_formula_does_not_have_is_refused_and_a_name_that_is_no_argument():
    with pytest.raises(ValueError, match="powr must be used in the formula, but function='0"):
        Lambda(function="0.5 ** step", powr=2)
    with pytest.raises(
        ValueError, match="contains 'power', which is not allowed in a formula; allowed: step, total, pi"
    ):
        Lambda(function="(step / total) ** power", total=10)


def test_a_formula_with_arguments_is_equal_to_one_with_the_same_in_another_order():
    one, other = Lambda(function="a ** b", a=1, b=2), Lambda(function="a ** b", b=2.0, a=np.int64(1))
    assert one == other
    assert hash(one) == hash(other)
    assert eval(repr(one)) == pickle.loads(pickle.dumps(one)) == one
    assert one != Lambda(function="a ** b", a=1, b=3)


def test_lambda_passes_arguments_to_a_function():
    assert curve(Lambda(function=f"{__name__}:falling", total=10), (0, 5, 10)) == [1, 0.5, 0]


def test_lambda_finds_the_function_of_a_class():
    assert Lambda(function=f"{__name__}:Curves.quarter")(7) == 0.25


@pytest.mark.parametrize(
    ("formula", "step", "value"),
    [
        ("0.1", 5, 0.1),
        (" step ", 5, 5),
        ("max(0.5, min(1, step / 8), 0)", 6, 0.75),
        ("floor(step / 4) + ceil(step / 4) + abs(-step)", 5, 8),
        ("1 if step < 3 and not step == 2 or step >= 9 else 0.5", 2, 0.5),
        ("1 if 0 <= step <= 3 else 0.5", 3, 1),
        ("-(-step) % 3 + +step // 3", 5, 3),
        ("0.5 * (1 + cos(pi * step / 10)) + sin(0) + tanh(0)", 10, 0),
        ("sqrt(exp(log(step + 1)))", 8, 3),
        ("2 ** -step", 2, 0.25),
    ],
)
def test_a_formula_has_the_value_that_python_computes(formula, step, value):
    assert Lambda(function=formula)(step) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("", "neither a formula of step nor package.module:name"),
        ("step +", "neither a formula of step nor package.module:name"),
        ("step = 3", "neither a formula"),
        ("1; 2", "neither a formula"),
        ("import os", "neither a formula"),
        ("stpe / 3", "contains 'stpe', which is not allowed in a formula; allowed: step, pi, abs"),
        ("1 - stp / 3", "tanh. Did you mean step?"),
        ("sqr(step)", "tanh. Did you mean sqrt?"),
        ("exp", "contains 'exp'"),
        ("step(3)", "contains 'step'"),
        ("open('x')", "contains 'open'"),
        ("__import__('os').system('true')", "which is not allowed in a formula"),
        ("step.real", "contains 'step.real'"),
        ("'a' * 9999999999", "contains \"'a'\""),
        ("True", "contains 'True'"),
        ("1j", "contains '1j'"),
        ("[1, 2][0]", "which is not allowed in a formula"),
        ("f'{step:99999999}'", "which is not allowed in a formula"),
        ("(lambda: 1)()", "which is not allowed in a formula"),
        ("max(step, 1, key=abs)", "which is not allowed in a formula"),
        ("max(*step)", "which is not allowed in a formula"),
        ("1 << step", "contains 'LShift'"),
        ("1 if step < 9 else nonsense", "contains 'nonsense'"),
        ("9 ** 9 ** 9 ** 9", "fails at step=0"),
        ("log(step)", "fails at step=0"),
        ("1 / (1 - step)", "fails at step=1: "),
        ("(step - 1) ** 0.5", "fails at step=0"),
        ("-1", "the factor must be finite and >= 0, but got -1.0 at step=0 from Lambda(function='-1')"),
        ("0.5 - step", "got -0.5 at step=1"),
        ("1e308 * 10", "got inf at step=0"),
        ("1 + " * 400 + "1", "function must have at most 1000 characters, but has 1601"),
        ("(" * 300 + "1" + ")" * 300, "neither a formula"),
        ("-" * 990 + "1", "function="),
        ("no.such.module:name", "cannot be imported as package.module:name"),
        ("math:nothing", "cannot be imported as package.module:name"),
        (":half", "neither a formula of step nor package.module:name"),
        ("math:pi", "must name a function, but it is 3.14"),
        (f"{__name__}:gives_text", "the function must return a number, but got '0.5' at step=0"),
    ],
)
def test_a_lambda_that_is_not_a_schedule_is_refused_at_once(function, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Lambda(function=function)


def test_lambda_that_becomes_negative_later_says_at_which_step():
    with pytest.raises(ValueError, match=r"got -1\.0 at step=4 from Lambda\(function='3 - step'\)"):
        Lambda(function="3 - step")(np.arange(9))
    with pytest.raises(ValueError, match=r"got -1\.0 at step=4 from Lambda"):
        Lambda(function=f"{__name__}:becomes_negative")(4)


def test_formula_without_simpleeval_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "simpleeval", None)
    with pytest.raises(ImportError, match="pip install simpleeval"):
        Lambda(function="1 / (2 + step)")
    assert Lambda(function=f"{__name__}:half")(3) == 0.5
