"""Warnings about likely mistakes in lr curves, and no warnings about other curves."""

from pathlib import Path
from typing import Any

import pytest

from lightning_modules import (
    OPTIMIZERS,
    Constant,
    CosineDecay,
    CosineRestarts,
    ExponentialDecay,
    HoldThenDecay,
    InverseTimeDecay,
    Lambda,
    OneCycle,
    PiecewiseConstant,
    Plateau,
    PolynomialDecay,
    Schedule,
    StepDecay,
    TriangularCyclic,
    WarmupStableDecay,
    join,
    scaled,
    warmup,
)
from tests.test_curves import study
from tuner.analysis.lint import HIGHEST_LR, lint, lint_families
from tuner.analysis.lr_curves import LrCurve, make_curve, schedule_families
from tuner.config.component import Component
from tuner.config.lengths import Length
from tuner.config.loader import load_study
from tuner.config.study_files import shipped_studies

LENGTH = Length(steps_per_epoch=80, max_epochs=3)


def curve(
    schedule: Schedule | Plateau, precision: str = "32-true", optimizer: str = "adam", **arguments: Any
) -> LrCurve:
    return make_curve(schedule, Component(optimizer, {"initial_lr": 1e-3, **arguments}), LENGTH, precision)


def rules(
    schedule: Schedule | Plateau, precision: str = "32-true", optimizer: str = "adam", **arguments: Any
) -> list[str]:
    return [finding.rule for finding in lint(curve(schedule, precision, optimizer, **arguments))]


@pytest.mark.parametrize(
    "schedule",
    [
        Constant(),
        scaled(Constant(), 0.5),
        Plateau(patience=0),
        Plateau(patience=1, convention="keras"),
        Lambda(function="0.3"),
        ExponentialDecay(decay_rate=0.9, decay_steps=40, staircase=True),
        StepDecay(decay_rate=0.1, decay_steps=239),
        CosineDecay(decay_steps=240),
        CosineDecay(decay_steps=1000),
        CosineDecay(decay_steps=180),
        CosineRestarts(restart_period=239),
        PolynomialDecay(decay_steps=100, end_factor=0.0, cycle=True),
        TriangularCyclic(half_period=239, min_factor=0.1),
        OneCycle(total_steps=240),
        WarmupStableDecay(warmup_steps=24, hold_steps=180, decay_steps=36),
        PiecewiseConstant(boundaries=(100, 170), factors=(1, 0.1, 0.01)),
        PiecewiseConstant(boundaries=(80, 160), factors=(1, 0.1, 0.01)),
        HoldThenDecay(hold_steps=100, decay=CosineDecay(decay_steps=60)),
        warmup(CosineDecay(decay_steps=200), 40),
        warmup(CosineRestarts(restart_period=100), 40),
        join([CosineRestarts(restart_period=50), Constant()], [200]),
        PolynomialDecay(decay_steps=240, end_factor=10.0),
        Lambda(function="1 - step / 240"),
    ],
    ids=repr,
)
def test_a_sound_schedule_has_no_warning(schedule: Schedule | Plateau):
    assert rules(schedule) == []


@pytest.mark.parametrize(
    ("schedule", "rule"),
    [
        (StepDecay(decay_rate=0.1, decay_steps=240), "unchanging"),
        (CosineDecay(decay_steps=1200), "hardly begun"),
        (ExponentialDecay(decay_rate=0.5, decay_steps=50_000), "unchanging"),
        (InverseTimeDecay(decay_rate=0.01, decay_steps=400), "unchanging"),
        (PiecewiseConstant(boundaries=(239,), factors=(1, 0.1)), "unchanging"),
        (HoldThenDecay(hold_steps=500, decay=CosineDecay(decay_steps=60)), "unchanging"),
        (Lambda(function="1 if step < 300 else 0.1"), "unchanging"),
        (CosineDecay(decay_steps=170), "over early"),
        (CosineDecay(decay_steps=170, min_factor=0.1), "over early"),
        (Plateau(patience=0, schedule=OneCycle(total_steps=120)), "over early"),
        (PiecewiseConstant(boundaries=(20, 40), factors=(1, 0.1, 0.01)), "over early"),
        (CosineRestarts(restart_period=240), "no restart"),
        (Plateau(patience=0, schedule=CosineRestarts(restart_period=1000)), "no restart"),
        (Plateau(patience=1), "no reduction"),
        (Plateau(patience=2, convention="keras"), "no reduction"),
        (warmup(CosineRestarts(restart_period=210), 40), "no restart"),
        (PolynomialDecay(decay_steps=300, end_factor=0.0, cycle=True), "no restart"),
        (join([Constant(), scaled(CosineRestarts(restart_period=200), 0.1)], [40]), "no restart"),
        (TriangularCyclic(half_period=300, min_factor=0.1), "no peak"),
        (warmup(Constant(), 400), "no peak"),
        (StepDecay(decay_rate=0.1, decay_steps=20), "too small"),
    ],
    ids=repr,
)
def test_likely_mistakes_are_reported(schedule: Schedule | Plateau, rule: str):
    assert rules(schedule) == [rule]


@pytest.mark.parametrize(
    ("plateau", "epochs", "why"),
    [
        (Plateau(patience=5), 3, "a patience of 5 is too long for 3 epochs"),
        (Plateau(patience=0), 1, "no patience can act within 1 epoch"),
    ],
)
def test_a_plateau_that_cannot_act_is_named_with_the_reason(plateau: Plateau, epochs: int, why: str):
    length = Length(steps_per_epoch=80, max_epochs=epochs)
    (finding,) = lint(make_curve(plateau, Component("adam", {"initial_lr": 1e-3}), length, "32-true"))
    assert finding.text == f"the lr is never reduced: {why}"


@pytest.mark.parametrize(
    ("precision", "lost"),
    [
        ("64-true", False),
        ("32-true", False),
        ("auto", False),
        ("bf16-mixed", False),
        ("16-mixed", False),
        ("bf16-true", True),
    ],
)
def test_the_smallest_useful_lr_is_that_of_the_weights_precision(precision: str, lost: bool):
    schedule = CosineDecay(decay_steps=60, min_factor=0.01)  # 1e-5, where half a last bit of 0.01 in bfloat16 is 2e-5
    found = rules(join([schedule, CosineDecay(decay_steps=180)], [60]), precision)
    assert found == []
    decaying = ExponentialDecay(decay_rate=0.001, decay_steps=240)  # from 1e-3 to 1e-6
    assert rules(decaying, precision) == (["too small"] if lost else [])


@pytest.mark.parametrize(
    ("optimizer", "arguments", "limit"),
    [
        ("adam", {}, 0.03),
        ("adamw", {"eps": 0.0}, 0.03),
        ("adam_epsilon_hat", {"eps": 0.1}, 0.33),
        ("adam", {"eps": 1.0}, 3.03),
        ("rmsprop", {}, 0.03),
        ("rmsprop", {"momentum": 0.9}, 0.003),
        ("sgd", {}, 10),
        ("sgd", {"momentum": 0.9}, 1),
        ("adagrad", {}, 0.5),
        ("adadelta", {}, 10),
        ("lion", {}, 0.01),
        ("soap", {}, 0.03),
        ("muon", {}, 0.03),
        ("muon", {"scale": "original"}, 0.3),
        ("schedule_free_adamw", {}, 0.3),
        ("schedule_free_sgd", {"momentum": 0.9}, 50),
        ("prodigy", {}, 10),
        ("torch.optim:NAdam", {}, 1e9),
    ],
)
def test_a_peak_above_what_suits_the_optimizer_is_reported(optimizer: str, arguments: dict[str, float], limit: float):
    schedule = TriangularCyclic(half_period=30, min_factor=0.5)
    assert rules(schedule, optimizer=optimizer, initial_lr=0.99 * limit, **arguments) == []
    if ":" not in optimizer:
        assert rules(schedule, optimizer=optimizer, initial_lr=1.01 * limit, **arguments) == ["too high"]
        assert rules(scaled(schedule, 0.9), optimizer=optimizer, initial_lr=1.05 * limit, **arguments) == []


def test_every_optimizer_has_a_highest_lr():
    assert HIGHEST_LR.keys() == OPTIMIZERS.keys()


def test_a_warning_names_the_mistake_and_its_place(tmp_path: Path):
    config = study(tmp_path, {}, schedule={"name": "cosine_restarts", "restart_period": 100})
    assert lint_families(schedule_families(config, 20)) == [
        "cosine_restarts: the first restart lies beyond the 48 steps of the run (at step 100)."
    ]


def test_a_range_with_mostly_bad_samples_is_reported_with_their_share(tmp_path: Path):
    def notes(high: int) -> list[str]:
        restarts = {"restart_period": {"low": 20, "high": high}}
        return lint_families(
            schedule_families(
                study(tmp_path, {"schedule": {"one_of": {"constant": {}, "cosine_restarts": restarts}}}), 20
            )
        )

    (note,) = notes(100)
    assert note.startswith(
        "cosine_restarts: in 13 of 20 samples the first restart lies beyond the 48 steps of the run, "
        "such as with restart_period "
    )
    assert notes(60) == []


@pytest.mark.parametrize("name", sorted(shipped_studies()))
def test_shipped_studies_have_no_warnings(name: str):
    assert lint_families(schedule_families(load_study(name), 100)) == []
