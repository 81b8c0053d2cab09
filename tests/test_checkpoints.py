"""Checkpoints: written atomically, and never used unchecked."""

import json
import multiprocessing
import os
import random
import time
from pathlib import Path
from unittest import TestCase

import pytest
import torch

from tuner.errors import BadInputError
from tuner.files import write_atomically, write_json, write_output
from tuner.training.checkpoints import (
    CheckpointPace,
    DamagedCheckpointError,
    checkpoint_name,
    common_checkpoint,
    load_tensors,
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "epoch-000001.ckpt"
    write_atomically(path, lambda file: torch.save({"weights": torch.arange(10_000.0)}, file))
    return path


def test_a_saved_checkpoint_is_loaded_and_no_other_file_is_left(checkpoint: Path):
    assert torch.equal(load_tensors(checkpoint)["weights"], torch.arange(10_000.0))
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_a_single_changed_bit_in_the_tensors_is_noticed(checkpoint: Path):
    whole = checkpoint.read_bytes()
    start = whole.index(torch.arange(100.0, 110.0).numpy().tobytes())
    rng = random.Random(0)
    for _ in range(50):
        damaged = bytearray(whole)
        damaged[start + rng.randrange(30_000)] ^= 1 << rng.randrange(8)
        checkpoint.write_bytes(damaged)
        with pytest.raises(DamagedCheckpointError, match=r"epoch-000001\.ckpt"):
            load_tensors(checkpoint)


def test_a_truncated_or_empty_file_is_noticed(checkpoint: Path):
    whole = checkpoint.read_bytes()
    rng = random.Random(0)
    for length in (0, *(rng.randrange(len(whole)) for _ in range(20))):
        checkpoint.write_bytes(whole[:length])
        with pytest.raises(DamagedCheckpointError):
            load_tensors(checkpoint)


def test_of_a_truncated_newest_checkpoint_the_one_before_is_used(checkpoint: Path):
    whole, newest = checkpoint.read_bytes(), checkpoint.with_name(checkpoint_name(2))
    rng = random.Random(1)
    for length in (0, *(rng.randrange(len(whole)) for _ in range(20))):
        newest.write_bytes(whole[:length])
        with TestCase().assertLogs() as logs:
            assert common_checkpoint([checkpoint.parent]) == checkpoint.name
        assert str(newest) in logs.output[0]
        assert not newest.exists()
    newest.write_bytes(whole)
    assert common_checkpoint([checkpoint.parent]) == newest.name


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_checkpoint_that_would_run_code_is_refused_and_runs_none(tmp_path: Path):
    path, marker = tmp_path / "evil.ckpt", tmp_path / "ran"
    torch.save({"weights": Malicious(marker)}, path)
    with pytest.raises(DamagedCheckpointError):
        load_tensors(path)
    assert not marker.exists()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "result.json"
    write_json(path, {"value": 1})
    with pytest.raises(TypeError):
        write_json(path, {"value": object()})
    with pytest.raises(RuntimeError, match="half"):
        write_atomically(path, _write_half)
    assert json.loads(path.read_text()) == {"value": 1}
    assert list(tmp_path.iterdir()) == [path]


def _write_half(file):
    file.write(b"half")
    raise RuntimeError("half")


def _write_for_ever(path: Path) -> None:
    number = 0
    while True:
        number += 1
        tensors = {"number": number, "weights": torch.full((300_000,), float(number))}
        write_atomically(path, lambda file, tensors=tensors: torch.save(tensors, file))


def test_a_process_killed_while_writing_leaves_a_whole_checkpoint(tmp_path: Path):
    path = tmp_path / "epoch-000001.ckpt"
    rng = random.Random(1)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tuner.training.checkpoints"])
    for _ in range(10):
        process = context.Process(target=_write_for_ever, args=(path,))
        process.start()
        deadline = time.monotonic() + 30
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(rng.random() * 0.05)
        process.kill()
        process.join()
        content = load_tensors(path)
        assert (content["weights"] == content["number"]).all()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list whose sum is the time of the monotonic clock."""
    passed = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: sum(passed))
    return passed


def test_a_checkpoint_is_due_when_its_time_has_passed_since_the_beginning_and_since_the_last_one(clock: list[float]):
    pace = CheckpointPace(30)
    seen = []
    for _ in range(8):
        clock.append(10)
        seen.append(pace.is_due())
        if seen[-1]:
            with pace.saving():
                clock.append(1)
    assert seen == [False, False, True, False, False, True, False, False]


def test_a_checkpoint_that_takes_long_is_written_so_seldom_that_it_takes_a_twentieth_of_the_time(clock: list[float]):
    pace = CheckpointPace(30)
    with pace.saving():
        clock.append(10)
    clock.append(199)
    assert not pace.is_due()
    clock.append(1)
    assert pace.is_due()


def test_an_interval_of_zero_saves_a_checkpoint_every_epoch(clock: list[float]):
    pace = CheckpointPace(0)
    assert pace.is_due()
    with pace.saving():
        clock.append(10)
    assert pace.is_due()


def test_a_file_that_cannot_be_written_is_named_and_no_folder_is_created(tmp_path: Path):
    loop, dangling = tmp_path / "loop", tmp_path / "dangling"
    loop.symlink_to(loop)
    dangling.symlink_to(tmp_path / "missing" / "file")
    for path in (loop, dangling, tmp_path / "missing" / "file", tmp_path):
        with pytest.raises(BadInputError, match=f"--output: {path}: cannot be written"):
            write_output(path, b"content", "--output: ")
    assert not (tmp_path / "missing").exists()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "file")
    write_output(link, b"content")
    assert link.is_symlink()
    assert (tmp_path / "file").read_bytes() == b"content"
