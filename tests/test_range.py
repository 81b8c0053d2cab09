"""`lr-tuner range`: short runs at many lrs, and the range that they suggest."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import toys
from tests.studies import TINY
from tuner.analysis.lr_range import LrRange
from tuner.config.loader import load_study
from tuner.config.search_space import Range
from tuner.config.yaml_edit import with_searched
from tuner.direction import Direction
from tuner.errors import BadInputError
from tuner.followup.lr_range import plan_range
from tuner.followup.range_report import edited, write_file
from tuner.protocol import Slot
from tuner.range import main
from tuner.visualization.lr_range import of_range

INLINE = ("--engine", "inline", "--devices", "cpu", "--per-device", "2")
FEW = ("--lrs", "7", "--low", "1e-4", "--high", "100", "--seeds", "2", "--share", "50")


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY.read_text())
    return tmp_path


def call(*arguments: str, expect: int = 0) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = main([*arguments, *INLINE])
    assert code == expect, output.getvalue()
    return output.getvalue()


def rows(output: str) -> dict[str, list[str]]:
    found = re.findall(r"^([\d.e-]+|untrained) +([\d.]+|diverged) +([\d.]+|diverged)", output, re.MULTILINE)
    return {lr: values for lr, *values in found}


def test_the_range_is_suggested_drawn_and_written_into_the_file(in_a_folder: Path):
    output = call("tiny.yaml", *FEW, "--write")
    assert "tiny: 7 lrs from 0.0001 to 100, 2 seeds each, 14 of 27 steps, with mlp and adam" in output
    table = rows(output)
    assert list(table) == ["untrained", "0.0001", "0.001", "0.01", "0.1", "1", "10", "100"]
    assert float(table["0.1"][0]) < 0.8 < float(table["untrained"][0])
    (low, high) = re.findall(r"optimizer.initial_lr: \{low: ([\d.e-]+), high: ([\d.e-]+), log: true\}", output)[0]
    assert float(low) < float(high) < 100
    assert re.search(r"The edge is (1|10|100), the lowest lr above the best one at which at least one seed", output)
    assert (in_a_folder / "tiny-range.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in in_a_folder.iterdir()) == ["tiny-range.png", "tiny.yaml"]
    config = load_study("tiny.yaml")
    assert config.trial["optimizer"]["initial_lr"] == Range(float(low), float(high), log=True)
    before, after = TINY.read_text().splitlines(), (in_a_folder / "tiny.yaml").read_text().splitlines()
    assert [line for line in after if line not in before] == [
        f"  optimizer.initial_lr: {{low: {low}, high: {high}, log: true}}"
    ]
    assert len(after) == len(before)


def test_lrs_at_the_limits_of_numbers_are_evenly_spaced():
    plan = plan_range("tiny.yaml", [], 1e-300, 1e300, 3, 1, 100.0, "off", [Slot(0, (), 1)])
    assert plan.lrs(1) == [1e-300, 1.0, 1e300]


def test_the_file_keeps_its_line_ends_and_permissions(in_a_folder: Path):
    file = in_a_folder / "tiny.yaml"
    file.write_bytes(TINY.read_bytes().replace(b"\n", b"\r\n"))
    file.chmod(0o600)
    lines = len(file.read_bytes().splitlines())
    write_file(str(file), edited(str(file), "{low: 1, high: 2}"))
    changed = file.read_bytes()
    assert b"  optimizer.initial_lr: {low: 1, high: 2}\r\n" in changed
    assert changed.count(b"\r\n") == changed.count(b"\n") == lines
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_bytes(changed.replace(b"\r\n", b"\n", 1))
    with pytest.raises(BadInputError, match="some of its lines end with CRLF"):
        edited(str(file), "{low: 1, high: 3}")


def test_trainings_in_one_fused_group_find_what_they_find_one_by_one():
    alone, fused = (rows(call("tiny.yaml", *FEW, "--fuse", size)) for size in ("off", "16"))
    assert list(fused) == list(alone)
    for lr in ("untrained", "0.001", "0.01"):
        assert [float(value) for value in fused[lr]] == pytest.approx([float(value) for value in alone[lr]], abs=2e-2)


def test_a_module_of_the_user_is_judged_by_its_objective(in_a_folder: Path):
    study = {
        "objective": {"metric": "val_acc"},
        "trial": {
            "data": {"name": "tests.toys:ToyData"},
            "model": {"name": "tests.toys:Base"},
            "optimizer": {"name": "adam", "initial_lr": 0.01},
            "trainer": {"max_epochs": 4},
        },
    }
    (in_a_folder / "own.yaml").write_text(yaml.safe_dump(study))
    output = call("own.yaml", "--lrs", "4", "--low", "1e-4", "--high", "1e-1", "--seeds", "1", "--share", "100")
    assert "val_acc, seed 1" in output
    assert f"{4 * toys.STEPS} of {4 * toys.STEPS} steps" in output


def test_a_dry_run_trains_nothing(in_a_folder: Path):
    output = call("tiny.yaml", "--dry-run")
    assert "tiny: 15 or more lrs from 1e-06 to 10, 3 seeds each, 10 of 27 steps" in output
    assert [path.name for path in in_a_folder.iterdir()] == ["tiny.yaml"]


def test_a_training_that_fails_fails_the_test(in_a_folder: Path):
    study = yaml.safe_load(TINY.read_text())
    study["trial"]["model"]["inputs"] = 5
    (in_a_folder / "wrong.yaml").write_text(yaml.safe_dump(study))
    assert "RuntimeError: mat1 and mat2 shapes cannot be multiplied" in call("wrong.yaml", *FEW, expect=1)


def test_every_wrong_option_is_named_before_anything_starts():
    output = call("quickstart", "--low", "1", "--high", "0.1", "--lrs", "2", "--seeds", "0", "--write", expect=2)
    assert [line.partition(":")[0] for line in output.splitlines()] == ["--low, --high", "--lrs", "--seeds", "--write"]


MINIMUM = {1e-4: [2.2, 2.1], 1e-3: [1.9, 2.0], 1e-2: [0.5, 0.4], 1e-1: [0.9, 0.3], 1.0: [2.5, None]}


def test_the_edge_is_the_lowest_lr_above_the_best_at_which_a_seed_makes_no_progress():
    found = LrRange("val/loss", Direction.MINIMIZE, MINIMUM, [2.3, 2.3])
    assert found.best_of_seeds == [1e-2, 1e-1]
    assert found.best == 1e-2
    assert found.seeds_agree
    assert found.edge == 1.0
    assert found.range == (1e-3, 1.0)
    assert found.yaml() == "{low: 0.001, high: 1, log: true}"
    assert found.findings()[:2] == [
        "The best initial_lr is 0.01; the best lrs of 2 seeds, from 0.01 to 0.1, agree.",
        "The edge is 1, the lowest lr above the best one at which at least one seed diverged.",
    ]
    one_of_two = LrRange(
        "val/loss", Direction.MINIMIZE, {1e-2: [0.5, 0.5], 0.1: [1.0, 2.4], 1.0: [0.9, 0.9]}, [2.3, 2.3]
    )
    assert one_of_two.findings()[:2] == [
        "The best initial_lr is 0.01 for each of the 2 seeds.",
        "The edge is 0.1, the lowest lr above the best one at which at least one seed made no progress.",
    ]


def test_seeds_that_do_not_agree_are_told_from_those_that_do():
    values = {1e-4: [0.5, 1.0], 1e-3: [0.9, 0.9], 1e-2: [1.0, 1.0], 1e-1: [1.2, 0.4]}
    found = LrRange("val/loss", Direction.MINIMIZE, values, [2.3, 2.3])
    assert not found.seeds_agree
    assert "do not agree: use more seeds (--seeds) or train longer (--share)" in found.findings()[0]
    assert "No run diverged up to lr 0.1." in found.findings()
    assert "The range ends where the test ended: test further lrs with --low and --high." in found.findings()


def test_the_range_reaches_to_the_next_lrs_on_both_sides_of_the_best():
    values = {1e-3: [2.3], 1e-2: [2.25], 1e-1: [0.5], 1.0: [2.2], 10.0: [None]}
    found = LrRange("val/loss", Direction.MINIMIZE, values, [2.3])
    assert (found.best, found.range) == (1e-1, (1e-2, 1.0))
    between = "next to the best lrs, since the true best may lie between"
    assert found.findings()[-1] == f"Search from 0.01 ({between}) to 1 ({between})."
    wide = LrRange("val/loss", Direction.MINIMIZE, {**values, 1.0: [1.0]}, [2.3])
    assert wide.range == (1e-2, 1.0)
    assert wide.findings()[-1].endswith("to 1 (the highest lr with at least half).")


def test_if_every_run_diverged_lower_lrs_are_advised():
    (found,) = LrRange("val/loss", Direction.MINIMIZE, {1.0: [None], 10.0: [None]}, [2.3]).findings()
    assert found.endswith("every run diverged. Test lower lrs with --low and --high.")


def test_the_picture_has_the_measured_values_and_crosses_for_those_that_got_worse():
    values = {**MINIMUM, 10.0: [3e6, 2.4]}
    (panel,) = of_range(LrRange("val/loss", Direction.MINIMIZE, values, [2.3, 2.3]), "some").panels
    drawn = {series.label: series for series in panel.series if series.label}
    assert list(drawn["mean"].x) == [1e-4, 1e-3, 1e-2, 1e-1]
    assert list(drawn["mean"].y) == pytest.approx([2.15, 1.95, 0.45, 0.6])
    crosses = drawn["diverged, or worse than untrained"]
    assert list(crosses.x) == [1.0, 1.0, 10.0, 10.0]
    assert list(crosses.y) == pytest.approx([2.5, 2.6, 2.6, 2.4])
    assert max(drawn["seeds"].y) <= 2.3
    assert drawn["range to search"].x == [1e-3, 1e-3]
    assert drawn["edge"].x == [1.0, 1.0]
    highest = max(y for series in panel.series for y in series.y)
    assert 2.5 < highest < 3, "the scale shows the values that matter"


def test_there_is_no_range_where_nothing_was_learned():
    found = LrRange("val/acc", Direction.MAXIMIZE, {0.1: [0.1], 1.0: [None]}, [0.1])
    assert (found.best, found.edge, found.range, found.yaml()) == (None, None, None, "")
    assert len(found.findings()) == 1
    assert found.findings()[0].startswith("No range can be suggested")


BLOCK = """\
# a study
search_space:  # what varies
  model.width: {low: 1, high: 2}
  optimizer.initial_lr:
    low: 0.1
    high: 0.2

  # the schedule
  schedule: {one_of: {constant: {}}}
trial: {}
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BLOCK, BLOCK.replace("optimizer.initial_lr:\n    low: 0.1\n    high: 0.2\n", "optimizer.initial_lr: {new}\n")),
        ("search_space:\n  a: 1 # x\n", "search_space:\n  optimizer.initial_lr: {new}\n  a: 1 # x\n"),
        ("trial: {}\n# end\n\n", "trial: {}\n# end\nsearch_space:\n  optimizer.initial_lr: {new}\n"),
        (
            "search_space:\n    'optimizer.initial_lr' : {low: 1,\n      high: 2}   # both\n",
            "search_space:\n    'optimizer.initial_lr' : {new}   # both\n",
        ),
    ],
)
def test_a_value_is_changed_and_everything_else_stays(text: str, expected: str):
    assert with_searched(text, "optimizer.initial_lr", "{new}") == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("search_space: {a: 1}", "search_space is in YAML flow style, {...}"),
        ("{search_space: {}}", "the file is in YAML flow style, {...}"),
        ("search_space:\n  optimizer: {one_of: {}}", "optimizer itself is searched"),
        ("search_space:\n  optimizer.initial_lr:\n    low: 1  # why\n    high: 2", "comments inside the value"),
        ("search_space:\n  optimizer.initial_lr:  # why\n    low: 1", "comments inside the value"),
    ],
)
def test_a_file_that_cannot_be_changed_with_care_is_left_alone(text: str, reason: str):
    with pytest.raises(ValueError, match=reason):
        with_searched(text, "optimizer.initial_lr", "{new}")


@pytest.mark.parametrize(
    "others",
    [
        {"sampler": {"name": "random"}},
        {"sampler": {"name": "curve"}, "budget": {"trials": 4, "until": 0.01}},
        {"constraints": ["optimizer.eps * trainer.gradient_clip_val < 1"]},  # eps has its default
    ],
)
def test_the_default_is_trained_whatever_else_the_study_file_has(others: dict[str, Any], in_a_folder: Path):
    study = yaml.safe_load(TINY.read_text()) | others
    study["trial"]["trainer"]["gradient_clip_val"] = 2.0
    study["search_space"] = {
        "trainer.gradient_clip_val": [1.0, 2.0, 3.0],
        "optimizer.eps": {"low": 1e-9, "high": 1e-7, "log": True},
    }
    study["enqueue"] = [{"trainer.gradient_clip_val": 3.0}]
    (in_a_folder / "first.yaml").write_text(yaml.safe_dump(study))
    plan = plan_range("first.yaml", (), 1e-4, 1.0, 0, 1, 10.0, "1", [Slot(0, (), 1)])
    assert plan.trial.trainer.gradient_clip_val == 2.0
