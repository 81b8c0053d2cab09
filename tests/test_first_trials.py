"""The first trials of a study, and the trials of a grid: every choice gets its turn."""

import functools
import random
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from tests.studies import TINY
from tests.test_search_space import fits, names, templates
from tuner.config.first_trials import first_trials
from tuner.config.loader import load_study
from tuner.config.opening_notes import opening_notes
from tuner.config.sampler_options import SAMPLERS
from tuner.config.search_space import suggest
from tuner.config.study import StudyConfig
from tuner.storage.reader import config_of
from tuner.storage.study_store import StudyStore

STUDY = """\
budget: {trials: 8}
sampler: {name: SAMPLER, seed: 1}
pruner: {name: none}
trial:
  data: {name: iris, batch_size: 20}
  model: {name: mlp, layers: 1, neurons: 8}
  optimizer: {name: adam, initial_lr: 1e-2}
  schedule: {name: cosine, decay_steps: 50%}
  trainer: {max_epochs: 2}
search_space:
  optimizer.initial_lr: {low: 1e-3, high: 1e-1, log: true}
  optimizer.eps: {low: 1e-9, high: 1e-3, log: true}
  model.neurons: {low: 4, high: 16, step: 4}
  schedule:
    one_of:
      cosine: {decay_steps: {low: 25%, high: 100%}}
      constant: {}
      plateau:
        patience: {choices: [0, 1]}
        schedule: {one_of: {constant: {}, step: {decay_rate: 0.5, decay_steps: 3}}}
"""
BASELINE = {
    "optimizer.initial_lr": 0.01,
    "optimizer.eps": 1e-8,  # the default
    "model.neurons": 8,
    "schedule.name": "cosine",
    "schedule.cosine.decay_steps (%)": 50.0,
}


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., StudyConfig]:
    """Return a function that loads the study above with another sampler, and with sections of `trial` replaced."""
    monkeypatch.chdir(tmp_path)

    def load(*overrides: str, sampler: str = "random", **sections: str) -> StudyConfig:
        lines = STUDY.replace("SAMPLER", sampler).splitlines()
        for section, content in sections.items():
            index = next(index for index, each in enumerate(lines) if each.startswith(f"  {section}:"))
            lines[index] = f"  {section}: {content}"
        Path("s.yaml").write_text("\n".join(lines))
        return load_study("s.yaml", overrides)

    return load


def opened(
    config: StudyConfig, url: str, note: Callable[[str], None] = pytest.fail
) -> AbstractContextManager[StudyStore]:
    return StudyStore.open(config, url, dict(config.identity), note)


def value(number: int) -> float:
    return random.Random(number).random()


def ask(store: StudyStore, count: int) -> None:
    """Ask for trials and finish them, the first one as pruned."""
    for _ in range(count):
        number, _ = store.ask()
        store.report(number, 1, value(number), may_prune=False)
        state = TrialState.COMPLETE if number else TrialState.PRUNED
        store.finish(number, state, value(number), {"state": state.name.lower()})


def drawn(config: StudyConfig, url: str, *counts: int) -> list[dict[str, Any]]:
    """Return the parameters of a study that is continued to more and more trials."""
    for count in counts:
        with opened(config, url) as store:
            ask(store, count - store.count)
    with opened(config, url) as store:
        return [trial.params for trial in store.trials()]


@functools.cache
def at_once(sampler: str) -> list[dict[str, Any]]:
    """Return the parameters of nine trials of the study above that was not interrupted."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "s.yaml").write_text(STUDY.replace("SAMPLER", sampler))
        return drawn(load_study(f"{folder}/s.yaml"), f"sqlite:///{folder}/optuna.db", 9)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS.keys() - {"grid"}))
def test_a_study_begins_with_its_own_trial_and_then_tries_each_family_once(load: Any, sampler: str):
    assert opening_notes(load(sampler=sampler)) == []
    params = at_once(sampler)[:8]
    assert params[0] == BASELINE
    families = [(each["schedule.name"], each.get("schedule.plateau.schedule.name")) for each in params]
    assert families[1:5] == [("constant", None), ("plateau", "constant"), ("plateau", "step"), ("cosine", None)]
    assert len({each["optimizer.initial_lr"] for each in params}) == 8, "the sampler draws the rest"


@pytest.mark.parametrize("sampler", sorted(SAMPLERS.keys() - {"grid"}))
def test_a_continued_study_samples_the_same_values_as_an_uninterrupted_one(load: Any, tmp_path: Path, sampler: str):
    assert drawn(load(sampler=sampler), f"sqlite:///{tmp_path}/b.db", 1, 2, 4, 6, 9) == at_once(sampler)


# The study's own trial, one of the families, the first and the last that the sampler draws.
CUT_SHORT = [pytest.param((0, 1, 5, 8), id="some"), pytest.param(range(9), id="each", marks=pytest.mark.slow)]


@pytest.mark.parametrize("numbers", CUT_SHORT)
@pytest.mark.parametrize("sampler", sorted(SAMPLERS.keys() - {"grid"}))
def test_a_first_trial_that_was_cut_short_keeps_its_values(
    load: Any, tmp_path: Path, sampler: str, numbers: Sequence[int]
):
    config = load(sampler=sampler)
    for number in numbers:
        with opened(config, f"sqlite:///{tmp_path}/b.db") as store:
            ask(store, number - store.count)
            store.suspend(store.ask()[0])
        again = drawn(config, f"sqlite:///{tmp_path}/b.db", number + 1)
        assert again == at_once(sampler)[: number + 1]


def no_default(*of: str) -> Any:
    raise KeyError(of)


@given(st.dictionaries(names, templates, max_size=3), st.integers(0, 2**32 - 1))
def test_every_configuration_is_found_again_from_its_values(template: dict[str, Any], seed: int):
    asked = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()
    found = first_trials(template, suggest(asked, template), no_default)
    assert found.outside == ""
    assert [dict(each) for each in found.params[:1]] == [asked.params] * bool(asked.params)
    for turn in found.params:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        study.enqueue_trial(dict(turn))
        asked = study.ask()
        assert fits(template, suggest(asked, template))
        assert turn.items() <= asked.params.items()


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"optimizer": "{name: adam}"}, "optimizer.initial_lr is not given"),
        (
            {"optimizer": "{name: adam, initial_lr: 0.5}"},
            "optimizer.initial_lr is 0.5, not in 0.001 to 0.1 (log)",
        ),
        (
            {"model": "{name: mlp, layers: 1, neurons: 9}"},
            "model.neurons is 9, not in 4 to 16, in steps of 4",
        ),
        ({"schedule": "{name: step, decay_rate: 0.5, decay_steps: 3}"}, "schedule is step, not one of cosine"),
        (
            {"schedule": "{name: cosine, decay_steps: 1 epochs}"},
            'schedule.decay_steps is "1 epochs", not in 25 to 100 %',
        ),
        ({"schedule": "{name: plateau, patience: 5}"}, "schedule.patience is 5, not one of 0, 1"),
    ],
)
def test_a_trial_outside_of_the_search_space_is_reported_and_the_study_begins_with_the_families(
    load: Any, sections: dict[str, str], reason: str
):
    config = load(**sections)
    assert config.first.outside.startswith(reason)
    (note,) = opening_notes(config)
    why = f"the file's trial is outside the search space ({config.first.outside})"
    assert note == f"the study begins with each family once: {why}"
    assert [each["schedule.name"] for each in config.first.params] == ["cosine", "constant", "plateau", "plateau"]


def test_a_choice_that_differs_from_trial_is_another_configuration(load: Any):
    config = load("trial.schedule.min_factor=0.1", "search_space.schedule.one_of.cosine.min_factor=0.2")
    assert config.first.outside == "schedule.min_factor is 0.1, in search_space 0.2"
    assert load("trial.schedule.min_factor=0.2").first.params[0] == BASELINE


def test_too_few_trials_for_all_families_are_reported_before(load: Any):
    (note,) = opening_notes(load("budget.trials=3"))
    assert (
        note == "the budget (3 trials) cannot cover every family; these may be skipped: schedule.plateau.schedule step"
    )
    assert opening_notes(load("budget.trials=4")) == [], "the baseline is of the last one"


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        (["search_space={}"], "nothing is searched: the 4 runs are all the same, with the same seed"),
        (
            ["pruner={name: median, n_warmup_steps: 3}"],
            "the pruner cannot stop a trial: its n_warmup_steps (3) is not below the 3 epochs of a run",
        ),
        (
            ["pruner={name: hyperband, min_resource: 5}"],
            "the pruner cannot stop a trial: its min_resource (5) is not below the 3 epochs of a run",
        ),
        (
            ["pruner={name: median, n_startup_trials: 4}"],
            "the pruner cannot stop a trial: its n_startup_trials (4) is not below the number of trials",
        ),
        (["pruner={name: median, n_startup_trials: 3, n_warmup_steps: 2}"], ""),
        (["search_space={}", "budget.trials=1"], ""),
    ],
)
def test_trials_that_are_all_the_same_and_a_pruner_that_cannot_act_are_reported_before(settings: list[str], note: str):
    found = [each for each in opening_notes(load_study(str(TINY), settings)) if "search space" not in each]
    assert found == ([note] if note else [])


def test_whole_bounds_that_make_whole_numbers_are_reported_where_the_argument_takes_any_number():
    schedule = "trial.schedule={name: lambda, function: '(1 - step / 100) ** power'}"
    spaces = [f"search_space={{schedule.power: {{low: {low}, high: 4}}}}" for low in ("1", "1.0")]
    found = [opening_notes(load_study(str(TINY), [schedule, space])) for space in spaces]
    notes = [note for each in found for note in each if "whole number" in note]
    why = "because the bounds of its range are; for any number, write low: 1.0"
    assert notes == [f"schedule.power is a whole number, {why}"]


def test_a_trial_that_lacks_sections_is_not_a_point_of_the_search_space(load: Any):
    text = STUDY.replace("SAMPLER", "random").replace("  optimizer: {name: adam, initial_lr: 1e-2}\n", "")
    optimizer = "  optimizer: {one_of: {adam: {initial_lr: 0.1}, sgd: {initial_lr: 0.1}}}"
    lines = [line for line in text.splitlines() if not line.startswith("  optimizer")]
    Path("s.yaml").write_text("\n".join([*lines, optimizer]))
    assert load_study("s.yaml").first.outside == "optimizer is not given"


def test_a_family_without_anything_else_to_draw_is_not_trained_twice(load: Any):
    one_of = "{cosine: {decay_steps: 50%}, constant: {}, step: {decay_rate: 0.5, decay_steps: 3}}"
    config = load("search_space={schedule: {one_of: " + one_of + "}}")
    assert [dict(each) for each in config.first.params] == [
        {"schedule.name": "cosine"},
        {"schedule.name": "constant"},
        {"schedule.name": "step"},
    ]


def test_without_families_a_study_begins_with_its_trial(load: Any):
    config = load("search_space.schedule=null")
    assert [dict(each) for each in config.first.params] == [{key: BASELINE[key] for key in list(BASELINE)[:3]}]
    assert load("search_space={}").first.params == []


# -- grids -------------------------------------------------------------------------------------------------------------

GRID = (
    "search_space.optimizer.eps=null",
    "search_space.optimizer.initial_lr={choices: [1e-2, 2e-2]}",
    "search_space.model.neurons=null",
    "search_space.schedule.one_of.cosine.decay_steps={low: 25%, high: 100%, step: 25%}",
)
POINTS = 2 * (4 + 1 + 2 * 2)


def test_a_grid_trains_each_configuration_once_however_often_it_is_continued(load: Any, tmp_path: Path):
    config = load(*GRID, f"budget.trials={POINTS}", sampler="grid")
    params = drawn(config, f"sqlite:///{tmp_path}/optuna.db", POINTS)
    assert params == [config.fixed(number) for number in range(POINTS)]
    trained = [config_of(config, each) for each in params]
    assert len(trained) == len({repr(each) for each in trained}) == POINTS
    assert drawn(config, f"sqlite:///{tmp_path}/b.db", 1, 5, POINTS) == params
    assert [each["schedule.name"] for each in params[:6]] != ["cosine"] * 6, "a small budget sees more than one corner"


def test_lengths_of_a_grid_that_are_the_same_number_of_steps_are_reported_before(load: Any):
    assert opening_notes(load(*GRID, f"budget.trials={POINTS}", sampler="grid")) == []
    length = "search_space.schedule.one_of.cosine.decay_steps"
    few = load(*GRID, f"{length}={{low: 10%, high: 40%, step: 2%}}", sampler="grid")
    assert opening_notes(few) == [
        "the grid repeats runs: in 10 steps, the 16 values of schedule.cosine.decay_steps (%) are only 4 "
        "different lengths"
    ]
    mixed = load(*GRID, f"{length}={{choices: [3, 25%, 0.5 epochs, 6]}}", sampler="grid")
    assert opening_notes(mixed)[0].endswith("the 4 values of schedule.cosine.decay_steps are only 3 different lengths")


@pytest.fixture
def begun(load: Any, tmp_path: Path) -> StudyConfig:
    """Return a grid that was begun when it was the product of all parameters of all families, with repeats in it."""
    config = load(*GRID, "budget.trials=10", sampler="grid")
    grid = {
        "optimizer.initial_lr": [0.01, 0.02],
        "schedule.name": ["cosine", "constant", "plateau"],
        "schedule.cosine.decay_steps (%)": [25.0 + index * 25.0 for index in range(4)],
        "schedule.plateau.patience": [0, 1],
        "schedule.plateau.schedule.name": ["constant", "step"],
    }
    with opened(config, f"sqlite:///{tmp_path}/optuna.db") as store:
        store._study.sampler = optuna.samplers.GridSampler(grid, seed=1)
        for number in range(6):
            trial = store._study.ask()
            config.suggest(trial)
            trial.set_user_attr("state", "complete")
            store._study.tell(trial, value(number))
    return config


def test_a_grid_that_was_begun_with_repeats_continues_without_any(begun: StudyConfig, tmp_path: Path):
    notes: list[str] = []
    with opened(begun, f"sqlite:///{tmp_path}/optuna.db", notes.append) as store:
        ask(store, 4)
        params = [trial.params for trial in store.trials()]
    before, after = ([repr(config_of(begun, each)) for each in part] for part in (params[:6], params[6:]))
    assert len(set(before)) < 6, "the old grid repeated itself"
    assert len({*before, *after}) == len(set(before)) + 4
    assert notes[0].startswith(f"{6 - len(set(before))} trial")
