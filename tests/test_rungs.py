"""Rungs: the first trials wait for each other, later ones are compared with all before them, and nothing is lost."""

import json
import os
import signal
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.studies import TINY, StudyFolder
from tuner.config.loader import load_study
from tuner.config.rungs import Rungs
from tuner.errors import BadInputError
from tuner.list import main as list_studies
from tuner.search.rungs import Entry, continues, decided
from tuner.show import main as show

RUNGS = Rungs(8, [1, 3], reduction_factor=2)


def entries(losses: Sequence[float], judged: Sequence[int]) -> list[Entry]:
    return [Entry(number, dict.fromkeys(judged, loss), judged) for number, loss in enumerate(losses)]


@given(st.permutations(range(8)))
def test_half_of_the_first_trials_continue_whatever_their_order(losses: list[int]):
    first = entries(losses, [1])
    continuing, out = decided(RUNGS, first)
    assert {losses[number] for number in continuing} == {0, 1, 2, 3}
    assert {losses[number] for number in out} == {4, 5, 6, 7}
    assert decided(RUNGS, first[::-1]) == (continuing, out)


def test_trials_wait_until_all_have_reached_the_rung_or_are_over():
    first = entries(range(8), [1])
    assert decided(RUNGS, first[:7]) == (set(), set()), "one has not begun"
    assert decided(RUNGS, [*first[:7], Entry(7, {})]) == (set(), set()), "one is being trained"
    assert decided(RUNGS, [*first[:7], Entry(7, {}, is_over=True)]) == ({0, 1, 2, 3}, {4, 5, 6}), "one has failed"


def test_a_rung_compares_those_that_passed_the_one_before():
    lost = [Entry(number, {1: number}, [1], is_over=True) for number in range(4, 8)]
    second = [Entry(number, {1: number, 3: 3 - number}, [1, 3]) for number in range(4)]
    assert decided(RUNGS, [*second[:3], Entry(3, {1: 3}, [1]), *lost]) == ({3}, set()), "the last one is on its way"
    assert decided(RUNGS, [*second, *lost]) == ({0, 3}, {1, 2}), "by the best value so far"


def test_a_later_trial_continues_if_it_is_among_the_best_of_its_rung():
    others = entries([1, 2, 3, 4, 5, 6, 7], [1])
    assert [continues(RUNGS, Entry(9, {1: loss}, [1]), others) for loss in (0.5, 3.5, 4.5, 8)] == [
        True,
        True,
        False,
        False,
    ]
    assert continues(RUNGS, Entry(9, {1: 9}, [1]), []), "the first one has no rivals"


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ("starts: 30", "pruner.starts: must be at most 20 (got 30): the budget has 20 trials."),
        ("epochs: [2, 1]", "pruner.epochs: must be increasing, and end before the shortest run"),
        ("epochs: [3]", "pruner.epochs: must be increasing, and end before the shortest run"),
        ("reduction_factor: 1", "pruner.reduction_factor: "),
    ],
)
def test_rungs_that_cannot_be_are_refused(options: str, wrong: str):
    with pytest.raises(BadInputError) as error:
        load_study(str(TINY), ["budget.trials=20", f"pruner={{name: rungs, {options}}}"])
    assert wrong in str(error.value)


def test_rungs_need_a_budget_that_is_left_with_a_whole_training():
    options = ["budget={epochs: 30}", "pruner={name: rungs, starts: 20}"]
    with pytest.raises(BadInputError, match=r"pruner\.starts: must be at most 1"):
        load_study(str(TINY), options)
    with pytest.raises(BadInputError, match=r"pruner\.epochs: needs runs of at least 2 epochs"):
        load_study(str(TINY), ["trial.trainer.max_epochs=1", "pruner={name: rungs}"])


def test_runs_that_are_too_short_for_rungs_are_reported_with_final_runs_that_do_not_fit():
    with pytest.raises(BadInputError) as caught:
        load_study("quickstart", ["budget.trials=6", "trial.trainer.max_epochs=1"])
    epochs, final = caught.value.faults
    assert "final: takes 30 trials, so budget.trials must be above that (got 6); or lower trials or seeds" in final
    assert final.endswith("or do without final runs: --set final.trials=0.")
    assert "pruner.epochs: needs runs of at least 2 epochs" in epochs
    assert epochs.endswith("or write pruner: none.")
    remedies = ["final.trials=0", "pruner=none"]
    assert load_study("quickstart", ["budget.trials=6", "trial.trainer.max_epochs=1", *remedies]).rungs is None


def test_a_sampler_or_pruner_can_be_a_bare_name():
    bare, full = (load_study(str(TINY), sections) for sections in (("sampler=random", "pruner=none"), NAMED))
    assert bare.sampler == full.sampler
    assert bare.pruner == full.pruner
    assert bare.identity == full.identity
    assert bare.implied == frozenset()


NAMED = ("sampler={name: random}", "pruner={name: none}")


def test_the_budget_pays_for_the_trials_with_given_values_first():
    options = ["budget={epochs: 60}", "pruner={name: rungs, epochs: [1]}"]
    plain = load_study(str(TINY), options).rungs
    given = load_study(
        str(TINY), [*options, "enqueue=[{optimizer.initial_lr: 0.002}]", "start={studies: [one], trials: 2}"]
    )
    assert plain
    assert given.rungs
    assert not plain.whole
    assert plain.cost(3) <= 30
    assert list(given.rungs.whole) == [0, 1, 2]
    assert given.rungs.cost(3) <= 9 + (60 - 9) // 2
    read = given.with_earlier([{"optimizer.initial_lr": 0.002}])
    assert read.rungs
    assert read.rungs.whole == [0], "the other study had only the same values"


def test_a_given_trial_is_not_compared():
    rungs = Rungs(4, [1], whole=[1])
    assert [rungs.is_due(number, [], 1) for number in range(6)] == [True, False, True, True, True, True]
    assert [number for number in range(6) if rungs.waits(number)] == [0, 2, 3, 4]


@pytest.mark.parametrize(
    ("budget", "starts", "wrong"),
    [
        (
            31,
            4,
            "pruner.name: rungs need 6 epochs, for a first trial and a full run, but the budget has 31 epochs, "
            "of which final takes 27, so 4 are left. Raise budget.epochs, lower final.trials or final.seeds, or ",
        ),
        (
            40,
            8,
            "pruner.starts: must be at most 7 (got 8): the budget has 40 epochs, of which final takes 27, so 13 are "
            "left, and must be enough for a full run as well.",
        ),
    ],
)
def test_a_budget_that_the_last_trainings_leave_too_little_of_says_so(budget: int, starts: int, wrong: str):
    options = [f"budget={{epochs: {budget}}}", "final={trials: 1, seeds: 3}"]
    with pytest.raises(BadInputError) as error:
        load_study(str(TINY), [*options, f"pruner={{name: rungs, starts: {starts}}}"])
    assert wrong in str(error.value)


OPTIONS = [
    *("--trials", "11", "--set", "pruner={name: rungs, starts: 8, epochs: [1, 3], reduction_factor: 2}"),
    *("--set", "enqueue=[{optimizer.initial_lr: 0.001, schedule.name: plateau}]"),
    *("--set", "trial.trainer.max_epochs=4", "--per-device", "1"),
]

GIVEN = 0
"""The trial with the values of ``enqueue``, which a rung would stop."""


def ends(folder: StudyFolder) -> list[tuple]:
    """Return number, state and reports of every trial."""
    return folder.optuna(
        "select number, state, step, intermediate_value from trials "
        "left join trial_intermediate_values using (trial_id) order by number, step"
    )


def check_seconds(folder: StudyFolder) -> None:
    """Check that the time of a trial is that of its training, without the time that it waited at rungs."""
    found: dict[str, dict[int, Any]] = {"parts": {}, "seconds": {}, "epochs": {}}
    attributes = "select key, number, value_json from trials join trial_user_attributes using (trial_id)"
    for key, number, text in folder.optuna(attributes):
        found.setdefault(key, {})[number] = json.loads(text)
    assert len(found["parts"]) == 8, "all but those that were trained after the first ones"
    for number, parts in found["parts"].items():
        before = sum(ended - began for began, ended in parts.values())
        epochs, seconds = found["epochs"][number], found["seconds"][number]
        if str(epochs) in parts:
            assert seconds == pytest.approx(before, abs=0.01), "it left at its last rung"
        else:
            assert seconds > before


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[tuple], list[tuple]]:
    """Return the trials and the curves of a study with rungs."""
    folder = StudyFolder(tmp_path_factory.mktemp("rungs"))
    folder.call(*OPTIONS)
    assert not list(folder.path.glob(".tuner/*/trials-*/*/epoch-*.ckpt")), "no checkpoint is left"
    check_seconds(folder)
    return ends(folder), folder.curves()


def test_the_first_trials_are_trained_from_rung_to_rung(compared: tuple[list[tuple], list[tuple]]):
    trials, curves = compared
    reports = {number: [value for other, _, _, value in trials if other == number] for number in range(9)}
    given = reports.pop(GIVEN)
    first = reports
    assert sorted(map(len, first.values())) == [1, 1, 1, 1, 3, 3, 4, 4]
    for epoch, length in ((0, 1), (2, 3)):
        reached = {number: max(values[: epoch + 1]) for number, values in first.items() if len(values) > epoch}
        lost = [value for number, value in reached.items() if len(first[number]) == length]
        assert max(lost) <= min(value for number, value in reached.items() if len(first[number]) > length)
    assert len(given) == 4
    assert max(given[:1]) < min(values[0] for values in first.values() if len(values) > 1)
    assert {state for _, state, _, _ in trials} == {"COMPLETE", "PRUNED"}
    lrs = {number: sum(trial == str(number) and key == "lr" for trial, key, _, _ in curves) for number in first}
    assert lrs == {number: 9 * len(values) for number, values in first.items()}


def test_a_trial_that_waited_ends_as_if_it_had_not(compared: tuple[list[tuple], list[tuple]], folder: StudyFolder):
    folder.call(*OPTIONS[:2], *OPTIONS[4:])
    alone = {(number, epoch): value for number, _, epoch, value in ends(folder)}
    assert all(alone[number, epoch] == value for number, _, epoch, value in compared[0])
    shown = {curve for curve in compared[1] if not curve[1].startswith("test/")}  # that of the best trial
    assert shown <= set(folder.curves())


def test_fused_trials_leave_their_group_together(compared: tuple[list[tuple], list[tuple]], folder: StudyFolder):
    folder.call(*OPTIONS, "--fuse", "4")
    # Of the two after the first nine, both are in one group here, and each is compared with the other.
    fused, alone = ([row[:3] for row in rows if row[0] < 9] for rows in (ends(folder), compared[0]))
    assert fused == alone


@pytest.mark.parametrize(
    "place",
    ["checkpoint saved", *(pytest.param(each, marks=pytest.mark.slow) for each in ("result written", "recorded"))],
)
def test_a_study_that_is_killed_at_its_rungs_ends_as_if_it_were_not(
    compared: tuple[list[tuple], list[tuple]], folder: StudyFolder, place: str, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setenv("TUNER_CRASH_AT", place)
        for _ in range(4):
            folder.run("--engine", "inline", *OPTIONS, expect=-signal.SIGKILL)
    folder.call(*OPTIONS)
    assert ends(folder) == compared[0]
    assert folder.curves() == compared[1]


def test_what_a_study_has_trained_that_is_interrupted_at_its_first_rung_is_counted(folder: StudyFolder):
    rungs = "pruner={name: rungs, starts: 40, epochs: [1], reduction_factor: 2}"
    options = "--set", "budget={epochs: 100}", "--set", "final={trials: 0}", "--set", rungs, "--per-device", "1"
    process = folder.start(*options)
    reports = "select count(*), count(distinct trial_id) from trial_intermediate_values"
    folder.wait_for(lambda: (folder.path / "optuna.db").exists() and folder.optuna(reports)[0][0] >= 3, process)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    ((epochs, trials),) = folder.optuna(reports)
    ((begun,),) = folder.optuna("select count(*) from trials")
    assert f"has used {epochs} of 100 epochs in {begun} trials (none finished)" in " ".join(output.split())
    shown = folder.command(lambda arguments: show(arguments[:3]), "tiny")
    assert f"{trials} trials not finished: {epochs} epochs so far, " in shown
    assert f" 0 + {begun} begun " in folder.command(lambda arguments: list_studies(arguments[:2]))


def test_the_plan_shows_how_many_trials_reach_each_rung(folder: StudyFolder):
    plan = folder.call(*OPTIONS, "--dry-run")
    assert "rungs (8 trials to epoch 1, 4 to epoch 3, 2 to epoch 4; 1 with given values to epoch 4)" in plan
    assert "compared later; this can happen with cosine_restarts\n" in plan
