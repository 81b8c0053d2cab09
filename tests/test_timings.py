"""`--timings`: the phases of a command."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.networks import IRIS
from tests.studies import StudyFolder
from tuner import timings


def test_a_command_tells_its_phases_in_their_order(folder: StudyFolder, capsys: pytest.CaptureFixture[str]):
    began = time.monotonic()
    folder.call("--timings", "--trials", "2", study=IRIS)
    taken = time.monotonic() - began
    found = {each.name: each for each in timings.phases()}
    names = list(found)
    wanted = [
        "start of Python",
        "checks and import of MLflow",
        "rehearsal",
        "Optuna's database",
        "MLflow's store",
        "first step",
    ]
    wanted += [timings.TRIALS, "results of the last epoch", "test of the best trial", "records for MLflow", "summary"]
    assert [name for name in names if name in wanted] == wanted
    measured = sum(each.seconds for each in found.values()) - found["start of Python"].seconds
    assert 0 < measured < taken + 0.1
    capsys.readouterr()
    timings.print_phases()
    printed = capsys.readouterr().err
    assert [line.split("  ")[0] for line in printed.splitlines() if line.startswith("=")] == [
        "= before the first step",
        "= after the last epoch",
    ]
    timings._moments.clear()
    timings.print_phases()
    assert capsys.readouterr().err == "", "nothing without the option"


def test_without_linux_time_begins_with_the_command(monkeypatch: pytest.MonkeyPatch):
    def missing(path: Path, **options: Any) -> str:
        raise FileNotFoundError(path)

    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", missing)
        timings.start()
    (phase,) = timings.phases()
    assert 0 <= phase.seconds < 60
    timings._moments.clear()
