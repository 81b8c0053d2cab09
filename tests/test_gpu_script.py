"""`benchmarks/gpu.sh`: it measures each part once, and ends cleanly without a GPU."""

import os
import subprocess
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent


def run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), str(folder)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_parts_that_were_measured_are_not_measured_again(tmp_path: Path):
    """`echo` as the interpreter says that there is a GPU, and measures nothing."""
    first = run(tmp_path, PYTHON="echo")
    assert first.returncode == 0, first.stderr
    parts = {path.stem for path in tmp_path.glob("*.md")}
    assert {"machine", "tests", "step-cnn", "floor-narrow", "step-dense", "study-8x1-of-32", "command"} <= parts
    assert "benchmarks/throughput.py --devices 0 --ways 8x1 --trials 32" in first.stdout
    (tmp_path / "step-dense.md").unlink()
    (tmp_path / "floor-cnn.md").write_text("kept\n")
    again = run(tmp_path, PYTHON="echo")
    assert [line for line in again.stderr.splitlines() if line.startswith("==")] == ["== step-dense"]
    assert "kept" in again.stdout


def test_a_part_that_fails_is_named_and_tried_again(tmp_path: Path):
    result = run(tmp_path, PYTHON="false")
    assert result.returncode == 1
    assert "failed: machine step-cnn" in result.stderr
    assert "left out, as the time is over: none" in result.stderr
    assert not list(tmp_path.glob("*.md"))
    assert "missing" in result.stdout


def test_parts_for_which_no_time_is_left_are_named_and_done_by_the_next_call(tmp_path: Path):
    late = run(tmp_path, PYTHON="echo", SECONDS_LEFT="0")
    assert late.returncode == 1
    assert "left out, as the time is over: machine step-cnn floor-cnn study-1x1" in late.stderr
    assert not list(tmp_path.glob("*.md"))
    assert run(tmp_path, PYTHON="echo").returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="takes eight minutes with a GPU")
def test_without_a_gpu_it_ends_cleanly_with_tiny_sizes(tmp_path: Path):
    result = run(tmp_path)
    assert result.returncode == 0, result.stderr
    assert "There is no GPU here: a dry run" in result.stderr
    assert "## floor-dense\n\ndense, copying moves" in result.stdout
    assert "## command\n\nA study with its plots" in result.stdout
    assert result.stdout.count("= before the first step") == 3
    assert "missing" not in result.stdout
