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
    FivePointSpline,
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
    Rex,
    Schedule,
    Spline,
    SqrtDecay,
    StepDecay,
    TriangularCyclic,
    TwoPointSpline,
    WarmupStableDecay,
    join,
    scaled,
    warmup,
)
from tests.test_training import Answers
from tuner.config import registry
from tuner.config.loader import load_study
from tuner.config.study import Objective, StudyConfig
from tuner.config.trial import TrialConfig
from tuner.protocol import Assignment, TrainingGroup, TrialResult
from tuner.training.results import MODEL_FILE
from tuner.training.run import run

EPOCHS, EPOCH = 3, 4  # epochs, and steps in each
STEPS = EPOCHS * EPOCH
INITIAL_LR = 3e-3

STUDY = """\
name: x
trial:
  data: {{name: iris, batch_size: 20, train_size: 80}}
  model: {{name: mlp, inputs: 4, neurons: 8}}
  optimizer: {{name: sgd, initial_lr: 3e-3}}
  schedule: {schedule}
  trainer: {{max_epochs: 3, precision: 32-true}}
search_space: {space}
"""


def multiplied(step: float, rate: float, period: float) -> float:
    return float(rate ** (step // period))


def cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def piecewise(step: int) -> float:
    return 1.0 if step <= 4 else 0.5 if step <= 6 else 0.1


def triangular(step: int) -> float:
    return 0.1 + 0.9 * (1 - abs(step % 6 / 3 - 1))


def parabola(step: int) -> float:
    return 1 - (step / 6 - 1) ** 2


def peak(step: int) -> float:
    """The cubic pieces through (0, 0), (6, 1), (9, 0.5) and (12, 0), with slopes of 7/18, 0, -1/6 and -1/6."""
    t, u = step / 6, (step - 6) / 3
    if step < 6:
        return 3 * t**2 - 2 * t**3 + 7 / 3 * t * (1 - t) ** 2
    return 1 - u**2 + u**3 / 2 if step < 9 else (12 - step) / 6


def restarts(step: int) -> float:
    return cosine(step / 4) if step < 4 else 0.8 * cosine((step - 4) / 8)


# The arguments in the study file, and the factor at each of the twelve steps by its own formula.
FIXED: dict[str, tuple[str, Callable[[int], float]]] = {
    "constant": ("", lambda s: 1.0),
    "cosine": ("decay_steps: 2 epochs, min_factor: 0.1", lambda s: 0.9 * cosine(s / 8) + 0.1),
    "cosine_restarts": ("restart_period: 1 epochs, period_growth: 2, peak_decay: 0.8", restarts),
    "exponential": ("decay_rate: 0.5, decay_steps: 50%, staircase: false", lambda s: 0.5 ** (s / 6)),
    "five_point_spline": (
        "total_steps: 100%, x_peak: 0.5, delta_x1: 0.5, y1: 0, delta_x2: 0.5, y2: 0.5",
        peak,
    ),
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
        "function: 1 / (1 + step) if step < half else exp(-step / scale), half: 50%, scale: 6",
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
    "rex": ("decay_steps: 2 epochs, beta: 0.2", lambda s: max(0.0, 1 - s / 8) / (1 - 0.8 * min(1.0, s / 8))),
    "scaled": ("schedule: {name: constant}, factor: 0.25", lambda s: 0.25),
    "spline": ("steps: [0, 50%, 3 epochs], factors: [0, 1, 0], monotone: false", parabola),
    "sqrt": ("decay_steps: 100%, exponent: 3", lambda s: (1 - (s / 12) ** 2) ** 1.5),
    "step": ("decay_rate: 0.5, decay_steps: 0.5 epochs", lambda s: 0.5 ** (s // 2)),
    "triangular": ("half_period: 3, min_factor: 0.1", triangular),
    "two_point_spline": (
        "decay_steps: 100%, delta_x1: 0.5, y1: 0.625, delta_x2: 0.5, delta_y2: 0.5, min_factor: 0.25",
        lambda s: 1 - s / 16,
    ),
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
        "decay_steps: {low: 1 epochs, high: 3 epochs}, exponent: {low: 0.5, high: 3}",
        {"decay_steps (epochs)": 1.7, "exponent": 1.5},
        CosineDecay(decay_steps=7, exponent=1.5),
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
    "five_point_spline": (
        "total_steps: 100%, x_peak: {low: 0.1, high: 0.9}, delta_x1: {low: 0.1, high: 0.9}, y1: {low: 0, high: 1}, "
        "delta_x2: {low: 0.1, high: 0.9}, y2: {low: 0, high: 1}, y_end: {low: 0, high: 0.5}",
        {"x_peak": 0.2, "delta_x1": 0.4, "y1": 0.9, "delta_x2": 0.3, "y2": 0.25, "y_end": 0.125},
        FivePointSpline(total_steps=12, x_peak=0.2, delta_x1=0.4, y1=0.9, delta_x2=0.3, y2=0.25, y_end=0.125),
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
        "function: {choices: ['rate ** (step // period)', 'tests.test_every_schedule:multiplied']}, "
        "rate: {low: 0.1, high: 0.9}, period: {low: 20%, high: 100%}",
        {"function": "tests.test_every_schedule:multiplied", "rate": 0.5, "period (%)": 26.0},
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
    "rex": (
        "decay_steps: 100%, beta: {low: 0.1, high: 10, log: true}, min_factor: {choices: [0.0, 0.1]}",
        {"beta": 0.3, "min_factor": 0.1},
        Rex(decay_steps=12, beta=0.3, min_factor=0.1),
    ),
    "scaled": (
        "factor: {low: 0.1, high: 1}, schedule: {one_of: {constant: , step: {decay_rate: 0.5, decay_steps: 4}}}",
        {"factor": 0.5, "schedule.name": "step"},
        scaled(StepDecay(decay_rate=0.5, decay_steps=4), 0.5),
    ),
    "spline": (
        "steps: [0, {low: 10%, high: 60%}, 100%], factors: [1, {low: 0.2, high: 1}, 0.1]",
        {"steps.1 (%)": 41.0, "factors.1": 0.7},
        Spline(steps=(0, 5, 12), factors=(1, 0.7, 0.1)),
    ),
    "sqrt": (
        "decay_steps: {low: 2 epochs, high: 4 epochs}, exponent: {low: 0.5, high: 4}",
        {"decay_steps (epochs)": 2.5, "exponent": 2.0},
        SqrtDecay(decay_steps=10, exponent=2.0),
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
    "two_point_spline": (
        "decay_steps: 100%, delta_x1: {low: 0.1, high: 0.9}, y1: {low: 0, high: 1}, delta_x2: {low: 0.1, high: 0.9}, "
        "delta_y2: {low: 0, high: 1}",
        {"delta_x1": 0.3, "y1": 0.9, "delta_x2": 0.5, "delta_y2": 0.25},
        TwoPointSpline(decay_steps=12, delta_x1=0.3, y1=0.9, delta_x2=0.5, delta_y2=0.25),
    ),
    "warmup": (
        "steps: {low: 0, high: 6}, schedule: {name: cosine, decay_steps: {low: 20%, high: 60%}}",
        {"steps": 2, "schedule.decay_steps (%)": 55.5},
        warmup(CosineDecay(decay_steps=7), 2),
    ),
    "warmup_stable_decay": (
        "warmup_steps: {low: 0%, high: 20%}, total_steps: 120%, decay_steps: {low: 20%, high: 60%}, "
        "shape: {choices: [sqrt, cosine]}, power: {low: 0.5, high: 2}",
        {"warmup_steps (%)": 12.0, "decay_steps (%)": 50.0, "shape": "sqrt", "power": 1.5},
        WarmupStableDecay(warmup_steps=1, hold_steps=7, decay_steps=6, shape="sqrt", power=1.5),
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
