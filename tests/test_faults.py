"""What goes wrong in long studies, done to real ones: hangs, full disks, no memory, crashes between two records."""

import os
import signal
from pathlib import Path
from typing import get_args

import pytest

from tests.conftest import EPOCHS, STEPS, StudyFolder
from tests.processes import slots_of
from tuner.crashes import Place
from tuner.engines.local import MAX_OUTPUT


def with_network(folder: StudyFolder, body: str) -> str:
    """Write a network of the user's own, the tiny one with a body of its own before it computes; return the option."""
    lines = "\n".join(f"        {line}" for line in body.splitlines())
    (folder.path / "own.py").write_text(
        "import os\nfrom pathlib import Path\n\nfrom lightning_modules import MNISTCNN\n\n\n"
        f"class Net(MNISTCNN):\n    def forward(self, images):\n{lines}\n        return super().forward(images)\n"
    )
    return "trial.model={name: 'own:Net', channels: [8, 8, 8], hidden: [32, 16]}"


@pytest.mark.parametrize("place", get_args(Place))
def test_a_crash_between_two_records_is_put_right_by_the_next_run(
    folder: StudyFolder, undisturbed: StudyFolder, place: Place, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setenv("TUNER_CRASH_AT", place)
        folder.run("--engine", "inline", "--per-device", "2", expect=-signal.SIGKILL)
    folder.call()
    folder.check(trials=4, epochs=EPOCHS, steps=STEPS)
    assert folder.values() == undisturbed.values()
    assert folder.curves() == undisturbed.curves()
    assert folder.weights() == undisturbed.weights()


def test_a_training_that_hangs_is_killed_and_goes_on_from_its_last_epoch(folder: StudyFolder, undisturbed: StudyFolder):
    process = folder.start("--per-device", "2", "--stall-timeout", "20s")
    folder.wait_for(folder.has_checkpoint, process)
    os.kill(slots_of(process.pid)[0], signal.SIGSTOP)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "gave no sign of life for 20 s and was killed; it goes on from its last checkpoint" in output
    folder.check(trials=4, epochs=EPOCHS, steps=STEPS)
    assert folder.curves() == undisturbed.curves()


def test_a_full_disk_ends_the_study_and_nothing_is_lost(folder: StudyFolder):
    body = (
        "if Path('full').exists():\n    import resource, signal\n    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))"
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


def test_a_trial_that_needs_too_much_memory_fails_with_the_sizes_and_the_study_goes_on(folder: StudyFolder):
    output = folder.call("--trials", "2", "--set", "trial.model.hidden=[2000000000, 16]")
    message = "failed: out of memory with mnist_cnn, batch_size=100, channels=[8, 8, 8], hidden=[2000000000, 16]: "
    assert message in output
    assert folder.optuna("select number, state from trials order by 1") == [(0, "FAIL"), (1, "FAIL")]


def test_a_training_that_prints_without_end_does_not_fill_the_disk(folder: StudyFolder):
    option = with_network(folder, "print('x' * 1_000_000)")
    folder.run("--per-device", "2", "--trials", "1", "--set", option)
    (output,) = folder.directory().glob("trials-*/0/output.log")
    assert output.stat().st_size < 4 * MAX_OUTPUT


def test_a_killed_loader_process_is_a_crash_and_not_a_failure(folder: StudyFolder):
    (folder.path / "own.py").write_text(
        "import os\nimport signal\nfrom pathlib import Path\n\nimport torch\n"
        "from lightning_modules import MNIST5kDataModule\n"
        "from torch.utils.data import DataLoader, Dataset\n\n\n"
        "class Images(Dataset):\n"
        "    def __init__(self, loader):\n        self.batches = list(loader)\n\n"
        "    def __len__(self):\n        return len(self.batches)\n\n"
        "    def __getitem__(self, index):\n"
        "        if index == 5 and not Path('killed').exists():\n"
        "            Path('killed').touch()\n            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return self.batches[index]\n\n\n"
        "class Data(MNIST5kDataModule):\n"
        "    def train_dataloader(self):\n"
        "        return DataLoader(Images(super().train_dataloader()), batch_size=None, num_workers=1)\n"
    )
    output = folder.run("--trials", "1", "--set", "trial.data={name: 'own:Data', batch_size: 100}")
    assert "ended with status 1 and no result; it goes on from its last checkpoint" in output
    folder.check(trials=1, epochs=EPOCHS, steps=STEPS)


def test_slots_on_a_cpu_are_kept_on_cores_of_their_own(folder: StudyFolder):
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("there is one core only")
    process = folder.start("--per-device", "2", "--trials", "20")
    folder.wait_for(lambda: folder.has_checkpoint() and len(slots_of(process.pid)) == 2, process)
    first, second = (os.sched_getaffinity(pid) for pid in slots_of(process.pid))
    assert len(first) == len(second) == len(cores) // 2
    assert not first & second


def test_what_a_study_leaves_is_for_its_owner_only(undisturbed: StudyFolder):
    for path in (undisturbed.path / ".tuner").rglob("*"):
        inside_private = any(parent.stat().st_mode & 0o077 == 0 for parent in path.parents if ".tuner" in str(parent))
        assert inside_private or path.stat().st_mode & 0o077 == 0, path


def test_a_study_runs_in_a_folder_of_any_name(tmp_path: Path):
    path = tmp_path / "ünï ✓ dir"
    path.mkdir()
    folder = StudyFolder(path)
    folder.call("--trials", "1")
    folder.check(trials=1, epochs=EPOCHS, steps=STEPS)
