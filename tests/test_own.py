"""Custom classes in studies: the shipped examples and recipes run, and errors are reported before a study starts."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.launcher import Command
from tests.studies import LIGHTNING_ARGUMENTS, StudyFolder
from tuner.analysis.lint import lint_families
from tuner.analysis.lr_curves import schedule_families
from tuner.config.loader import load_study
from tuner.errors import BadInputError
from tuner.replay import main as replay

ROOT = Path(__file__).parent.parent
EXAMPLES, ARTICLES = ROOT / "examples", ROOT / "studies" / "articles"
SMALL = {
    "auto_mpg": ["trial.trainer.max_epochs=3"],
    "fashion": ["trial.trainer.max_epochs=3", "trial.data.name=mnist_5k", "trial.model.width=2"],
    "linear_regression": ["trial.trainer.max_steps=8", "trial.trainer.val_check_interval=4"],
    "plain_module": ["trial.trainer.max_epochs=2", "trial.model.neurons=8"],
    "wine": ["trial.trainer.max_epochs=2"],
    "everything": ["trial.trainer.max_epochs=1", "search_space.trainer.max_epochs=null"],
    "iris": ["trial.trainer.max_epochs=3"],
    "rule_of_thumb": ["trial.trainer.max_epochs=1", "trial.model.channels=[2,2,2]", "trial.model.hidden=[8,8]"],
    "step_factors": ["trial.trainer.max_epochs=1", "trial.model.channels=[2,2,2]", "trial.model.hidden=[8,8]"],
    "tensorflow_cnn": [
        "trial.data.name=mnist_5k",
        "trial.trainer.max_steps=6",
        "trial.trainer.val_check_interval=2",
        "trial.model.channels=[2,2,2]",
        "trial.model.hidden=[8,8]",
    ],
}
FILES = sorted([*EXAMPLES.glob("*.yaml"), *ARTICLES.glob("*.yaml")])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_shipped_file_runs(path: Path, folder: StudyFolder):
    settings = [option for setting in SMALL[path.stem] for option in ("--set", setting)]
    folder.call("--trials", "1", *settings, study=path)
    assert folder.optuna("select state from trials") == [("COMPLETE",)]
    keys = {key for _, key, _, _ in folder.curves()}
    assert "lr" in keys
    assert load_study(str(path), SMALL[path.stem]).objective.metric in keys


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_files_have_no_remarks(path: Path):
    elsewhere = ["trial.data.name=mnist_5k"] if path.stem in ("fashion", "tensorflow_cnn") else []
    assert lint_families(schedule_families(load_study(str(path), elsewhere), 20)) == []


def test_a_training_in_steps_is_validated_at_its_interval(folder: StudyFolder):
    settings = [option for setting in SMALL["tensorflow_cnn"] for option in ("--set", setting)]
    folder.call("--trials", "1", *settings, study=ARTICLES / "tensorflow_cnn.yaml")
    points = [(key, step) for _, key, step, _ in folder.curves()]
    for key in ("train/acc", "val/acc"):
        assert [step for each, step in points if each == key and step < 7][:3] == [2, 4, 6]
    assert [step for key, step in points if key == "lr"] == list(range(6))


@pytest.mark.slow
def test_a_regression_has_its_report_without_any_accuracy(folder: StudyFolder):
    settings = ["--trials", "4", "--set", "trial.trainer.max_epochs=3", "--review"]
    output = folder.call(*settings, study=EXAMPLES / "auto_mpg.yaml")
    (note,) = re.findall("note: .*", output)
    assert "a patience of 2 is too long for 3 epochs" in note
    (report,) = folder.path.glob("mlruns/*/*/artifacts/report.html")
    assert "val/mae" in report.read_text()
    curves = {
        number: [value for trial, key, _, value in folder.curves() if (trial, key) == (str(number), "val/mae")]
        for number in range(4)
    }
    values = dict(folder.optuna("select number, value from trials join trial_values using (trial_id)"))
    for number, curve in curves.items():
        assert values[number] == min(curve[:3]), "the best epoch counts"


FIT = """\
import runpy, torch
torch.set_num_threads({threads})
runpy.run_module("lightning_modules", run_name="__main__", alter_sys=True)
"""


def fit_by_lightning_cli(folder: StudyFolder) -> str:
    """Train the best trial again from its best.yaml, and return Lightning's output."""
    (best,) = folder.path.glob("mlruns/*/*/artifacts/best.yaml")
    (setup,) = {value for (value,) in folder.optuna("select value_json from trial_user_attributes where key = 'setup'")}
    (folder.path / "fit.py").write_text(FIT.format(threads=json.loads(setup)["threads"]))
    arguments = ["fit", "--config", str(best), *LIGHTNING_ARGUMENTS]
    process = Command("fit", arguments, folder.path, os.environ)  # it writes config.yaml into the folder
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    return output


def test_best_yaml_trains_the_best_trial_again_by_lightning_cli(undisturbed: StudyFolder):
    (best,) = undisturbed.path.glob("mlruns/*/*/artifacts/best.yaml")
    assert yaml.safe_load(best.read_text())["model"]["class_path"] == "lightning_modules.Classifier"
    ((value,),) = undisturbed.optuna("select max(value) from trial_values")
    assert f"val/acc {value:.4f}" in fit_by_lightning_cli(undisturbed)


@pytest.mark.slow
def test_best_yaml_of_a_whole_module_clips_gradients_as_the_trial_did(folder: StudyFolder):
    settings = [*SMALL["plain_module"], "trial.trainer.gradient_clip_val=0.1", "trial.trainer.precision=bf16-mixed"]
    options = [option for setting in settings for option in ("--set", setting)]
    folder.call("--trials", "1", *options, study=EXAMPLES / "plain_module.yaml")
    ((value,),) = folder.optuna("select value from trial_values")
    assert f"val_top3 {value:.4f}" in fit_by_lightning_cli(folder)


@pytest.mark.slow
def test_without_jsonargparse_lightning_modules_says_what_to_install():
    script = (
        "import sys; sys.modules['jsonargparse'] = None; sys.argv = ['x', 'fit']; "
        "import lightning_modules.__main__ as command; command.main()"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'pip install "lr-tuner[cli]"' in done.stderr


@pytest.mark.parametrize(
    ("study", "setting", "message"),
    [
        ("plain_module", "trial.model.neuron=8", "has no argument neuron. Did you mean neurons?"),
        ("plain_module", "trial.model.neurons=many", "trial.model.neurons: must be a whole number"),
        ("plain_module", "trial.loss=mse", "remove it: a LightningModule has its own loss"),
        ("plain_module", "trial.model.name=pytorch_lightning:LightningModule", "has no argument optimizer"),
        (
            "fashion",
            "objective.metric=val_top3",
            "objective.metric: must be train/acc, train/loss, val/acc or val/loss",
        ),
        ("fashion", "trial.model.name=examples.fashion:FashionCN", "Did you mean FashionCNN?"),
        ("fashion", "trial.trainer.max_steps=10", "remove it or max_epochs"),
        ("fashion", "trial.trainer.val_check_interval=10", "is for a length in steps"),
        ("tensorflow_cnn", "trial.trainer.val_check_interval=300", "must be a multiple of val_check_interval (300)"),
        ("wine", "trial.data.batchsize=3", "Did you mean batch_size?"),
    ],
)
def test_errors_are_reported_before_anything_starts(study: str, setting: str, message: str):
    path = next(path for path in FILES if path.stem == study)
    with pytest.raises(BadInputError) as caught:
        load_study(str(path), [setting])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("study", "options", "message"),
    [
        (
            "wine",
            ["--set", "trial.trainer={max_steps: 100, val_check_interval: 20}"],
            "the 20 batches to the next validation are more than the 7 of examples.wine:WineDataModule",
        ),
        ("plain_module", ["--fuse", "2"], "one by one: the model is a LightningModule"),
        ("iris", ["--fuse", "2"], "one by one: the best epoch of each counts"),
    ],
)
def test_conflicting_options_are_refused_before_anything_starts(
    study: str, options: list[str], message: str, folder: StudyFolder
):
    path = next(path for path in FILES if path.stem == study)
    assert message in folder.call(*options, study=path, expect=2)
    assert not folder.directory(study).exists()


NEXT_TO_MODULE = """\
budget: {trials: 1}
pruner: {name: none}
trial:
  data: {name: iris, batch_size: 20}
  model: {name: "beside_the_file:Net"}
  optimizer: {name: adam, initial_lr: 1e-2}
  trainer: {max_epochs: 2}
"""
NET = """\
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 3))
"""


@pytest.mark.slow
def test_modules_next_to_the_study_file_are_found_from_any_folder(folder: StudyFolder):
    (folder.path / "mine").mkdir()
    (folder.path / "mine" / "beside_the_file.py").write_text(NET)
    (folder.path / "mine" / "beside.yaml").write_text(NEXT_TO_MODULE)
    output = folder.run("--review", "--per-device", "1", study="mine/beside.yaml")
    assert "note: " not in output
    assert folder.mlflow("select count(*) from model_versions where name = 'beside'") == [(1,)], (
        "by a process of its own"
    )
    moved = StudyFolder(folder.path.with_name("moved"))
    folder.path.rename(moved.path)
    assert "the same to the last bit" in moved.command(replay, "beside"), "by its name alone"


WIDER = """\
from torch import nn
from twin_layers import OUTPUTS

class Net(nn.Sequential):
    def __init__(self, width: int):
        super().__init__(nn.Linear(4, width), nn.Linear(width, OUTPUTS))
"""


def twin(folder: Path, net: str, arguments: str = "") -> Path:
    """Write a study and its module, whose name other studies also use, and return the study file."""
    folder.mkdir(exist_ok=True)
    (folder / "twin_net.py").write_text(net)
    (folder / "twin.yaml").write_text(NEXT_TO_MODULE.replace('"beside_the_file:Net"', f'"twin_net:Net"{arguments}'))
    return folder / "twin.yaml"


def test_two_studies_of_one_process_have_each_its_own_module_of_the_same_name(folder: StudyFolder):
    one = twin(folder.path / "one", NET)
    other = twin(folder.path / "other", WIDER, ", width: 5")
    (folder.path / "other" / "twin_layers.py").write_text("OUTPUTS = 3\n")
    for study, parameters in ((one, 15), (other, 43), (one, 15)):
        output = folder.call("--dry-run", "--rehearse", study=study)
        assert f"a network of {parameters} parameters" in output


def test_a_module_that_was_edited_is_checked_as_trainings_will_import_it(folder: StudyFolder):
    study = twin(folder.path, NET)
    load_study(str(study))
    twin(folder.path, WIDER, ", width: 5")
    (folder.path / "twin_layers.py").write_text("import nowhere\n")
    with pytest.raises(BadInputError, match="No module named 'nowhere'"):
        load_study(str(study))
    for outputs, parameters in ((3, 43), (30, 205)):
        (folder.path / "twin_layers.py").write_text(f"OUTPUTS = {outputs}\n")
        assert f"a network of {parameters} parameters" in folder.call("--dry-run", "--rehearse", study=study)


def test_an_objective_that_a_module_never_logs_fails_the_trial_with_those_it_does(folder: StudyFolder):
    options = ["--trials", "1", "--set", "objective.metric=val_top5", "--set", "trial.trainer.max_epochs=1"]
    output = folder.call(*options, study=EXAMPLES / "plain_module.yaml", expect=1)
    assert "the objective is val_top5, but only train_loss, val_top3 are logged" in output
