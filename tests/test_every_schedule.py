"""Every named schedule, from the study file to the lr of every step of a real training."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from optuna.trial import FixedTrial

from lightning_modules import (
    SCHEDULES,
    Constant,
    CosineDecay,
    CosineRestarts,
    ExponentialDecay,
    HoldThenDecay,
    InverseSqrt,
    InverseTimeDecay,
    LinearCosineDecay,
    NaturalExponentialDecay,
    NoisyLinearCosineDecay,
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
from tests.test_training import Answers
from tuner.config import registry
from tuner.config.loader import load_study
from tuner.config.study import Objective, StudyConfig, TrialConfig
from tuner.protocol import Assignment, TrainingGroup, TrialResult
from tuner.training.run import MODEL_FILE, run

EPOCHS, EPOCH = 3, 4  # epochs, and steps in each
STEPS = EPOCHS * EPOCH
INITIAL_LR = 3e-3

STUDY = """\
name: x
trial:
  data: {{name: mnist_5k, batch_size: 25, val_fraction: 0.01, test_fraction: 0.97}}
  model: {{name: mnist_cnn, channels: [2, 2, 2], hidden: [4, 4]}}
  optimizer: {{name: sgd, initial_lr: 3e-3}}
  schedule: {schedule}
  trainer: {{max_epochs: 3, precision: 32-true}}
search_space: {space}
"""


def halved_every_third(step: float) -> float:
    return 0.5 ** (step // 3)


def cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def piecewise(step: int) -> float:
    return 1.0 if step <= 4 else 0.5 if step <= 6 else 0.1


def triangular(step: int) -> float:
    return 0.1 + 0.9 * (1 - abs(step % 6 / 3 - 1))


def restarts(step: int) -> float:
    return cosine(step / 4) if step < 4 else 0.8 * cosine((step - 4) / 8)


# The arguments in the study file, and the factor at each of the twelve steps by its own formula.
FIXED: dict[str, tuple[str, Callable[[int], float]]] = {
    "constant": ("", lambda s: 1.0),
    "cosine": ("decay_steps: 2 epochs, min_factor: 0.1", lambda s: 0.9 * cosine(s / 8) + 0.1),
    "cosine_restarts": ("restart_period: 1 epochs, period_growth: 2, peak_decay: 0.8", restarts),
    "exponential": ("decay_rate: 0.5, decay_steps: 50%, staircase: false", lambda s: 0.5 ** (s / 6)),
    "hold_then_decay": (
        "hold_steps: 5, decay: {name: step, decay_rate: 0.1, decay_steps: 4}",
        lambda s: 0.1 if s >= 9 else 1.0,
    ),
    "inverse_sqrt": ("warmup_steps: 25%", lambda s: min((s + 1) / 3, math.sqrt(3 / (s + 1)))),
    "inverse_time": ("decay_rate: 2, decay_steps: 10", lambda s: 1 / (1 + s / 5)),
    "join": (
        "schedules: [{name: constant}, {name: polynomial, decay_steps: 50%, end_factor: 0.2}], starts: [1.5 epochs]",
        lambda s: 1.0 if s < 6 else 1 - 0.8 * (s - 6) / 6,
    ),
    "lambda": (
        "function: 1 / (1 + step) if step < 6 else exp(-step / 6)",
        lambda s: 1 / (1 + s) if s < 6 else math.exp(-s / 6),
    ),
    "linear_cosine": ("decay_steps: 100%", lambda s: (1 - s / 12) * cosine(s / 12) + 0.001),
    "natural_exponential": ("decay_rate: 0.7, decay_steps: 4.5", lambda s: math.exp(-0.7 * s / 4.5)),
    "noisy_linear_cosine": (
        "decay_steps: 12, initial_variance: 0, seed: 3",
        lambda s: (1 - s / 12) * cosine(s / 12) + 0.001,
    ),
    "one_cycle": (
        "total_steps: 100%, rise_share: 0.5, start_factor: 0.5, end_factor: 0.1, shape: linear",
        lambda s: 0.5 + 0.5 * s / 5 if s < 5 else 1 - 0.9 * (s - 5) / 6,
    ),
    "piecewise_constant": ("boundaries: [1 epochs, 50%], factors: [1, 0.5, 0.1]", piecewise),
    "polynomial": ("decay_steps: 8, end_factor: 0.2, power: 2", lambda s: 0.8 * (1 - min(s, 8) / 8) ** 2 + 0.2),
    "scaled": ("schedule: {name: constant}, factor: 0.25", lambda s: 0.25),
    "step": ("decay_rate: 0.5, decay_steps: 0.5 epochs", lambda s: 0.5 ** (s // 2)),
    "triangular": ("half_period: 3, min_factor: 0.1", triangular),
    "warmup": (
        "steps: 1 epochs, start: 0.2, schedule: {name: step, decay_rate: 0.5, decay_steps: 5}",
        lambda s: 0.2 + 0.8 * s / 4 if s < 4 else 0.5 ** ((s - 4) // 5),
    ),
    "warmup_stable_decay": (
        "warmup_steps: 2, hold_steps: 1 epochs, decay_steps: 50%",
        lambda s: s / 2 if s < 2 else 1.0 if s < 6 else 1 - (s - 6) / 6,
    ),
    # No value counts as better than the first one: reduced after the second epoch, and so in the third.
    "plateau": (
        "factor: 0.1, patience: 0, threshold: 1e9, threshold_mode: abs, schedule: {name: triangular, half_period: 3, "
        "min_factor: 0.1}",
        lambda s: triangular(s) * (0.1 if s >= 8 else 1.0),
    ),
}

# The same families with ranges and choices, what is drawn from these, and the schedule that this makes.
SEARCHED: dict[str, tuple[str, dict[str, float | str], Schedule | Plateau]] = {
    "constant": ("", {}, Constant()),
    "cosine": (
        "decay_steps: {low: 1 epochs, high: 3 epochs}",
        {"decay_steps (epochs)": 1.7},
        CosineDecay(decay_steps=7),
    ),
    "cosine_restarts": (
        "restart_period: {low: 10%, high: 90%, log: true}, period_growth: {low: 1, high: 2.5}",
        {"restart_period (%)": 33.3, "period_growth": 1.5},
        CosineRestarts(restart_period=4, period_growth=1.5),
    ),
    "exponential": (
        "decay_rate: {low: 0.1, high: 0.9}, decay_steps: {low: 2, high: 20}, staircase: {choices: [true, false]}",
        {"decay_rate": 0.6, "decay_steps": 5, "staircase": True},
        ExponentialDecay(decay_rate=0.6, decay_steps=5, staircase=True),
    ),
    "hold_then_decay": (
        "hold_steps: {low: 0, high: 6}, decay: {one_of: {cosine: {decay_steps: {low: 2, high: 6}}, constant: }}",
        {"hold_steps": 3, "decay.name": "cosine", "decay.cosine.decay_steps": 5},
        HoldThenDecay(hold_steps=3, decay=CosineDecay(decay_steps=5)),
    ),
    "inverse_sqrt": (
        "warmup_steps: {choices: [2, 1 epochs, 50%]}",
        {"warmup_steps": "50%"},
        InverseSqrt(warmup_steps=6),
    ),
    "inverse_time": (
        "decay_rate: {low: 0, high: 5}, decay_steps: {low: 1, high: 9}",
        {"decay_rate": 2.5, "decay_steps": 3},
        InverseTimeDecay(decay_rate=2.5, decay_steps=3),
    ),
    "join": (
        "schedules: [{name: constant}, {name: cosine, decay_steps: {low: 3, high: 9}}], "
        "starts: [{low: 10%, high: 60%}]",
        {"schedules.1.decay_steps": 4, "starts.0 (%)": 41.0},
        join([Constant(), CosineDecay(decay_steps=4)], [5]),
    ),
    "lambda": (
        "function: {choices: ['0.9 ** step', 'tests.test_every_schedule:halved_every_third']}",
        {"function": "tests.test_every_schedule:halved_every_third"},
        StepDecay(decay_rate=0.5, decay_steps=3),
    ),
    "linear_cosine": (
        "decay_steps: {low: 5, high: 12}, beta: {low: 0, high: 0.1}",
        {"decay_steps": 9, "beta": 0.05},
        LinearCosineDecay(decay_steps=9, beta=0.05),
    ),
    "natural_exponential": (
        "decay_rate: {low: 0, high: 2}, decay_steps: 6",
        {"decay_rate": 1.25},
        NaturalExponentialDecay(decay_rate=1.25, decay_steps=6),
    ),
    "noisy_linear_cosine": (
        "decay_steps: 12, seed: {low: 0, high: 9}",
        {"seed": 7},
        NoisyLinearCosineDecay(decay_steps=12, seed=7),
    ),
    "one_cycle": (
        "total_steps: 100%, rise_share: {low: 0.2, high: 0.5}",
        {"rise_share": 0.31},
        OneCycle(total_steps=12, rise_share=0.31),
    ),
    "piecewise_constant": (
        "boundaries: [{low: 1, high: 4}, {low: 5, high: 9}], factors: [1, {low: 0.1, high: 0.9}, 0.01]",
        {"boundaries.0": 2, "boundaries.1": 7, "factors.1": 0.3},
        PiecewiseConstant(boundaries=(2, 7), factors=(1, 0.3, 0.01)),
    ),
    "polynomial": (
        "decay_steps: {low: 2, high: 9}, end_factor: {low: 0, high: 0.5}, cycle: {choices: [true, false]}",
        {"decay_steps": 5, "end_factor": 0.1, "cycle": True},
        PolynomialDecay(decay_steps=5, end_factor=0.1, cycle=True),
    ),
    "scaled": (
        "factor: {low: 0.1, high: 1}, schedule: {one_of: {constant: , step: {decay_rate: 0.5, decay_steps: 4}}}",
        {"factor": 0.5, "schedule.name": "step"},
        scaled(StepDecay(decay_rate=0.5, decay_steps=4), 0.5),
    ),
    "step": (
        "decay_rate: {low: 0.1, high: 0.9, step: 0.1}, decay_steps: 1 epochs",
        {"decay_rate": 0.3},
        StepDecay(decay_rate=0.3, decay_steps=4),
    ),
    "triangular": (
        "half_period: {low: 2, high: 6}, min_factor: {low: 0, high: 0.5}",
        {"half_period": 4, "min_factor": 0.25},
        TriangularCyclic(half_period=4, min_factor=0.25),
    ),
    "warmup": (
        "steps: {low: 0, high: 6}, schedule: {name: cosine, decay_steps: {low: 20%, high: 60%}}",
        {"steps": 2, "schedule.decay_steps (%)": 55.5},
        warmup(CosineDecay(decay_steps=7), 2),
    ),
    "warmup_stable_decay": (
        "warmup_steps: {low: 0%, high: 20%}, hold_steps: {low: 1, high: 4}, decay_steps: 4, "
        "shape: {choices: [sqrt, cosine]}",
        {"warmup_steps (%)": 12.0, "hold_steps": 3, "shape": "sqrt"},
        WarmupStableDecay(warmup_steps=1, hold_steps=3, decay_steps=4, shape="sqrt"),
    ),
    "plateau": (
        "factor: {low: 0.1, high: 0.5}, patience: 0, threshold: 1e9, threshold_mode: abs, "
        "schedule: {one_of: {constant: , step: {decay_rate: {low: 0.5, high: 0.9}, decay_steps: 1 epochs}}}",
        {"factor": 0.5, "schedule.name": "step", "schedule.step.decay_rate": 0.75},
        Plateau(factor=0.5, schedule=StepDecay(decay_rate=0.75, decay_steps=4)),
    ),
}


def study(folder: Path, schedule: str, space: str) -> StudyConfig:
    path = folder / "x.yaml"
    path.write_text(STUDY.format(schedule=schedule, space=space))
    return load_study(str(path))


def trained_lrs(config: TrialConfig, folder: Path) -> list[float]:
    """Return the lr that each step of a real training used."""
    (result,) = run(TrainingGroup((Assignment(0, config, Objective(), folder),)), Answers())
    assert result.state == "complete", result.traceback
    points = [(step, value) for key, step, value in result.points if key == "lr"]
    assert [step for step, _ in points] == list(range(STEPS))
    return [value for _, value in points]


@pytest.mark.parametrize("table", [FIXED, SEARCHED])
def test_every_name_is_covered_by_this_file(table: dict[str, tuple]):
    assert sorted(table) == sorted(registry.KINDS["schedule"]) == sorted({*SCHEDULES, "plateau"})


@pytest.mark.parametrize("name", FIXED)
def test_the_lr_of_every_step_is_that_of_the_formula(tmp_path: Path, name: str):
    arguments, factor = FIXED[name]
    config = study(tmp_path, f"{{name: {name}, {arguments}}}", "{}").suggest(FixedTrial({}))
    expected = [INITIAL_LR * factor(step) for step in range(STEPS)]
    assert trained_lrs(config, tmp_path) == pytest.approx(expected, rel=1e-12, abs=1e-18)


@pytest.mark.parametrize("name", SEARCHED)
def test_the_lr_of_every_step_is_that_of_the_schedule_that_was_drawn(tmp_path: Path, name: str):
    arguments, drawn, schedule = SEARCHED[name]
    other = (
        "exponential: {decay_rate: {low: 0.1, high: 0.9}, decay_steps: 10}" if name != "exponential" else "constant: "
    )
    params = {"schedule.name": name} | {f"schedule.{name}.{key}": value for key, value in drawn.items()}
    space = f"{{schedule: {{one_of: {{{name}: {{{arguments}}}, {other}}}}}}}"
    config = study(tmp_path, "{name: constant}", space).suggest(FixedTrial(params))
    scales = [1.0] * STEPS
    if isinstance(schedule, Plateau):
        scales[2 * EPOCH :] = [schedule.factor] * EPOCH
        schedule = schedule.schedule
    assert trained_lrs(config, tmp_path) == [INITIAL_LR * (schedule(s) * scales[s]) for s in range(STEPS)]


QUICK = {"cosine_restarts", "plateau", "warmup"}  # with a state of its own, without, nested
RESUMED = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FIXED]


@pytest.mark.parametrize("name", RESUMED)
def test_an_interrupted_training_continues_to_the_same_curves_and_weights(tmp_path: Path, name: str):
    config = study(tmp_path, f"{{name: {name}, {FIXED[name][0]}}}", "{}").suggest(FixedTrial({}))

    def train(directory: str, *decisions: str) -> TrialResult:
        (result,) = run(TrainingGroup((Assignment(0, config, Objective(), tmp_path / directory),)), Answers(*decisions))
        return result

    whole = train("whole")
    assert train("cut", "continue", "stop").state == "interrupted"
    resumed = train("cut")
    assert (resumed.state, resumed.epochs) == ("complete", EPOCHS)
    assert sorted(resumed.points) == sorted(whole.points)
    weights = [torch.load(tmp_path / folder / MODEL_FILE, weights_only=True) for folder in ("whole", "cut")]
    assert all(map(torch.equal, *(each["state_dict"].values() for each in weights)))
