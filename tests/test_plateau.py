import json
import math
import pickle
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_modules.schedules import CosineDecay, Plateau, PlateauState

KERAS = json.loads((Path(__file__).parent / "reference" / "tensorflow.json").read_text())["plateaus"]


def scales(plateau, metrics, state=None):
    state = state or PlateauState()
    result = []
    for metric in metrics:
        state = plateau.update(state, metric)
        result.append(state.scale)
    return result


def test_scale_falls_after_more_than_patience_bad_evaluations():
    assert scales(Plateau(factor=0.5, patience=2), [1, 1, 1, 1, 1, 1, 1]) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]


def test_no_patience_reduces_at_the_first_bad_evaluation():
    assert scales(Plateau(factor=0.5, patience=0), [1, 1, 0.5, 0.6]) == [1, 0.5, 0.5, 0.25]


def test_an_improvement_resets_the_count():
    assert scales(Plateau(factor=0.5, patience=1), [1, 1, 0.9, 0.9, 0.8, 0.8, 0.8]) == [1, 1, 1, 1, 1, 1, 0.5]


def test_cooldown_leaves_evaluations_out():
    assert scales(Plateau(factor=0.5, patience=0, cooldown=2), [1] * 8) == [1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]


def test_scale_never_falls_below_its_bound():
    assert scales(Plateau(factor=0.5, patience=0, min_factor=0.3), [1] * 5) == [1, 0.5, 0.3, 0.3, 0.3]


def test_an_improvement_below_the_threshold_does_not_count():
    relative = Plateau(factor=0.5, patience=0, threshold=0.25)
    absolute = Plateau(factor=0.5, patience=0, threshold=0.25, threshold_mode="abs")
    assert scales(relative, [2, 1.6, 1.49]) == [1, 0.5, 0.5]
    assert scales(absolute, [2, 1.8, 1.74]) == [1, 0.5, 0.5]


def test_rising_metric_improves_when_it_should():
    assert scales(Plateau(factor=0.5, patience=0, mode="max"), [1, 2, 3, 3]) == [1, 1, 1, 0.5]
    assert scales(Plateau(factor=0.5, patience=0, mode="min"), [1, 2, 3, 3]) == [1, 0.5, 0.25, 0.125]


def test_keras_reduces_one_evaluation_sooner():
    torchs, keras = (Plateau(factor=0.5, patience=2, convention=each) for each in ("torch", "keras"))
    assert scales(torchs, [1] * 7) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]
    assert scales(keras, [1] * 7) == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125]


def test_patience_of_one_more_in_keras_is_that_of_torch():
    metrics = [5, 4, 4, 4, 3, 3, 3, 3, 3, 3, 2, 2, 2, 2]
    torchs = Plateau(patience=2, threshold_mode="abs")
    keras = Plateau(patience=3, threshold_mode="abs", convention="keras")
    assert scales(torchs, metrics) == scales(keras, metrics)


def test_a_cooldown_of_one_has_no_effect_in_keras():
    one, none = (Plateau(patience=1, cooldown=each, convention="keras") for each in (1, 0))
    assert scales(one, [1] * 9) == scales(none, [1] * 9)
    two = Plateau(factor=0.5, patience=1, cooldown=2, convention="keras")
    assert scales(two, [1] * 6) == [1, 0.5, 0.5, 0.25, 0.25, 0.125]


def test_nan_first_is_forgotten_by_torch_and_stays_the_best_in_keras():
    torchs, keras = (Plateau(factor=0.5, patience=1, convention=each) for each in ("torch", "keras"))
    assert scales(torchs, [math.nan, 3, 2, 1, 0.5]) == [1, 1, 1, 1, 1]
    assert scales(keras, [math.nan, 3, 2, 1, 0.5]) == [1, 0.5, 0.25, 0.125, 0.0625]


# Metrics on a grid, so that ties and thresholds are met exactly, and from anywhere
METRICS = st.lists(
    st.integers(-40, 40).map(lambda value: value / 8)
    | st.floats(-1e6, 1e6)
    | st.sampled_from([math.nan, math.inf, -math.inf]),
    max_size=60,
)
SETTINGS = st.fixed_dictionaries(
    {
        "factor": st.floats(0.01, 0.99),
        "patience": st.integers(0, 5),
        "threshold": st.sampled_from([0.0, 1e-4, 0.125, 0.5]),
        "threshold_mode": st.sampled_from(["rel", "abs"]),
        "cooldown": st.integers(0, 4),
        "min_factor": st.sampled_from([0.0, 0.01, 0.5, 1.0]),
        "mode": st.sampled_from(["min", "max"]),
    }
)


@given(SETTINGS, METRICS)
@example(
    {
        "factor": 0.5,
        "patience": 0,
        "threshold": 0.0,
        "threshold_mode": "abs",
        "cooldown": 1,
        "min_factor": 0.0,
        "mode": "min",
    },
    [1.0] * 20,
)
def test_scale_equals_the_lr_of_torchs_scheduler(arguments, metrics):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    others = {key: value for key, value in arguments.items() if key != "min_factor"}
    scheduler = ReduceLROnPlateau(optimizer, min_lr=arguments["min_factor"], eps=0, **others)
    lrs = []
    for metric in metrics:
        scheduler.step(metric)
        lrs.append(optimizer.param_groups[0]["lr"])
    assert scales(Plateau(**arguments), metrics) == lrs


@pytest.mark.parametrize("row", KERAS, ids=lambda row: str(row["settings"]))
def test_scale_equals_the_lr_of_keras(row):
    plateau = Plateau(threshold_mode="abs", convention="keras", **row["settings"])
    metrics = [math.nan if metric is None else metric for metric in row["metrics"]]
    assert scales(plateau, metrics) == row["scales"]


def test_keras_reduced_often_in_the_table():
    assert sum(len(set(row["scales"])) - 1 for row in KERAS) > 300
    assert any(row["metrics"][0] is None for row in KERAS)


@given(SETTINGS, METRICS, st.integers(0, 60), st.sampled_from(["torch", "keras"]))
def test_a_saved_state_continues_like_an_uninterrupted_one(arguments, metrics, cut, convention):
    plateau = Plateau(**arguments, convention=convention)
    state = PlateauState()
    for metric in metrics[:cut]:
        state = plateau.update(state, metric)
    read = PlateauState(**json.loads(json.dumps(asdict(state))))
    assert scales(plateau, metrics[cut:], read) == scales(plateau, metrics)[cut:]


def test_numbers_of_numpy_and_torch_become_those_of_python():
    plateau = Plateau(factor=np.float32(0.5), patience=torch.tensor(0), threshold=np.array(0.25))
    assert plateau == Plateau(factor=0.5, patience=0, threshold=0.25)
    state = plateau.update(plateau.update(PlateauState(), np.float32(2.0)), torch.tensor(2.0))
    assert json.loads(json.dumps(asdict(state))) == asdict(PlateauState(scale=0.5, best=2.0))


def test_plateau_can_be_compared_hashed_and_pickled():
    plateau = Plateau(patience=3, schedule=CosineDecay(decay_steps=10))
    assert pickle.loads(pickle.dumps(plateau)) == plateau
    assert hash(Plateau(patience=3, schedule=CosineDecay(decay_steps=10))) == hash(plateau)
    assert Plateau(patience=4) != Plateau(patience=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"factor": 1.0}, r"0 < factor < 1 must hold, but got factor=1\.0"),
        ({"factor": 0}, "0 < factor < 1"),
        ({"patience": -1}, "patience >= 0 must hold, but got patience=-1"),
        ({"threshold": -0.1}, "threshold >= 0"),
        ({"threshold": math.nan}, "threshold >= 0"),
        ({"threshold_mode": "relative"}, 'threshold_mode must be "rel" or "abs"'),
        ({"cooldown": -1}, "cooldown >= 0"),
        ({"min_factor": 2}, "0 <= min_factor <= 1"),
        ({"mode": "auto"}, 'mode must be "min" or "max"'),
        ({"schedule": 0.5}, "schedule must be a schedule"),
        ({"patience": 2.5}, "patience must be a whole number"),
        ({"cooldown": True}, "cooldown must be a whole number"),
        ({"factor": "0.5"}, "factor must be a number"),
        ({"monitor": 3}, "monitor must be the name of a metric"),
        ({"convention": "jax"}, 'convention must be "torch" or "keras"'),
    ],
)
def test_argument_that_breaks_a_rule_is_refused_with_the_rule_and_the_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        Plateau(**arguments)
