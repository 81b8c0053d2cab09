"""Ranges, choices, and the values drawn from them."""

import json
import math
from collections.abc import Mapping
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.samplers import RandomSampler

from tests.rules import shortened
from tuner.config.search_space import (
    Choices,
    OneOf,
    Range,
    corners,
    grid_point,
    grid_size,
    highest,
    is_spec,
    searched,
    suggest,
    turns,
)
from tuner.config.spec_reader import parse_spec


def parse(raw: Mapping[str, Any], *, integer: bool = False) -> tuple[Any, dict[str, str]]:
    """Return the spec, and the faults by their path."""
    faults: dict[str, str] = {}

    def fault(path: tuple[str | int, ...], message: str) -> None:
        faults[".".join(map(str, path))] = shortened(message)

    return parse_spec(raw, integer, fault), faults


@pytest.mark.parametrize(
    ("raw", "integer", "spec"),
    [
        ({"low": 0.5, "high": 1.5}, False, Range(0.5, 1.5)),
        ({"low": 1, "high": 3}, False, Range(1.0, 3.0)),
        ({"low": 1, "high": 3}, True, Range(1, 3, integer=True)),
        ({"low": 1e-5, "high": 1, "log": True}, False, Range(1e-5, 1.0, log=True)),
        ({"low": 0.1, "high": 0.5, "step": 0.1}, False, Range(0.1, 0.5, step=0.1)),
        ({"low": 0, "high": 10, "step": 5}, True, Range(0, 10, step=5, integer=True)),
        ({"low": -3, "high": -1, "log": False}, True, Range(-3, -1, integer=True)),
        ({"choices": ["a", None, 1, 2.5, False]}, False, Choices(("a", None, 1, 2.5, False))),
    ],
)
def test_a_valid_spec_is_read(raw: dict[str, Any], integer: bool, spec: Any) -> None:
    parsed, faults = parse(raw, integer=integer)
    assert faults == {}
    assert parsed == spec
    if integer:
        assert all(isinstance(bound, int) for bound in (parsed.low, parsed.high))


@pytest.mark.parametrize(
    ("raw", "integer", "faults"),
    [
        ({"low": "abc", "high": 1}, False, {"low": '<number> (got "abc").'}),
        (
            {"low": None, "high": True},
            False,
            {"low": "<number> (got null).", "high": "<number> (got true)."},
        ),
        ({"low": 1, "high": 2.5}, True, {"high": "<whole number> here (got 2.5)."}),
        ({"low": 1, "high": 2, "step": 0.5}, True, {"step": "<whole number> here (got 0.5)."}),
        ({"low": 0, "high": 1, "log": True}, False, {"low": "must be > 0 when log is true (got 0)."}),
        ({"low": 0.1, "high": 0.001}, False, {"": "low (0.1) must be below high (0.001)."}),
        ({"low": 1, "high": 1}, True, {"": "low (1) must be below high (1)."}),
        ({"low": 3, "high": -1, "log": True}, False, {"": "low (3) must be below high (-1)."}),
        (
            {"low": -1, "high": -2, "log": True},
            False,
            {"": "low (-1) must be below high (-2).", "low": "must be > 0 when log is true (got -1)."},
        ),
        ({"low": 1, "high": 9, "log": True, "step": 2}, False, {"step": "cannot be used with log: true."}),
        ({"low": 1, "high": 3, "step": 5}, True, {"step": "step (5) is larger than high - low (2)."}),
        ({"low": 0, "high": 1, "step": 0.3}, False, {"step": "steps of 0.3 from 0 do not reach 1; write high: 0.9."}),
        ({"low": 0, "high": 1, "step": 0}, False, {"step": "must be > 0 (got 0)."}),
        ({"low": 0, "high": 1, "step": -1}, False, {"step": "must be > 0 (got -1)."}),
        ({"low": 0, "high": 1, "step": None}, False, {"step": "<number> (got null)."}),
        (
            {"low": 0, "high": 1e20, "step": 1e-20},
            False,
            {"step": "step (1E-20) is too small for high - low (100000000000000000000)."},
        ),
        ({"low": 1, "high": 2, "log": "yes"}, False, {"log": '<boolean> (got "yes").'}),
        ({"low": 1, "high": 2, "log": None}, False, {"log": "<boolean> (got null)."}),
        ({"low": 1}, False, {"high": "required."}),
        ({"high": 1}, False, {"low": "required."}),
        (
            {"lo": 1, "high": 2},
            False,
            {"lo": "<unknown key>; <range keys>.", "low": "required."},
        ),
        ({"low": 0, "high": 2**53}, True, {"high": "must be less than 2**53 (got 9007199254740992)."}),
        ({"low": -1e300, "high": 1}, False, {"low": "must be less than 1e300 (got -1e+300)."}),
        ({"low": 0, "high": math.inf}, False, {"high": "must be less than 1e300 (got Infinity)."}),
    ],
)
def test_every_fault_of_a_range_is_reported(raw: dict[str, Any], integer: bool, faults: dict[str, str]) -> None:
    assert parse(raw, integer=integer) == (None, faults)


@pytest.mark.parametrize(
    ("raw", "faults"),
    [
        ({"choices": []}, {"choices": "needs at least 2 different values (got [])."}),
        ({"choices": [1]}, {"choices": "needs at least 2 different values (got [1])."}),
        ({"choices": ["a", "b", "a"]}, {"choices.2": '"a" is the same as choices[0].'}),
        ({"choices": [1, 1.0]}, {"choices.1": "1.0 is the same as choices[0]."}),
        ({"choices": [0, False]}, {"choices.1": "false is the same as choices[0]."}),
        ({"choices": [None, None]}, {"choices.1": "null is the same as choices[0]."}),
        (
            {"choices": [[1], {"a": 1}]},
            {
                "choices.0": "must be a plain value, not a list or a mapping (got [1]); "
                "items of a list are searched by their paths, such as model.channels.0.",
                "choices.1": 'must be a plain value, not a list or a mapping (got {"a": 1}); '
                "to search a whole component, write {one_of: {name: {argument: range or value}, ...}}.",
            },
        ),
        ({"choices": list(range(1001))}, {"choices": "has 1001 values; the limit is 1000."}),
        ({"choices": "ab"}, {"choices": '<list> of values (got "ab").'}),
        ({"choices": None}, {"choices": "<list> of values (got null)."}),
        ({"choices": [1, 2], "low": 0}, {"low": "<unknown key> next to choices."}),
        (
            {"choices": [1], "log": True},
            {"log": "<unknown key> next to choices.", "choices": "needs at least 2 different values (got [1])."},
        ),
    ],
)
def test_every_fault_of_choices_is_reported(raw: dict[str, Any], faults: dict[str, str]) -> None:
    assert parse(raw) == (None, faults)


def test_a_thousand_choices_are_allowed() -> None:
    assert parse({"choices": list(range(1000))})[1] == {}


def test_a_spec_is_known_by_its_keys() -> None:
    assert is_spec({"low": 1})
    assert is_spec({"choices": []})
    assert not is_spec({"name": "exponential", "log": True})
    assert not is_spec(["low", "high"])


# -- drawing -----------------------------------------------------------------------------------------------------------

TEMPLATE = {
    "seed": 3,
    "optimizer": {"name": "adam", "initial_lr": Range(1e-4, 1e-1, log=True)},
    "schedule": OneOf(
        {
            "constant": {},
            "piecewise_constant": {"boundaries": [Range(1, 9, integer=True), 50], "factors": [1.0, 0.5, 0.1]},
            "plateau": {
                "factor": Choices((0.1, 0.5)),
                "schedule": OneOf({"constant": {}, "exponential": {"decay_rate": Range(0.5, 0.9, step=0.1)}}),
            },
        }
    ),
}


class Pick:
    """Draws the given choices, and the lower end of every range."""

    def __init__(self, choices: Mapping[str, Any]) -> None:
        self.choices, self.drawn = choices, {}

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return self.drawn.setdefault(name, low)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return self.drawn.setdefault(name, low)

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self.drawn.setdefault(name, self.choices.get(name, choices[0]))


def test_a_trial_samples_only_the_parameters_of_its_family_under_dotted_names() -> None:
    trial = Pick({"schedule.name": "plateau", "schedule.plateau.schedule.name": "exponential"})
    assert suggest(trial, TEMPLATE) == {
        "seed": 3,
        "optimizer": {"name": "adam", "initial_lr": 1e-4},
        "schedule": {"name": "plateau", "factor": 0.1, "schedule": {"name": "exponential", "decay_rate": 0.5}},
    }
    assert list(trial.drawn) == [
        "optimizer.initial_lr",
        "schedule.name",
        "schedule.plateau.factor",
        "schedule.plateau.schedule.name",
        "schedule.plateau.schedule.exponential.decay_rate",
    ]


def test_an_item_of_a_list_is_drawn_under_its_index() -> None:
    trial = Pick({"schedule.name": "piecewise_constant"})
    drawn = suggest(trial, TEMPLATE)["schedule"]
    assert drawn == {"name": "piecewise_constant", "boundaries": [1, 50], "factors": [1.0, 0.5, 0.1]}
    assert trial.drawn["schedule.piecewise_constant.boundaries.0"] == 1


def test_everything_that_is_searched_is_listed_under_the_name_it_is_drawn_by() -> None:
    assert [path for path, _ in searched(TEMPLATE)] == [
        "optimizer.initial_lr",
        "schedule.name",
        "schedule.piecewise_constant.boundaries.0",
        "schedule.plateau.factor",
        "schedule.plateau.schedule.name",
        "schedule.plateau.schedule.exponential.decay_rate",
    ]
    assert dict(searched(TEMPLATE))["schedule.name"] == Choices(("constant", "piecewise_constant", "plateau"))


finite = st.floats(-1e6, 1e6, allow_nan=False)


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    if draw(st.booleans()):
        low, span = draw(st.integers(-1000, 1000)), draw(st.integers(1, 1000))
        step = draw(st.none() | st.integers(1, span))
        high = low + (span if step is None else span // step * step)
        return Range(low, high, log=step is None and low > 0 and draw(st.booleans()), step=step, integer=True)
    low = draw(st.floats(1e-9, 1e3))
    return Range(low, low * draw(st.floats(1.001, 1e6)), log=draw(st.booleans()))


names = st.sampled_from(["a", "b", "c.d", "torch.optim:NAdam"])
templates = st.recursive(
    st.integers() | st.text(max_size=3) | ranges() | st.builds(Choices, st.just(("x", None, 3))),
    lambda inner: (
        st.dictionaries(names, inner, max_size=3)
        | st.lists(inner, max_size=3)
        | st.builds(OneOf, st.dictionaries(names, st.dictionaries(names, inner, max_size=2), min_size=2, max_size=3))
    ),
    max_leaves=8,
)


def fits(template: Any, value: Any) -> bool:
    """Return whether a template allows a value."""
    match template:
        case Range(low=low, high=high, step=step, integer=integer):
            on_a_step = step is None or abs((value - low) / step - round((value - low) / step)) < 1e-9
            return low <= value <= high and isinstance(value, int) == integer and on_a_step
        case Choices(values=values):
            return value in values
        case OneOf(options=options):
            return fits({"name": value["name"], **options[value["name"]]}, value)
        case dict():
            return value.keys() == template.keys() and all(fits(template[key], value[key]) for key in template)
        case list():
            return len(value) == len(template) and all(map(fits, template, value))
        case _:
            return bool(value == template)


@given(st.dictionaries(names, templates, max_size=3), st.integers(0, 2**32 - 1))
def test_values_from_optuna_are_in_range_and_restored_from_their_record(template: dict[str, Any], seed: int) -> None:
    trial = optuna.create_study(sampler=RandomSampler(seed=seed)).ask()
    values = suggest(trial, template)
    assert fits(template, values)
    assert suggest(optuna.trial.FixedTrial(trial.params), template) == values
    assert trial.params.keys() <= dict(searched(template)).keys()


# -- corners and grids -------------------------------------------------------------------------------------------------


@given(st.dictionaries(names, templates, max_size=3))
def test_every_corner_is_a_value_of_the_template(template: dict[str, Any]) -> None:
    found = corners(template)
    assert found
    assert all(fits(template, values) for values in found)


def test_few_specs_are_tried_at_all_combinations_of_their_extremes() -> None:
    template = {"a": Range(1, 2, integer=True), "b": [Choices(("x", "y", "z"))], "c": 0}
    assert corners(template) == [{"a": a, "b": [b], "c": 0} for a in (1, 2) for b in "xyz"]


def test_a_choice_of_components_is_tried_at_the_corners_of_each() -> None:
    template = OneOf({"constant": {}, "exponential": {"decay_rate": Range(0.5, 0.9)}})
    assert corners(template) == [
        {"name": "constant"},
        {"name": "exponential", "decay_rate": 0.5},
        {"name": "exponential", "decay_rate": 0.9},
    ]


def test_many_specs_are_tried_one_extreme_at_a_time() -> None:
    found = corners({str(index): Range(0, 1, integer=True) for index in range(30)})
    assert len(found) == 31
    assert sorted(sum(values.values()) for values in found) == [0] + [1] * 30


def test_the_highest_value_is_that_of_the_upper_end_or_the_largest_choice() -> None:
    assert highest(5) == 5
    assert highest(Range(1, 7, integer=True)) == 7
    assert highest(Choices((3, 9, 2))) == 9


@pytest.mark.parametrize(
    ("template", "points"),
    [
        ({"a": Range(0.1, 0.7, step=0.1)}, 7),
        ({"a": Range(0, 10, step=5, integer=True), "b": Choices(("x", "y"))}, 6),
        ({"a": OneOf({"x": {"b": Choices((1, 2))}, "y": {}})}, 3),
        (
            {"a": OneOf({"x": {"b": OneOf({"u": {"c": Choices((1, 2, 3))}, "v": {}})}, "y": {}}), "d": Choices((0, 1))},
            10,
        ),
        ({"a": [Range(1, 3, step=1, unit="epochs"), {"b": Range(10, 50, step=20, unit="%")}]}, 9),
        ({"a": 1}, 1),
    ],
)
def test_the_points_of_a_grid_are_its_different_configurations(template: dict[str, Any], points: int) -> None:
    found = [grid_point(template, index) for index in range(grid_size(template))]
    drawn = [suggest(optuna.trial.FixedTrial(point), template) for point in found]
    assert len(found) == len({json.dumps(values) for values in drawn}) == points
    for point in found:
        for name, spec in searched(template):
            assert name not in point or isinstance(spec, Choices) or spec.low <= point[name] <= spec.high


def test_the_points_of_a_grid_are_the_numbers_that_its_steps_say() -> None:
    template = {"a": Range(0.1, 0.7, step=0.1)}
    assert [grid_point(template, index)["a"] for index in range(7)] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


def test_every_option_of_every_choice_gets_its_turn_and_those_that_were_drawn_come_last() -> None:
    last = {"schedule.name": "plateau", "schedule.plateau.schedule.name": "constant"}
    assert turns(TEMPLATE, last) == [
        {"schedule.name": "constant"},
        {"schedule.name": "piecewise_constant"},
        {"schedule.name": "plateau", "schedule.plateau.schedule.name": "exponential"},
        {"schedule.name": "plateau", "schedule.plateau.schedule.name": "constant"},
    ]


def test_independent_choices_share_their_turns() -> None:
    two = {"optimizer": OneOf({"adam": {}, "sgd": {}}), "schedule": OneOf({"a": {}, "b": {}, "c": {}})}
    assert turns(two, {}) == [
        {"optimizer.name": "adam", "schedule.name": "a"},
        {"optimizer.name": "sgd", "schedule.name": "b"},
        {"schedule.name": "c"},
    ]
