"""The law of losses: it is right where losses follow it, it has to prove so, and the pruner stops nothing otherwise."""

import numpy as np
import optuna
import pytest
from scipy.stats import spearmanr

from lightning_modules import Constant, CosineDecay, PolynomialDecay, Schedule, WarmupStableDecay
from tests.studies import TINY
from tuner.config.loader import load_study
from tuner.errors import BadInputError
from tuner.search.power_law import LossCurve, PowerLaw
from tuner.search.prediction import PARTS, is_hopeless, licence, up_to
from tuner.storage.attributes import PREDICTION
from tuner.storage.pruners import make_pruner
from tuner.storage.pruners.predicting import PredictingPruner, Training, TrainingReader

STEPS, LOSSES = 1000, 20
SCHEDULES: list[Schedule] = [
    Constant(),
    CosineDecay(decay_steps=STEPS),
    PolynomialDecay(decay_steps=STEPS, end_factor=0.0),
    *(
        WarmupStableDecay(warmup_steps=0, total_steps=STEPS, decay_steps=share * STEPS)
        for share in (0.1, 0.3, 0.6, 0.9)
    ),
]
SHARES = np.arange(1, LOSSES + 1) / LOSSES


def lawful(schedule: Schedule, lr: float) -> LossCurve:
    """Return a training whose losses follow the law, computed by its definition."""
    curve = lr * np.array([schedule(step) for step in range(0, STEPS, 8)])
    losses = []
    for count in np.round(SHARES * len(curve)).astype(int):
        gained = 0.0
        for step in range(1, count):
            since = curve[step:count].sum() / len(curve)
            rate = 1 + 5 * max(curve[step], 1e-3) ** -0.5 * since
            gained += (curve[step - 1] - curve[step]) * (1 - rate**-0.5)
        losses.append(2.0 + 0.5 * (curve[:count].sum() / len(curve)) ** -0.5 - 0.3 * gained)
    return LossCurve(curve, STEPS, SHARES, np.array(losses))


@pytest.fixture(scope="module")
def trainings() -> list[LossCurve]:
    """Return trainings that the law describes, in random order."""
    every = [lawful(schedule, lr) for schedule in SCHEDULES for lr in (0.3, 0.55, 1.0)]
    return [every[place] for place in np.random.default_rng(0).permutation(len(every))]


def test_the_law_ranks_trainings_from_their_first_third(trainings: list[LossCurve]):
    early = [up_to(curve, PARTS[0]) for curve in trainings[10:]]
    law = PowerLaw([*trainings[:10], *early])
    ends = [curve.losses[-1] for curve in trainings[10:]]
    predicted = spearmanr([law.final(curve) for curve in early], ends).statistic
    assert predicted > 0.9
    assert predicted > spearmanr([curve.losses[-1] for curve in early], ends).statistic


def test_predictions_that_rank_better_than_losses_are_licensed_and_stop_the_worse_half(trainings: list[LossCurve]):
    whole, rest = trainings[:10], trainings[10:]
    found = licence(whole)
    assert found.is_granted
    assert found.predicted > found.measured
    assert str(found).startswith("prediction was used, because it ranks trials better than their losses after a third")
    middle = np.median([curve.losses[-1] for curve in whole])
    for curve in (min(rest, key=lambda each: each.losses[-1]), max(rest, key=lambda each: each.losses[-1])):
        assert is_hopeless(up_to(curve, PARTS[0]), whole, []) == (curve.losses[-1] > middle)


def shuffled(trainings: list[LossCurve]) -> list[LossCurve]:
    """Return the same lrs with losses that have nothing to do with them and keep their order in all epochs."""
    levels = np.random.default_rng(1).permutation(np.linspace(1, 2, len(trainings)))
    return [
        LossCurve(each.lr, each.steps, SHARES, level * (1 + 0.1 / SHARES))
        for each, level in zip(trainings, levels, strict=True)
    ]


def test_predictions_that_rank_no_better_are_refused(trainings: list[LossCurve]):
    found = licence(shuffled(trainings))
    assert not found.is_granted
    assert str(found).startswith("prediction was not used, because losses after a third rank trials as well (")


def pruned(curves: list[LossCurve], validated: list[int], early: int = 0) -> tuple[list[tuple[int, int]], str]:
    """Return trial and epoch of each stop in a study of trainings, and the pruner's sentence.

    Args:
        curves: The trainings.
        validated: The epochs whose losses are reported.
        early: Number of trainings, the first ones, that end by themselves after half of their epochs.
    """

    def read(trial: optuna.trial.FrozenTrial) -> Training:
        curve, epochs = curves[trial.number], np.array(sorted(trial.intermediate_values))
        return Training(LossCurve(curve.lr, STEPS, SHARES[epochs - 1], curve.losses[epochs - 1]), LOSSES)

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(pruner=PredictingPruner(read))
    stopped = []
    for number, curve in enumerate(curves):
        trial = study.ask()
        for epoch in [epoch for epoch in validated if number >= early or epoch <= LOSSES // 2]:
            trial.report(curve.losses[epoch - 1], epoch)
            if epoch < LOSSES and trial.should_prune():
                stopped.append((trial.number, epoch))
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, curve.losses[epoch - 1])
    return stopped, study.user_attrs[PREDICTION]


@pytest.mark.parametrize("is_lawful", [True, False])
def test_the_pruner_stops_trials_only_with_a_licence_and_says_which(trainings: list[LossCurve], is_lawful: bool):
    curves = trainings if is_lawful else shuffled(trainings)
    stopped, sentence = pruned(curves, list(range(1, LOSSES + 1)))
    assert sentence.startswith("prediction was used") == is_lawful == bool(stopped)
    assert all(number >= 6 and epoch in (7, 14) for number, epoch in stopped)
    ends = [curve.losses[-1] for curve in curves]
    assert not {number for number, _ in stopped} & set(np.argsort(ends)[:5]), "none of the best five"


def test_a_trial_is_judged_at_its_first_validation_after_a_third_and_after_two(trainings: list[LossCurve]):
    stopped, _ = pruned(trainings, [4, 8, 12, 16, 20])
    assert stopped
    assert {epoch for _, epoch in stopped} <= {8, 16}


def test_trainings_that_ended_early_do_not_count_as_whole(trainings: list[LossCurve]):
    stopped, _ = pruned(trainings, list(range(1, LOSSES + 1)), early=10)
    assert min(number for number, _ in stopped) >= 16
    _, sentence = pruned(trainings, list(range(1, LOSSES + 1)), early=len(trainings))
    reason = "fewer than 6 trials with a known lr had been trained to the end"
    assert sentence == f"prediction was not used, because {reason}"


@pytest.mark.parametrize("family", ["cosine_restarts", "plateau"])
def test_a_trial_is_read_with_its_lr_curve_unless_that_depends_on_its_values(family: str):
    options = ["objective={metric: val/loss, direction: minimize}", "pruner={name: predicted}"]
    config = load_study(str(TINY), options)
    study = optuna.create_study(pruner=make_pruner(config))
    study.enqueue_trial({"schedule.name": family, "optimizer.initial_lr": 0.01})
    trial = study.ask()
    config.suggest(trial)
    for epoch, loss in enumerate((1.0, 0.5), start=1):
        trial.report(loss, epoch)
        assert not trial.should_prune(), "no trial has ended"
    training = TrainingReader(config)(study.trials[0])
    if family == "plateau":
        assert training is None
        return
    assert training is not None
    assert (training.epochs, training.curve.lr.max()) == (3, 0.01)
    assert training.curve.shares.tolist() == [1 / 3, 2 / 3]
    assert training.curve.losses.tolist() == [1.0, 0.5]
    assert study.user_attrs[PREDICTION].startswith(
        "prediction was not used, because fewer than 6 trials with a known lr"
    )


def test_only_losses_are_predicted():
    with pytest.raises(BadInputError, match=r"pruner\.name: predicted predicts losses"):
        load_study(str(TINY), ["pruner={name: predicted}", "objective={metric: val/acc, direction: maximize}"])
    with pytest.raises(BadInputError, match=r"pruner\.n_startup_trials: must be a whole number of at least 4"):
        load_study(
            str(TINY),
            ["pruner={name: predicted, n_startup_trials: 3}", "objective={metric: val/loss, direction: minimize}"],
        )
