"""The settings of the Trainer in a study file: checked, trained alone and fused, interrupted, replayed, exported."""

import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pytorch_lightning.callbacks import EarlyStopping

from lightning_modules import MLP, Adam, IrisDataModule
from tests.rules import shortened
from tests.studies import StudyFolder, fit_by_lightning_cli
from tests.test_groups import trained, weights
from tests.test_training import Answers
from tuner import Study
from tuner.config.loader import load_study
from tuner.config.study import Objective
from tuner.config.trial import TrialConfig
from tuner.errors import BadInputError
from tuner.export import main as export
from tuner.followup.script import training_script
from tuner.protocol import TrialResult
from tuner.replay import main as replay
from tuner.storage.replicates import ReplicationStudy
from tuner.training.lightning_cli import as_trained, lightning_config

STUDY = """\
name: x
pruner: {name: none}
trial:
  data: {name: iris, batch_size: 20, train_size: 90}
  model: {name: mlp, inputs: 4, neurons: 8}
  optimizer: {name: adam, initial_lr: 1e-2}
  schedule: {name: cosine}
  trainer: %s
search_space:
  optimizer.initial_lr: {low: 1e-3, high: 3e-2, log: true}
"""
OWN = """\
import torch
from pytorch_lightning import Callback


class Limit(Callback):
    \"\"\"Keeps the weights small, less so every epoch; its limit belongs to the state of a training.\"\"\"

    def __init__(self, limit: float, growth: float = 1.5):
        if limit <= 0:
            raise ValueError(f"limit > 0 must hold, but got limit={limit}")
        self.limit, self.growth = limit, growth

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.clamp_(-self.limit, self.limit)

    def on_train_epoch_end(self, trainer, module):
        self.limit *= self.growth

    def state_dict(self):
        return {"limit": self.limit}

    def load_state_dict(self, state):
        self.limit = state["limit"]
"""


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "limits.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def load(trainer: str, *overrides: str) -> Any:
    Path("x.yaml").write_text(STUDY % trainer)
    return load_study("x.yaml", overrides)


def config(trainer: str, *overrides: str, lr: float = 1e-2) -> TrialConfig:
    study = load(trainer, "search_space={}", f"trial.optimizer.initial_lr={lr}", *overrides)
    return study.trial_of(study.trial)


def faults(trainer: str, *overrides: str) -> list[str]:
    with pytest.raises(BadInputError) as caught:
        load(trainer, *overrides)
    return [shortened(re.sub(r"^(x\.yaml:8|--set): (trial\.trainer\.?)?", "", each)) for each in caught.value.faults]


def of(result: TrialResult, key: str) -> list[tuple[int, float]]:
    assert result.state == "complete", result.traceback
    return [(step, value) for name, step, value in result.points if name == key]


EARLY = "{name: early_stopping, monitor: val/loss, patience: 1, min_delta: 10}"


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ("{max_epochs: 4, limit_train_batches: 0}", [
            "limit_train_batches: <whole number> of at least 1, a number above 0 and at most 1 or null (got 0)."]),
        ("{max_epochs: 4, limit_train_batches: 1.5}", [
            "limit_train_batches: <whole number> of at least 1, a number above 0 and at most 1 or null (got 1.5)."]),
        ("{max_steps: 4, val_check_interval: 2, limit_train_batches: 2, check_val_every_n_epoch: 2}", [
            "limit_train_batches: is for a length in epochs; with max_steps, use val_check_interval.",
            "check_val_every_n_epoch: is for a length in epochs; with max_steps, use val_check_interval."]),
        ("{max_epochs: 4, check_val_every_n_epoch: 3}", [
            "max_epochs: must be a multiple of check_val_every_n_epoch (3), but can be 4."]),
        ("{max_epochs: 4, gradient_clip_algorithm: value}", [
            "gradient_clip_algorithm: needs gradient_clip_val, the limit."]),
        ("{max_epochs: 4, gradient_clip_val: 1, gradient_clip_algorithm: valu}", [
            'gradient_clip_algorithm: must be norm, value or null (got "valu"). <near> value?']),
        ("{max_epochs: 4, max_time: soon}", ['max_time: "soon" <duration>.']),
        ("{max_epochs: 4, callbacks: early_stopping}", [
            'callbacks: <list>, each item {name: ..., argument: value, ...} (got "early_stopping").']),
        ("{max_epochs: 4, callbacks: [early_stopping]}", [
            'callbacks[0]: <component> (got "early_stopping"): write {name: early_stopping}.']),
        ("{max_epochs: 4, callbacks: [{name: EarlyStopping}]}", [
            'callbacks[0].name: unknown callback "EarlyStopping". Known: early_stopping, or package.module:Name. '
            "<near> early_stopping?"]),
        ("{max_epochs: 4, callbacks: [{name: early_stopping, patiense: 3}]}", [
            "callbacks[0].patiense: early_stopping <no argument> patiense. <near> patience?",
            "callbacks[0].monitor: required by early_stopping: give it here or in search_space."]),
        ("{max_epochs: 4, callbacks: [{name: early_stopping, monitor: val/los}]}", [
            "callbacks[0].monitor: monitor must be train/acc, train/loss, val/acc or val/loss, but got "
            "monitor='val/los'. <near> val/loss?"]),
        ("{max_epochs: 4, callbacks: [{name: early_stopping, monitor: val/loss, patience: -1}]}", [
            "callbacks[0]: patience must be at least 0 (got -1)."]),
        ("{max_epochs: 4, callbacks: [{name: early_stopping, monitor: val/acc}]}", [
            "callbacks[0]: val/acc is better when it rises: write mode: max."]),
        ("{max_epochs: 4, callbacks: [{name: 'limits:Limit', limit: 0}]}", [
            "callbacks[0].limit: limit > 0 <rule> limit=0."]),
        ("{max_epochs: 4, callbacks: [{name: 'torch.nn:Linear'}]}", [
            'callbacks[0].name: "torch.nn:Linear" is not a Callback of pytorch_lightning.']),
        ("{max_epochs: 4, callbacks: [{name: 'pytorch_lightning.callbacks:ModelCheckpoint'}]}", [
            "callbacks[0]: a study cannot have pytorch_lightning.callbacks:ModelCheckpoint: a study saves and "
            "resumes its runs automatically; objective.epoch says which weights are kept."]),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_refused(trainer: str, expected: list[str]):
    assert faults(trainer) == expected


def test_rungs_are_at_epochs_with_a_value():
    rungs = "pruner={name: rungs, starts: 4}"
    assert load("{max_epochs: 12, check_val_every_n_epoch: 2}", rungs).rungs.epochs == [2]
    assert load("{max_epochs: 48, check_val_every_n_epoch: 3}", rungs).rungs.epochs == [3, 12]
    (fault,) = faults("{max_epochs: 12, check_val_every_n_epoch: 2}", "pruner={name: rungs, epochs: [1, 4]}")
    assert fault == (
        "pruner.epochs: must be multiples of check_val_every_n_epoch (2), at which trials are compared; got 1."
    )


def test_trials_of_earlier_versions_keep_their_digest():
    assert config("{max_epochs: 4}").values()["trainer"] == {
        "max_epochs": 4,
        "precision": "auto",
        "gradient_clip_val": None,
        "accumulate_grad_batches": 1,
    }
    full = f"{{max_epochs: 4, limit_train_batches: 0.5, max_time: 1h, callbacks: [{EARLY}]}}"
    values = config(full).values()
    assert TrialConfig.from_values(json.loads(json.dumps(values))) == config(full)


@pytest.mark.parametrize(
    ("trainer", "data", "steps"),
    [
        ("{max_epochs: 2}", "", 5),
        ("{max_epochs: 2}", "trial.data.drop_last=true", 4),
        ("{max_epochs: 2, limit_train_batches: 3}", "", 3),
        ("{max_epochs: 2, limit_train_batches: 9}", "", 5),
        ("{max_epochs: 2, limit_train_batches: 0.5}", "", 2),
        ("{max_epochs: 2, limit_train_batches: 1.0}", "", 5),
        ("{max_epochs: 2, limit_train_batches: 0.8, accumulate_grad_batches: 3}", "trial.data.drop_last=true", 1),
        ("{max_steps: 6, val_check_interval: 3}", "trial.data.drop_last=true", 3),
    ],
)  # fmt: skip
def test_lengths_are_those_of_the_batches_that_are_used(trainer: str, data: str, steps: int, tmp_path: Path):
    made = config(trainer, *filter(None, [data]))
    assert made.schedule.arguments["decay_steps"] == 2 * steps
    (result,) = trained(tmp_path, made)
    assert [step for step, _ in of(result, "lr")] == list(range(2 * steps))


def test_without_the_last_batch_each_pass_has_whole_batches_of_different_examples():
    data = config("{max_steps: 6, val_check_interval: 3}", "trial.data.drop_last=true").data
    module = data.build("data", seed=1, batches_per_epoch=3)
    module.setup()
    loader = module.train_dataloader()
    batches = []
    for epoch in range(4):
        loader.set_epoch(epoch)
        batches += list(loader)
    assert [len(labels) for _, labels in batches] == [20] * 12
    for start in (0, 4, 8):  # a pass of four batches ends within an epoch of three
        rows = torch.cat([rows for rows, _ in batches[start : start + 4]])
        assert len({tuple(row.tolist()) for row in rows}) > 75, "iris has some rows twice"


def test_a_share_that_is_less_than_one_batch_is_refused():
    study = load("{max_epochs: 2, limit_train_batches: 0.1}", "trial.schedule={name: constant}")
    with pytest.raises(BadInputError, match=r"limit_train_batches: 0\.1 of the 5 batches is less than one batch"):
        study.measure_data()


SETTINGS = {
    "every second epoch": "{max_epochs: 4, check_val_every_n_epoch: 2, limit_train_batches: 3}",
    "clipped by value": "{max_epochs: 4, gradient_clip_val: 0.01, gradient_clip_algorithm: value}",
    "early stopping": "{max_epochs: 8, callbacks: [{name: early_stopping, monitor: val/acc, mode: max, patience: 2}]}",
    "an own callback": "{max_epochs: 4, callbacks: [{name: 'limits:Limit', limit: 0.05}]}",
}


@pytest.mark.parametrize("trainer", SETTINGS.values(), ids=SETTINGS)
def test_a_training_that_is_stopped_after_every_epoch_ends_with_the_same_bits(trainer: str, tmp_path: Path):
    made = config(trainer)
    (whole,) = trained(tmp_path / "whole", made)
    assert whole.state == "complete", whole.traceback
    for _ in range(20):
        (cut,) = trained(tmp_path / "cut", made, answers=Answers("stop"))
        if cut.state == "complete":
            break
    assert (cut.value, cut.epochs, cut.message) == (whole.value, whole.epochs, whole.message)
    assert sorted(cut.points) == sorted(whole.points)
    for one, other in zip(weights(tmp_path / "whole/0").values(), weights(tmp_path / "cut/0").values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["every second epoch", "clipped by value"])
def test_trials_that_are_one_model_have_the_curves_that_they_have_alone(name: str, tmp_path: Path):
    plateau = "trial.schedule={name: plateau, patience: 0, monitor: val/loss, threshold: 0.5}"
    exact = "trial.trainer.precision=64-true"
    configs = [config(SETTINGS[name], plateau, exact, lr=lr) for lr in (1e-3, 1e-2)]
    fused = trained(tmp_path / "fused", *configs)
    for number, made in enumerate(configs):
        (alone,) = trained(tmp_path / "alone" / str(number), made)
        for key in ("lr", "train/loss", "val/loss", "val/acc"):
            mine, other = of(fused[number], key), of(alone, key)
            assert [step for step, _ in mine] == [step for step, _ in other], key
            assert [value for _, value in mine] == pytest.approx([value for _, value in other], rel=1e-9), key


def test_early_stopping_ends_a_trial_and_searched_callbacks_get_their_values(folder: StudyFolder):
    trainer = f"{{max_epochs: 6, callbacks: [{EARLY}, {{name: 'limits:Limit', limit: 0.5}}]}}"
    Path("x.yaml").write_text(STUDY % trainer + "  trainer.callbacks.0.patience: [1, 2]\n")
    folder.call("--trials", "2", "--set", "sampler={name: grid}", "--set", "search_space.optimizer.initial_lr=null",
                study=folder.path / "x.yaml")  # fmt: skip
    patience = dict(folder.optuna("select number, param_value from trials join trial_params using (trial_id)"))
    ends = folder.optuna("select number, value_json from trials join trial_user_attributes using (trial_id) "
                         "where key = 'epochs'")  # fmt: skip
    assert {number: int(epochs) for number, epochs in ends} == {
        number: 2 + int(place) for number, place in patience.items()
    }
    params = folder.mlflow("select distinct value from params where key = 'trainer.callbacks'")
    assert len(params) == 2
    best = yaml.safe_load(next(folder.path.glob("mlruns/*/*/artifacts/best.yaml")).read_text())
    names = [each["class_path"].rpartition(".")[2] for each in best["trainer"]["callbacks"]]
    assert names == ["EpochSeed", "SeededDropout", "EarlyStopping", "Limit"]
    folder.command(export, "x", "--output", "exported")
    script = (folder.path / "exported" / "train.py").read_text()
    assert "from limits import Limit" in script
    assert "EarlyStopping(monitor" in script


@pytest.mark.parametrize("name", ["early stopping", "an own callback"])
def test_script_and_best_yaml_train_the_same_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    made = config(SETTINGS[name], "trial.trainer.precision=32-true", "trial.trainer.limit_train_batches=3")
    (result,) = trained(tmp_path, made)
    exec(compile(training_script(made, Objective(), result.setup, "x #0"), "train.py", "exec"), {})
    ours = torch.load("trained.ckpt", weights_only=True)["state_dict"]
    assert all(map(torch.equal, ours.values(), weights(tmp_path / "0").values()))
    fit_by_lightning_cli(lightning_config(made, Objective(), result.setup), monkeypatch)
    assert f"val/loss {of(result, 'val/loss')[-1][1]:.4f}" in capsys.readouterr().out


def test_a_trial_whose_time_is_over_ends_with_its_epoch_and_is_exported_as_it_was(folder: StudyFolder):
    Path("x.yaml").write_text(STUDY % "{max_epochs: 3, max_time: 0.001s}")
    output = folder.call("--trials", "1", study=folder.path / "x.yaml")
    assert "stopped on its own after epoch 1 of 3" in output
    best = yaml.safe_load(next(folder.path.glob("mlruns/*/*/artifacts/best.yaml")).read_text())
    assert best["trainer"]["max_epochs"] == 1
    folder.command(export, "x", "--output", "exported")
    assert "max_epochs=1," in (folder.path / "exported" / "train.py").read_text()


def test_a_trial_whose_time_is_over_is_repeated_with_its_number_of_epochs(tmp_path: Path):
    made = config("{max_epochs: 3, max_time: 0.001s}")
    (limited,) = trained(tmp_path / "limited", made)
    (again,) = trained(tmp_path / "again", as_trained(made, limited.setup, limited.epochs))
    assert (limited.epochs, again.message) == (1, "")
    assert again.points == limited.points


@pytest.mark.slow
def test_replay_repeats_what_the_clock_or_a_callback_has_ended(folder: StudyFolder):
    for name, trainer in {"x": "{max_epochs: 3, max_time: 0.001s}", "y": SETTINGS["early stopping"]}.items():
        Path("x.yaml").write_text(STUDY % trainer)
        folder.call("--trials", "1", "--set", f"name={name}", study=folder.path / "x.yaml")
        assert "the same to the last bit" in folder.command(replay, name)


@pytest.mark.parametrize(
    ("trainer", "reason"),
    [
        (f"{{max_epochs: 4, callbacks: [{EARLY}]}}", "their callbacks watch a single run"),
        ("{max_epochs: 4, max_time: 1h}", "max_time is the time of a single run"),
    ],
)
def test_trials_that_cannot_be_one_model_say_why(trainer: str, reason: str, folder: StudyFolder):
    Path("x.yaml").write_text(STUDY % trainer)
    output = folder.call("--fuse", "4", study=folder.path / "x.yaml", expect=2)
    assert f"--fuse: these trials are trained one by one: {reason}." in output


def test_a_confirmation_trains_one_by_one_if_a_single_configuration_has_to_be_alone(folder: StudyFolder):
    Path("x.yaml").write_text(STUDY % "{max_epochs: 3}")
    study = load_study("x.yaml")
    candidates = {"free": config("{max_epochs: 3}"), "limited": config("{max_epochs: 3, max_time: 1h}")}
    confirmation = ReplicationStudy.of(study, "x-confirm", candidates, [1, 2], {})
    assert confirmation.why_alone == "max_time is the time of a single run"
    assert not ReplicationStudy.of(study, "x-confirm", {"free": candidates["free"]}, [1, 2], {}).why_alone


def test_python_takes_callbacks_as_classes_objects_and_names():
    def of_study(callbacks: Sequence[Any]) -> Any:
        study = Study(
            data=partial(IrisDataModule, batch_size=20),
            model=partial(MLP, inputs=4, neurons=8),
            optimizer=Adam(initial_lr=1e-2),
            trainer={"max_epochs": 2, "callbacks": callbacks},
        )
        return study, study._load(()).trial["trainer"]["callbacks"]

    named = {"name": "early_stopping", "monitor": "val/loss"}
    _, (first, second) = of_study([named, {"name": EarlyStopping, "monitor": "train/loss"}])
    assert (first, second) == (named, {**named, "monitor": "train/loss"})
    study, (held,) = of_study([EarlyStopping("val/loss", patience=2)])
    assert held["name"].endswith("EarlyStopping()")
    assert "each training process gets a copy of it" in study.to_yaml()
