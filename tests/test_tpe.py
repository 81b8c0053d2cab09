"""The TPE sampler suggests what Optuna's suggests."""

import math
import random
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from tuner.storage.samplers.tpe import TPESampler


def suggest(trial: optuna.Trial) -> None:
    trial.suggest_float("lr", 1e-5, 1.0, log=True)
    trial.suggest_float("momentum", 0.0, 1.0)
    match trial.suggest_categorical("family", ["a", "b", "c"]):
        case "a":
            trial.suggest_int("steps", 32, 960, log=True)
            trial.suggest_float("rate", 0.5, 0.95)
        case "b":
            trial.suggest_float("share", 0.0, 1.0, step=0.25)
            trial.suggest_int("period", 63, 1890)
        case "c":  # few values, which are often equally good by symmetry
            trial.suggest_int("layers", 1, 3)


def suggestions(
    ours: bool,
    trials: int,
    size: int,
    direction: str,
    hyperband: bool = False,
    **options: Any,
) -> list[dict[str, Any]]:
    """Return the parameters of a study whose trials are asked for in groups, and end in every way."""
    chance = random.Random(size)
    study = optuna.create_study(direction=direction, study_name="suggested")
    if hyperband:  # it decides by the names of studies which trials a sampler sees
        study.pruner = optuna.pruners.HyperbandPruner(1, 9)
    sampler = None
    for first in range(0, trials, size):
        asked = []
        for number in range(first, first + size):
            if ours:
                sampler = TPESampler(sampler, seed=number, **options)
            study.sampler = sampler or optuna.samplers.TPESampler(seed=number, **options)
            asked.append(study.ask())
            if chance.random() < 0.95:
                suggest(asked[-1])
        for trial in chance.sample(asked, len(asked)):
            for epoch in range(chance.randrange(3)):
                trial.report(chance.choice([chance.random(), math.nan]), epoch)
                if hyperband:
                    trial.should_prune()  # at the first call it learns its brackets
            match chance.randrange(8):
                case 0:
                    study.tell(trial, state=TrialState.FAIL)
                case 1 | 2:
                    study.tell(trial, state=TrialState.PRUNED)
                case _:
                    study.tell(trial, round(chance.random(), 1))  # often the same
    return [trial.params for trial in study.get_trials(deepcopy=False)]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize(
    ("direction", "options"),
    [
        ("maximize", {}),
        ("minimize", {"n_startup_trials": 3}),
        ("maximize", {"group": True}),
        ("minimize", {"multivariate": False}),
        ("maximize", {"constant_liar": False}),
        ("maximize", {"hyperband": True}),
    ],
)
def test_it_suggests_what_optunas_sampler_suggests(direction: str, options: dict[str, Any], size: int):
    ours, plain = (suggestions(each, 42, size, direction, **options) for each in (True, False))
    assert ours == plain


@pytest.mark.slow
def test_it_suggests_the_same_in_a_study_of_hundreds_of_trials():
    ours, plain = (suggestions(each, 256, 32, "maximize") for each in (True, False))
    assert ours == plain


def test_violated_constraints_of_another_program_count():
    def params(ours: bool) -> dict[str, Any]:
        study = optuna.create_study()
        for number in range(12):
            study.sampler = optuna.samplers.RandomSampler(seed=number)
            trial = study.ask()
            suggest(trial)
            trial.set_constraint("memory", float(number % 3 - 1))
            study.tell(trial, trial.params["lr"])
        study.sampler = TPESampler(None, seed=0) if ours else optuna.samplers.TPESampler(seed=0)
        trial = study.ask()
        suggest(trial)
        return trial.params

    assert params(True) == params(False)
