"""Momentum and weight-decay schedules and groups of parameters in a study file, from the checks to the exports."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.trial import FixedTrial

from lightning_modules import (
    MNISTCNN,
    SGD,
    CosineDecay,
    Lambda,
    MNIST5kDataModule,
    ParameterGroup,
    PolynomialDecay,
    StepDecay,
)
from tests.studies import StudyFolder, fit_by_lightning_cli
from tests.test_schema import faults
from tests.test_training import Answers
from tuner import Study
from tuner.analysis.lr_curves import further_families
from tuner.config.loader import load_study
from tuner.config.study import Objective, StudyConfig
from tuner.config.trial import TrialConfig
from tuner.config.yaml_reader import read_document
from tuner.errors import BadInputError
from tuner.followup.script import training_script
from tuner.protocol import Assignment, TrainingGroup, TrialResult
from tuner.replay import main as replay
from tuner.storage.reader import config_of, open_study, record_of
from tuner.training.lightning_cli import lightning_config
from tuner.training.results import MODEL_FILE
from tuner.training.run import run
from tuner.visualization.curves import winner

STEPS = 12
PLAIN = """\
name: x
trial:
  data: {name: mnist_5k, batch_size: 25, val_fraction: 0.01, test_fraction: 0.97}
  model: {name: mnist_cnn, channels: [2, 2, 2], hidden: [4, 4]}
  optimizer: {name: sgd, initial_lr: 3e-3, momentum: 0.9, weight_decay: 0.01}
  schedule: {name: cosine, decay_steps: 100%}
  trainer: {max_epochs: 3, precision: 32-true}
"""
FULL = f"""\
{PLAIN}\
  momentum_schedule: {{name: lambda, function: "1 - step / (2 * total)", total: 100%}}
  weight_decay_schedule: {{name: polynomial, decay_steps: 2 epochs, end_factor: 0}}
  groups:
    head:
      parameters: layers.15
      optimizer: {{initial_lr: 1e-2, momentum: 0.5}}
      schedule: {{name: step, decay_rate: 0.5, decay_steps: 50%}}
    biases: {{parameters: [layers.0.bias, "layers.[36].bias"], optimizer: {{weight_decay: 0}}}}
"""
SEARCHED = f"""\
{FULL}\
search_space:
  weight_decay_schedule: {{one_of: {{constant: , polynomial: {{decay_steps: {{low: 50%, high: 100%}}}}}}}}
  groups.head.optimizer.initial_lr: {{low: 1e-3, high: 1e-1, log: true}}
  groups.head.schedule: {{one_of: {{constant: , rex: {{decay_steps: 100%, beta: {{low: 0.1, high: 2}}}}}}}}
"""
EXPECTED = {
    "lr": lambda s: 3e-3 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * s / 12, dtype=torch.float64)).item()),
    "momentum": lambda s: 0.9 * (1 - s / 24),
    "weight_decay": lambda s: 0.01 * max(0, 1 - s / 8),
    "lr/head": lambda s: 1e-2 * 0.5 ** (s // 6),
    "momentum/head": lambda s: 0.5 * (1 - s / 24),
    "weight_decay/head": lambda s: 0.01 * max(0, 1 - s / 8),
    "momentum/biases": lambda s: 0.9 * (1 - s / 24),
    "weight_decay/biases": lambda s: 0.0,
}


def study(folder: Path, text: str) -> StudyConfig:
    path = folder / "x.yaml"
    path.write_text(text)
    return load_study(str(path))


def config(folder: Path, text: str = FULL, params: Mapping[str, Any] | None = None) -> TrialConfig:
    return study(folder, text).suggest(FixedTrial(dict(params or {})))


def trained(folder: Path, *configs: TrialConfig, answers: Answers | None = None) -> list[TrialResult]:
    assignments = [Assignment(number, each, Objective(), folder / str(number)) for number, each in enumerate(configs)]
    return list(run(TrainingGroup(tuple(assignments)), answers or Answers()))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / MODEL_FILE, weights_only=True)["state_dict"]


def curve(result: TrialResult, metric: str) -> list[float]:
    assert result.state == "complete", result.traceback
    return [value for _, value in sorted((step, value) for key, step, value in result.points if key == metric)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrialConfig, TrialResult]:
    """Return the folder, the configuration and the result of a trial with everything."""
    folder = tmp_path_factory.mktemp("alone")
    made = config(folder)
    (result,) = trained(folder, made)
    return folder, made, result


def test_every_step_has_the_values_of_the_schedules(alone: tuple[Path, TrialConfig, TrialResult]):
    for metric, value in EXPECTED.items():
        assert curve(alone[2], metric) == pytest.approx([value(step) for step in range(STEPS)], abs=1e-12), metric


def test_an_interrupted_training_continues_to_the_same_curves_and_weights(
    alone: tuple[Path, TrialConfig, TrialResult], tmp_path: Path
):
    _, made, whole = alone
    assert trained(tmp_path, made, answers=Answers("continue", "stop"))[0].state == "interrupted"
    (resumed,) = trained(tmp_path, made)
    assert sorted(resumed.points) == sorted(whole.points)
    assert all(map(torch.equal, weights(tmp_path / "0").values(), weights(alone[0] / "0").values()))


def test_in_a_group_of_trials_each_has_the_curves_that_it_has_alone(
    alone: tuple[Path, TrialConfig, TrialResult], tmp_path: Path
):
    fused, plain = trained(tmp_path, alone[1], config(tmp_path, PLAIN))
    assert fused.setup["fused"] == 2
    for metric in EXPECTED:
        assert curve(fused, metric) == curve(alone[2], metric)
    assert curve(fused, "val/loss") == pytest.approx(curve(alone[2], "val/loss"), rel=1e-4)
    assert {key for key, _, _ in plain.points} == {"lr", "train/loss", "train/acc", "val/loss", "val/acc"}


def test_values_of_a_trial_that_has_none_of_it_are_those_of_earlier_versions(tmp_path: Path):
    made = config(tmp_path, PLAIN)
    assert made.digest == "cc234c71f1cd83b92acf40c1b8063b3411510466312b1cfc7785d63cb439686d"
    assert TrialConfig.from_values(made.values()) == made
    assert not any("groups" in key or "momentum_" in key for key in study(tmp_path, PLAIN).identity)


def test_searched_schedules_and_groups_are_drawn_recorded_and_read_again(tmp_path: Path):
    params = {
        "weight_decay_schedule.name": "polynomial",
        "weight_decay_schedule.polynomial.decay_steps (%)": 75.0,
        "groups.head.optimizer.initial_lr": 0.05,
        "groups.head.schedule.name": "rex",
        "groups.head.schedule.rex.beta": 0.25,
    }
    text = SEARCHED.replace("{low: 50%, high: 100%}}", "{low: 50%, high: 100%}, end_factor: 0}")
    found = study(tmp_path, text)
    made = found.suggest(FixedTrial(params))
    assert config_of(found, params) == made
    assert made.values()["weight_decay_schedule"] == {"name": "polynomial", "decay_steps": 9, "end_factor": 0}
    assert made.values()["groups"]["head"]["schedule"] == {"name": "rex", "decay_steps": 12, "beta": 0.25}
    flat = made.flat()
    assert flat["groups.head.optimizer.initial_lr"] == 0.05
    assert flat["weight_decay_schedule.decay_steps.relative"] == "75.0 %"
    assert flat["momentum_schedule.total.relative"] == "100%"
    assert TrialConfig.from_values(made.values()) == made
    assert {name for each in found.first.params for name in each} >= {"groups.head.schedule.name"}


def test_the_exported_script_trains_the_same_weights(
    alone: tuple[Path, TrialConfig, TrialResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder, made, result = alone
    monkeypatch.chdir(tmp_path)
    exec(compile(training_script(made, Objective(), result.setup, "x #0"), "train.py", "exec"), {})
    ours = torch.load("trained.ckpt", weights_only=True)["state_dict"]
    assert all(map(torch.equal, ours.values(), weights(folder / "0").values()))


def test_best_yaml_trains_the_same_by_lightning_cli(
    alone: tuple[Path, TrialConfig, TrialResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    _, made, result = alone
    monkeypatch.chdir(tmp_path)
    fit_by_lightning_cli(lightning_config(made, Objective(), result.setup), monkeypatch)
    assert f"val/loss {curve(result, 'val/loss')[-1]:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("layers.15", "layers.99"), r"trial.groups: head: 'layers.99' matches no parameter; the network has"),
        (("layers.15", "layers.0"), r"trial.groups: layers.0.bias is in the groups head and biases"),
        (("layers.15", '"*"'), r"trial.groups: .* is in the groups head and biases"),
        (("parameters: layers.15", "parameter: layers.15"), r"trial.groups.head.parameter: unknown key. Did you mean"),
        (("parameters: layers.15", "parameters: 15"), r"trial.groups.head.parameters: must be text or a list of texts"),
        (("    head:", "    he.ad:"), r'trial.groups.he.ad: "he.ad" is not a valid name for a group. Use'),
        (("    head:", "    name:"), r'trial.groups.name: "name" is not a valid name for a group'),
        (("initial_lr: 1e-2", "lr: 1e-2"), r"trial.groups.head.optimizer.lr: sgd has no argument lr. Did you"),
        (("initial_lr: 1e-2", "initial_lr: -1"), r"trial.groups: head: initial_lr > 0 must hold, but got"),
        (("{initial_lr: 1e-2", "{name: adam, initial_lr: 1e-2"), r"head.optimizer.name: remove it: the opt"),
        (("momentum: 0.9", "momentum: 0.9, nesterov: 1"), r"optimizer.nesterov: must be true or false"),
        (("sgd, initial_lr: 3e-3, momentum: 0.9", "adagrad, initial_lr: 3e-3"), r"adagrad has no argument momentum"),
        (
            ("1 - step / (2 * total)", "1 + step / total"),
            r"trial.momentum_schedule: momentum < 1 must hold",
        ),
        (
            ("schedule: {name: step, decay_rate: 0.5, decay_steps: 50%}", "schedule: {name: plateau}"),
            r"trial.groups.head.schedule: a plateau is only for trial.schedule, the lr of all parameters",
        ),
        (
            ("{name: polynomial, decay_steps: 2 epochs, end_factor: 0}", "{name: plateau}"),
            r"trial.weight_decay_schedule: a plateau is only for trial.schedule",
        ),
        (("{name: cosine, decay_steps: 100%}", "{name: plateau}"), r"a plateau scales the lr of every group, so group"),
        (("  groups:", "  grupps:"), r"trial.grupps: unknown key. Did you mean groups\?"),
        (
            ("{name: mnist_cnn, channels: [2, 2, 2], hidden: [4, 4]}", '{name: "examples.plain_module:PlainModule"}'),
            r"remove it: a LightningModule configures its own optimizer",
        ),
    ],
    ids=lambda value: re.sub(r"\W+", " ", value if isinstance(value, str) else value[1])[:40],
)
def test_what_does_not_fit_is_refused_before_anything_starts(tmp_path: Path, change: tuple[str, str], message: str):
    assert change[0] in FULL
    with pytest.raises(BadInputError) as caught:
        study(tmp_path, FULL.replace(*change, 1))
    assert re.search(message, "\n".join(caught.value.faults)), caught.value.faults


def test_a_schedule_of_what_the_optimizer_does_not_have_is_refused(tmp_path: Path):
    text = f"{PLAIN}  momentum_schedule: {{name: rex, decay_steps: 100%}}\n"
    study(tmp_path, text)
    with pytest.raises(BadInputError, match=r"trial\.momentum_schedule: momentum > 0 must hold if it is scheduled"):
        study(tmp_path, text.replace("momentum: 0.9, ", ""))
    with pytest.raises(BadInputError, match="momentum cannot be scheduled"):
        study(tmp_path, text.replace("sgd, initial_lr: 3e-3, momentum: 0.9", "adagrad, initial_lr: 3e-3"))


def test_a_range_that_lets_the_momentum_reach_one_is_refused(tmp_path: Path):
    text = f"{FULL}search_space: {{optimizer.momentum: {{low: 0.5, high: 0.99}}}}\n"
    with pytest.raises(BadInputError, match=r"momentum < 1 must hold, but got momentum=1\.0\d* at step"):
        study(tmp_path, text.replace("1 - step / (2 * total)", "1 + step / (10 * total)"))


def test_everything_that_is_scheduled_can_be_drawn_before_a_training(tmp_path: Path):
    text = SEARCHED.replace("{low: 50%, high: 100%}}", "{low: 50%, high: 100%}, end_factor: 0}")
    families = {family.name: family for family in further_families(study(tmp_path, text), samples=4)}
    assert list(families) == ["momentum", "weight_decay", "lr/head"]
    (momentum,) = families["momentum"].curves
    assert momentum.lr == pytest.approx([EXPECTED["momentum"](step) for step in range(STEPS)])
    assert (momentum.quantity, momentum.initial_lr) == ("momentum", 0.9)
    assert families["lr/head"].ranges.startswith("optimizer.initial_lr 0.001 to 0.1 (log), schedule.name constant, rex")
    assert len({curve.initial_lr for curve in families["lr/head"].curves}) == 4
    assert further_families(study(tmp_path, PLAIN), samples=4) == []


WHOLE = """\
name: x
sampler: {name: random, seed: 1}
pruner: {name: none}
trial:
  data: {name: iris, batch_size: 5}
  model: {name: mlp, inputs: 4, neurons: 8, num_classes: 3}
  optimizer: {name: adamw, initial_lr: 1e-2}
  schedule: {name: rex, decay_steps: 100%}
  momentum_schedule: {name: two_point_spline, decay_steps: 200%, delta_x1: 0.5, y1: 0.9, delta_x2: 0.5, delta_y2: 0.9}
  groups: {head: {parameters: layers.4, optimizer: {initial_lr: 3e-2}, schedule: {name: sqrt, decay_steps: 100%}}}
  trainer: {max_epochs: 2}
search_space:
  groups.head.optimizer.initial_lr: {low: 1e-2, high: 1e-1, log: true}
"""


def test_the_schema_of_study_files_takes_schedules_groups_and_arguments_of_formulas(tmp_path: Path):
    def places(text: str) -> list[str]:
        path = tmp_path / "x.yaml"
        path.write_text(text)
        return faults(read_document(path).data)

    assert [places(text) for text in (PLAIN, FULL, SEARCHED, WHOLE)] == [[]] * 4
    assert set(places(FULL.replace("parameters: layers.15", "parameter: layers.15"))) == {"trial.groups.head"}
    assert places(FULL.replace("total: 100%", "total: [1]")) == ["trial.momentum_schedule.total"]


def test_a_study_records_draws_and_replays_what_it_schedules(tmp_path: Path):
    folder = StudyFolder(tmp_path)
    (tmp_path / "x.yaml").write_text(WHOLE)
    folder.call("--trials", "2", study="x.yaml")
    steps: dict[tuple[str, str], set[int]] = {}
    for trial, key, step, _ in folder.curves():
        steps.setdefault((trial, key), set()).add(step)
    of_lr = steps["0", "lr"]
    assert len(of_lr) > 30
    for trial in "01":
        assert all(steps[trial, key] == of_lr for key in ("lr/head", "momentum", "momentum/head"))
    rates = {value for trial, key, step, value in folder.curves() if (key, step) == ("lr/head", 0)}
    drawn = {float(value) for (value,) in folder.mlflow("select value from params where key like 'groups.head.opt%'")}
    assert rates == drawn
    assert "the same to the last bit" in folder.command(replay, "x")
    with open_study(f"sqlite:///{tmp_path}/optuna.db", "x") as stored:
        record = record_of(stored, lambda number, metrics: {metric: [(0, 0.5), (1, 0.25)] for metric in metrics})
    panels = {panel.title: [series.label for series in panel.series] for panel in winner(record).panels}
    assert panels["Learning rate"] == panels["Momentum"] == ["the rest", "head"]
    assert "Weight decay" not in panels


def test_python_can_say_what_a_study_file_can(tmp_path: Path):
    made = Study(
        name="x",
        data=partial(MNIST5kDataModule, batch_size=25, val_fraction=0.01, test_fraction=0.97),
        model=partial(MNISTCNN, channels=[2, 2, 2], hidden=[4, 4]),
        optimizer=SGD(initial_lr=3e-3, momentum=0.9, weight_decay=0.01),
        schedule=partial(CosineDecay, decay_steps="100%"),
        momentum_schedule=Lambda(function="1 - step / (2 * total)", total=12),
        weight_decay_schedule=PolynomialDecay(decay_steps=8, end_factor=0),
        groups={
            "head": ParameterGroup(
                parameters="layers.15",
                optimizer=SGD(initial_lr=1e-2, momentum=0.5),
                schedule=StepDecay(decay_rate=0.5, decay_steps=6),
            ),
            "biases": {"parameters": ["layers.0.bias", "layers.[36].bias"], "optimizer": {"weight_decay": 0}},
        },
        trainer={"max_epochs": 3, "precision": "32-true"},
    )
    path = tmp_path / "y.yaml"
    made.to_yaml(path)
    ours, theirs = load_study(str(path)).suggest(FixedTrial({})).values(), config(tmp_path).values()
    theirs["groups"]["head"]["parameters"] = ["layers.15"]
    assert ours == theirs
