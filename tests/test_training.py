"""Training on real data: ends, reports, and resuming from a checkpoint."""

import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest import TestCase

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from tuner.config.study import Objective
from tuner.config.trial import TrialConfig
from tuner.protocol import Assignment, Decision, EpochReport, EvaluationGroup, StepReport, TrainingGroup, TrialResult
from tuner.training.build import resolve_precision
from tuner.training.outcome import lost_a_process, lost_worker
from tuner.training.results import MODEL_FILE, RESULT_FILE, TRACEBACK_FILE, read_result
from tuner.training.run import run

VALUES = {
    "data": {"name": "mnist_5k", "batch_size": 25, "val_fraction": 0.04, "test_fraction": 0.88},  # 400 images
    "model": {"name": "mnist_cnn", "channels": [4, 4, 4], "hidden": [16, 16]},
    "optimizer": {"name": "adam", "initial_lr": 0.01},
    "schedule": {"name": "cosine_restarts", "restart_period": 20},
    "trainer": {"max_epochs": 3},
    "seed": 6,
}
STEPS = 16


class Answers:
    """A channel that records the reports and gives predefined answers."""

    def __init__(self, *decisions: Decision) -> None:
        self.decisions = list(decisions)
        self.reports: list[EpochReport] = []
        self.steps: list[StepReport] = []
        self.limits: list[tuple[int, str]] = []
        self.notes: list[str] = []

    def report(self, reports: Mapping[int, EpochReport]) -> dict[int, Decision]:
        return {number: self.decide(report) for number, report in reports.items()}

    def decide(self, report: EpochReport) -> Decision:
        self.reports.append(report)
        return self.decisions.pop(0) if self.decisions else "continue"

    def progress(self, number: int, report: StepReport) -> None:
        self.steps.append(report)

    def fuse_at_most(self, count: int, reason: str) -> None:
        self.limits.append((count, reason))

    def note(self, text: str) -> None:
        self.notes.append(text)


def config_of(sections: dict[str, dict]) -> TrialConfig:
    values = {key: {**VALUES[key], **sections[key]} if key in sections else VALUES[key] for key in VALUES}
    return TrialConfig.from_values(values)


def train(
    directory: Path, channel: Answers, metric: str = "val/acc", checkpoint_every: float = 0.0, **sections: dict
) -> TrialResult:
    assignment = Assignment(0, config_of(sections), Objective(metric), directory)
    group = TrainingGroup((assignment,), checkpoint_every=checkpoint_every)
    (result,) = run(group, channel)
    return result


def result_of(directory: Path, **sections: dict) -> TrialResult | None:
    return read_result(directory, config_of(sections))


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return torch.load(directory / MODEL_FILE, weights_only=True)["state_dict"]


def test_a_trial_reports_every_epoch_and_leaves_result_and_weights(tmp_path: Path):
    channel = Answers()
    result = train(tmp_path, channel)
    assert result.state == "complete"
    assert [report.epoch for report in channel.reports] == [1, 2, 3]
    assert result.value == channel.reports[-1].value > 0.15
    assert [point for report in channel.reports for point in report.points] == result.points
    assert sorted(path.name for path in tmp_path.iterdir()) == [MODEL_FILE, RESULT_FILE]
    stored = result_of(tmp_path)
    assert stored == dataclasses.replace(result, points=stored.points)
    assert list(stored.points) == result.points


def test_the_points_are_the_lr_of_every_step_and_the_metrics_of_every_epoch(tmp_path: Path):
    points = train(tmp_path, Answers()).points
    assert [step for key, step, _ in points if key == "lr"] == list(range(3 * STEPS))
    for key in ("train/acc", "train/loss", "val/acc", "val/loss"):
        assert [step for name, step, _ in points if name == key] == [STEPS, 2 * STEPS, 3 * STEPS]


def test_an_epoch_with_a_restart_at_its_end_says_that_the_lr_rose(tmp_path: Path):
    channel = Answers()
    train(tmp_path, channel)  # restarts at steps 20 and 40; epochs end after steps 15, 31 and 47
    assert [report.lr_rose for report in channel.reports] == [False, True, True]


def test_a_pruned_trial_stops_at_once_and_says_so(tmp_path: Path):
    channel = Answers("continue", "prune")
    result = train(tmp_path, channel)
    assert (result.state, result.epochs) == ("pruned", 2)
    assert result.value == channel.reports[-1].value
    assert result_of(tmp_path).state == "pruned"


def test_a_stopped_trial_continues_to_the_same_result(tmp_path: Path):
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    whole = train(straight, Answers())
    assert train(cut, Answers("stop")).state == "interrupted"
    assert result_of(cut) is None
    assert train(cut, Answers("stop")).state == "interrupted"
    channel = Answers()
    result = train(cut, channel)
    assert [report.epoch for report in channel.reports] == [3]
    assert sorted(channel.reports[0].points) == sorted(whole.points), "the first report after a resume has all points"
    assert result.value == whole.value
    for one, other in zip(weights(straight).values(), weights(cut).values(), strict=True):
        assert torch.equal(one, other)


def test_a_training_that_is_not_due_for_a_checkpoint_is_saved_only_when_it_is_stopped(tmp_path: Path):
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    seen: list[list[str]] = []

    class Looking(Answers):
        def decide(self, report: EpochReport) -> Decision:
            seen.append([path.name for path in cut.glob("epoch-*")])
            return super().decide(report)

    whole = train(straight, Answers())
    assert train(cut, Looking("continue", "stop"), checkpoint_every=math.inf).state == "interrupted"
    assert seen == [[], []]
    assert [path.name for path in cut.glob("epoch-*")] == ["epoch-000002.ckpt"]
    channel = Answers()
    assert sorted(train(cut, channel, checkpoint_every=math.inf).points) == sorted(whole.points)
    assert [report.epoch for report in channel.reports] == [3]


def test_weights_that_are_not_wanted_are_not_written(tmp_path: Path):
    result = train(tmp_path, Answers("continue", "continue", "forget"))
    assert result.state == "complete"
    assert [path.name for path in tmp_path.iterdir()] == [RESULT_FILE]


class Malicious:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def flip_a_bit(checkpoint: Path) -> None:
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)


def truncate(checkpoint: Path) -> None:
    os.truncate(checkpoint, checkpoint.stat().st_size - 1000)


def put_code(checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "loops": Malicious()}, checkpoint)


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, put_code])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    tmp_path: Path, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    whole = train(straight, Answers())
    train(cut, Answers("continue", "stop"))
    _, newest = sorted(cut.glob("epoch-*.ckpt"))
    damage(newest)
    channel = Answers()
    assert train(cut, channel).value == whole.value
    assert [report.epoch for report in channel.reports] == [2, 3]
    assert [newest.name in note for note in channel.notes] == [True]
    assert not newest.exists()
    assert not Path("ran").exists()
    for one, other in zip(weights(straight).values(), weights(cut).values(), strict=True):
        assert torch.equal(one, other)


def test_without_a_usable_checkpoint_a_trial_starts_again(tmp_path: Path):
    whole = train(tmp_path / "straight", Answers())
    cut = tmp_path / "cut"
    train(cut, Answers("stop"))
    for checkpoint in cut.glob("epoch-*.ckpt"):
        checkpoint.write_bytes(b"")
    channel = Answers()
    assert train(cut, channel).value == whole.value
    assert [report.epoch for report in channel.reports] == [1, 2, 3]


def test_every_file_of_a_trial_is_flushed_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A power cut then leaves the old file or the new one; a test can check only the order of the calls."""
    events: list[tuple[str, str, int]] = []
    flush, rename = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        flush(descriptor)
        events.append(("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink()), os.fstat(descriptor).st_size))

    def replace(source: Path, target: Path) -> None:
        events.append(("rename", str(source), source.stat().st_size))
        rename(source, target)
        events.append(("to", str(target), 0))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    train(tmp_path, Answers())
    assert len(events) % 4 == 0
    written = []
    for file, old, new, folder in zip(*(events[start::4] for start in range(4)), strict=True):
        assert file == ("fsync", old[1], old[2]), "all of it is flushed, under another name"
        assert (old[0], new[0], folder[:2]) == ("rename", "to", ("fsync", str(tmp_path)))
        written.append(Path(new[1]).name)
    assert written == ["epoch-000001.ckpt", "epoch-000002.ckpt", MODEL_FILE, RESULT_FILE]


def test_a_damaged_result_is_named_and_the_trial_trained_again(tmp_path: Path):
    whole = train(tmp_path, Answers())
    for content in (b"", b"{", b"[]", b"{}", b'{"state": "complete"}', b"\xff"):
        (tmp_path / RESULT_FILE).write_bytes(content)
        with TestCase().assertLogs() as logs:
            assert result_of(tmp_path) is None
        assert str(tmp_path / RESULT_FILE) in logs.output[0]
    assert train(tmp_path, Answers()).points == whole.points


@pytest.mark.parametrize("callbacks", [[], [{"name": "early_stopping", "monitor": "val/loss"}]])
def test_a_loss_that_is_not_finite_ends_the_trial_at_that_step(tmp_path: Path, callbacks: list):
    channel = Answers()
    trainer = {"callbacks": callbacks} if callbacks else {}
    result = train(tmp_path, channel, optimizer={"name": "sgd", "initial_lr": 1e30}, trainer=trainer)
    assert result.state == "diverged"
    assert result.diverged_at is not None
    assert result.diverged_at < STEPS
    assert channel.reports == []
    assert max(step for key, step, _ in result.points if key == "lr") == result.diverged_at


def test_an_error_of_the_network_fails_the_trial_with_its_traceback(tmp_path: Path):
    model = {"name": "torch.nn:Linear", "channels": None}
    result = train(tmp_path, Answers(), model=model)
    assert result.state == "failed"
    assert "TypeError" in result.message
    assert "Traceback" in result.traceback
    assert result_of(tmp_path, model=model).state == "failed"
    assert (tmp_path / TRACEBACK_FILE).read_text() == result.traceback


def test_the_same_seed_gives_the_same_training_and_another_seed_another(tmp_path: Path):
    first = train(tmp_path / "a", Answers())
    torch.rand(7)  # whatever the global generator did before
    assert train(tmp_path / "b", Answers()).points == first.points
    config = TrialConfig.from_values({**VALUES, "seed": 5})
    (other,) = run(TrainingGroup((Assignment(0, config, Objective(), tmp_path / "c"),)), Answers())
    assert other.points != first.points


def test_the_winner_is_tested_on_the_test_set_with_the_weights_it_ended_with(tmp_path: Path):
    exact = {"precision": "32-true"}
    train(tmp_path, Answers(), trainer=exact)
    config = config_of({"trainer": exact})
    group = EvaluationGroup((Assignment(0, config, Objective(), tmp_path),))
    (result,) = run(group, Answers())
    model = config.model.build("model")
    model.load_state_dict(weights(tmp_path))
    model.eval()
    data = config.data.build("data")
    data.prepare_data()
    data.setup("test")
    with torch.no_grad():
        right = sum((model(images).argmax(1) == labels).sum().item() for images, labels in data.test_dataloader())
    assert result.metrics["test/acc"] == pytest.approx(right / 4400)


def test_auto_precision_is_full_where_the_processor_has_no_bf16():
    flags = Path("/proc/cpuinfo").read_text()
    expected = "bf16-mixed" if "avx512_bf16" in flags or "amx_bf16" in flags else "32-true"
    assert resolve_precision("auto", "cpu") == expected
    assert resolve_precision("64-true", "cpu") == "64-true"


def test_a_precision_that_needs_a_gpu_fails_the_trial_without_one(tmp_path: Path):
    config = config_of({"trainer": {"max_epochs": 1, "precision": "16-mixed"}})
    (result,) = run(TrainingGroup((Assignment(0, config, Objective(), tmp_path),)), Answers())
    assert result.state == "failed"
    assert '"16-mixed" needs a GPU' in result.message, "Lightning would train in bf16-mixed"


def test_the_best_epoch_gives_value_and_weights_and_survives_an_interruption(tmp_path: Path):
    def go(directory: Path, *decisions: Decision) -> tuple[TrialResult, Answers]:
        channel = Answers(*decisions)
        config = TrialConfig.from_values(VALUES)
        (result,) = run(
            TrainingGroup((Assignment(0, config, Objective("val/loss", epoch="best"), directory),)), channel
        )  # the worst is first
        return result, channel

    straight, channel = go(tmp_path / "straight")
    values = [report.value for report in channel.reports]
    assert straight.value == max(values) == values[0]
    assert go(tmp_path / "cut", "continue", "stop")[0].state == "interrupted"
    resumed, _ = go(tmp_path / "cut")
    assert resumed.value == straight.value
    ends = [weights(tmp_path / name) for name in ("straight", "cut")]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


class Ending(Dataset):
    """Examples of which one ends the process that loads it."""

    def __init__(self, end: Callable[[], object]) -> None:
        self.end = end

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 6:
            self.end()
        return torch.zeros(2)


def interrupt() -> None:
    raise KeyboardInterrupt


def pause(batch: torch.Tensor) -> None:
    """Let the worker end before its first tensors are used."""
    time.sleep(0.1)


@pytest.mark.parametrize("end", [lambda: os._exit(0), sys.exit, interrupt])
def test_a_worker_of_a_data_loader_that_ends_is_named_with_its_exit_status(end: Callable[[], object]):
    loader = DataLoader(Ending(end), 2, num_workers=1, multiprocessing_context="fork")
    with pytest.raises((RuntimeError, OSError)) as caught:
        list(map(pause, loader))
    error = caught.value.with_traceback(caught.tb.tb_next)  # without this test, which counts as the user's code
    assert lost_a_process(error)
    assert lost_worker(error).startswith("lost a worker of its data loader, which ended with status 0 ")


def test_a_file_that_a_data_set_does_not_find_is_not_a_lost_worker():
    loader = DataLoader(Ending(lambda: Path("nowhere").read_text()), 2, num_workers=1, multiprocessing_context="fork")
    with pytest.raises(FileNotFoundError) as caught:
        list(loader)
    assert not lost_a_process(caught.value)
    assert lost_worker(caught.value) == ""
