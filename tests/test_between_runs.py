"""Changes between two runs of a study: to its data, its file and its runs in MLflow."""

import gzip
import hashlib
import re

import pytest
import torch
from mlflow import MlflowClient

from lightning_modules import MNIST5kDataModule
from tests.networks import with_network
from tests.studies import EPOCHS, STEPS, StudyFolder

# -- the data ----------------------------------------------------------------------------------------------------------

OWN_DATA = """\
from lightning_modules import MNISTDataModule


class Digits(MNISTDataModule):
    sha256 = {sha256!r}
"""


def idx(array: torch.Tensor) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.to(torch.uint8).numpy().tobytes()


@pytest.fixture
def digits(folder: StudyFolder) -> dict[str, bytes]:
    """Write four idx files of real digits, and a data set that has their sha256, to the study's folder."""
    data = MNIST5kDataModule()
    data.prepare_data()
    data.setup()
    loader = data.val_dataloader()
    images, labels = loader.images.squeeze(1) * 255, loader.labels
    files = {
        "train-images-idx3-ubyte": idx(images[:400].round()),
        "train-labels-idx1-ubyte": idx(labels[:400]),
        "t10k-images-idx3-ubyte": idx(images[400:].round()),
        "t10k-labels-idx1-ubyte": idx(labels[400:]),
    }
    for name, content in files.items():
        (folder.path / name).write_bytes(content)
    sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    (folder.path / "digits_checked.py").write_text(OWN_DATA.format(sha256=sha256))
    (folder.path / "digits_any.py").write_text(OWN_DATA.format(sha256={}))
    return files


def with_digits(module: str) -> tuple[str, ...]:
    data = f"{{name: '{module}:Digits', root: ., batch_size: 100}}"
    model = "{name: mlp, layers: 1, neurons: 8}"
    values = (f"trial.data={data}", f"trial.model={model}", "trial.trainer.max_epochs=1")
    return ("--trials", "1", *(part for each in values for part in ("--set", each)))


def test_damaged_data_end_the_study_before_anything_is_created(folder: StudyFolder, digits: dict[str, bytes]):
    name = "train-images-idx3-ubyte"
    whole = digits[name]
    damages = {
        whole[:-1] + bytes([whole[-1] ^ 1]): f"not {hashlib.sha256(whole).hexdigest()}: it is damaged",
        whole[:-1]: "is truncated",
        b"": "is empty",
        gzip.compress(whole): "is gzipped, but its name does not end in .gz",
    }
    before = sorted(folder.path.iterdir())
    for content, message in damages.items():
        (folder.path / name).write_bytes(content)
        output = folder.call(*with_digits("digits_checked"), expect=2)
        assert name in output
        assert message in output
        assert sorted(path for path in folder.path.iterdir() if path.name != "__pycache__") == before
    (folder.path / name).write_bytes(whole)
    folder.call(*with_digits("digits_checked"))


def test_a_study_is_not_continued_on_other_data(folder: StudyFolder, digits: dict[str, bytes]):
    folder.call(*with_digits("digits_any"))
    (folder.path / "t10k-labels-idx1-ubyte").write_bytes(digits["t10k-labels-idx1-ubyte"][:-1] + b"\0")
    output = folder.call(*with_digits("digits_any"), expect=2)
    assert re.search(r'data digest: was "[0-9a-f]{64}", now "[0-9a-f]{64}"', output)


@pytest.mark.parametrize(
    ("assignment", "difference"),
    [
        ("search_space.optimizer.initial_lr.low=1e-4", "search_space.optimizer.initial_lr.low: was 0.001, now 0.0001"),
        ("search_space.optimizer.eps={low: 1e-9, high: 1}", "search_space.optimizer.eps.high: was not given, now 1"),
        ("objective.metric=train/acc", 'objective.metric: was "val/acc", now "train/acc"'),
        ("objective={metric: val/loss, direction: minimize}", 'objective.direction: was "maximize", now "minimize"'),
        ("sampler.name=tpe", 'sampler.name: was "random", now "tpe"'),
        ("sampler.seed=2", "sampler.seed: was 1, now 2"),
        ("pruner.name=median", 'pruner.name: was "none", now "median"'),
        ("trial.seed=7", "trial.seed: was not given, now 7"),
        ("trial.data.split_seed=7", "trial.data.split_seed: was not given, now 7"),
    ],
)
def test_one_change_is_refused_and_shown(undisturbed: StudyFolder, assignment: str, difference: str):
    output = undisturbed.call("--set", assignment, expect=2)
    assert difference in output
    assert output.count(": was ") == (2 if "eps" in assignment or "loss" in assignment else 1)


# -- MLflow ------------------------------------------------------------------------------------------------------------


def test_a_deleted_run_is_replaced_by_another_that_says_so(folder: StudyFolder):
    folder.call("--trials", "1")
    ((deleted,),) = folder.mlflow("select run_uuid from tags where key = 'tuner.trial'")
    before = folder.curves()
    MlflowClient(f"sqlite:///{folder.path / 'mlflow.db'}").delete_run(deleted)
    output = folder.call("--trials", "2")
    assert "trial #0 in MLflow was deleted; creating a new one" in output
    assert folder.mlflow("select value from tags where key = 'tuner.replaces'") == [(deleted,)]
    ((run, status),) = folder.mlflow(
        "select run_uuid, status from runs join tags using (run_uuid) where key = 'tuner.replaces'"
    )
    assert status == "FINISHED"
    again = folder.mlflow(f"select '0', key, step, value from metrics where run_uuid = '{run}' order by key, step")
    assert again == before
    assert folder.optuna("select number, state from trials") == [(0, "COMPLETE"), (1, "COMPLETE")]


def test_a_run_deleted_while_its_trial_trains_is_replaced_by_another_with_every_point(folder: StudyFolder):
    own = with_network(
        folder,
        "from mlflow import MlflowClient\n"
        "client = MlflowClient('sqlite:///mlflow.db')\n"
        "while not Path('deleted').exists():\n"
        "    for run in client.search_runs(['1'], \"tags.`tuner.trial` = '0'\"):\n"
        "        client.delete_run(run.info.run_id)\n"
        "        Path('deleted').touch()\n",
    )
    output = folder.call("--trials", "1", "--set", own, "--set", "trial.trainer.max_epochs=1")
    assert "trial #0 in MLflow was deleted; creating a new one" in output
    assert "has its only trial (1 complete)" in output
    runs = folder.mlflow(
        "select lifecycle_stage, status, run_uuid from runs join tags using (run_uuid) where key = 'tuner.trial'"
    )
    (active, deleted) = sorted(runs)
    assert active[:2] == ("active", "FINISHED")
    assert deleted[0] == "deleted"
    assert folder.mlflow("select value from tags where key = 'tuner.replaces'") == [(deleted[2],)]
    points = f"select count(*) from metrics where key = 'lr' and run_uuid = '{active[2]}'"
    assert folder.mlflow(points) == [(STEPS // EPOCHS,)]
