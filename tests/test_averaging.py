"""`trial.averaging` and optimizers that average: values, weights, resume, search, replay and export."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml

from lightning_modules import MLP, Adam, Classifier, CosineDecay, EpochSeed, IrisDataModule, TailAverage
from tests.studies import TINY, StudyFolder
from tests.test_export import check_same
from tests.test_export import run as run_script
from tests.test_training import Answers
from tuner.config.loader import load_study
from tuner.config.study import Objective
from tuner.config.trial import TrialConfig
from tuner.errors import BadInputError
from tuner.export import main as export
from tuner.followup.script import training_script
from tuner.protocol import Assignment, Decision, TrainingGroup, TrialResult
from tuner.replay import main as replay
from tuner.training.results import MODEL_FILE
from tuner.training.run import run

STEPS = 24  # an epoch: 120 rows, less the 20% for validation and for the test, in batches of 4
VALUES: dict[str, Any] = {
    "data": {"name": "iris", "batch_size": 4},
    "model": {"name": "mlp", "inputs": 4, "neurons": 8, "num_classes": 3},
    "optimizer": {"name": "adam", "initial_lr": 0.02},
    "schedule": {"name": "cosine", "decay_steps": 60},
    "trainer": {"max_epochs": 3, "precision": "32-true", "gradient_clip_val": None, "accumulate_grad_batches": 1},
    "loss": "cross_entropy",
    "seed": 5,
}
AVERAGINGS: Mapping[str, dict[str, Any]] = {
    "ema": {"averaging": {"name": "ema", "decay": 0.9}},
    "tail": {"averaging": {"name": "tail", "start": 30}},
    "lawa": {"averaging": {"name": "lawa", "count": 3, "interval": 7}},
}
OPTIMIZERS: Mapping[str, dict[str, Any]] = {
    name: {"optimizer": {"name": name, "initial_lr": lr, **arguments}}
    for name, lr, arguments in (
        ("schedule_free_adamw", 0.02, {}),
        ("schedule_free_sgd", 1.0, {}),
        ("muon", 0.02, {}),
        ("prodigy", 1.0, {"d0": 1e-3}),
        ("ademamix", 0.01, {"beta3": 0.99}),
        ("soap", 0.01, {}),
        ("adan", 0.01, {}),
        ("lion", 0.001, {}),
    )
}


def train(directory: Path, changes: dict[str, Any], *decisions: Decision, epoch: str = "last") -> TrialResult:
    config = TrialConfig.from_values({**VALUES, **changes})
    assignment = Assignment(0, config, Objective("val/loss", epoch=epoch), directory)  # to be high
    (result,) = run(TrainingGroup((assignment,)), Answers(*decisions))
    return result


def assert_same_bits(one: Path, other: Path) -> None:
    check_same(one / MODEL_FILE, other / MODEL_FILE)


@pytest.mark.parametrize("name", [*AVERAGINGS, *OPTIMIZERS])
def test_a_stopped_trial_ends_with_the_same_bits(name: str, tmp_path: Path):
    changes = {**AVERAGINGS, **OPTIMIZERS}[name]
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    whole = train(straight, changes)
    assert whole.state == "complete", whole
    for _ in range(2):
        assert train(cut, changes, "stop").state == "interrupted"
    result = train(cut, changes)
    assert result.value == whole.value
    assert sorted(result.points) == sorted(whole.points)
    assert_same_bits(straight, cut)


def test_values_weights_and_the_best_epoch_are_those_of_the_average(tmp_path: Path):
    averaged, plain = (train(tmp_path / name, AVERAGINGS.get(name, {})) for name in ("tail", "plain"))
    before, after = ({(key, step): value for key, step, value in each.points} for each in (plain, averaged))
    differing = {key for key, value in after.items() if before[key] != value}
    assert differing == {(key, step) for key, step in differing if key.startswith("val/") and step > 30} != set()
    torch.manual_seed(5)
    network = MLP(inputs=4, neurons=8, num_classes=3)
    module = Classifier(network, Adam(initial_lr=0.02), CosineDecay(decay_steps=60), averaging=TailAverage(start=30))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=3, accelerator="cpu", callbacks=[EpochSeed(5)], enable_checkpointing=False, **quiet)
    trainer.fit(module, datamodule=IrisDataModule(batch_size=4, seed=5))
    assert trainer.callback_metrics["val/loss"].item() == averaged.value
    weights = torch.load(tmp_path / "tail" / MODEL_FILE, weights_only=True)["state_dict"]
    assert all(torch.equal(weights[key], tensor) for key, tensor in network.state_dict().items())

    best = train(tmp_path / "best", AVERAGINGS["ema"], epoch="best")  # of which the first has the highest loss
    first = train(tmp_path / "first", {**AVERAGINGS["ema"], "trainer": {"max_epochs": 1, "precision": "32-true"}})
    assert best.value == first.value
    assert_same_bits(tmp_path / "best", tmp_path / "first")


def test_the_digest_of_a_trial_without_averaging_is_the_one_it_always_had():
    plain = TrialConfig.from_values(VALUES)
    assert plain.digest == hashlib.sha256(json.dumps(VALUES, sort_keys=True).encode()).hexdigest()
    none = TrialConfig.from_values({**VALUES, "averaging": {"name": "none"}})
    assert (none, none.digest) == (plain, plain.digest)
    averaged = TrialConfig.from_values({**VALUES, **AVERAGINGS["ema"]})
    assert averaged.digest != plain.digest
    assert TrialConfig.from_values(averaged.values()) == averaged


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """Return a study that searches among averages, whose best trial has one."""
    folder = StudyFolder(tmp_path_factory.mktemp("averaging"))
    study = yaml.safe_load(TINY.read_text())
    study["objective"] = {"metric": "val/loss", "direction": "minimize"}
    study["search_space"] = {
        "averaging": {"one_of": {"none": {}, "ema": {"decay": {"low": 0.5, "high": 0.99}}, "tail": {"start": "50%"}}}
    }
    study["name"], study["budget"] = "averages", {"trials": 5}
    (folder.path / "averages.yaml").write_text(yaml.safe_dump(study))
    folder.call(study=folder.path / "averages.yaml")
    return folder


def test_averages_are_searched_and_recorded_and_none_is_the_baseline(folder: StudyFolder):
    drawn = folder.optuna(
        "select number, param_name, param_value from trials join trial_params using (trial_id) order by 1, 2"
    )
    assert [value for number, name, value in drawn if name == "averaging.name"][:3] == [1, 0, 2]
    recorded = {(number, key): value for number, key, value in folder.described() if str(key).startswith("averaging.")}
    assert {key for number, key in recorded if number == "0"} == set()
    assert recorded["2", "averaging.name"] == "tail"
    assert recorded["2", "averaging.start"] == "14"  # half of 27 steps
    assert recorded["2", "averaging.start.relative"] == "50%"
    assert 0.5 <= float(recorded["1", "averaging.decay"]) <= 0.99


@pytest.mark.slow
def test_a_trial_with_an_average_is_replayed_and_exported_to_the_last_bit(folder: StudyFolder, tmp_path: Path):
    assert "the same to the last bit" in folder.command(replay, "averages", "--trial", "2")
    folder.command(export, "averages", "--trial", "2", "--to", str(tmp_path / "out"))
    ((value,),) = folder.optuna("select value from trials join trial_values using (trial_id) where number = 2")
    assert "averaging=TailAverage(start=14))" in (tmp_path / "out" / "train.py").read_text()
    assert "under the schedule `constant`, its weights averaged by `tail`" in (tmp_path / "out/README.md").read_text()
    assert run_script(tmp_path / "out" / "train.py", tmp_path).splitlines()[-1] == f"val/loss {value!r}"
    check_same(tmp_path / "trained.ckpt", tmp_path / "out" / "weights.ckpt")
    described = yaml.safe_load((tmp_path / "out" / "best.yaml").read_text())
    assert described["model"]["init_args"]["averaging"] == {
        "class_path": "lightning_modules.TailAverage",
        "init_args": {"start": 14},
    }
    quiet = [f"--trainer.{key}=false" for key in ("logger", "enable_checkpointing", "enable_progress_bar")]
    output = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m", "lightning_modules", "fit", "--trainer.accelerator=cpu"),
            *("--config", str(tmp_path / "out" / "best.yaml"), *quiet),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"val/loss {value:.4f}" in output


OWN = """
from lightning_modules import Plateau, ScheduleLR
from examples.plain_module import PlainModule


class Own(PlainModule):
    def configure_optimizers(self):
        optimizer = self.optimizer(self.parameters())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": ScheduleLR(optimizer, self.schedule)}}
"""


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(AVERAGINGS["ema"], id="ema"),
        pytest.param(OPTIMIZERS["schedule_free_adamw"], id="optimizer", marks=pytest.mark.slow),
    ],
)
def test_a_lightning_module_of_the_user_is_evaluated_at_the_average(changes: dict[str, Any], tmp_path: Path):
    small = {"name": "mnist_5k", "batch_size": 20, "val_fraction": 0.02, "test_fraction": 0.02, "train_size": 100}
    values = {
        **{key: value for key, value in VALUES.items() if key != "loss"},
        "data": small,
        "model": {"name": "examples.plain_module:PlainModule", "neurons": 8},
        **changes,
    }

    def go(name: str, values: dict[str, Any], *decisions: Decision) -> TrialResult:
        config = TrialConfig.from_values({**values, "loss": None})
        assignment = Assignment(0, config, Objective("val_top3"), tmp_path / name)
        (result,) = run(TrainingGroup((assignment,)), Answers(*decisions))
        return result

    whole = go("straight", values)
    assert whole.state == "complete", whole
    assert go("cut", values, "stop").state == "interrupted"
    assert go("cut", values).value == whole.value
    assert_same_bits(tmp_path / "straight", tmp_path / "cut")
    config = TrialConfig.from_values({**values, "loss": None})
    script = training_script(config, Objective("val_top3"), {"threads": torch.get_num_threads()}, "x #1")
    (tmp_path / "train.py").write_text(script)
    assert "EvaluationWeights(EMA(decay=0.9))" in script or "EvaluationWeights()" in script
    assert run_script(tmp_path / "train.py", tmp_path).splitlines()[-1] == f"val_top3 {whole.value!r}"


PLATEAU = "{name: plateau, factor: 0.5, patience: 0, monitor: train/loss}"
RULE = "a plateau must monitor a validation metric with averaging (got train/loss)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["trial.averaging={name: emaa, decay: 0.9}"], 'trial.averaging.name: unknown averaging "emaa". Known: ema, '),
        (["trial.averaging={name: ema, decay: 1}"], "trial.averaging.decay: 0 < decay < 1 must hold, but got decay=1"),
        (["trial.averaging={name: tail}"], "trial.averaging.start: required by tail"),
        (["trial.averaging={name: none, decay: 1}"], "trial.averaging.decay: none has no argument decay"),
        (["trial.averaging={name: tail, start: 120%}", "trial.averaging.start=-3"], "start >= 0 must hold"),
        (
            ["trial.averaging={name: lawa, interval: 0.1%}"],
            "interval must be a whole number >= 1, but got interval=0",
        ),
        (["trial.averaging={name: ema}", f"trial.schedule={PLATEAU}"], f"trial.schedule: {RULE}"),
        (
            ["search_space.averaging={one_of: {none: {}, ema: {}}}", f"trial.schedule={PLATEAU}"],
            f"trial.schedule: {RULE}",
        ),
        (
            ["trial.averaging={name: ema}", "trial.optimizer.name=schedule_free_sgd"],
            "trial.averaging: cannot be combined with schedule_free_sgd, which does its own averaging of the weights.",
        ),
        (["search_space={averaging.decay: {low: 0.5, high: 0.9}}"], "none has no argument decay"),
    ],
    ids=str,
)
def test_bad_averages_are_refused_before_anything_starts(changes: list[str], message: str, tmp_path: Path):
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({"trial": VALUES}))
    with pytest.raises(BadInputError) as caught:
        load_study(str(tmp_path / "x.yaml"), changes)
    assert message in " ".join(caught.value.faults)


def test_no_averaging_can_be_combined_with_everything(tmp_path: Path):
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({"trial": VALUES}))
    load_study(str(tmp_path / "x.yaml"), ["trial.averaging={name: none}", f"trial.schedule={PLATEAU}"])
    config = load_study(str(tmp_path / "x.yaml"), ["trial.averaging={name: ema, start: 1 epochs}"])
    assert config.identity["trial.averaging.start"] == "1 epochs"
    assert not any("averaging" in path for path in load_study(str(tmp_path / "x.yaml")).identity)
