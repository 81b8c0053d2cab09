"""The search over lr curves: the Gaussian process, the points of configurations, and what is tried next."""

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from tuner.config.loader import load_study
from tuner.config.search_space import Choices, Range, searched
from tuner.config.shares import ShareSuggester, share_of
from tuner.config.study import StudyConfig
from tuner.errors import BadInputError
from tuner.search.curve_space import CurveSpace
from tuner.search.gaussian_process import GaussianProcess, expected_improvement
from tuner.storage.samplers import make_sampler

STUDY = """\
objective: {metric: val/loss, direction: minimize}
sampler: {name: curve, seed: 3}
trial:
  data: {name: iris, batch_size: 5}
  model: {name: mlp, inputs: 4, neurons: 8}
  optimizer: {name: adam, initial_lr: 1e-2}
  trainer: {max_epochs: 8}
search_space:
  optimizer.initial_lr: {low: 1e-4, high: 1e-1, log: true}
  optimizer.eps: {low: 1e-9, high: 1e-3, log: true}
  model.neurons: {choices: [4, 8, 16]}
  schedule:
    one_of:
      constant: {}
      lambda: {function: "max(0, 1 - slope * step / 144)", slope: {low: 0.5, high: 1.0}}
      polynomial: {decay_steps: 100%, end_factor: 0.0, power: {low: 0.5, high: 3.0}}
      exponential: {decay_rate: {low: 0.5, high: 0.99}, decay_steps: {low: 5, high: 50, log: true}}
      plateau: {factor: {low: 0.1, high: 0.7}, patience: 0}
"""


@pytest.fixture
def config(tmp_path: Path) -> StudyConfig:
    (tmp_path / "curves.yaml").write_text(STUDY)
    return load_study(str(tmp_path / "curves.yaml"))


def test_a_gaussian_process_passes_through_its_values_and_is_unsure_elsewhere():
    points = np.linspace(-1, 1, 9)[:, None]
    process = GaussianProcess(points, np.sin(3 * points[:, 0]))
    mean, deviation = process.predict(np.array([[0.25], [0.375], [3.0]]))
    assert mean[:2] == pytest.approx(np.sin([0.75, 1.125]), abs=0.05)
    assert deviation[2] > 5 * deviation[1]


def test_its_kernel_ignores_an_input_that_does_not_matter():
    random = np.random.default_rng(0)
    points = random.normal(size=(40, 2))
    scales = GaussianProcess(points, np.sin(2 * points[:, 0])).kernel.length_scales
    assert scales[1] > 2 * scales[0]


@given(st.floats(-5, 5), st.floats(0.01, 5), st.floats(-5, 5))
def test_the_expected_improvement_is_that_of_samples(mean: float, deviation: float, best: float):
    samples = np.random.default_rng(0).normal(mean, deviation, 20_000)
    expected = np.maximum(best - samples, 0).mean()
    (found,) = expected_improvement(np.array([mean]), np.array([deviation]), best)
    assert found == pytest.approx(expected, abs=0.03 * deviation)


@given(st.floats(0, 1, exclude_max=True))
def test_a_value_lies_at_the_share_that_it_was_drawn_from(share: float):
    for spec in (Range(1e-4, 1.0, log=True), Range(-1.0, 3.0)):
        drawn = ShareSuggester(lambda name: share).suggest_float("x", spec.low, spec.high, log=spec.log)
        assert share_of(spec, drawn) == pytest.approx(share, abs=1e-9)
    choice = ShareSuggester(lambda name: share).suggest_categorical("x", ("a", "b", "c"))
    assert int(3 * share) == int(3 * share_of(Choices(("a", "b", "c")), choice))


ENDLESS = """\
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset


class Batches(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.zeros(4), 0


class Endless(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Batches(), batch_size=5)

    val_dataloader = train_dataloader
"""


def params(family: str, **others: Any) -> dict[str, Any]:
    return {"optimizer.initial_lr": 1e-2, "optimizer.eps": 1e-8, "model.neurons": 8, "schedule.name": family, **others}


def points(space: CurveSpace, values: dict[str, Any], *shares: float) -> np.ndarray:
    configuration = space.of(values)
    curve = space.curve(configuration)
    assert curve is not None
    return np.concatenate([space.points([(configuration, curve)], share) for share in shares])


def test_schedules_with_the_same_curve_are_the_same_point_whatever_they_are_called(config: StudyConfig):
    space = CurveSpace(config, 0)
    formula = points(space, params("lambda", **{"schedule.lambda.slope": 1.0}), 0.5, 1.0)
    power, other = (
        points(space, params("polynomial", **{"schedule.polynomial.power": power}), 0.5, 1.0) for power in (1.0, 2.0)
    )
    assert np.allclose(formula, power)
    assert not np.allclose(formula, other)


def test_a_part_of_a_training_knows_nothing_of_the_rest(config: StudyConfig):
    space = CurveSpace(config, 0)
    halved = {"schedule.exponential.decay_rate": 0.5, "schedule.exponential.decay_steps": 50}
    constant, decaying = (
        points(space, each, 0.05, 1.0) for each in (params("constant"), params("exponential", **halved))
    )
    assert np.abs(constant[0] - decaying[0]).max() < 0.1 < np.abs(constant[1] - decaying[1]).max()


def test_a_plateau_is_told_from_the_constant_lr_that_it_starts_with(config: StudyConfig):
    space = CurveSpace(config, 0)
    constant = points(space, params("constant"), 1.0)
    two, six = (points(space, params("plateau", **{"schedule.plateau.factor": factor}), 1.0) for factor in (0.2, 0.6))
    assert not np.allclose(constant, two)
    assert not np.allclose(two, six)


def test_values_near_others_keep_their_choices_and_stay_in_their_ranges(config: StudyConfig):
    space, random = CurveSpace(config, 0), Random(0)
    start = params("lambda", **{"schedule.lambda.slope": 1.0})
    for _ in range(50):
        near = space.nearby(start, random, 0.1, {}).params
        assert (near["schedule.name"], near["model.neurons"]) == ("lambda", 8)
        assert 0.5 <= near["schedule.lambda.slope"] <= 1.0
        assert 1e-4 <= near["optimizer.initial_lr"] <= 1e-1


def loss(space: CurveSpace, values: dict[str, Any], share: float) -> float:
    """Return a loss that depends on the lr curve alone, and is lowest for a high lr that ends low."""
    peak, total, recent, _, _ = points(space, values, share)[0, :5]
    return float(0.5 + 0.1 * (total - 0.7) ** 2 + 0.05 * (recent + 1.0) ** 2 + 0.02 * peak**2 + 0.2 * (1 - share))


def best_of(config: StudyConfig, sampler: str, trials: int) -> float:
    space = CurveSpace(config, 0)
    config = load_study(str(config.folder / "curves.yaml"), [f"sampler={{name: {sampler}, seed: 1}}"])
    study = optuna.create_study(direction="minimize")
    for number in range(trials):
        study.sampler = make_sampler(config, number, study.sampler)
        trial = study.ask()
        config.suggest(trial)
        for epoch in range(1, 9):
            trial.report(loss(space, trial.params, epoch / 8), epoch)
        study.tell(trial, loss(space, trial.params, 1.0))
    return study.best_value


def test_the_search_finds_a_better_curve_than_random_trials_in_a_fraction_of_them(config: StudyConfig):
    assert best_of(config, "curve", 20) < best_of(config, "random", 80)


def test_trials_that_are_being_trained_are_not_tried_again(config: StudyConfig):
    study = optuna.create_study(direction="minimize")
    asked = []
    for number in range(12):
        study.sampler = make_sampler(config, number, study.sampler)
        trial = study.ask()
        config.suggest(trial)
        if number < 6:
            trial.report(1 + number, 8)
            study.tell(trial, 1 + number)
        else:
            asked.append(trial.params)
    space = CurveSpace(config, 0)
    ends = [points(space, each, 1.0) for each in asked]
    distances = [np.abs(a - b).max() for i, a in enumerate(ends) for b in ends[:i]]
    assert min(distances) > 0.02


def test_the_random_trials_have_their_values_in_different_parts_of_each_range(config: StudyConfig):
    study = optuna.create_study()
    given = config.first.known.stop
    drawn = []
    for number in range(given + 4):
        study.sampler = make_sampler(config, number, study.sampler)
        trial = study.ask()
        config.suggest(trial)
        drawn += [trial.params] * (number >= given)
    specs = dict(searched(config.trial))
    for name in ("optimizer.initial_lr", "optimizer.eps"):
        assert sorted(int(4 * share_of(specs[name], params[name])) for params in drawn) == [0, 1, 2, 3]


def test_no_values_are_tried_twice_while_others_are_left(config: StudyConfig):
    lrs = "search_space.optimizer.initial_lr={choices: [1e-4, 1e-3, 1e-2, 1e-1]}"
    others = ["search_space.optimizer.eps=null", "search_space.model.neurons=null"]
    family = "search_space.schedule={one_of: {constant: {}, cosine: {}, one_cycle: {}}}"
    config = load_study(str(config.folder / "curves.yaml"), [lrs, family, *others])
    study = optuna.create_study(direction="minimize")
    tried: list[dict[str, Any]] = []
    for number in range(12):
        study.sampler = make_sampler(config, number, study.sampler)
        trial = study.ask()
        config.suggest(trial)
        assert number < 5 or trial.params not in tried  # the first five are drawn at random
        tried.append(trial.params)
        trial.report(2.0, 1)
        study.tell(trial, state=TrialState.PRUNED)


def test_the_curve_sampler_needs_to_know_the_length_of_a_training(tmp_path: Path):
    (tmp_path / "endless.py").write_text(ENDLESS)
    text = STUDY.replace("data: {name: iris, batch_size: 5}", "data: {name: endless:Endless}")
    (tmp_path / "curves.yaml").write_text(text)
    with pytest.raises(BadInputError, match=r"trial\.data: its loader does not report its number of batches"):
        load_study(str(tmp_path / "curves.yaml"))
