"""Constraints between the values of a trial: what they can say, and that no trial breaks them."""

import json
import random
import re
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.studies import StudyFolder
from tuner import Study
from tuner.config.constraints import Constraint, RandomSuggester
from tuner.config.loader import load_study
from tuner.config.search_space import suggest
from tuner.errors import BadInputError
from tuner.storage.samplers import make_sampler
from tuner.storage.samplers.feasible_draws import feasible_params

STUDY = """\
name: x
budget: {trials: %d}
sampler: %s
pruner: {name: none}
constraints: %s
trial:
  data: {name: iris, batch_size: 30, train_size: 90}
  model: {name: mlp, inputs: 4, layers: 2, neurons: [8, 8]}
  optimizer: {name: adam, initial_lr: 1e-2}
  schedule: {name: warmup_stable_decay, warmup_steps: 10%%, decay_steps: 20%%, total_steps: 100%%}
  trainer: {max_epochs: 2, precision: 32-true}
search_space:
  model.neurons.0: {low: 2, high: 32}
  model.neurons.1: {low: 2, high: 32}
  optimizer.initial_lr: {low: 1e-3, high: 3e-2, log: true}
"""
NARROW = '["model.neurons[0] < model.neurons[1] + 1", "optimizer.initial_lr * model.neurons[1] < 0.2"]'


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(constraints: str, *overrides: str, sampler: str = "{name: random}", trials: int = 6) -> Any:
    Path("x.yaml").write_text(STUDY % (trials, sampler, constraints))
    return load_study("x.yaml", overrides)


VALUES = {"a": {"b": 2, "c": [1, 5], "name": "adam"}, "seed": 3}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b < a.c[1]", True),
        ("a.b >= a.c[1] or seed == 3", True),
        ("not (a.name == 'adam' and a.b > 1)", False),
        ("1 < a.b <= seed < 4", True),
        ("max(a.c[0], a.b) ** 2 == 4", True),
        ("a.b < steps / 100", False),
        ("a.missing > 100", True),
    ],
)
def test_a_constraint_is_a_condition_on_the_values_of_a_trial(text: str, expected: bool):
    assert Constraint(text).holds(VALUES, {"steps": 100, "epochs": 2}) is expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.b + 1", "must be a condition, such as schedule.steps < 0.2 * steps."),
        ("a.b <", 'is not an expression: invalid syntax (got "a.b <").'),
        ("open('x') == 1", "contains open('x'), which is not allowed in a constraint; allowed: dotted paths"),
        ("a.b.__class__.__mro__[0](1) == 1", "which is not allowed in a constraint"),
        ("[x for x in (1,)] == 1", "which is not allowed in a constraint"),
        ("a['b'] == 1", "contains a['b'], which is not a dotted path in trial."),
        ("a.b << 2 == 1", "contains LShift, which is not"),
        ("1 + " * 400 + "1 == 1", "must have at most 1000 characters (got 1606)."),
    ],
)
def test_what_is_no_condition_is_refused(text: str, message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        assert Constraint(text).paths


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        ("model.neurons[0] < 5", "must be a list of conditions, each of them text"),
        ('["model.neurons[0]"]', "constraints[0]: must be a condition"),
        ('["model.neuron[0] < 5"]', "constraints[0]: trial has no model.neuron.0. Did you mean model.neurons.0?"),
        ('["optimizer.beta1 < 0.5"]', "trial has no optimizer.beta1. If that is a default, write its value into"),
        ('["model.neurons[0] > 100"]', "constraints: no trial was found that satisfies model.neurons[0] > 100."),
        ('["model.neurons[0] < 5"]', "trial #0, which is given model.neurons.0=8, model.neurons.1=8, optimizer."),
        ('["model.name < 5"]', "cannot be evaluated with model.name='mlp': '<' not supported"),
    ],
)  # fmt: skip
def test_constraints_that_no_trial_can_satisfy_are_refused_before_the_study(constraints: str, message: str):
    with pytest.raises(BadInputError) as caught:
        load(constraints)
    assert message in "\n".join(caught.value.faults)


def test_lengths_are_in_steps_and_the_length_of_the_training_is_known():
    study = load('["schedule.warmup_steps + schedule.decay_steps < steps", "epochs == 2", "schedule.decay_steps == 1"]')
    assert study.broken(study.trial) is None, "20% of 6 steps are 1 step"
    with pytest.raises(BadInputError, match="satisfies epochs == 3"):
        load('["epochs == 3"]')


@pytest.mark.parametrize(
    ("constraint", "searched", "default"),
    [
        ("trainer.check_val_every_n_epoch >= 2", "trainer.check_val_every_n_epoch=[1, 2]", 1),
        ("averaging.name == 'ema'", "averaging={one_of: {none: {}, ema: {decay: 0.9}}}", "none"),
        ("loss.name == 'mse'", "loss={one_of: {cross_entropy: {}, mse: {}}}", "cross_entropy"),
    ],
)
def test_a_value_that_is_a_default_must_satisfy_them_too(constraint: str, searched: str, default: Any):
    study = load(f'["{constraint} or optimizer.initial_lr < 0.015"]', f"search_space.{searched}")
    section, _, key = searched.partition("=")[0].partition(".")
    broken = 0
    for seed in range(20):
        found = suggest(RandomSuggester(random.Random(seed), {}), study.trial)
        breaks = found[section][key or "name"] == default and found["optimizer"]["initial_lr"] >= 0.015
        assert (study.broken(found) is not None) == breaks
        broken += breaks
    assert broken


def test_a_grid_has_the_points_that_satisfy_the_constraints():
    axes = ["search_space.model.neurons.0=[8, 4, 2]", "search_space.model.neurons.1=[8, 4]",
            "search_space.optimizer.initial_lr=null"]  # fmt: skip
    study = load('["model.neurons[0] <= model.neurons[1]"]', *axes, sampler="{name: grid}", trials=5)
    points = [tuple(study.fixed(number).values()) for number in range(5)]
    assert sorted(points) == [(2, 4), (2, 8), (4, 4), (4, 8), (8, 8)]
    with pytest.raises(BadInputError, match=r"above the 5 points of the grid that satisfy the constraints \(got 6\)"):
        load('["model.neurons[0] <= model.neurons[1]"]', *axes, sampler="{name: grid}", trials=6)
    with pytest.raises(BadInputError, match="no point of the grid satisfies them"):
        load('["model.neurons[0] > 8"]', *axes, sampler="{name: grid}", trials=1)


def params(folder: StudyFolder) -> list[tuple[int, dict[str, float]]]:
    found: dict[int, dict[str, float]] = {}
    for number, name, value in folder.optuna(
        "select number, param_name, param_value from trials join trial_params using (trial_id) order by 1, 2"
    ):
        found.setdefault(number, {})[name] = value
    return list(found.items())


def asked(config: Any, trials: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return what the sampler draws together for each trial, and the values that the trial gets."""
    study = optuna.create_study(direction="maximize")
    found = []
    for number in range(trials):
        study.sampler = make_sampler(config, number, study.sampler)
        study.enqueue_trial(config.fixed(number))
        trial = study.ask()
        given = feasible_params(config, study, trial, study.trials[number])
        found.append((trial.relative_params, given))
        study._storage.set_trial_system_attr(trial._trial_id, "fixed_params", given)
        trial = optuna.Trial(study, trial._trial_id)
        config.suggest(trial)
        for epoch in (1, 2):
            trial.report(0.5 + 0.01 * number, epoch)
        study.tell(trial, 0.5 + 0.01 * number)
    return found


def test_the_curve_sampler_chooses_among_values_that_satisfy_them():
    config = load('["model.neurons[0] == 8"]', sampler="{name: curve, seed: 1, n_startup_trials: 3}")
    for drawn, given in asked(config, 6):
        assert given["model.neurons.0"] == 8
        assert {**given, **drawn} == given


def test_values_that_are_drawn_at_random_in_the_end_depend_on_the_seed_of_the_sampler():
    one, other = (load('["model.neurons[0] == 8"]', sampler=f"{{name: qmc, seed: {seed}}}") for seed in (1, 2))
    assert [given for _, given in asked(one, 3)] != [given for _, given in asked(other, 3)]


@pytest.mark.parametrize("center", ["5e-3, width: 2", "2e-3, width: 1.05"])  # the second never satisfies it
def test_values_from_priors_are_drawn_again_and_given_ones_stay(center: str):
    prior = f"search_space.optimizer.initial_lr={{low: 1e-3, high: 3e-2, log: true, prior: {{center: {center}}}}}"
    queued = "enqueue=[{optimizer.initial_lr: 0.02}]"
    config = load('["optimizer.initial_lr > 0.0099"]', prior, queued, sampler="{name: tpe, seed: 1}")
    lrs = [given["optimizer.initial_lr"] for _, given in asked(config, 6)]
    assert lrs[:2] == [0.01, 0.02]
    assert min(lrs) > 0.0099
    assert len(set(lrs)) == 6


@pytest.mark.parametrize(
    "sampler", ["curve", "tpe", *(pytest.param(name, marks=pytest.mark.slow) for name in ("qmc", "cmaes"))]
)
def test_no_trial_of_a_study_breaks_a_constraint_and_a_continued_study_has_the_same_ones(sampler: str, tmp_path: Path):
    text = STUDY % (6, f"{{name: {sampler}, seed: 1, {'' if sampler == 'qmc' else 'n_startup_trials: 3'}}}", NARROW)
    Path("x.yaml").write_text(text)
    straight, cut = (StudyFolder(tmp_path / name) for name in ("straight", "cut"))
    for folder in (straight, cut):
        folder.path.mkdir()
    straight.call("--per-device", "1", study=tmp_path / "x.yaml")
    cut.call("--per-device", "1", "--trials", "4", study=tmp_path / "x.yaml")
    with sqlite3.connect(cut.path / "optuna.db") as database:  # as if it had been killed while the last one was trained
        database.execute("update trials set state = 'RUNNING', datetime_complete = null where number = 3")
        database.execute("delete from trial_values where trial_id = (select trial_id from trials where number = 3)")
    database.close()
    for path in cut.path.glob(".tuner/x/trials-*/3/result.json"):
        path.unlink()
    cut.call("--per-device", "1", study=tmp_path / "x.yaml")
    assert params(straight) == params(cut)
    assert len(params(straight)) == 6
    for _, values in params(straight):
        assert values["model.neurons.0"] < values["model.neurons.1"] + 1
        assert values["optimizer.initial_lr"] * values["model.neurons.1"] < 0.2
    stored = straight.optuna("select value_json from study_user_attributes where key = 'identity'")
    assert json.loads(stored[0][0])["constraints"] == json.loads(NARROW)


def test_python_has_constraints_and_added_values_must_satisfy_them():
    load('["model.neurons[0] <= model.neurons[1]"]')
    study = Study("x.yaml")
    study.enqueue({"model.neurons.0": 3})
    with pytest.raises(BadInputError, match=r"does not satisfy model\.neurons\[0\] <= model\.neurons\[1\]"):
        study.enqueue({"model.neurons.0": 9, "model.neurons.1": 3})
    text = study.to_yaml()
    assert "constraints: ['model.neurons[0] <= model.neurons[1]']" in text
    assert text.startswith("# 1 trial added by enqueue() is not in this file.\n")
