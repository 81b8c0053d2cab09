"""Lengths in epochs and percent: their numbers of steps, compared with Lightning's for the same training."""

import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from lightning_modules import SCHEDULES
from tests.test_training import STEPS, VALUES, Answers, train
from tuner.config import registry
from tuner.config.annotations import item_hint, takes_steps
from tuner.config.component import rehearse
from tuner.config.dataset_probe import DatasetProbe
from tuner.config.lengths import Length, relative_lengths, resolve
from tuner.config.loader import load_study
from tuner.errors import BadInputError
from tuner.storage.reader import _Replay

LENGTHS = {
    "constant": [],
    "cosine": ["decay_steps"],
    "cosine_restarts": ["restart_period"],
    "exponential": ["decay_steps"],
    "five_point_spline": ["total_steps"],
    "hold_then_decay": ["hold_steps"],
    "inverse_sqrt": ["warmup_steps"],
    "inverse_time": ["decay_steps"],
    "join": ["starts"],
    "lambda": [],
    "linear_cosine": ["decay_steps"],
    "natural_exponential": ["decay_steps"],
    "noisy_linear_cosine": ["decay_steps"],
    "one_cycle": ["total_steps"],
    "piecewise_constant": ["boundaries"],
    "polynomial": ["decay_steps"],
    "rex": ["decay_steps"],
    "scaled": [],
    "spline": ["steps"],
    "sqrt": ["decay_steps"],
    "step": ["decay_steps"],
    "triangular": ["half_period"],
    "two_point_spline": ["decay_steps"],
    "warmup": ["steps"],
    "warmup_stable_decay": ["warmup_steps", "hold_steps", "decay_steps", "total_steps"],
}


def test_every_length_of_every_schedule_can_be_given_in_epochs():
    found = {
        name: [
            key
            for key, argument in registry.arguments_of("schedule", name).arguments.items()
            if takes_steps(argument.hint) or takes_steps(item_hint(argument.hint, 0))
        ]
        for name in SCHEDULES
    }
    assert found == LENGTHS


@pytest.mark.parametrize(
    ("text", "steps"),
    [("5 epochs", 200), ("1 epoch", 40), ("0.5epochs", 20), ("0 epochs", 0), ("25%", 30), ("100 %", 120), ("1e2%", 120),
     ("0.0125 epochs", 0), ("0.0375 epochs", 2), ("0.7%", 1), ("150%", 180)],
)  # fmt: skip
def test_a_length_is_rounded_to_the_nearest_whole_step(text: str, steps: int):
    assert Length(steps_per_epoch=40, max_epochs=3).in_steps(text) == steps


@pytest.mark.parametrize("text", ["5", "epochs", "-1 epochs", "+1 epochs", "5 steps", "5 Epochs", "%", "1 epochs 2"])
def test_a_text_that_is_not_a_length_is_refused(text: str):
    with pytest.raises(ValueError, match="is not a length in epochs or percent"):
        Length(steps_per_epoch=40, max_epochs=3).in_steps(text)


NESTED: dict[str, Any] = {
    "name": "plateau",
    "patience": 2,
    "schedule": {
        "name": "join",
        "schedules": [
            {"name": "warmup", "steps": "0.25 epochs", "schedule": {"name": "cosine", "decay_steps": 7.5}},
            {"name": "lambda", "function": "exp(-step)"},
            {"name": "piecewise_constant", "boundaries": ["50%", 70], "factors": [1, 0.5, 0.1]},
        ],
        "starts": ["1 epochs", "50%"],
    },
}


def test_lengths_are_resolved_wherever_a_schedule_stands_and_nothing_else_is_touched():
    resolved = resolve(NESTED, Length(steps_per_epoch=40, max_epochs=3))
    assert resolved == {
        "name": "plateau",
        "patience": 2,
        "schedule": {
            "name": "join",
            "schedules": [
                {"name": "warmup", "steps": 10, "schedule": {"name": "cosine", "decay_steps": 7.5}},
                {"name": "lambda", "function": "exp(-step)"},
                {"name": "piecewise_constant", "boundaries": [60, 70], "factors": [1, 0.5, 0.1]},
            ],
            "starts": [40, 60],
        },
    }
    assert relative_lengths(resolved) == {}
    rehearse("schedule", resolved)


def test_lengths_that_are_not_in_steps_are_reported_with_their_places():
    assert relative_lengths(NESTED) == {
        "schedule.schedule.schedules.0.steps": "0.25 epochs",
        "schedule.schedule.schedules.2.boundaries.0": "50%",
        "schedule.schedule.starts.0": "1 epochs",
        "schedule.schedule.starts.1": "50%",
    }


@pytest.mark.parametrize(("batch_size", "accumulated"), [(250, 1), (300, 1), (250, 3), (700, 4), (4000, 2)])
def test_the_length_of_a_training_equals_lightnings(tmp_path: Path, batch_size: int, accumulated: int):
    parts = {"val_fraction": 0.1, "test_fraction": 0.1}
    sections = {"data": {"batch_size": batch_size, **parts}, "trainer": {"accumulate_grad_batches": accumulated}}
    values = VALUES | {key: VALUES[key] | section for key, section in sections.items()}
    channel = Answers()
    result = train(tmp_path, channel, **sections)
    steps = [step for key, step, _ in result.points if key == "lr"]
    assert steps == list(range(DatasetProbe().length(values).steps))


def test_a_data_set_is_loaded_once(monkeypatch: pytest.MonkeyPatch):
    probe = DatasetProbe()
    info = probe.info({"name": "mnist_5k", "batch_size": 250})
    monkeypatch.setenv("XDG_CACHE_HOME", "/nonexistent")
    assert probe.info({"batch_size": 250, "name": "mnist_5k"}) is info
    with pytest.raises(BadInputError, match=r"trial\.data: "):
        probe.info({"name": "mnist_5k", "batch_size": 5000})


FAILING = """
from pytorch_lightning import LightningDataModule

class Odd(Exception):
    def __str__(self):
        raise RuntimeError

class Data(LightningDataModule):
    def __init__(self, how: str):
        super().__init__()
        self.how = how

    def prepare_data(self):
        if self.how == "key":
            {}["foo"]
        if self.how == "odd":
            raise Odd
        if self.how == "exit":
            raise SystemExit
        raise ValueError("no such table")
"""


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("key", "trial.data: KeyError: 'foo' (failing_data.py, line 15, in prepare_data: {}[\"foo\"])"),
        ("odd", "trial.data: Odd: (its text cannot be shown) (failing_data.py, line 17, in prepare_data: raise Odd)"),
        ("exit", "trial.data: SystemExit (failing_data.py, line 19, in prepare_data: raise SystemExit)"),
        (
            "value",
            'trial.data: no such table (failing_data.py, line 20, in prepare_data: raise ValueError("no such table"))',
        ),
    ],
)
def test_an_error_of_the_user_s_data_is_reported_with_its_class_and_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, message: str
):
    (tmp_path / "failing_data.py").write_text(FAILING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "failing_data", raising=False)
    with pytest.raises(BadInputError) as caught:
        DatasetProbe().info({"name": "failing_data:Data", "how": how})
    assert caught.value.faults == (message,)


STUDY = VALUES | {"schedule": {"name": "cosine", "decay_steps": "50%"}}
SPACE = {
    "schedule": {
        "one_of": {
            "cosine": {"decay_steps": {"low": "20%", "high": "80%"}},
            "step": {"decay_rate": 0.5, "decay_steps": {"low": "0.25 epochs", "high": "1.5 epochs", "log": True}},
            "triangular": {"half_period": {"choices": [4, "1 epochs", "25%"]}, "min_factor": 0.1},
        }
    }
}


def test_a_trial_has_lengths_in_steps_for_any_unit_and_is_restored_from_its_record(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump({"trial": STUDY, "search_space": SPACE}))
    config = load_study(str(path))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(30):
        trial = study.ask()
        drawn = config.suggest(trial)
        assert config.suggest(_Replay(trial.params)) == drawn
        (length,) = [value for key, value in drawn.schedule.arguments.items() if not isinstance(value, float)]
        texts = list(drawn.relative.values())
        match drawn.schedule.name:
            case "cosine":
                share = trial.params["schedule.cosine.decay_steps (%)"]
                assert (texts, length) == ([f"{share} %"], round(share / 100 * 3 * STEPS))
            case "step":
                epochs = trial.params["schedule.step.decay_steps (epochs)"]
                assert (texts, length) == ([f"{epochs} epochs"], round(epochs * STEPS))
            case _:
                assert (texts, length) in [([], 4), (["1 epochs"], STEPS), (["25%"], 3 * STEPS // 4)]
