"""`python -m tuner.export`: the exported folder works without the tuner."""

import csv
import io
import os
import re
import shutil
import sqlite3
from pathlib import Path

import pytest
import torch
import yaml

from lightning_modules import MLP, Adam, CosineDecay, Warmup
from tests.launcher import output_of
from tests.studies import INLINE, StudyFolder
from tuner.config.study import Objective
from tuner.config.trial import TrialConfig
from tuner.confirm import main as confirm
from tuner.errors import StudyFailedError
from tuner.export import main as export
from tuner.followup.model_card import copy_modules
from tuner.followup.script import training_script
from tuner.training.lightning_cli import unannotated

BARE = """\
import os, runpy, sys

ABSENT = ("tuner", "optuna", "mlflow")

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in [name for name in sys.modules if name.partition(".")[0] in ABSENT]:
    del sys.modules[name]
sys.meta_path.insert(0, Absent())
sys.path.insert(0, os.path.dirname(sys.argv[1]))  # as for `python train.py`
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.fixture(scope="module")
def exported(confirmed: StudyFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("exported") / "best"
    assert confirmed.command(export, "short", "--to", str(to)).strip() == str(to)
    return to


def best(folder: StudyFolder) -> tuple[int, float]:
    ((number, value),) = folder.optuna(
        "select number, value from trials join trial_values using (trial_id) join studies using (study_id) "
        "where study_name = 'short' order by 2 desc, 1 limit 1"
    )
    return number, value


def run(script: Path, folder: Path) -> str:
    """Run a script in a process without the tuner and its stores, and return its output."""
    return output_of(BARE, folder, str(script))


def check_same(*paths: Path) -> None:
    """Check that two files contain the same weights, to the last bit."""
    trained, kept = (torch.load(path, weights_only=True)["state_dict"] for path in paths)
    assert trained.keys() == kept.keys()
    assert all(torch.equal(trained[key], kept[key]) for key in kept)


def test_an_export_of_the_best_names_the_other_winner_of_a_confirmation(short: StudyFolder, tmp_path: Path):
    copy = StudyFolder(Path(shutil.copytree(short.path, tmp_path / "copy")))
    copy.command(confirm, "short", "--top", "3", "--seeds", "1", *INLINE, "--devices", "cpu")
    (tmp_path / "exports").mkdir()
    of_study = "trial_id in (select trial_id from trials join studies using (study_id) where study_name = ?)"
    of_trial = "trial_id in (select trial_id from trials where number = ?)"

    def exported(winner: int, *arguments: str) -> str:
        """Give a run of the confirmation the best value, export a trial, and return the output."""
        with sqlite3.connect(copy.path / "optuna.db") as database:
            set_value = f"update trial_values set value = ? where {of_study}"
            database.execute(set_value, (0.1, "short-confirm"))
            database.execute(f"{set_value} and {of_trial}", (1.0, "short-confirm", winner))
        to = tmp_path / "exports" / str(len(list((tmp_path / "exports").iterdir())))
        return " ".join(copy.command(export, "short", *arguments, "--to", str(to)).split())

    number = best(copy)[0]
    assert "has the best mean" not in exported(0), "the study's best comes first in a confirmation"
    start = f"note: #{number}, the best of the search, is exported; in short-confirm, "
    text = re.escape(start) + r"#(\d) \w+ has the best mean, which --trial (\d) exports"
    found = re.search(text, exported(1))
    assert found
    assert found[1] == found[2] != str(number)
    assert f"{start}default constant has the best mean, which is no trial of this study" in exported(3)
    assert "has the best mean" not in exported(1, "--trial", str(number)), "this trial was asked for"


def test_the_script_reproduces_the_value_and_the_weights_without_the_tuner(
    exported: Path, confirmed: StudyFolder, tmp_path: Path
):
    output = run(exported / "train.py", tmp_path)
    assert output.splitlines() == [f"val/acc {best(confirmed)[1]!r}"], "and nothing of Lightning"
    check_same(tmp_path / "trained.ckpt", exported / "weights.ckpt")


def test_the_model_card_has_the_values_and_the_code_to_load_the_weights(exported: Path, confirmed: StudyFolder):
    card = (exported / "README.md").read_text()
    number, value = best(confirmed)
    assert card.startswith(f"# short #{number}\n")
    assert f"| val/acc | {value:.4f} | this network" in card
    values = confirmed.optuna(
        "select value from trials join trial_values using (trial_id) join studies using (study_id) "
        "where study_name = 'short-confirm' and number in (0, 3)"
    )
    mean = sum(value for (value,) in values) / 2
    assert f"| {mean:.4f} | mean over 2 fresh seeds, 95% confidence interval" in card, "not those of its constant lr"
    assert "| test/acc |" in card
    code = card.partition("```python\n")[2].partition("```")[0]
    before = Path.cwd()
    try:
        os.chdir(exported)
        exec(compile(code, "card", "exec"), values := {})
    finally:
        os.chdir(before)
    assert isinstance(values["model"], MLP)
    assert not values["model"].training


def test_the_table_has_the_lr_of_every_step(exported: Path, confirmed: StudyFolder):
    rows = list(csv.DictReader(io.StringIO((exported / "lr.csv").read_text())))
    number = str(best(confirmed)[0])
    curve = [
        (str(step), value)
        for trial, key, step, value in confirmed.curves()
        if (trial, key) == (number, "lr") and step < 16
    ]
    lr = [(row["step"], float(row["lr"])) for row in rows]
    assert [step for step, _ in lr] == [str(step) for step in range(16)]
    assert set(lr) <= set(curve)
    model = yaml.safe_load((exported / "best.yaml").read_text())["model"]["init_args"]
    assert model["optimizer"]["init_args"]["initial_lr"] == lr[0][1]


def test_a_trial_whose_weights_are_gone_is_trained_again(short: StudyFolder, tmp_path: Path):
    other = next(number for number in range(3) if number != best(short)[0])
    short.command(export, "short", "--trial", str(other), "--to", str(tmp_path / "other"))
    weights = torch.load(tmp_path / "other" / "weights.ckpt", weights_only=True)["state_dict"]
    assert weights
    card = (tmp_path / "other" / "README.md").read_text()
    assert "lr-tuner confirm short" in card
    assert "test/acc" not in card, "only the best was tested"


def test_other_values_of_a_trial_that_was_trained_again_are_said_and_in_its_card(short: StudyFolder, tmp_path: Path):
    copy = StudyFolder(Path(shutil.copytree(short.path, tmp_path / "copy")))
    number = next(number for number in range(3) if number != best(short)[0])
    (value,) = (row[1] for row in short.values() if row[0] == number and len(row) == 2)
    with sqlite3.connect(copy.path / "optuna.db") as database:
        of_trial = "trial_id in (select trial_id from trials where number = ?)"
        database.execute(f"update trial_values set value = 0.125 where {of_trial}", (number,))
    output = copy.command(export, "short", "--trial", str(number), "--to", str(tmp_path / "other"))
    assert f"val/acc is {value:.4f} instead of 0.1250" in " ".join(output.split())
    card = (tmp_path / "other" / "README.md").read_text()
    assert f"| val/acc | {value:.4f} |" in card


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """Return a folder in which a custom network was trained with two seeds, with the best epoch as objective."""
    folder = StudyFolder(tmp_path_factory.mktemp("own"))
    values = (
        "name=wine",
        "objective={metric: val/acc, direction: maximize, epoch: best}",
        "sampler={name: grid}",
        "search_space={seed: {choices: [1, 2]}}",
        "trial.trainer.max_epochs=6",
    )
    wine = Path(__file__).parent.parent / "examples" / "wine.yaml"
    folder.call("--trials", "2", *(part for each in values for part in ("--set", each)), study=wine)
    return folder


def test_a_custom_network_is_exported_with_the_weights_of_its_best_epoch(own: StudyFolder, tmp_path: Path):
    to = tmp_path / "wine"
    own.command(export, "wine", "--to", str(to))
    assert "And examples, which must be next to this file or on PYTHONPATH." in (to / "train.py").read_text()
    card = (to / "README.md").read_text()
    assert "lightning_modules; the study's own modules are copied here" in card
    assert "| `examples/wine.py` | a copy of the study's own module `examples.wine` |" in card
    ((epoch, value),) = own.optuna(
        "select step, intermediate_value from trial_intermediate_values order by 2 desc, trial_id, 1 limit 1"
    )
    assert f"| `weights.ckpt` | the weights after epoch {epoch}, the best of 6, without code |" in card
    with (to / "examples" / "wine.py").open("a") as copy:
        copy.write('print("the copy")\n')
    assert run(to / "train.py", tmp_path).splitlines() == ["the copy", f"val/acc {value!r}"]
    check_same(tmp_path / "trained.ckpt", to / "weights.ckpt")


def test_a_module_with_the_name_of_a_file_of_the_export_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "train.py").touch()
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "train.py").write_text("the script")
    with pytest.raises(StudyFailedError, match=r"train cannot be copied: .*train.py has the same name as a file"):
        copy_modules(["train"], tmp_path / "to")
    assert (tmp_path / "to" / "train.py").read_text() == "the script"


def test_trials_that_differ_in_their_seed_only_are_confirmed_as_one(own: StudyFolder):
    output = own.command(confirm, "wine", "--top", "2", "--seeds", "1", "--engine", "inline", "--devices", "cpu")
    assert "1 configuration of study wine, 1 fresh seed each" in output


def test_an_existing_folder_is_not_overwritten(short: StudyFolder, tmp_path: Path):
    assert "already exists" in short.command(export, "short", "--to", str(tmp_path), expect=2)
    assert list(tmp_path.iterdir()) == []
    missing = tmp_path / "no" / "such" / "folder"
    for folder in (missing, tmp_path / ("x" * 300)):
        assert "cannot be written" in short.command(export, "short", "--to", str(folder), expect=2)


def test_an_error_of_the_stores_is_not_blamed_on_the_folder(short: StudyFolder, tmp_path: Path):
    folder = StudyFolder(shutil.copytree(short.path, tmp_path / "copy"))
    (weights,) = folder.directory("short").glob("trials-*/*/model.ckpt")
    weights.unlink()
    weights.mkdir()  # which cannot be copied as a file
    message = folder.command(export, "short", "--to", str(tmp_path / "new"), expect=1)
    assert f"trial #{best(short)[0]} cannot be exported: IsADirectoryError: " in message
    assert "--to" not in message
    assert not (tmp_path / "new").exists()


def test_a_script_builds_nested_schedules_and_optimizers_of_torch():
    values = {
        "data": {"name": "mnist", "root": "data", "batch_size": 50},
        "model": {"name": "mnist_cnn"},
        "optimizer": {"name": "torch.optim:NAdam", "initial_lr": 1e-3},
        "schedule": {"name": "warmup", "steps": 10, "schedule": {"name": "cosine", "decay_steps": 100}},
        "trainer": {"max_epochs": 1, "gradient_clip_val": 1.0},
        "seed": 7,
    }
    script = training_script(TrialConfig.from_values(values), Objective(), {"threads": 2, "device": "CPU"}, "x #1")
    assert "optimizer = partial(NAdam, lr=0.001)" in script
    assert 'data = MNISTDataModule(root="data", batch_size=50, seed=SEED)' in script
    assert "gradient_clip_val=1.0" in script
    line = next(line for line in script.splitlines() if line.startswith("schedule = "))
    exec(line, names := {"Warmup": Warmup, "CosineDecay": CosineDecay})
    assert names["schedule"] == Warmup(steps=10, schedule=CosineDecay(decay_steps=100))
    compile(script, "train.py", "exec")
    assert Adam.__name__ not in script.replace("NAdam", "")


@pytest.mark.parametrize(
    ("model", "missing"),
    [
        ("tests.toys:Base", ["optimizer", "schedule"]),
        ("examples.plain_module:PlainModule", []),
        ("mlp", []),
    ],
)
def test_arguments_that_lightning_cli_cannot_build_are_those_without_a_type(model: str, missing: list[str]):
    values = {
        "data": {"name": "iris"},
        "model": {"name": model, **({"inputs": 4} if model == "mlp" else {})},
        "optimizer": {"name": "adam", "initial_lr": 0.01},
        "schedule": {"name": "constant"},
        "trainer": {"max_epochs": 1},
        "seed": 0,
    }
    assert unannotated(TrialConfig.from_values(values)) == missing
