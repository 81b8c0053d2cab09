"""A single trial whose steps can be recorded is trained as a group of one, and ends as it does alone.

Only on a GPU are steps recorded, as CUDA graphs. Here, a process interprets the kernels on the CPU, and `Repetition`
repeats the steps.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.fused.recorded_step import Repetition
from tests.launcher import output_of
from tests.test_fusing import (
    BRANCHING,
    DIVERGING,
    PLATEAU,
    VALUES,
    Answers,
    assert_same,
    assert_same_weights,
    assignments,
    train,
)
from tuner.protocol import TrainingGroup
from tuner.training import recording
from tuner.training.run import run

NADAM = {**VALUES, "optimizer": {"name": "torch.optim:NAdam", "initial_lr": 0.002}}


class Counted(Repetition):
    replays = 0

    def replay(self) -> None:
        Counted.replays += 1
        super().replay()


def one(folder: Path, values: dict[str, Any], recorder: Any, *stops: int) -> tuple[Any, int, list[str]]:
    """Train a trial, interrupted after some epochs; return its result, the repeated steps and the notes."""
    recording.recorder_for = lambda device: recorder
    Counted.replays = 0
    notes = []
    for stop in (*stops, None):
        channel = Answers({} if stop is None else {(0, stop): "stop"})
        (result,) = train(folder, [values], channel, fused=False)
        assert (channel.limits, result.state == "interrupted") == ([], stop is not None)
        notes += channel.notes
    return result, Counted.replays, notes


PLATEAUED = {**VALUES, "schedule": {**PLATEAU, "monitor": "train/loss"}}
CASES = {"adam": (VALUES, 12), "plateau": (PLATEAUED, 12), "resumed": (VALUES, 9), "nadam": (NADAM, 0)}


def check(*names: str) -> None:
    """Compare trials in the current folder; run where Triton interprets kernels."""
    for name in names:
        values, expected = CASES[name]
        stops = (1,) if name == "resumed" else ()
        plain, none, _ = one(Path(name, "plain"), values, None, *stops)
        found, replays, notes = one(Path(name, "recorded"), values, Counted, *stops)
        assert_same(found, plain)
        assert_same_weights(Path(name, "plain", "0"), Path(name, "recorded", "0"))
        assert (none, replays) == (0, expected), name
        reason = "is trained more slowly: the steps are not recorded as a CUDA graph: there is no kernel for NAdam"
        assert notes == ([f"trial #0 {reason}"] if name == "nadam" else [])


def check_failures() -> None:
    """Compare a trial that diverges, one that cannot be vectorized, and one without a network."""
    plain, found = (one(Path(str(each)), DIVERGING, each)[0] for each in (None, Counted))
    assert (found.state, found.diverged_at, found.message) == (plain.state, plain.diverged_at, plain.message)
    assert plain.state == "diverged"
    Path("branching.py").write_text(BRANCHING)
    sys.path.insert(0, ".")
    for name, state in (("branching:Net", "complete"), ("missing:Net", "failed")):
        values = {**VALUES, "model": {"name": name}}
        plain, found = (one(Path(name, str(each)), values, each) for each in (None, Counted))
        assert dataclasses.replace(found[0], seconds=0.0, traceback="") == dataclasses.replace(
            plain[0], seconds=0.0, traceback=""
        )
        assert plain[0].state == state
        assert (plain[1:], found[1]) == ((0, []), 0)
        assert [note.split(":")[0] for note in found[2]] == ["trial #0 is trained more slowly"][
            : name == "branching:Net"
        ]


def interpreted(folder: Path, call: str) -> None:
    pytest.importorskip("triton")
    code = f"import torch, tests.test_recorded_trials as t; torch.set_num_threads(1); t.{call}"
    output_of(code, folder, TRITON_INTERPRET="1")


def test_a_single_trial_as_a_group_of_one_with_recorded_steps_ends_as_it_does_alone(tmp_path: Path):
    interpreted(tmp_path, 'check("resumed")')


def test_a_single_trial_is_trained_in_a_plain_trainer_where_a_group_is_unwanted_or_cannot_be_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(recording, "recorder_for", lambda device: Counted)
    short = {**VALUES, "trainer": {"max_epochs": 1}}
    accumulating = {**VALUES, "trainer": {"max_epochs": 1, "accumulate_grad_batches": 2}}
    notes = []
    for number, (values, as_group) in enumerate([(short, True), (short, False), (accumulating, True)]):
        channel = Answers()
        (result,) = run(TrainingGroup(assignments(tmp_path / str(number), [values]), as_group=as_group), channel)
        assert result.state == "complete"
        notes.append([note.split(": there")[0] for note in channel.notes])
    reason = "trial #0 is trained more slowly: the steps are not recorded as a CUDA graph"
    assert notes == [[reason], [], []], "only the first was tried as a group of one, which has no kernels here"
    for precision, expected in (("32-true", True), ("16-mixed", False), ("bf16-true", False)):
        (assignment,) = assignments(tmp_path, [{**VALUES, "trainer": {"max_epochs": 1, "precision": precision}}])
        assert recording.may_be_recorded(assignment, "cuda") is expected


def test_single_trials_end_as_they_do_alone_whether_their_steps_can_be_recorded_or_not(tmp_path: Path):
    interpreted(tmp_path, 'check("adam", "plateau", "nadam"); t.check_failures()')
