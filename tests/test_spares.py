"""The process of the next group, which is prepared while a group trains; here on a CPU, as otherwise on GPUs."""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.networks import IRIS, holding, release
from tests.processes import is_alive, slots_of
from tests.studies import StudyFolder
from tests.test_engine import SlowHandler
from tuner.config.loader import load_study
from tuner.config.search_space import corners
from tuner.config.trial import TrialConfig
from tuner.engines.local import LocalEngine
from tuner.protocol import Decision, EpochReport, Slot

SLOT = Slot(0, (), 1)


class Watcher(SlowHandler):
    """A handler that waits until the next process is ready, and notes which process trains and which one waits."""

    def __init__(self, folder: Path, kill: bool = False) -> None:
        configs = [TrialConfig.from_values(values) for values in corners(load_study(str(IRIS)).trial)]
        super().__init__((configs * 3)[:3], folder, 0.0)
        self.engine = LocalEngine([SLOT], 60.0, spares=("cpu",))
        self.trained: list[int | None] = []
        self.prepared: list[int | None] = []
        self._kill = kill

    def report(self, reports: Mapping[int, EpochReport]) -> dict[int, Decision]:
        (busy,), spare = self.engine._busy, self.engine._spares.get(SLOT)
        if busy.ranks[0].pid not in self.trained:
            self.trained.append(busy.ranks[0].pid)
            if spare:
                self.prepared.append(spare.process.pid)
                while not spare.is_ready:
                    time.sleep(0.01)
                if self._kill:
                    spare.process.kill()
                    spare.process.join()
        return super().report(reports)

    def run(self) -> None:
        self.engine.run(self)
        assert self.deaths == []
        assert [result.state for result in self.results] == ["complete"] * 3
        assert not any(pid and is_alive(pid) for pid in (*self.trained, *self.prepared))


def test_each_group_but_the_first_is_trained_by_a_prepared_process_with_the_same_results(tmp_path: Path):
    watcher = Watcher(tmp_path / "prepared")
    watcher.run()
    assert watcher.trained[1:] == watcher.prepared[:-1]
    plain = Watcher(tmp_path / "plain")
    plain.engine = LocalEngine([SLOT], 60.0)
    plain.report = lambda reports: dict.fromkeys(reports, "continue")  # type: ignore[method-assign]
    plain.run()
    for one, other in zip(watcher.results, plain.results, strict=True):
        assert (one.value, one.points) == (other.value, other.points)


def test_a_new_process_replaces_a_prepared_one_that_has_died_and_no_more_are_prepared(tmp_path: Path):
    watcher = Watcher(tmp_path, kill=True)
    watcher.run()
    assert len({*watcher.trained, *watcher.prepared}) == 4
    assert len(watcher.prepared) == 1


# -- in a study --------------------------------------------------------------------------------------------------------

WITH_SPARES = """\
import tuner.engines
from tuner.process import leave
from tuner.study import main
tuner.engines.SPARES = ("cpu",)
leave(main())
"""
GROUPS = ("--per-device", "1", "--fuse", "2", "--trials", "6")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """Return a folder in which the study was run without prepared processes."""
    folder = StudyFolder(tmp_path_factory.mktemp("undisturbed"))
    folder.call(*GROUPS)
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_study_is_interrupted_or_killed_while_a_process_waits_and_continues_to_the_same_result(
    folder: StudyFolder, undisturbed: StudyFolder, number: signal.Signals
):
    (folder.path / "with_spares.py").write_text(WITH_SPARES)
    options = (*GROUPS, *holding(folder))
    process = folder.start(*options, module="with_spares")
    folder.wait_for(lambda: len(slots_of(process.pid)) == 2, process)  # the first group and its successor
    processes = slots_of(process.pid)
    os.kill(process.pid, number)
    if number is signal.SIGINT:
        release(folder)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == (128 + signal.SIGINT if number is signal.SIGINT else -number), output
    deadline = time.monotonic() + 60
    while any(map(is_alive, processes)):
        assert time.monotonic() < deadline, "a process outlived its coordinator"
        time.sleep(0.05)
    if number is signal.SIGKILL:
        release(folder)
    process = folder.start(*options, module="with_spares")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    folder.check(trials=6, epochs=3, steps=27)
    assert folder.values() == undisturbed.values()
    assert folder.curves() == undisturbed.curves()
