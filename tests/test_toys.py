"""Users' modules: every point is recorded as it was logged, and every way to end is reported."""

import csv
import json
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torchmetrics import MeanMetric

from tests import toys
from tests.toys import STEPS
from tuner.config.study import Objective
from tuner.config.trial import TrialConfig
from tuner.protocol import Assignment, Decision, EpochReport, StepReport, TrainingGroup, TrialResult
from tuner.training.experiment_proxy import ExperimentProxy
from tuner.training.results import MODEL_FILE, RESULT_FILE, read_result
from tuner.training.run import run

EPOCHS = 4


class Answers:
    """A channel that records the reports and gives predefined answers."""

    def __init__(self, *decisions: Decision) -> None:
        self.decisions = list(decisions)
        self.reports: list[EpochReport] = []
        self.notes: list[str] = []

    def report(self, reports: Mapping[int, EpochReport]) -> dict[int, Decision]:
        return {number: self.decide(report) for number, report in reports.items()}

    def decide(self, report: EpochReport) -> Decision:
        self.reports.append(report)
        return self.decisions.pop(0) if self.decisions else "continue"

    def progress(self, number: int, report: StepReport) -> None:
        pass

    def fuse_at_most(self, count: int, reason: str) -> None:
        raise AssertionError(reason)

    def note(self, text: str) -> None:
        self.notes.append(text)


def assignment(folder: Path, model: str, data: str = "ToyData", metric: str = "val_acc", **more: Any) -> Assignment:
    values = {
        "data": {"name": f"tests.toys:{data}", "batch_size": 16},
        "model": {"name": f"tests.toys:{model}", **more},
        "optimizer": {"name": "adam", "initial_lr": 0.01},
        "schedule": {"name": "cosine", "decay_steps": EPOCHS * STEPS},
        "trainer": {"max_epochs": EPOCHS, "precision": "64-true"},
        "seed": 3,
    }
    return Assignment(0, TrialConfig.from_values(values), Objective(metric), folder)


def train(trial: Assignment, channel: Answers | None = None) -> TrialResult:
    (result,) = run(TrainingGroup((trial,)), channel or Answers())
    return result


@pytest.fixture
def logged(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """Return the name of a module with a CSVLogger in its Trainer, and the folder of that logger."""
    monkeypatch.setattr(toys, "Logged", toys.with_csv_logger(request.param, tmp_path / "csv"), raising=False)
    return "Logged", tmp_path / "csv"


def points_of(folder: Path) -> set[tuple[str, int, float]]:
    """Return every point that a CSVLogger has written."""
    (path,) = folder.rglob("metrics.csv")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {
        (name, int(row["step"]), float(value))
        for row in rows
        for name, value in row.items()
        if value and name not in ("step", "epoch")
    }


@pytest.mark.parametrize("logged", toys.WAYS_TO_LOG, indirect=True, ids=lambda module: module.__name__)
def test_every_point_is_one_that_lightnings_own_logger_has(logged: tuple[str, Path], tmp_path: Path):
    name, folder = logged
    data = "TwoValidationsData" if issubclass(toys.Logged, toys.TwoValidations) else "ToyData"
    result = train(assignment(tmp_path / "trial", name, data))
    assert result.state == "complete", result.traceback
    expected = points_of(folder)
    mine = {(key, step, value) for key, step, value in result.points if key != "lr"}
    assert len(mine) == len([key for key, _, _ in result.points if key != "lr"]), "no point twice"
    ends = {epoch * STEPS for epoch in range(1, EPOCHS + 1)}
    for key, step, value in mine:
        if key == "val_acc" and issubclass(toys.Logged, toys.NotForLoggers):
            continue  # the objective is always recorded
        # Lightning's loggers have a step less for what the steps up to it amount to: the index of the last one.
        places = {step, step - 1} if step in ends else {step}
        assert any((key, place, value) in expected for place in places), (key, step, value)
    assert {key for key, _, _ in expected} <= {key for key, _, _ in result.points}
    for key in {key for key, _, _ in expected} - {"lr"}:
        assert len([each for each in mine if each[0] == key]) == len([each for each in expected if each[0] == key]), key


@pytest.mark.parametrize("model", ["Base", "OnBoth", "InHookOfTheEpoch", "OnStepOfTheValidation", "EverySecondEpoch"])
def test_an_interrupted_training_has_the_same_points(model: str, tmp_path: Path):
    straight = train(assignment(tmp_path / "straight", model))
    trial = assignment(tmp_path / "cut", model)
    for _ in range(2):
        assert train(trial, Answers("stop")).state == "interrupted"
    assert sorted(train(trial).points) == sorted(straight.points)


def test_a_metric_of_an_earlier_epoch_is_not_reported_again(tmp_path: Path):
    channel = Answers()
    result = train(assignment(tmp_path, "EverySecondEpoch", metric="rare"), channel)
    assert [point for point in result.points if point[0] == "rare"] == [("rare", 6, 0.5), ("rare", 18, 2.5)]
    assert [report.value for report in channel.reports] == [0.5, None, 2.5, None]
    assert (result.state, result.value) == ("complete", 2.5)
    assert result.message == "rare was last logged in epoch 3; its value is from that epoch"


def test_a_metric_that_no_epoch_has_fails_the_trial_with_the_names_of_the_others(tmp_path: Path):
    result = train(assignment(tmp_path, "Base", metric="val_f1"))
    assert (result.state, result.message) == (
        "failed",
        "the objective is val_f1, but only train_loss, val_acc, val_loss are logged",
    )


def test_an_objective_of_the_training_needs_no_validation(tmp_path: Path):
    result = train(assignment(tmp_path, "OnEpoch", "NoValidationData", metric="train_loss"))
    assert result.state == "complete"
    assert result.value == next(value for key, step, value in result.points if (key, step) == ("train_loss", 24))


def test_an_objective_of_the_validation_says_that_nothing_was_validated(tmp_path: Path):
    result = train(assignment(tmp_path, "OnEpoch", "NoValidationData"))
    assert result.message == "the objective is val_acc, but only train_loss is logged; no validation was run"


def test_a_text_logged_as_a_metric_is_left_out_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Text(toys.Base):
        def on_train_epoch_end(self) -> None:
            self.logger.log_metrics({"phase": "warm-up", "phase_number": 1}, step=self.global_step)

    monkeypatch.setattr(toys, "Text", Text, raising=False)
    channel = Answers()
    result = train(assignment(tmp_path, "Text"), channel)
    assert result.state == "complete"
    assert channel.notes == ["trial #0 logs phase, which is not a number and not recorded: 'warm-up'"]
    assert [step for key, step, _ in result.points if key == "phase_number"] == [6, 12, 18, 24]


class LogsComplex(toys.Base):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_acc", self.net(batch[0]).mean() * 1j)


class LogsComplexNumbers(toys.Base):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log_dict({"val_acc": 0.5j})


class ComplexMean(MeanMetric):
    def compute(self) -> torch.Tensor:
        return super().compute() * 1j


class LogsComplexMetrics(toys.Base):
    def __init__(self, optimizer: Any, schedule: Any) -> None:
        super().__init__(optimizer, schedule)
        self.phase = ComplexMean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.phase(self.net(batch[0]))
        self.log("val_acc", self.phase)


class ComplexCallback(pl.Callback):
    def on_validation_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.log("val_acc", torch.tensor(0.5j))  # type: ignore[attr-defined]


class HasComplexCallback(toys.Base):
    def configure_callbacks(self) -> list[pl.Callback]:
        return [ComplexCallback()]


@pytest.mark.parametrize("module", [LogsComplex, LogsComplexNumbers, LogsComplexMetrics, HasComplexCallback])
def test_a_complex_metric_fails_the_trial(module: type[toys.Base], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(toys, "Complex", module, raising=False)
    result = train(assignment(tmp_path, "Complex"))
    assert (result.state, result.value) == ("failed", None)
    assert result.message.startswith("TypeError: val_acc is complex")
    assert "log a real number" in result.message


@pytest.mark.parametrize("value", [np.complex128(0.5j), torch.tensor(0.5j), 0.5j])
def test_a_complex_number_that_is_passed_to_the_logger_is_left_out(
    value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Complex(toys.Base):
        def on_train_epoch_end(self) -> None:
            self.logger.log_metrics({"phase": value}, step=self.global_step)

    monkeypatch.setattr(toys, "Complex", Complex, raising=False)
    channel = Answers()
    result = train(assignment(tmp_path, "Complex"), channel)
    assert result.state == "complete"
    assert channel.notes == [f"trial #0 logs phase, which is not a number and not recorded: {value!r}"]
    assert "phase" not in {key for key, _, _ in result.points}


def test_the_lr_that_a_module_logs_is_left_out_since_each_step_has_it(tmp_path: Path):
    plain, channel = train(assignment(tmp_path / "plain", "Base")), Answers()
    result = train(assignment(tmp_path / "logs", "LogsTheLr"), channel)
    assert [point for point in result.points if point[0] == "lr"] == [each for each in plain.points if each[0] == "lr"]
    (note,) = channel.notes
    assert "logs lr, which is left out" in note


def test_the_lr_that_a_module_logs_at_the_end_of_an_epoch_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class LogsAtTheEnd(toys.Base):
        def on_train_epoch_end(self) -> None:
            self.log("lr", 0.5)

    monkeypatch.setattr(toys, "LogsAtTheEnd", LogsAtTheEnd, raising=False)
    plain, channel = train(assignment(tmp_path / "plain", "Base")), Answers()
    result = train(assignment(tmp_path / "logs", "LogsAtTheEnd"), channel)
    assert result.points == plain.points
    assert len(channel.notes) == 1


def test_a_module_logs_to_its_run_through_the_experiment_of_its_logger(tmp_path: Path):
    trial = assignment(tmp_path, "RecordsItself")
    assert train(trial, Answers("stop")).state == "interrupted"
    result = train(trial)
    assert [point for point in result.points if point[0] == "own"] == [("own", epoch, 0.5) for epoch in range(EPOCHS)]
    assert (result.params, result.tags) == ({"own.layers": "2"}, {"own.phase": "late"})
    files = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "artifacts").rglob("*.*"))
    assert files == [*(f"artifacts/images/noise/{epoch}.png" for epoch in range(EPOCHS)), "artifacts/notes/epoch.txt"]
    assert read_result(tmp_path, trial.config).tags == result.tags


def test_missing_methods_of_the_logger_s_experiment_are_refused_by_name(tmp_path: Path):
    run = ExperimentProxy(tmp_path, lambda key, value, step: None)
    with pytest.raises(AttributeError, match=r"is the trial's run in MLflow, and has .*log_text.*, but not add_scalar"):
        run.add_scalar("loss", 1.0, 2)
    for outside in ("../a.txt", "/tmp/a.txt", "a/../../b", ""):
        with pytest.raises(ValueError, match="an artifact must have a path within the run"):
            run.log_text("trial", "text", outside)


# -- ends --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["EarlyStopping", "EarlyStoppingOnTraining", "ShouldStop", "ShouldStopWithinAnEpoch"])
def test_a_training_that_stops_by_itself_is_complete(model: str, tmp_path: Path):
    channel = Answers()
    trial = assignment(tmp_path, model)
    result = train(trial, channel)
    assert (result.state, result.epochs) == ("complete", 2)
    assert result.message == "stopped on its own after epoch 2 of 4"
    assert result.value == channel.reports[-1].value
    assert [report.is_last for report in channel.reports] == [False, True]
    assert (tmp_path / MODEL_FILE).exists()
    assert read_result(tmp_path, trial.config).value == result.value


def test_an_interrupted_training_stops_by_itself_at_the_same_epoch(tmp_path: Path):
    trial = assignment(tmp_path, "EarlyStopping")
    assert train(trial, Answers("stop")).state == "interrupted"
    result = train(trial)
    assert (result.state, result.epochs) == ("complete", 2)


def test_a_training_without_an_epoch_fails_and_says_why(tmp_path: Path):
    result = train(assignment(tmp_path, "NoTime"))
    assert result.state == "failed"
    assert "stopped the training before its first epoch was over" in result.message


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_a_module_that_skips_its_batches_fails_with_the_missing_metric(tmp_path: Path):
    result = train(assignment(tmp_path, "SkipsEveryEpoch"))
    assert result.state == "failed"
    assert result.message == "the objective is val_acc, but nothing is logged; no validation was run"


def test_a_module_may_change_how_many_batches_make_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Accumulates(toys.Base):
        def configure_callbacks(self) -> list[pl.Callback]:
            return [pl.callbacks.GradientAccumulationScheduler({0: 1, 2: 3})]

    monkeypatch.setattr(toys, "Accumulates", Accumulates, raising=False)
    result = train(assignment(tmp_path, "Accumulates"))
    assert result.state == "complete", result.traceback
    assert max(step for key, step, _ in result.points if key == "val_acc") == 2 * STEPS + 2 * STEPS // 3


# -- checkpoints -------------------------------------------------------------------------------------------------------


def test_a_training_continues_from_a_checkpoint_with_numpy_values_and_dates(tmp_path: Path):
    trial, channel = assignment(tmp_path, "KeepsNumPy"), Answers()
    assert train(trial, Answers("stop")).state == "interrupted"
    assert train(trial, channel).state == "complete"
    assert [report.epoch for report in channel.reports] == [2, 3, 4]
    assert channel.notes == []


@pytest.mark.parametrize(
    ("model", "what"), [("KeepsAThing", "tests.toys.Thing"), ("KeepsAFunction", "KeepsAFunction.on_save_checkpoint")]
)
def test_a_checkpoint_that_cannot_be_loaded_is_reported_when_the_first_one_is_saved(
    model: str, what: str, tmp_path: Path
):
    channel = Answers("continue", "stop")
    assert train(assignment(tmp_path, model), channel).state == "interrupted"
    (note,) = channel.notes
    assert what in note
    assert "cannot continue after an interruption" in note
    channel = Answers()
    assert train(assignment(tmp_path, model), channel).state == "complete"
    assert [report.epoch for report in channel.reports] == [1, 2, 3, 4]


def test_a_whole_checkpoint_is_kept_though_it_cannot_be_loaded(tmp_path: Path):
    trial = assignment(tmp_path, "KeepsAThing")
    train(trial, Answers("stop"))
    (checkpoint,) = tmp_path.glob("epoch-*")
    content = checkpoint.read_bytes()
    train(trial, Answers("stop"))
    assert (tmp_path / f"{checkpoint.name}.unused").read_bytes() == content


def test_results_and_checkpoints_of_other_values_are_named_and_not_used(tmp_path: Path):
    one, other = assignment(tmp_path, "Base"), assignment(tmp_path, "OnEpoch")
    train(one, Answers("continue", "stop"))
    channel = Answers()
    result = train(other, channel)
    assert [report.epoch for report in channel.reports] == [1, 2, 3, 4]
    assert ["different values of the trial" in note for note in channel.notes] == [True, True]
    assert result.points == train(assignment(tmp_path / "alone", "OnEpoch")).points
    notes: list[str] = []
    assert read_result(tmp_path, one.config, notes.append) is None
    assert "it belongs to other values of the trial" in notes[0]
    assert read_result(tmp_path, other.config).value == result.value


def test_a_value_of_another_type_is_another_value(tmp_path: Path):
    train(assignment(tmp_path, "Raises", error="ValueError"))
    trial = assignment(tmp_path, "Raises", error="ValueError")
    assert read_result(tmp_path, trial.config) is not None
    values = trial.config.values()
    again = TrialConfig.from_values({**values, "data": {**values["data"], "batch_size": 16.0}})
    assert again == trial.config
    assert read_result(tmp_path, again) is None


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Assignment:
    """Return a trial that was trained to its end."""
    trial = assignment(tmp_path_factory.mktemp("ended"), "Base")
    train(trial)
    return trial


def test_a_result_with_a_changed_byte_is_damaged(tmp_path: Path, ended: Assignment):
    path = tmp_path / RESULT_FILE
    content = (ended.directory / RESULT_FILE).read_bytes()
    places = range(0, len(content), max(1, len(content) // 200))
    for place in places:
        changed = bytearray(content)
        changed[place] = ord("7") if changed[place] != ord("7") else ord("8")
        path.write_bytes(changed)
        result = read_result(tmp_path, ended.config, lambda text: None)
        assert result is None, content[place - 20 : place + 20]
    parts = content.split(b'"value": ')
    path.write_bytes(b'"value": '.join([parts[0], parts[1].replace(b",", b"0,", 1), *parts[2:]]))
    assert read_result(tmp_path, ended.config, lambda text: None) is None, "the same number in other digits"


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "xomplete"},
        {"value": "0.5"},
        {"value": None},
        {"value": math.nan},
        {"value": math.inf},
        {"seconds": "long"},
        {"epochs": 1.5},
        {"setup": []},
        {"points": [["lr", "one", 0.1]]},
        {"message": 5},
    ],
    ids=str,
)
def test_a_result_of_another_form_is_damaged_even_without_a_checksum(
    tmp_path: Path, ended: Assignment, changes: dict[str, Any]
):
    path = tmp_path / RESULT_FILE
    stored = json.loads((ended.directory / RESULT_FILE).read_text())["result"]
    path.write_text(json.dumps(stored))
    assert read_result(tmp_path, ended.config) is not None, "as earlier versions wrote it"
    path.write_text(json.dumps(stored | changes))
    assert read_result(tmp_path, ended.config) is None


def test_what_is_no_result_file_is_damaged(tmp_path: Path):
    trial, notes = assignment(tmp_path, "Base"), list[str]()
    for make in (Path.mkdir, os.mkfifo, lambda path: path.write_text("[" * 100_000)):
        make(tmp_path / RESULT_FILE)
        assert read_result(tmp_path, trial.config, notes.append) is None
        (tmp_path / RESULT_FILE).rename(tmp_path / f"old-{len(notes)}")
    assert ["is damaged" in note for note in notes] == [True] * 3


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", toys.ERRORS)
def test_an_exception_of_user_code_fails_the_trial_with_any_class_and_text(error: str, tmp_path: Path):
    result = train(assignment(tmp_path, "Raises", error=error))
    assert result.state == "failed"
    assert result.message.startswith(error)
    assert "tests/toys.py, line " in result.message
    assert "in training_step" in result.message
    assert "Traceback" in result.traceback
    assert (tmp_path / "traceback.txt").exists()


@pytest.mark.parametrize(
    "hook",
    [
        "on_train_epoch_start",
        "on_train_batch_start",
        "on_train_batch_end",
        "on_validation_batch_end",
        "on_validation_end",
        "on_train_epoch_end",
        "module.transfer_batch_to_device",
        "module.on_before_optimizer_step",
        "module.on_validation_epoch_end",
        "module.on_train_epoch_end",
    ],
)
def test_a_hook_that_raises_stop_iteration_fails_the_trial(hook: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def stop(*arguments: Any, **others: Any) -> None:
        raise StopIteration("no more")

    class Stops(toys.Base):
        def configure_callbacks(self) -> list[pl.Callback]:
            callback = pl.Callback()
            setattr(self if hook.startswith("module.") else callback, hook.removeprefix("module."), stop)
            return [callback]

    monkeypatch.setattr(toys, "Stops", Stops, raising=False)
    result = train(assignment(tmp_path, "Stops"))
    assert result.state == "failed"
    assert result.message.startswith("StopIteration: no more (tests/test_toys.py, line ")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("stage", ["train", "val"])
def test_a_data_set_that_raises_stop_iteration_fails_the_trial(
    stage: str, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Short(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 96

        def __getitem__(self, index: int) -> Any:
            if index == 40:
                raise StopIteration
            return torch.zeros(8), 0

    class ShortData(toys.ToyData):
        pass

    loader = torch.utils.data.DataLoader(Short(), 16, num_workers=workers)
    setattr(ShortData, f"{stage}_dataloader", lambda self: loader)
    monkeypatch.setattr(toys, "ShortData", ShortData, raising=False)
    result = train(assignment(tmp_path, "Base", "ShortData"))
    assert result.state == "failed"
    assert result.message.startswith("StopIteration")
    assert "(tests/test_toys.py, line " in result.message


def test_an_iterable_data_set_ends_with_stop_iteration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Rows(torch.utils.data.IterableDataset):
        def __iter__(self) -> Any:
            self.left = 96
            return self

        def __next__(self) -> Any:
            if self.left == 0:
                raise StopIteration
            self.left -= 1
            return torch.zeros(8), 0

    class RowsData(toys.ToyData):
        def train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(Rows(), 16)

    monkeypatch.setattr(toys, "RowsData", RowsData, raising=False)
    assert train(assignment(tmp_path, "Base", "RowsData")).state == "complete"


def test_an_error_in_a_process_that_loads_data_is_reported_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Broken(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 96

        def __getitem__(self, index: int) -> Any:
            raise ValueError("row is broken")

    class BrokenData(toys.ToyData):
        def train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(Broken(), 16, num_workers=1)

    monkeypatch.setattr(toys, "BrokenData", BrokenData, raising=False)
    result = train(assignment(tmp_path, "Base", "BrokenData"))
    assert result.state == "failed"
    assert result.message.startswith("ValueError: row is broken (tests/test_toys.py, line ")


def on_a_plateau(folder: Path, model: str, **options: Any) -> Assignment:
    plateau = {"name": "plateau", "factor": 0.5, "patience": 0, "threshold": 10.0, "threshold_mode": "abs"}
    trial = assignment(folder, model)
    values = {**trial.config.values(), "schedule": {**plateau, "monitor": "val_loss", **options}}
    return replace(trial, config=TrialConfig.from_values(values))


@pytest.mark.parametrize("model", ["ByLightning", "ByLightningToTorch", "ByPlateauUpdates"])
def test_a_plateau_of_a_module_gets_each_metric_once_even_if_its_training_is_cut_short(model: str, tmp_path: Path):
    channel = Answers()
    straight = train(on_a_plateau(tmp_path / "straight", model), channel)
    for decisions in (["stop"], ["continue", "stop"]):
        trial = on_a_plateau(tmp_path / str(len(decisions)), model)
        assert train(trial, Answers(*decisions)).state == "interrupted"
        assert sorted(train(trial).points) == sorted(straight.points)
    lrs = [value for key, _, value in straight.points if key == "lr"]
    assert lrs[::STEPS] == [0.01, 0.01, 0.005, 0.0025]
    assert channel.notes == []


def test_the_terminal_names_a_plateau_that_gets_no_metric_from_its_module(tmp_path: Path):
    channel = Answers()
    train(on_a_plateau(tmp_path, "Base"), channel)
    (note,) = channel.notes
    assert note.startswith("trial #0 has a Plateau that got no metric and changed nothing")


@pytest.mark.parametrize("model", ["Base", "SteppedPerEpoch", "LambdaSteppedPerEpoch"])
@pytest.mark.parametrize("schedule", [{"name": "constant"}, {"name": "cosine", "decay_steps": 30}])
@pytest.mark.filterwarnings("ignore:the optimizer has made 6 updates")
def test_the_terminal_names_a_schedule_that_its_module_steps_once_per_epoch(
    model: str, schedule: dict[str, Any], tmp_path: Path
):
    trial, channel = assignment(tmp_path, model), Answers()
    values = {**trial.config.values(), "schedule": schedule}
    assert train(replace(trial, config=TrialConfig.from_values(values)), channel).state == "complete"
    is_wrong = model != "Base" and schedule["name"] == "cosine"
    assert len(channel.notes) == is_wrong
    assert all(note.startswith("trial #0 steps its schedule once per epoch") for note in channel.notes)
