"""Losses of named networks: their values, metrics and tasks, alone and fused, in study files and exports."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from optuna.trial import FixedTrial
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules import (
    LOSSES,
    MLP,
    SGD,
    BinaryCrossEntropy,
    Classifier,
    CrossEntropy,
    FusedClassifier,
    Huber,
    IrisDataModule,
    balanced_weights,
)
from lightning_modules.losses import OwnLoss, the_loss
from lightning_modules.tasks import metrics_of
from tests.rules import shortened
from tests.studies import StudyFolder, fit_by_lightning_cli
from tests.test_groups import weights
from tests.test_training import Answers
from tuner import Study
from tuner.config.dataset_probe import DatasetProbe
from tuner.config.loader import load_study
from tuner.config.study import Objective
from tuner.config.trial import TrialConfig
from tuner.direction import Direction
from tuner.errors import BadInputError
from tuner.followup.script import training_script
from tuner.protocol import Assignment, RehearsalGroup, TrainingGroup, TrialResult
from tuner.training.lightning_cli import lightning_config
from tuner.training.run import run

STUDY = """\
name: x
objective: {metric: val/loss, direction: minimize}
trial:
  data: {name: "plants:Plants", labels: %s}
  model: {name: mlp, inputs: 3, neurons: 8, num_classes: %d}
  optimizer: {name: adam, initial_lr: 1e-2}
  schedule: {name: constant}
  trainer: {max_epochs: 2, precision: 32-true}
  loss: %s
"""
OWN = """\
import torch
from mlxtend.data import iris_data
from pytorch_lightning import LightningDataModule
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset


class Plants(LightningDataModule):
    def __init__(self, labels: str):
        super().__init__()
        rows, species = (torch.from_numpy(values) for values in iris_data())
        rows = rows.float()[torch.randperm(150, generator=torch.Generator().manual_seed(0))]
        species = species[torch.randperm(150, generator=torch.Generator().manual_seed(0))].long()
        kinds = {"class": species, "many": (rows > rows.mean(dim=0)).float(), "number": rows[:, 3], "two": rows[:, 2:],
                 "gap": species + (species > 0)}
        self.rows, self.labels = rows[:, :3], kinds[labels]

    def _loader(self, start, end):
        return DataLoader(TensorDataset(self.rows[start:end], self.labels[start:end]), batch_size=20)

    def train_dataloader(self):
        return self._loader(0, 90)

    def val_dataloader(self):
        return self._loader(90, 120)

    def test_dataloader(self):
        return self._loader(120, 150)


def focal(outputs, labels, gamma: float = 2.0):
    losses = functional.cross_entropy(outputs, labels, reduction="none")
    return ((1 - (-losses).exp()) ** gamma * losses).mean()


def of_each(outputs, labels):
    return functional.cross_entropy(outputs, labels, reduction="none")


class Learned(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
"""
CASES = {
    "class weights": ("class", 3, "{name: cross_entropy, class_weights: [1, 2, 0.5], label_smoothing: 0.1}"),
    "mse": ("class", 3, "mse"),
    "own function": ("class", 3, "{name: 'plants:focal', gamma: 3}"),
    "several labels": ("many", 4, "{name: binary_cross_entropy, positive_weights: [1, 2, 1, 1]}"),
    "regression": ("number", 1, "{name: huber, delta: 0.5}"),
    "two numbers": ("two", 2, "squared_error"),
    "torch's own": ("number", 1, "{name: 'torch.nn:SmoothL1Loss', beta: 0.5}\n  task: regression"),
}
METRICS = {
    "class": {"acc", "loss"},
    "many": {"f1", "exact_match", "hamming_loss", "loss"},
    "number": {"mae", "rmse", "loss"},
    "two": {"mae", "rmse", "loss"},
}

torch.manual_seed(0)
LOGITS, CLASSES = torch.randn(2, 6, 3), torch.randint(3, (2, 6))


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plants.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def config(case: str, *overrides: str, params: dict[str, Any] | None = None) -> TrialConfig:
    Path("x.yaml").write_text(STUDY % CASES[case])
    return load_study("x.yaml", overrides).suggest(FixedTrial(params or {}))


def trained(folder: Path, *configs: TrialConfig) -> list[TrialResult]:
    goal = Objective("val/loss", Direction.MINIMIZE)
    assignments = [Assignment(number, each, goal, folder / str(number)) for number, each in enumerate(configs)]
    results = list(run(TrainingGroup(tuple(assignments)), Answers()))
    assert all(each.state == "complete" for each in results), [each.message for each in results]
    return results


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (CrossEntropy(), functional.cross_entropy),
        (
            CrossEntropy(class_weights=(1, 2, 0.5), label_smoothing=0.1),
            nn.CrossEntropyLoss(torch.tensor([1, 2, 0.5]), label_smoothing=0.1),
        ),
    ],
)
def test_the_cross_entropy_is_torchs_for_one_batch_and_for_several(loss: CrossEntropy, expected: Any):
    for outputs, labels in zip(LOGITS, CLASSES, strict=True):
        assert torch.equal(loss(outputs, labels), expected(outputs, labels))
    each = torch.stack([expected(*batch) for batch in zip(LOGITS, CLASSES, strict=True)])
    assert torch.allclose(loss.of_each(LOGITS, CLASSES), each, rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (BinaryCrossEntropy(positive_weights=(1, 2, 3)), nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2, 3]))),
        (LOSSES["squared_error"](), nn.MSELoss()),
        (LOSSES["absolute_error"](), nn.L1Loss()),
        (Huber(delta=0.3), nn.HuberLoss(delta=0.3)),
    ],
)
def test_losses_of_numbers_are_torchs(loss: Any, expected: nn.Module):
    labels = (LOGITS.roll(1) > 0).float()
    means = torch.stack([expected(*batch) for batch in zip(LOGITS, labels, strict=True)])
    assert torch.allclose(loss.of_each(LOGITS, labels), means)
    assert torch.allclose(loss(LOGITS[0], labels[0]), means[0])
    if loss.task == "regression":
        assert torch.allclose(loss(LOGITS[0, :, :1], labels[0, :, 0]), expected(LOGITS[0, :, 0], labels[0, :, 0]))
        with pytest.raises(ValueError, match=r"shape of the labels, but got outputs \[6, 3\] and labels \[6\]"):
            loss(LOGITS[0], labels[0, :, 0])


def test_class_weights_are_moved_once_and_have_the_type_of_the_outputs():
    loss, outputs, labels = CrossEntropy(class_weights=(1, 2, 1 / 3)), LOGITS.double(), CLASSES
    with torch.inference_mode():  # as a validation before the training
        kept = loss.weights(labels[0], torch.float64)
        loss(outputs[0], labels[0])
    assert kept.dtype == torch.float64
    exact = nn.CrossEntropyLoss(torch.tensor([1, 2, 1 / 3], dtype=torch.float64))
    losses = loss.of_each(outputs.requires_grad_(), labels)
    losses.sum().backward()
    expected = torch.stack([exact(*batch) for batch in zip(outputs, labels, strict=True)])
    assert torch.allclose(losses, expected, rtol=1e-14, atol=0)
    made = []

    class Counting(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made.append(function is torch.tensor)
            return function(*args, **(kwargs or {}))

    with Counting():
        loss(outputs[0], labels[0])
        loss.of_each(outputs, labels)
    assert made
    assert not any(made)


def test_balanced_weights_are_those_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    labels = torch.tensor([0] * 7 + [1] * 2 + [2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    assert balanced_weights(labels) == pytest.approx(tuple(expected), rel=1e-15)
    for wrong, message in (([0, -100, 1], "got -100 \\(1 of 3 below 0"),
                           ([0, 2**40], f"class 1 of {2**40 + 1} has none")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            balanced_weights(torch.tensor(wrong))
    with pytest.raises(ValueError, match=r"class_weights must be balanced_weights\(labels\) with the training"):
        CrossEntropy(class_weights="balanced")(LOGITS[0], CLASSES[0])


def test_a_trial_has_the_balanced_weights_of_its_own_training_data():
    made = config("class weights", "trial.loss={name: cross_entropy, class_weights: balanced}")
    counts = [made.loss.arguments["class_weights"][label] for label in range(3)]
    assert sum(1 / count for count in counts) == pytest.approx(3)
    assert TrialConfig.from_values(made.values()) == made
    data = "trial.data={name: iris, train_size: %d}"
    few, more = (
        config("class weights", data % size, "trial.model={name: mlp, inputs: 4, num_classes: 3}",
               "trial.loss={name: cross_entropy}", "search_space={loss.class_weights: {choices: [null, balanced]}}",
               params={"loss.class_weights": "balanced"}).loss
        for size in (20, 60)
    )  # fmt: skip
    assert few != more
    assert Study(model=MLP(inputs=4, num_classes=3), data="iris", optimizer=SGD(initial_lr=0.1),
                 trainer={"max_epochs": 1}, loss=CrossEntropy(class_weights="balanced"),
                 )._load(()).trial["loss"]["class_weights"] == "balanced"  # fmt: skip


SPLIT = """

class Split(Plants):
    def __init__(self, by: str):
        super().__init__("class")
        self.by = by

    def train_dataloader(self):
        data, chosen = TensorDataset(self.rows, self.labels), SubsetRandomSampler(range(90))
        own = {"rows": {"sampler": chosen}, "batches": {"batch_sampler": OwnBatches(chosen, 20, False)},
               "rows in batches": {"batch_sampler": BatchSampler(SubsetRandomSampler(range(9)), 3, False)},
               "few": {"sampler": RandomSampler(data, num_samples=9)}, "items": {"batch_size": None}}
        if self.by == "items that are batches":
            data, own[self.by] = [data[:50], data[50:]], {"batch_size": None}
        return DataLoader(data, **(own.get(self.by) or {"batch_size": 20, "shuffle": True}))


class OwnBatches(BatchSampler):
    pass
"""


def test_the_labels_of_a_part_of_a_data_set_are_not_counted_as_those_of_the_whole():
    samplers = "from torch.utils.data import BatchSampler, RandomSampler, SubsetRandomSampler\n"
    Path("plants.py").write_text(samplers + OWN + SPLIT)
    probe = DatasetProbe()
    whole = probe.class_weights({"name": "plants:Split", "by": "shuffling"})
    assert len(whole) == 3
    assert probe.class_weights({"name": "plants:Split", "by": "items that are batches"}) == whole
    with pytest.raises(BadInputError, match="with batch_size=None, an item of the data set is a batch"):
        probe.class_weights({"name": "plants:Split", "by": "items"})
    for by, sampler in (("rows", "SubsetRandomSampler"), ("batches", "OwnBatches"), ("few", "RandomSampler"),
                        ("rows in batches", "SubsetRandomSampler")):  # fmt: skip
        with pytest.raises(BadInputError, match=f"with a {sampler}; give the weights as numbers"):
            probe.class_weights({"name": "plants:Split", "by": by})


def test_the_labels_of_shipped_data_are_read_once_whatever_the_batch_size(monkeypatch: pytest.MonkeyPatch):
    probe, read = DatasetProbe(), []
    setup = IrisDataModule.setup
    monkeypatch.setattr(IrisDataModule, "setup", lambda data, stage=None: read.append(data) or setup(data, stage))
    found = [probe.class_weights({"name": "iris", "batch_size": size, "train_size": part})
             for part in (20, 60) for size in (5, 10)]  # fmt: skip
    assert len(read) == 2
    assert found[0] == found[1] != found[2] == found[3]


def test_the_metrics_of_several_labels_are_means_over_examples():
    outputs = torch.tensor([[1.0, -1, 2], [-1, -1, -1], [1, 1, -1], [-1, -1, 1]])
    labels = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 0, 0], [1, 0, 0]])
    found = metrics_of("multi_label", outputs, labels)
    assert found["f1"].tolist() == pytest.approx([1, 1, 2 / 3, 0])
    assert found["exact_match"].tolist() == [True, True, False, False]
    assert found["hamming_loss"].tolist() == pytest.approx([0, 0, 1 / 3, 2 / 3])


@pytest.mark.parametrize(
    ("loss", "task", "message"),
    [
        ("mae", None, "huber, mse, squared_error, but got loss='mae'"),
        ("huber", "classification", "the loss Huber is for regression, but got task='classification'"),
        ("huber", "ranking", "task must be one of classification, multi_label, regression, but got task='ranking'"),
        (nn.Linear(2, 2), None, "the loss Linear has parameters, but no optimizer would update them"),
    ],
)
def test_a_classifier_refuses_a_loss_that_it_cannot_use(loss: Any, task: Any, message: str):
    with pytest.raises(ValueError, match=r"loss|task") as caught:
        Classifier(nn.Linear(2, 2), SGD(initial_lr=0.1), loss=loss, task=task)
    assert message in shortened(str(caught.value))


def test_one_model_has_one_loss():
    def classifier(loss: Any) -> Classifier:
        return Classifier(MLP(inputs=2, neurons=2, num_classes=3), SGD(initial_lr=0.1), loss=loss)

    smooth = CrossEntropy(label_smoothing=0.1)
    FusedClassifier([classifier(smooth), classifier(CrossEntropy(label_smoothing=0.1))])
    with pytest.raises(ValueError, match="must have one loss and task"):
        FusedClassifier([classifier(smooth), classifier("cross_entropy")])


@pytest.mark.parametrize("case", CASES)
def test_a_trial_logs_the_metrics_of_its_task_alone_and_fused(case: str, tmp_path: Path):
    lrs = "search_space={optimizer.initial_lr: {low: 1e-3, high: 0.1}}"
    configs = [config(case, lrs, params={"optimizer.initial_lr": lr}) for lr in (3e-3, 1e-2)]
    fused = trained(tmp_path / "fused", *configs)
    (alone,) = trained(tmp_path / "alone", configs[0])
    assert {key for key, *_ in alone.points} == {"lr"} | {
        f"{stage}/{key}" for stage in ("train", "val") for key in METRICS[CASES[case][0]]
    }
    points = [{(key, step): value for key, step, value in each.points} for each in (alone, fused[0])]
    assert points[0].keys() == points[1].keys()
    assert [points[1][key] for key in points[0]] == pytest.approx([*points[0].values()], rel=1e-4, abs=1e-6)
    assert all(each.setup["fused"] == 2 for each in fused)


@pytest.mark.parametrize("case", CASES)
def test_script_and_best_yaml_train_the_same_weights(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    made = config(case)
    assert TrialConfig.from_values(made.values()) == made
    (result,) = trained(tmp_path, made)
    exec(compile(training_script(made, Objective("val/loss"), result.setup, "x #0"), "train.py", "exec"), {})
    ours = torch.load("trained.ckpt", weights_only=True)["state_dict"]
    assert all(map(torch.equal, ours.values(), weights(tmp_path / "0").values()))
    fit_by_lightning_cli(lightning_config(made, Objective("val/loss"), result.setup), monkeypatch)
    last = [value for key, _, value in result.points if key == "val/loss"][-1]
    assert f"val/loss {last:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("class", 3, "{name: cross_entropy, label_smothing: 1}"), [
            "loss.label_smothing: cross_entropy <no argument> label_smothing. <near> label_smoothing?"]),
        (("class", 3, "{name: cross_entropy, label_smoothing: 1}"), [
            "loss.label_smoothing: 0 <= label_smoothing < 1 <rule> label_smoothing=1."]),
        (("class", 3, "{name: cross_entropy, class_weights: [1, 0, 1]}"), [
            "loss.class_weights: class_weights must be numbers above 0, but got class_weights=(1.0, 0.0, 1.0)."]),
        (("class", 3, "{name: cross_entropy, class_weights: balance}"), [
            'loss.class_weights: <list> of numbers, balanced or null (got "balance"). <near> balanced?']),
        (("number", 1, "{name: huber, class_weights: balanced}"), [
            "loss.class_weights: huber <no argument> class_weights. Known: delta."]),
        (("many", 4, "{name: cross_entropy, class_weights: balanced}"), [
            "loss.class_weights: labels must be class indices, int64 [n] from 0, but got float32 [90, 4]"]),
        (("gap", 3, "{name: cross_entropy, class_weights: balanced}"), [
            "loss.class_weights: each class needs a label, but class 1 of 4 has none"]),
        (("class", 3, "CrossEntropyLoss"), ["<near> cross_entropy?"]),
        (("class", 3, "5"), ["loss: must be the name of a loss, or {name: ..., argument: value, ...} (got 5)."]),
        (("number", 1, "huber\n  task: classification"), [
            "loss: huber is a loss for regression, and task is classification: its losses are cross_entropy, mse, or "
            "package.module:Name."]),
        (("number", 1, "huber\n  task: regresion"), ['task: must be classification, multi_label or regression '
                                                     '(got "regresion"). <near> regression?']),
        (("number", 1, "mse\nsearch_space: {loss: [mse, huber]}"), [
            "loss: the losses must be for one task, but are for classification and regression."]),
        (("class", 3, "mse\nsearch_space: {loss: [mse, 'plants:focal']}"), [
            "loss.choices[1]: use one_of to search among losses of your own."]),
        (("number", 1, "'plants:focals'"), ["<near> focal?"]),
    ],
)  # fmt: skip
def test_a_wrong_loss_is_refused(change: tuple[str, int, str], expected: list[str]):
    Path("x.yaml").write_text(STUDY % change)
    with pytest.raises(BadInputError) as caught:
        load_study("x.yaml")
    found = [shortened(re.sub(r"^x\.yaml:\d+: (trial|search_space)\.", "", each)) for each in caught.value.faults]
    assert all(each.endswith(end) for each, end in zip(found, expected, strict=True)), found


def test_a_metric_must_be_one_of_the_task_and_what_falls_is_minimized():
    Path("x.yaml").write_text(STUDY % CASES["regression"])
    with pytest.raises(BadInputError, match=r'val/mae or val/rmse \(got "val/acc"\)'):
        load_study("x.yaml", ["objective={metric: val/acc}"])
    with pytest.raises(BadInputError, match="lower values of val/rmse are better; write minimize"):
        load_study("x.yaml", ["objective={metric: val/rmse}"])
    Path("x.yaml").write_text(STUDY.replace("  loss: %s\n", "  task: regression\n") % CASES["regression"][:2])
    assert load_study("x.yaml").trial["loss"] == "squared_error"


@pytest.mark.parametrize(
    ("case", "change", "message"),
    [
        ("class weights", "trial.loss.class_weights=[1, 2]", "class_weights must have a number for each of the 3 out"),
        ("class weights", "trial.model.num_classes=5", "5 outputs, but has 3; balanced gives one for each class in"),
        ("several labels", "trial.data.labels=number", "labels must be 0 or 1, [batch, labels], but the data yield"),
        ("several labels", "trial.model.num_classes=3", "return [20, 4] for labels [20, 4], but it returns [20, 3]"),
        ("regression", "trial.model.num_classes=2", "return [20] or [20, 1] for labels [20], but it returns [20, 2]"),
        ("mse", "trial.data.labels=number", "labels must be class indices, int64 [batch]"),
        ("own function", "trial.loss={name: 'plants:of_each'}", "a loss must return one number, the mean of a batch"),
        ("mse", "trial.loss={name: 'plants:Learned'}", "the loss Learned has parameters, but no optimizer would"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_task_is_found_before_the_first_trial(
    case: str, change: str, message: str, tmp_path: Path
):
    made = config(case, change)
    assignment = Assignment(0, made, Objective("val/loss"), tmp_path / "0")
    (result,) = run(RehearsalGroup((assignment,)), None)  # type: ignore[arg-type]
    assert message in result.message


def test_losses_are_searched_by_name_or_with_their_arguments():
    search = "search_space={loss: {one_of: {squared_error: {}, huber: {delta: {low: 0.1, high: 2}}}}}"
    made = config("regression", search, params={"loss.name": "huber", "loss.huber.delta": 1.5})
    assert made.values()["loss"] == {"name": "huber", "delta": 1.5}
    made = config("regression", "search_space={loss.delta: {low: 0.1, high: 2}}", params={"loss.delta": 0.2})
    assert made.values()["loss"] == {"name": "huber", "delta": 0.2}
    made = config("mse", "search_space={loss: [cross_entropy, mse]}", params={"loss": "mse"})
    assert made.values()["loss"] == "mse", "as in earlier versions"


def test_python_takes_losses_as_names_settings_functions_and_modules():
    def loss_of(loss: Any, **further: Any) -> Any:
        data = {"name": "plants:Plants", "labels": "number"}
        optimizer = {"name": "adam", "initial_lr": 0.01}
        study = Study(model={"name": "mlp", "inputs": 3, "num_classes": 1}, data=data, optimizer=optimizer,
                      trainer={"max_epochs": 1}, loss=loss,
                      objective={"metric": "val/loss", "direction": "minimize"}, **further)  # fmt: skip
        return study._load(()).trial["loss"]

    def absolute(outputs: Tensor, labels: Tensor) -> Tensor:
        return (outputs.squeeze(1) - labels).abs().mean()

    assert loss_of("huber") == "huber"
    assert loss_of(Huber(delta=2)) == {"name": "huber", "delta": 2}
    assert loss_of(nn.L1Loss, task="regression") == {"name": "torch.nn:L1Loss"}
    assert loss_of(nn.HuberLoss(delta=2.0), task="regression")["name"].endswith("HuberLoss()")
    assert loss_of(absolute, task="regression")["name"].endswith(":absolute")
    assert the_loss(absolute, "regression")[0](torch.ones(2, 1), torch.zeros(2)) == 1


@pytest.mark.slow
def test_a_regression_and_several_labels_have_their_report(folder: StudyFolder):
    for case, metric in {"regression": "val/mae", "several labels": "val/f1"}.items():
        Path("x.yaml").write_text(STUDY % CASES[case])
        direction = "minimize" if metric == "val/mae" else "maximize"
        goal = f"objective={{metric: {metric}, direction: {direction}}}"
        name = case.replace(" ", "-")
        output = folder.call("--trials", "2", "--set", goal, "--set", f"name={name}", "--review",
                             study=folder.path / "x.yaml")  # fmt: skip
        assert "note:" not in output
        tested = folder.mlflow("select distinct key from metrics where key like 'test/%'")
        assert (f"test/{metric[4:]}",) in tested
    reports = [path.read_text() for path in folder.path.glob("mlruns/*/*/artifacts/report.html")]
    assert len(reports) == 2
    assert any("mean absolute error" in report for report in reports)


def test_an_own_loss_gets_float32_from_a_network_in_bfloat16():
    seen = []

    def loss(outputs, labels):
        seen.append(outputs.dtype)
        return functional.cross_entropy(outputs, labels)

    with torch.autocast("cpu", torch.bfloat16):
        outputs = torch.nn.Linear(3, 3)(LOGITS[0])
        assert outputs.dtype == torch.bfloat16
        OwnLoss(loss)(outputs, CLASSES[0])
    OwnLoss(loss)(LOGITS[0].double(), CLASSES[0])
    assert seen == [torch.float32, torch.float64]
