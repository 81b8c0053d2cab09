"""The plots, report and registered model of a study in MLflow."""

import contextlib
import csv
import io
import itertools
import json
import os
import re
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.launcher import output_of
from tests.studies import DIGITS, INLINE, OF_DIGITS, StudyFolder
from tuner.confirm import main as confirm
from tuner.replay import main as replay
from tuner.reporting.review import Review

PNG = b"\x89PNG\r\n\x1a\n"
PARENT = "(select run_uuid from tags where key = 'tuner.study_id')"


def artifacts(folder: StudyFolder) -> Path:
    """Return the folder of the artifacts of the study's run."""
    ((path,),) = folder.mlflow(f"select artifact_uri from runs where run_uuid in {PARENT}")
    return folder.path / path


def weights(there: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(there / "best" / "weights.ckpt", weights_only=True)["state_dict"]
    return state


def tags_of(folder: StudyFolder, runs: str = PARENT) -> dict[str, str]:
    return dict(folder.mlflow(f"select key, value from tags where run_uuid in {runs}"))


def code_in(note: str) -> str:
    """Return the code in a description that loads a network."""
    return re.search("`(mlflow.pytorch.load_model.*?)`", note)[1]


def python(folder: StudyFolder, code: str, **environment: str) -> str:
    """Run code with MLflow's address and nothing else, and return its output."""
    uri = f"sqlite:///{folder.path / 'mlflow.db'}"
    return output_of(code, folder.path, **{"MLFLOW_TRACKING_URI": uri, **environment})


def test_the_study_s_run_has_every_plot_the_report_and_the_winner(reviewed: StudyFolder):
    there = artifacts(reviewed)
    pictures = {path.stem.partition("_")[2] for path in (there / "plots").glob("*.png")}
    assert {"top_trials", "best_of_each", "lr_curves", "families", "winner", "slices", "best_so_far"} <= pictures
    for path in there.rglob("*.png"):
        assert path.read_bytes().startswith(PNG)
    names = {str(path.relative_to(there)) for path in there.rglob("*") if path.is_file()}
    assert {"report.html", "study.yaml", "trials.csv", "best.yaml", "best/weights.ckpt"} <= names
    assert "\nmodule = Classifier(your_network, optimizer, schedule)" in (there / "report.html").read_text()
    assert {"best/confusion_matrix.png", "best/mistakes.png", "best/model_summary.txt"} <= names
    parameters = sum(tensor.numel() for tensor in weights(there).values())
    (counted,) = re.findall(r"([\d.]+) K +Total params", (there / "best" / "model_summary.txt").read_text())
    assert float(counted) == pytest.approx(parameters / 1000, abs=0.1)


def test_the_study_s_run_has_the_winner_its_margin_and_the_uncertainty(reviewed: StudyFolder):
    tags = tags_of(reviewed)
    ranking = reviewed.optuna("select number, value from trials join trial_values using (trial_id) order by 2 desc, 1")
    text = tags["mlflow.note.content"].replace("\\", "")
    assert re.match(rf"\*\*The best is #{ranking[0][0]} .*(in a tie with|ahead of all others)", text), "the first line"
    params = dict(reviewed.mlflow(f"select key, value from params where run_uuid in {PARENT}"))
    assert float(params[f"trial {ranking[0][0]}/optimizer.initial_lr"]) > 0
    assert "4 of 4 trials" in text
    assert f"#{ranking[0][0]} " in text
    assert f"{ranking[0][1] - ranking[1][1]:.4f} better than the runner-up, #{ranking[1][0]} " in text
    assert "one run with one seed" in text
    error = (ranking[0][1] * (1 - ranking[0][1]) / 500) ** 0.5
    assert f"On 500 validation examples the standard error of such an accuracy is {error:.4f}" in text
    assert "test/acc" in text
    assert re.search(r"^\| optimizer.initial_lr \| 0.001 to 0.03 \(log\) \| 0.0\d+ \|$", text, re.MULTILINE)
    assert tags["hardware"]
    assert "torch 2." in tags["versions"]


def test_the_best_value_and_the_number_of_trials_are_metrics_over_time(reviewed: StudyFolder):
    rows = reviewed.mlflow(f"select key, step, value from metrics where run_uuid in {PARENT} order by timestamp, step")
    done = [value for key, _, value in rows if key == "trials_done"]
    best = [value for key, _, value in rows if key == "best_value"]
    assert done[-1] == 4
    assert done == sorted(done)
    assert best == sorted(best)
    assert best[-1] == max(value for (value,) in reviewed.optuna("select value from trial_values"))


def test_a_trial_s_run_says_on_which_data_and_device_and_how_long(reviewed: StudyFolder):
    for (run,) in reviewed.mlflow("select run_uuid from tags where key = 'tuner.trial'"):
        tags = tags_of(reviewed, f"('{run}')")
        assert float(tags["tuner.seconds"]) > 0
        assert tags["tuner.device"] == "CPU"
        assert tags["mlflow.runName"].startswith(f"#{tags['tuner.trial']} ")
    used = reviewed.mlflow(
        "select distinct destination_id, datasets.name, datasets.digest from inputs "
        "join datasets on source_id = dataset_uuid"
    )
    assert len(used) == 5, "four trials and the study"
    ((digest,),) = {(digest,) for _, _, digest in used}
    (recorded,) = reviewed.optuna("select value_json from study_user_attributes where key = 'identity'")[0]
    assert json.loads(recorded)["data digest"].startswith(digest)


def test_the_table_of_lr_has_every_bend_of_the_curve(reviewed: StudyFolder):
    for run, path in reviewed.mlflow("select run_uuid, artifact_uri from runs where name like '#%'"):
        points = dict(reviewed.mlflow(f"select step, value from metrics where key = 'lr' and run_uuid = '{run}'"))
        rows = list(csv.DictReader(io.StringIO((reviewed.path / path / "lr.csv").read_text())))
        table = [(int(row["step"]), float(row["lr"])) for row in rows]
        assert table[0] == (0, points[0])
        assert table[-1] == (max(points), points[max(points)])
        assert all(points[step] == lr for step, lr in table)
        for (begin, first), (end, last) in itertools.pairwise(table):
            for step in range(begin, end):
                between = first + (last - first) * (step - begin) / (end - begin)
                assert between == pytest.approx(points[step], rel=3e-3)


def test_a_trial_says_whether_its_lr_ever_changed(reviewed: StudyFolder):
    told = reviewed.optuna(
        "select number, value_json from trials join trial_user_attributes using (trial_id) where key = 'constant_lr'"
    )
    assert len(told) == 4
    for number, text in told:
        ((lrs,),) = reviewed.mlflow(
            "select count(distinct metrics.value) from metrics join tags using (run_uuid) "
            f"where metrics.key = 'lr' and tags.key = 'tuner.trial' and tags.value = '{number}'"
        )
        assert json.loads(text) == (lrs == 1)


def test_the_champion_of_the_registry_reproduces_the_test_accuracy(reviewed: StudyFolder):
    code = (
        "import torch\n"
        "from lightning_modules import MNIST5kDataModule\n"
        "import mlflow\n"
        f"model = {code_in(tags_of(reviewed)['mlflow.note.content'])}\n"
        "data = MNIST5kDataModule(batch_size=100)\n"
        "data.prepare_data(); data.setup()\n"
        "right = sum((model(images).argmax(1) == labels).sum().item() for images, labels in data.test_dataloader())\n"
        "print(right)\n"
        "version = mlflow.MlflowClient().get_model_version_by_alias('tiny', 'champion')\n"
        "info = mlflow.models.get_model_info('models:/tiny@champion')\n"
        "print(version.run_id)\n"
        "print(info.signature.inputs.inputs[0].shape, info.saved_input_example_info is not None)\n"
    )
    right, run, example = python(reviewed, code, MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false").splitlines()[-3:]
    ((recorded,),) = reviewed.mlflow(
        "select distinct metrics.value from metrics join tags using (run_uuid) "
        "where metrics.key = 'test/acc' and tags.key = 'tuner.trial'"
    )
    assert int(right) == pytest.approx(500 * recorded, abs=1e-3)  # Lightning keeps it in single precision
    assert run == tags_of(reviewed)["tuner.best_run_id"]
    assert tags_of(reviewed)["tuner.model"] == "models:/tiny@champion", "the study's page leads to it"
    number = tags_of(reviewed, f"('{run}')")["tuner.trial"]
    assert tags_of(reviewed)["tuner.champion"] == number
    champion = 'mlflow.pytorch.load_model("models:/tiny@champion")'
    assert code_in(tags_of(reviewed, f"('{run}')")["mlflow.note.content"]) == champion
    assert code_in(reviewed.mlflow("select description from registered_models")[0][0]) == champion
    assert code_in(reviewed.mlflow("select description from model_versions")[0][0]) == champion.replace(
        "@champion", "/1"
    )
    assert example == "(-1, 1, 28, 28) True"
    assert not [path for path in reviewed.path.rglob("*") if path.suffix in (".pkl", ".pickle", ".pth")]


def test_in_a_moved_folder_the_champion_of_the_registry_is_found(reviewed: StudyFolder, tmp_path: Path):
    moved = StudyFolder(shutil.copytree(reviewed.path, tmp_path / "moved"))
    uri = f"sqlite:///{moved.path / 'mlflow.db'}"
    code = (
        "import mlflow\n"
        "model = mlflow.pytorch.load_model('models:/tiny@champion')\n"
        "print(mlflow.models.get_model_info('models:/tiny@champion').signature is not None)\n"
    )
    with sqlite3.connect(moved.path / "mlflow.db") as database:
        for table, column in (("logged_models", "artifact_location"), ("model_versions", "storage_location")):
            ((place,),) = database.execute(f"select {column} from {table}")
            assert place.startswith("mlruns/")
    database.close()
    assert python(moved, code, MLFLOW_TRACKING_URI=uri).splitlines()[-1] == "True"


@pytest.mark.slow
def test_a_finished_study_that_is_run_again_is_drawn_and_registered_again_only_if_that_was_not_completed(
    reviewed: StudyFolder,
):
    report = artifacts(reviewed) / "report.html"
    drawn = report.stat().st_mtime_ns
    assert tags_of(reviewed)["tuner.reviewed"].startswith("4 trials, #")
    reviewed.call("--review", *OF_DIGITS, study=DIGITS)
    assert report.stat().st_mtime_ns == drawn
    assert tags_of(reviewed)["mlflow.note.content"].count("load_model") == 1
    with sqlite3.connect(reviewed.path / "mlflow.db") as database:
        database.execute("delete from tags where key = 'tuner.reviewed'")
    database.close()
    reviewed.call("--review", *OF_DIGITS, study=DIGITS)
    assert report.stat().st_mtime_ns > drawn
    assert tags_of(reviewed)["tuner.reviewed"].startswith("4 trials, #")
    assert tags_of(reviewed)["mlflow.note.content"].count("load_model") == 1
    assert reviewed.mlflow("select version from model_versions") == [(1,)]


def test_a_confirmation_rewrites_the_report_and_leaves_the_registry_to_the_study(reviewed: StudyFolder, tmp_path: Path):
    copied = StudyFolder(shutil.copytree(reviewed.path, tmp_path / "copy"))
    run = "(select run_uuid from runs where name = 'tiny')"
    report = artifacts(copied) / "report.html"
    assert "With fresh seeds: " not in report.read_text()
    confirmation = ("tiny", "--top", "1", "--seeds", "1", *INLINE)
    copied.command(confirm, *confirmation)
    page, state = report.read_text(), tags_of(copied, run)["tuner.reviewed"]
    assert "With fresh seeds: the answer is " in page
    assert "tiny-confirm: retrained with fresh seeds" in page
    assert state.startswith("4 trials, #")
    note = tags_of(copied, run)["mlflow.note.content"]
    assert note.startswith("**The answer is ")
    assert ("[Report with all plots]" in note, note.count("load_model")) == (True, 1)

    drawn = report.stat().st_mtime_ns
    copied.command(confirm, *confirmation)
    copied.call("--review", *OF_DIGITS, study=DIGITS)
    assert report.stat().st_mtime_ns == drawn, "it is up to date"
    assert tags_of(copied, run)["mlflow.note.content"] == note
    with sqlite3.connect(copied.path / "mlflow.db") as database:  # as if the study had been killed before its review
        database.execute(f"delete from tags where key = 'tuner.reviewed' and run_uuid in {run}")
    database.close()
    copied.command(confirm, *confirmation)
    assert report.stat().st_mtime_ns > drawn
    assert "tuner.reviewed" not in tags_of(copied, run), "the model may not be registered"


def test_a_refusing_registry_and_a_network_that_cannot_be_exported_are_reported_and_the_study_continues(
    reviewed: StudyFolder,
):
    (study_id,) = reviewed.optuna("select value_json from study_user_attributes where key = 'identifier'")[0]
    code = (
        "import json, os, numpy, torch\n"
        "from tuner.tracking.reader import MlflowStudy\n"
        "class Branching(torch.nn.Linear):\n"
        "    def forward(self, images):\n"
        "        return super().forward(images if images.sum().item() > 0 else -images)\n"
        f"study = MlflowStudy(os.environ['MLFLOW_TRACKING_URI'], {study_id})\n"
        "example = numpy.ones((2, 3), dtype='float32')\n"
        "notes = [study.add_model(0, net(3, 2), example, 'other') for net in (torch.nn.Linear, Branching)]\n"
        "print(json.dumps(notes))\n"
    )
    output = python(reviewed, code, MLFLOW_REGISTRY_URI="nowhere://registry").splitlines()[-1]
    (registry,), (export,) = json.loads(output)
    assert "its registry did not accept it" in registry
    assert "cannot be exported" in export


WITHOUT_FORWARD = """
import pytorch_lightning as pl
from examples.plain_module import PlainModule


class Module(PlainModule):
    forward = pl.LightningModule.forward

    def __call__(self, images):
        return self.network(images)

    def test_step(self, batch, batch_idx):
        super().test_step(batch, batch_idx)
        self.log("val_top3", 0.0)
"""


def test_a_module_without_forward_has_plots_report_and_an_exact_replay(folder: StudyFolder):
    (folder.path / "without.py").write_text(WITHOUT_FORWARD)
    options = ["--set", "trial.model.name=without:Module", "--set", "trial.trainer.max_epochs=1"]
    study = shutil.copy(Path(__file__).parent.parent / "examples" / "plain_module.yaml", folder.path)
    output = folder.run("--review", "--trials", "1", *options, study=study)
    assert "note: the network of trial #0 cannot be exported, so MLflow has only its weights: " in output
    there = artifacts(folder)
    assert list((there / "plots").glob("*.png"))
    report = (there / "report.html").read_text()
    assert "\nschedule = CosineDecay(decay_steps=" in report
    assert "Classifier" not in report, "the module creates its own optimizer"
    assert "network" in (there / "best" / "model_summary.txt").read_text()
    assert "the same to the last bit: val_top3 " in folder.command(replay, "plain_module")
    names = "select distinct key from metrics where key like 'test%' order by 1"
    assert folder.mlflow(names) == [("test/val_top3",), ("test_top3",)], "validation keeps its own values"


def wait_for(update: Any) -> None:
    """Wait for an update that has the lowest priority; root gives it another one, or busy processes would stop it."""
    with contextlib.suppress(OSError):  # it has ended, or this is another user
        while os.getpriority(os.PRIO_PROCESS, update._process._process.pid) < 19:
            time.sleep(0.01)
        os.setpriority(os.PRIO_PROCESS, update._process._process.pid, 0)
    update._process.join()


def test_plots_are_drawn_now_and_then_and_not_at_every_trial(
    two: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    drawn = StudyFolder(shutil.copytree(two.path, tmp_path / "drawn"))  # of two trials there are few plots
    storage, uri = (f"sqlite:///{drawn.path / name}" for name in ("optuna.db", "mlflow.db"))
    review = Review(storage, "tiny", uri, drawn.directory())
    review.refresh()
    assert review._call is None, "the study has only begun"
    assert not (artifacts(drawn) / "plots").exists()
    assert not (artifacts(drawn) / "report.html").exists()
    monkeypatch.setattr(Review, "EVERY_SECONDS", 0.0)
    review = Review(storage, "tiny", uri, drawn.directory())
    review.refresh()
    call = review._call
    review.refresh()
    assert review._call is call, "while it draws, no other is begun"
    wait_for(call)
    assert list((artifacts(drawn) / "plots").glob("*_lr_curves.png")), (drawn.directory() / "review.log").read_text()
    assert (artifacts(drawn) / "report.html").exists()
    review.refresh()
    assert review._call is None, "what took seconds is not done again within minutes"
    review._next = 0.0
    review.refresh()
    wait_for(review._call)
    review._began -= 1e6  # it ended long ago, when the next trial ends
    review._next -= 1e6
    review.refresh()
    assert review._call is not None, "an update counts as long as it took, and not until the next trial ended"
    review.prepare(8)
    prepared = review._prepared
    assert prepared is not None
    assert prepared.is_running, "the last update need not wait for its imports"
    (artifacts(drawn) / "report.html").unlink()
    assert review.finish(None, "state") == []
    assert not prepared.is_running, "it made that update"
    assert (artifacts(drawn) / "report.html").exists()
