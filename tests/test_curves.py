"""The curves of a preview: samples that cover the search space, and the exact lr of each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_modules import CosineDecay, Plateau, Schedule, StepDecay, scaled
from tests.test_training import STEPS, VALUES
from tuner.analysis.lr_curves import POINTS, make_curve, schedule_families
from tuner.config.component import Component
from tuner.config.lengths import Length
from tuner.config.loader import load_study
from tuner.config.study import StudyConfig
from tuner.errors import BadInputError

SPACE = {
    "optimizer.initial_lr": {"low": 1e-4, "high": 1e-2, "log": True},
    "schedule": {
        "one_of": {
            "cosine": {"decay_steps": {"low": 10, "high": 49}, "min_factor": {"low": 0.0, "high": 0.5}},
            "step": {"decay_rate": {"choices": [0.1, 0.5]}, "decay_steps": {"low": "0.5 epochs", "high": "2 epochs"}},
            "plateau": {"schedule": {"name": "step", "decay_rate": 0.5, "decay_steps": 20}},
        }
    },
}


def study(folder: Path, space: dict[str, Any], **sections: dict[str, Any]) -> StudyConfig:
    path = folder / "x.yaml"
    path.write_text(yaml.safe_dump({"trial": VALUES | sections, "search_space": space}, sort_keys=False))
    return load_study(str(path))


def test_each_family_has_its_fan_and_each_curve_is_the_exact_lr_of_every_step(tmp_path: Path):
    found = schedule_families(study(tmp_path, SPACE), samples=8)
    assert [family.name for family in found] == ["cosine", "step", "plateau"]
    for family in found:
        assert len(family.curves) == 8
        for curve in family.curves:
            schedule = curve.schedule.schedule if isinstance(curve.schedule, Plateau) else curve.schedule
            assert curve.length == Length(STEPS, 3)
            assert curve.steps == list(range(3 * STEPS))
            assert curve.lr == [curve.initial_lr * schedule(step) for step in range(3 * STEPS)]
    assert found[0].ranges == ("initial_lr 0.0001 to 0.01 (log), decay_steps 10 to 49, min_factor 0 to 0.5")
    assert all(curve.label == f"initial_lr {curve.initial_lr:.3g}" for curve in found[2].curves)


def test_the_samples_cover_every_range_evenly(tmp_path: Path):
    cosine, step, _ = schedule_families(study(tmp_path, SPACE), samples=10)
    tenths = [int(schedule.min_factor / 0.05) for schedule in (curve.schedule for curve in cosine.curves)]
    assert sorted(tenths) == list(range(10))
    fours = [(curve.schedule.decay_steps - 10) // 4 for curve in cosine.curves]
    assert sorted(fours) == list(range(10))
    fifths = [
        int(curve.initial_lr / 1e-4 > 10**0.2) + int(curve.initial_lr / 1e-4 > 10**1.8) for curve in cosine.curves
    ]
    assert sorted(fifths) == [0] + [1] * 8 + [2]
    assert sorted(curve.schedule.decay_rate for curve in step.curves) == [0.1] * 5 + [0.5] * 5
    assert {curve.schedule.decay_steps for curve in step.curves} < set(range(8, 33))


def test_a_range_with_steps_is_drawn_in_steps(tmp_path: Path):
    space = {
        "schedule": {
            "one_of": {
                "cosine": {"decay_steps": {"low": 10, "high": 50, "step": 20}, "min_factor": 0.1},
                "step": {
                    "decay_rate": {"low": 0.1, "high": 0.5, "step": 0.2},
                    "decay_steps": {"low": 1, "high": 64, "log": True},
                },
            }
        }
    }
    cosine, step = schedule_families(study(tmp_path, space), samples=30)
    assert sorted(curve.schedule.decay_steps for curve in cosine.curves) == [10] * 10 + [30] * 10 + [50] * 10
    assert sorted(round(curve.schedule.decay_rate, 9) for curve in step.curves) == [0.1] * 10 + [0.3] * 10 + [0.5] * 10
    lengths = sorted(curve.schedule.decay_steps for curve in step.curves)
    assert (lengths[0], lengths[14] <= 8, lengths[15] >= 8, lengths[-1] > 55) == (1, True, True, True)


def test_the_same_seed_gives_the_same_fan_and_another_seed_another(tmp_path: Path):
    config = study(tmp_path, SPACE)
    assert schedule_families(config, 5, seed=3) == schedule_families(config, 5, seed=3)
    assert schedule_families(config, 5, seed=3) != schedule_families(config, 5, seed=4)


def test_there_is_one_curve_where_nothing_that_bends_it_is_searched(tmp_path: Path):
    space = {"optimizer.eps": {"low": 1e-9, "high": 1e-3, "log": True}}
    (family,) = schedule_families(
        study(tmp_path, space, schedule={"name": "cosine_restarts", "restart_period": "1 epochs"}), 20
    )
    (curve,) = family.curves
    assert (family.name, family.ranges, curve.label) == ("cosine_restarts", "", "")
    assert [step for step, lr in zip(curve.steps, curve.lr, strict=True) if lr == 0.01] == [0, STEPS, 2 * STEPS]


def test_a_long_training_is_computed_at_steps_from_the_first_to_the_last():
    length = Length(steps_per_epoch=10_000, max_epochs=100)
    curve = make_curve(CosineDecay(decay_steps=999_999), Component("sgd", {"initial_lr": 2.0}), length)
    assert (len(curve.steps), curve.steps[0], curve.steps[-1]) == (POINTS, 0, 999_999)
    assert (curve.lr[0], curve.lr[-1]) == (2.0, 0.0)


def test_the_reductions_of_a_plateau_are_left_out():
    plateau = Plateau(schedule=scaled(StepDecay(decay_rate=0.5, decay_steps=2), 0.5), patience=0)
    curve = make_curve(plateau, Component("sgd", {"initial_lr": 1.0}), Length(2, 2))
    assert curve.lr == [0.5, 0.5, 0.25, 0.25]


def test_an_invalid_sample_is_reported_with_its_values(tmp_path: Path):
    middle = "tests.test_curves:Hollow"
    config = study(tmp_path, {"schedule.hollow": {"low": 0.0, "high": 1.0}}, schedule={"name": middle})
    with pytest.raises(
        BadInputError, match=r"^trial\.schedule: with hollow 0\.\d+: no hollow between 0\.2 and 0\.8\.$"
    ):
        schedule_families(config, 5)


@dataclass(frozen=True, kw_only=True)
class Hollow(Schedule):
    """Can be built at the corners of its range, and not in its middle."""

    hollow: float = 0.0

    def _check(self) -> None:
        if 0.2 < self.hollow < 0.8:
            raise ValueError("no hollow between 0.2 and 0.8")

    def _factor(self, step: float) -> float:
        return 1.0
