"""`python -m tuner.replay`: the same trial again, and the differences."""

import json
import math
import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.studies import StudyFolder
from tuner.followup.replaying import different_points, different_setup, how_trained
from tuner.replay import main as replay

SETUP = {"torch": "2.15.0", "device": "CPU", "precision": "32-true", "threads": 1, "ranks": 1, "fused": 1}


@pytest.fixture
def copied(short: StudyFolder, tmp_path: Path) -> StudyFolder:
    return StudyFolder(shutil.copytree(short.path, tmp_path / "copy"))


def put(folder: StudyFolder, store: str, statement: str, *values: object) -> None:
    with sqlite3.connect(folder.path / store) as database:
        database.execute(statement, values)
    database.close()


def test_a_replayed_best_trial_is_the_same_to_the_last_bit(short: StudyFolder):
    before = sorted(short.path.rglob("*"))
    output = short.command(replay, "short")
    ((number, value),) = short.optuna(
        "select number, value from trials join trial_values using (trial_id) order by 2 desc, 1 limit 1"
    )
    assert f"short #{number}: It was trained on CPU" in output
    points = sum(1 for trial, key, *_ in short.curves() if trial == str(number) and not key.startswith("test/"))
    assert points == 2 * 8 + 2 * 4
    curves = "lr, train/acc, train/loss, val/acc, val/loss"
    assert f"the same to the last bit: val/acc {value:.4f}, {points} points of {curves}" in output
    assert sorted(short.path.rglob("*")) == before, "it is trained elsewhere"


def test_a_replay_names_the_differing_metrics_and_the_first_step(copied: StudyFolder):
    where = (
        "key = ? and step >= ? and run_uuid in (select run_uuid from tags where key = 'tuner.trial' and value = '1')"
    )
    put(copied, "mlflow.db", f"update metrics set value = value + 1e-12 where {where}", "lr", 10)
    put(copied, "mlflow.db", f"delete from metrics where {where}", "train/loss", 16)
    setup = "key = 'setup' and trial_id in (select trial_id from trials where number = 1)"
    ((stored,),) = copied.optuna(f"select value_json from trial_user_attributes where {setup}")
    changed = json.dumps({**json.loads(stored), "torch": "1.0", "fused": 4})
    put(copied, "optuna.db", f"update trial_user_attributes set value_json = ? where {setup}", changed)
    output = copied.command(replay, "short", "--trial", "1", expect=1)
    assert "as one model with 3 others. Trained alone, results match up to rounding." in output
    assert "lr: differs from step 10 on (was " in output
    assert "in 6 of 16 points, by at most 1e-12" in output
    assert "train/loss: 1 point not stored, from step 16 on" in output
    assert "torch: was 1.0, now " in output
    assert "fused: was 4, now 1" in output
    assert "val/acc" not in output.partition("not the same:")[2], "what is the same is not named"


def test_a_pruned_trial_is_replayed_to_the_same_epoch(folder: StudyFolder):
    pruner = "pruner={name: successive_halving, min_resource: 1, reduction_factor: 4}"
    folder.call("--trials", "6", "--set", pruner)
    states = folder.optuna(
        "select number, value_json from trials join trial_user_attributes using (trial_id) where key = 'state'"
    )
    pruned = [number for number, state in states if state == '"pruned"']
    assert pruned
    assert "the same to the last bit" in folder.command(replay, "tiny", "--trial", str(pruned[0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("short", "--trial", "7"), 'study "short" has no finished trial #7; there are #0 to #2.'),
        (("shortt",), "Did you mean short?"),
        (("nothing.yaml",), "nothing.yaml: no such file"),
    ],
)
def test_trials_that_cannot_be_replayed_are_refused(short: StudyFolder, arguments: tuple[str, ...], message: str):
    assert message in short.command(replay, *arguments, expect=2)


def test_points_are_compared_bit_by_bit_and_nan_is_nan():
    stored = {"lr": [(0, 0.1), (1, 0.2)], "loss": [(0, math.nan), (1, 1.7976931348623157e308)], "gone": [(5, 1.0)]}
    again = [("lr", 0, 0.1), ("lr", 1, math.nextafter(0.2, 1)), ("loss", 0, math.nan), ("loss", 1, math.inf)]
    gone, lr = different_points(stored, again)
    assert gone == "gone: 1 point stored only, from step 5 on"
    assert lr.startswith("lr: differs from step 1 on (was 0.2, now 0.20000000000000004), in 1 of 2 points")


def test_the_expected_accuracy_of_a_replay_depends_on_the_conditions():
    assert "the same to the last bit" in how_trained(SETUP)
    assert "up to rounding" in how_trained({**SETUP, "fused": 8})
    assert "by 2 processes that split its batches" in how_trained({**SETUP, "ranks": 2})
    assert "A GPU may sum in a different order" in how_trained({**SETUP, "device": "NVIDIA X"})
    assert "not recorded" in how_trained({})
    assert different_setup(SETUP, {**SETUP, "threads": 2}) == ["threads: was 1, now 2"]
    assert different_setup({}, SETUP) == []
