"""Faults of long studies, provoked in real ones: hangs, full disks, no memory, crashes between two records."""

import itertools
import json
import os
import platform
import resource
import signal
import sqlite3
import time
from typing import get_args

import pytest

from tests.networks import FIRST_EPOCH, holding, release, with_network
from tests.processes import is_alive, slots_of
from tests.studies import EPOCHS, STEPS, StudyFolder
from tuner.engines.local import MAX_OUTPUT
from tuner.process import CrashPoint


@pytest.mark.parametrize("place", get_args(CrashPoint))
def test_a_crash_between_two_records_is_repaired_by_the_next_run(
    folder: StudyFolder, two: StudyFolder, place: CrashPoint, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setenv("TUNER_CRASH_AT", place)
        folder.run("--engine", "inline", "--per-device", "2", "--trials", "2", expect=-signal.SIGKILL)
    folder.call("--trials", "2")
    folder.check(trials=2, epochs=EPOCHS, steps=STEPS)
    assert folder.values() == two.values()
    assert folder.curves() == two.curves()
    assert folder.described() == two.described()
    tested, tested_there = (
        [point for point in each.standing() if point[0].startswith("test/")] for each in (folder, two)
    )
    assert tested == tested_there != []
    assert folder.weights() == two.weights()


def test_a_training_that_hangs_is_killed_and_continues_from_its_last_epoch(
    folder: StudyFolder, undisturbed: StudyFolder
):
    process = folder.start("--per-device", "2", "--stall-timeout", "8s", *holding(folder))
    folder.wait_for(folder.has_checkpoint, process)
    os.kill(slots_of(process.pid)[0], signal.SIGSTOP)
    release(folder)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "showed no activity for 8 s and was killed; it resumes from its last checkpoint" in output
    folder.check(trials=4, epochs=EPOCHS, steps=STEPS)
    assert folder.curves() == undisturbed.curves()


def test_a_full_disk_ends_the_study_and_nothing_is_lost(folder: StudyFolder):
    body = (
        "if Path('full').exists():\n    import resource, signal\n    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))"
    )
    options = ("--per-device", "2", "--set", with_network(folder, body), "--trials", "2")
    (folder.path / "full").touch()
    output = folder.run(*options, expect=1)
    assert "the disk is full: " in output
    assert "Traceback" not in output
    assert folder.optuna("select distinct state from trials") == [("WAITING",)]
    assert folder.mlflow("select count(*) from runs where status = 'RUNNING'") == [(0,)]
    (folder.path / "full").unlink()
    folder.run(*options)
    folder.check(trials=2, epochs=EPOCHS, steps=STEPS)


def test_a_full_disk_under_the_databases_delays_the_study_and_harms_neither(
    folder: StudyFolder, undisturbed: StudyFolder
):
    own = holding(folder)
    process = folder.start("--per-device", "2", *own)
    folder.wait_for(folder.has_checkpoint, process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))  # as for a disk without room
    release(folder)
    lines = iter(process.stdout or ())
    assert any("the database does not answer (disk I/O error); retrying" in line for line in lines)
    for name in ("optuna.db", "mlflow.db"):
        with sqlite3.connect(folder.path / name) as database:
            assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        database.close()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=240)
    folder.call(*own)
    folder.check(trials=4, epochs=EPOCHS, steps=STEPS)
    assert folder.values() == undisturbed.values()
    assert folder.curves() == undisturbed.curves()


def test_a_training_ignores_sigterm_from_other_processes(folder: StudyFolder, undisturbed: StudyFolder):
    process = folder.start("--per-device", "2", "--trials", "1", *holding(folder))  # threads as undisturbed
    folder.wait_for(folder.has_checkpoint, process)
    for pid in slots_of(process.pid):
        os.kill(pid, signal.SIGTERM)
    release(folder)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "resumes from its last checkpoint" not in output, "it did not even notice"
    folder.check(trials=1, epochs=EPOCHS, steps=STEPS)
    assert folder.values() == [row for row in undisturbed.values() if row[0] == 0]


# The clock of Python and its libraries jumps by hours, back and forth, whenever it is read.
CLOCK = """\
import itertools
import time

jumps = itertools.cycle((0, 3600, -3600, 7200)).__next__
seconds, nanoseconds = time.time, time.time_ns
time.time = lambda: seconds() + jumps()
time.time_ns = lambda: nanoseconds() + jumps() * 10**9
"""


@pytest.mark.slow
def test_a_clock_that_jumps_in_every_process_changes_nothing(
    folder: StudyFolder,
    undisturbed: StudyFolder,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
):
    clock = tmp_path_factory.mktemp("clock")
    folder.is_new = True
    (clock / "sitecustomize.py").write_text(CLOCK)  # Python imports it before anything else, in every process
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(clock), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
    output = folder.run("--per-device", "2", "--timeout", "30m", "--stall-timeout", "10m")
    check_after_jumps(folder, undisturbed, output)


def test_a_clock_that_jumps_changes_nothing(
    folder: StudyFolder, undisturbed: StudyFolder, monkeypatch: pytest.MonkeyPatch
):
    jumps = itertools.cycle((0, 3600, -3600, 7200)).__next__
    seconds, nanoseconds = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: seconds() + jumps())
    monkeypatch.setattr(time, "time_ns", lambda: nanoseconds() + jumps() * 10**9)
    output = folder.call("--timeout", "30m")
    monkeypatch.undo()
    check_after_jumps(folder, undisturbed, output)


def check_after_jumps(folder: StudyFolder, undisturbed: StudyFolder, output: str) -> None:
    assert "note:" not in output
    folder.check(trials=4, epochs=EPOCHS, steps=STEPS)
    assert folder.values() == undisturbed.values()
    assert folder.curves() == undisturbed.curves()
    assert folder.weights() == undisturbed.weights()
    times = folder.mlflow(
        "select distinct timestamp - start_time - step from metrics join runs using (run_uuid) where key = 'lr'"
    )
    assert times == [(0,)], "points are stamped with the start of their run and their step"
    ((milliseconds,),) = folder.mlflow("select max(timestamp) - min(timestamp) from metrics")
    assert milliseconds > 3_000_000, "the clock did jump"


ENDS = """\
import os
import platform
import signal
import subprocess
import sys
import threading
import time

from lightning_modules import MLP


class Net(MLP):
    def __init__(self, end, inputs, neurons):
        super().__init__(inputs=inputs, neurons=neurons)
        self.end, self.steps = end, 0

    def forward(self, rows):
        if self.training:
            self.steps += 1
            if self.steps == (25 if self.end == "fail" else 10):  # in the second epoch, in the first
                getattr(self, self.end)()
        return super().forward(rows)

    def nothing(self):
        pass

    def os_exit(self):
        os._exit(0)

    def sys_exit(self):
        sys.exit()

    def kill(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def leave_a_thread(self):
        threading.Thread(target=time.sleep, args=(10**6,)).start()

    def leave_a_process(self):
        if os.fork() == 0:
            time.sleep(10**6)
        with open("left", "w") as file:  # in a session of its own
            file.write(str(subprocess.Popen(["sleep", "1000"], start_new_session=True).pid))

    def fail(self):
        raise RuntimeError("this network fails at step 25")
"""
ENDS_STUDY = """\
budget: {trials: 7}
sampler: {name: grid}
pruner: {name: none}
trial:
  data: {name: iris, batch_size: 5}
  model: {name: 'ends:Net', inputs: 4, neurons: 8}
  optimizer: {name: adam, initial_lr: 1e-2}
  trainer: {max_epochs: 2}
search_space:
  model.end: {choices: [nothing, os_exit, sys_exit, kill, leave_a_thread, leave_a_process, fail]}
"""


def test_a_trial_ends_and_the_study_continues_whatever_its_network_does(folder: StudyFolder):
    (folder.path / "ends.py").write_text(ENDS)
    (folder.path / "ends.yaml").write_text(ENDS_STUDY)
    output = folder.run("--per-device", "2", study="ends.yaml")
    messages = "select value_json from trial_user_attributes where key = 'message' and trials.trial_id = trial_id"
    ends = ENDS_STUDY.partition("choices: [")[2].partition("]")[0].split(", ")
    rows = folder.optuna(f"select param_value, state, ({messages}) from trials join trial_params using (trial_id)")
    found = {ends[int(index)]: (state, json.loads(message or '""')) for index, state, message in rows}
    fails = "RuntimeError: this network fails at step 25"
    place = 'ends.py, line 46, in fail: raise RuntimeError("this network fails at step 25")'
    hint = "(no signal: os._exit or the like ended it)"
    killed = "was killed by SIGKILL (often out of memory: see dmesg), 4 times: given up"
    assert found == {
        "nothing": ("COMPLETE", ""),
        "os_exit": ("FAIL", f"ended with status 0 and no result {hint}, 4 times: given up"),
        "sys_exit": ("FAIL", "SystemExit (ends.py, line 31, in sys_exit: sys.exit())"),
        "kill": ("FAIL", killed),
        "leave_a_thread": ("COMPLETE", ""),
        "leave_a_process": ("COMPLETE", ""),
        "fail": ("FAIL", f"{fails} ({place})"),
    }
    assert not is_alive(int((folder.path / "left").read_text()))
    assert f"failed: {killed}" in output
    assert output.count(fails) == 1
    failed = folder.mlflow("select artifact_uri from runs where status = 'FAILED'")
    traces = [path.read_text() for (uri,) in failed for path in (folder.path / uri).glob("traceback.txt")]
    assert len(failed) == 4
    assert len(traces) == 2
    assert all('ends.py", line' in trace for trace in traces)
    assert folder.mlflow("select count(*) from runs where status = 'RUNNING'") == [(0,)]


def test_a_trial_that_needs_too_much_memory_fails_with_the_sizes_and_the_study_continues(folder: StudyFolder):
    output = folder.call("--trials", "2", "--set", "trial.model.neurons=[20000000000000, 16]", expect=1)
    message = "failed: out of memory with mlp, batch_size=10, inputs=4, neurons=[20000000000000, 16]: "
    assert message in output
    assert folder.optuna("select number, state from trials order by 1") == [(0, "FAIL"), (1, "FAIL")]


def test_a_training_that_prints_without_end_does_not_fill_the_disk(folder: StudyFolder):
    option = with_network(folder, "print('x' * 1_000_000)")
    folder.run("--per-device", "2", "--trials", "1", "--set", option)
    (output,) = folder.directory().glob("trials-*/0/output.log")
    assert output.stat().st_size < 4 * MAX_OUTPUT


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this setting")
@pytest.mark.slow
def test_a_training_reuses_its_memory(folder: StudyFolder):
    folder.is_new = True  # glibc reads the setting when a program starts
    body = "import resource, torch\n\ntorch.empty(16 << 20).fill_(1.0)\nprint(resource.getrusage(0).ru_minflt)"
    folder.run("--trials", "1", "--set", "trial.trainer.max_epochs=1", "--set", with_network(folder, body))
    (output,) = folder.directory().glob("trials-*/0/output.log")
    faults = [int(line) for line in output.read_text().splitlines()]
    pages = (64 << 20) // resource.getpagesize()
    assert len(faults) > FIRST_EPOCH
    assert faults[-1] - faults[10] < pages, "as many as a single step has otherwise"


def test_a_killed_loader_process_is_a_crash_and_not_a_failure(folder: StudyFolder):
    (folder.path / "own.py").write_text(
        "import os\nimport signal\nfrom pathlib import Path\n\nimport torch\n"
        "from lightning_modules import IrisDataModule\n"
        "from torch.utils.data import DataLoader, Dataset\n\n\n"
        "class Rows(Dataset):\n"
        "    def __init__(self, loader):\n        self.batches = list(loader)\n\n"
        "    def __len__(self):\n        return len(self.batches)\n\n"
        "    def __getitem__(self, index):\n"
        "        if index == 5 and not Path('killed').exists():\n"
        "            Path('killed').touch()\n            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        Path('parent').write_text(str(os.getppid()))\n"
        "        return self.batches[index]\n\n\n"
        "class Data(IrisDataModule):\n"
        "    def train_dataloader(self):\n"
        "        Path('trial').write_text(str(os.getpid()))\n"
        "        rows = Rows(super().train_dataloader())\n"
        "        return DataLoader(rows, batch_size=None, num_workers=1)\n"
    )
    output = folder.run("--trials", "1", "--set", "trial.data={name: 'own:Data', batch_size: 10}")
    assert "trial #0 lost a worker of its data loader" in output
    ended = "ended with status 1 and no result (no signal: os._exit or the like ended it)"
    assert f"{ended}; it resumes from its last checkpoint" in output
    folder.check(trials=1, epochs=EPOCHS, steps=STEPS)
    parent, trial = ((folder.path / name).read_text() for name in ("parent", "trial"))
    assert parent == trial, "a worker is forked by its trial's process, not by a server that would outlive it"


def test_slots_on_a_cpu_are_pinned_to_separate_cores(folder: StudyFolder):
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("there is one core only")
    process = folder.start("--per-device", "2", *holding(folder))
    folder.wait_for(lambda: folder.has_checkpoint() and len(slots_of(process.pid)) == 2, process)
    first, second = (os.sched_getaffinity(pid) for pid in slots_of(process.pid))
    assert len(first) == len(second) == len(cores) // 2
    assert not first & second


def test_files_of_a_study_are_readable_by_their_owner_only(undisturbed: StudyFolder):
    for path in (undisturbed.path / ".tuner").rglob("*"):
        inside_private = any(parent.stat().st_mode & 0o077 == 0 for parent in path.parents if ".tuner" in str(parent))
        assert inside_private or path.stat().st_mode & 0o077 == 0, path


def test_a_study_ends_as_usual_where_scikit_learn_cannot_be_imported(folder: StudyFolder):
    (folder.path / "sklearn.py").write_text('raise ValueError("numpy.dtype size changed")')
    output = folder.run("--trials", "10", "--fuse", "8", "--per-device", "1")
    assert "Traceback" not in output
    folder.check(trials=10, epochs=EPOCHS, steps=STEPS)
