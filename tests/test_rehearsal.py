"""The rehearsal: before the first trial, each network is trained for a few steps to find errors."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests import toys
from tests.studies import StudyFolder
from tuner.config.loader import load_study
from tuner.config.user_code import contained
from tuner.engines.inline import InlineEngine
from tuner.errors import BadInputError
from tuner.interrupts import exit_at_once, on_interrupt
from tuner.protocol import Handler, Slot
from tuner.runner import rehearsal as rehearsal_module
from tuner.runner.rehearsal import MOST_NETWORKS, Rehearsal, networks, rehearse
from tuner.training.step_check import StepCheck

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a study of a toy module and returns its path."""

    def call(model: str = "Net", data: str = "ToyData", space: dict[str, Any] | None = None, **more: Any) -> str:
        own = not issubclass(getattr(toys, model), pl.LightningModule)
        study = {
            "objective": {"metric": "val/acc" if own else "val_acc"},
            "budget": {"trials": 2},
            "sampler": {"name": "random", "seed": 1},
            "pruner": {"name": "none"},
            "trial": {
                "data": {"name": f"tests.toys:{data}", "batch_size": 16},
                "model": {"name": f"tests.toys:{model}"},
                "optimizer": {"name": "adam", "initial_lr": 0.01},
                "schedule": {"name": "cosine", "decay_steps": "100%"},
                "trainer": {"max_epochs": 3},
            },
            "search_space": space or {},
        }
        path = tmp_path / "s.yaml"
        path.write_text(yaml.safe_dump(study | more))
        return str(path)

    return call


def rehearsed(path: str, tmp_path: Path) -> tuple[Rehearsal, list[str]]:
    notes: list[str] = []
    engine = InlineEngine(Slot(0, (), 1))
    return rehearse(load_study(path), engine, f"sqlite:///{tmp_path}/optuna.db", notes.append), notes


def add(monkeypatch: pytest.MonkeyPatch, name: str, what: Any) -> str:
    monkeypatch.setattr(toys, name, what, raising=False)
    return name


class LooseShapes(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(9, 3))


class ReturnsATuple(toys.Net):
    def forward(self, inputs: torch.Tensor) -> Any:
        return super().forward(inputs), None


class TwoClasses(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(8, 2))


class OfImages(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 3, 1))


class ManyLabels(toys.ToyData):
    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.zeros(32, 8), torch.zeros(32, 3)), 16)


class Dictionaries(toys.ToyData):
    def train_dataloader(self) -> Any:
        return DataLoader([{"inputs": torch.zeros(8), "labels": 1}] * 32, 16)


@pytest.mark.parametrize(
    ("network", "data", "words"),
    [
        (LooseShapes, None, "cannot be multiplied (16x8 and 9x3) (in the layer model.0, Linear)"),
        (ReturnsATuple, None, "the network must return logits [batch, classes], but it returns a tuple"),
        (TwoClasses, None, "the network has 2 outputs and the data have labels from 0 to 2"),
        (OfImages, None, "but for a batch of 16 it returns [16, 3, 8]"),
        (toys.Net, ManyLabels, "labels must be class indices, int64 [batch], but the data yield torch.float32"),
        (toys.Net, Dictionaries, "a batch must be a pair of inputs and labels, but the data yield a dict"),
    ],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_a_network_and_data_that_do_not_fit_are_refused(
    network: type, data: type | None, words: str, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = add(monkeypatch, "Network", network)
    path = write(model, add(monkeypatch, "Data", data) if data else "ToyData")
    with pytest.raises(BadInputError) as caught:
        rehearsed(path, tmp_path)
    assert words in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == ["s.yaml"]


def test_a_metric_that_is_never_logged_is_refused(write: Write, tmp_path: Path):
    with pytest.raises(BadInputError, match="the objective is val_f1, but only train_loss, val_acc, val_loss are"):
        rehearsed(write("Base", objective={"metric": "val_f1"}), tmp_path)


def test_a_mistyped_metric_is_refused_with_the_one_that_is_meant(write: Write, tmp_path: Path):
    path = write("Base", objective={"metric": "val_acccc"})
    with pytest.raises(BadInputError, match=r"val_loss are logged\. Did you mean val_acc\?"):
        rehearsed(path, tmp_path)
    path = write("Base", objective=[{"metric": "val_acc"}, {"metric": "val_los", "direction": "minimize"}])
    with pytest.raises(BadInputError, match=r"are logged with val_acc\. Did you mean val_loss\?"):
        rehearsed(path, tmp_path)


SEVERAL = [{"metric": "val_acc"}, {"metric": "parameters", "direction": "minimize"}]


def test_a_further_objective_that_is_never_logged_is_refused(write: Write, tmp_path: Path):
    path = write("Base", objective=[*SEVERAL, {"metric": "val_f1"}])
    missing = "val_f1 is an objective, but only train_loss, val_acc, val_loss are logged with val_acc"
    with pytest.raises(BadInputError, match=missing):
        rehearsed(path, tmp_path)
    rehearsal, notes = rehearsed(longer(path), tmp_path)
    assert rehearsal.faults == []
    assert notes == [f"a trial will fail if its later epochs are like the first 10: {missing}"]


class LogsF1Early(toys.Base):
    def log(self, name: str, value: Any, **options: Any) -> None:
        if name != "val_acc" or self.current_epoch:
            super().log("val_f1" if name == "val_loss" and not self.current_epoch else name, value, **options)


def test_a_further_objective_that_only_other_epochs_log_is_refused(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = write(add(monkeypatch, "LogsF1Early", LogsF1Early), objective=[*SEVERAL, {"metric": "val_f1"}])
    with pytest.raises(BadInputError, match="it was logged in a different epoch from the one whose val_acc counts"):
        rehearsed(path, tmp_path)


def longer(path: str) -> str:
    """Make the trials of a study longer than a rehearsal, which cannot know what later epochs log."""
    Path(path).write_text(Path(path).read_text().replace("max_epochs: 3", "max_epochs: 20"))
    return path


def test_a_logged_metric_with_the_name_of_a_measured_objective_is_refused(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class LogsParameters(toys.Base):
        def on_validation_epoch_end(self) -> None:
            self.log("parameters", 1.0)

    model = add(monkeypatch, "LogsParameters", LogsParameters)
    path = longer(write(model, objective=SEVERAL))
    with pytest.raises(BadInputError, match="parameters is an objective that is measured, so no logged metric can"):
        rehearsed(path, tmp_path)
    alone = write(model, objective={"metric": "parameters"})
    rehearsal, notes = rehearsed(alone, tmp_path)
    assert (rehearsal.faults, notes) == ([], []), "the module's own metric, as in studies with one objective before"
    assert load_study(alone, is_past=True).objective.metric == "parameters"


def test_the_rehearsal_waits_for_a_metric_of_later_epochs(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Later(toys.Base):
        def on_train_epoch_end(self) -> None:
            if self.current_epoch == 2:
                self.log("late", 1.0)

    model = add(monkeypatch, "Later", Later)
    for objective in ({"metric": "late"}, [*SEVERAL, {"metric": "late"}]):
        rehearsal, notes = rehearsed(write(model, objective=objective), tmp_path)
        assert (rehearsal.faults, notes) == ([], [])


def test_an_object_that_a_checkpoint_cannot_contain_is_reported(write: Write, tmp_path: Path):
    rehearsal, (note,) = rehearsed(write("KeepsAThing"), tmp_path)
    assert rehearsal.faults == []
    assert note.startswith("a trial cannot continue after an interruption")
    assert "tests.toys.Thing" in note


def test_data_without_a_test_are_reported(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Untested(toys.ToyData):
        test_dataloader = pl.LightningDataModule.test_dataloader

    rehearsal, notes = rehearsed(write(data=add(monkeypatch, "Untested", Untested)), tmp_path)
    assert rehearsal.faults == []
    assert notes == [
        "the best trial will not be tested, and its network not registered in MLflow: tests.toys:Untested has no "
        "test_dataloader"
    ]
    assert rehearsed(write(), tmp_path)[1] == []


def test_a_digest_that_is_not_text_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch):
    class Numbered(toys.ToyData):
        def digest(self) -> Any:
            return 5

    with pytest.raises(BadInputError, match=r"digest\(\) must return text, but it returns 5"):
        load_study(write(data=add(monkeypatch, "Numbered", Numbered))).measure_data()


def test_validation_labels_that_the_loss_leaves_out_are_refused(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Ignored(toys.ToyData):
        def val_dataloader(self) -> Any:
            return DataLoader(TensorDataset(torch.zeros(8, 8), torch.full((8,), -100)), 8)

    with pytest.raises(BadInputError, match="class indices from 0, but the validation data have -100"):
        rehearsed(write(data=add(monkeypatch, "Ignored", Ignored)), tmp_path)


def test_a_module_without_the_methods_of_a_test_or_a_registered_network_is_reported(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Unregistered(toys.Base):
        forward = pl.LightningModule.forward

        def loss(self, batch: Any) -> torch.Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    class Untested(Unregistered):
        test_step = pl.LightningModule.test_step

    for module, words in ((Untested, "not be tested, and its network not"), (Unregistered, "not be")):
        rehearsal, (note,) = rehearsed(write(add(monkeypatch, module.__name__, module)), tmp_path)
        assert rehearsal.faults == []
        assert f"the best trial will {words} registered in MLflow: tests.toys:{module.__name__} has no " in note
    assert rehearsed(write("Base"), tmp_path)[1] == []


def test_where_some_networks_fail_the_study_may_begin(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Fussy(toys.Net):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            if self[0].out_features > 10:
                raise ValueError("too wide")
            return super().forward(inputs)

    space = {"model.width": {"low": 2, "high": 20}}
    rehearsal, notes = rehearsed(write(add(monkeypatch, "Fussy", Fussy), space=space), tmp_path)
    assert len(rehearsal.faults) == 1
    assert rehearsal.faults[0].startswith(
        "trial with tests.toys:Fussy: ValueError: too wide (tests/test_rehearsal.py, line "
    )
    assert [
        note.startswith("some trials will fail: with tests.toys:Fussy: ValueError: too wide") for note in notes
    ] == [True]


def test_a_network_that_takes_long_is_named_once_and_at_once(write: Write, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rehearsal_module, "LONG_SECONDS", 0.0)
    said: list[str] = []
    slow = Slot(0, (), 1)

    class SlowEngine(InlineEngine):
        def run(self, handler: Handler) -> None:
            first, second = (handler.next_group(slow) for _ in range(2))
            assert first is not None
            assert second is not None
            handler.died(first, "was killed")
            time.sleep(0.01)
            handler.tick()
            handler.tick()
            assert len(said) == 1

    config = load_study(write(space={"model.width": {"choices": [2, 4]}}))
    rehearse(config, SlowEngine(slow), "sqlite://", [].append, said.append)
    assert said[0].startswith("still training tests.toys:Net for a few steps before the first trial, after 0")


def test_each_network_of_the_space_is_rehearsed_once(write: Write):
    space = {
        "model.width": {"choices": [2, 4, 6]},
        "optimizer": {
            "one_of": {"adam": {"initial_lr": {"low": 1e-3, "high": 1e-1, "log": True}}, "sgd": {"initial_lr": 0.1}}
        },
        "schedule": {"one_of": {"constant": {}, "cosine": {"decay_steps": {"low": 5, "high": 9}}}},
        "data.batch_size": {"choices": [8, 16]},
    }
    trials = networks(load_study(write(space=space)))
    assert [each.model.arguments["width"] for each in trials] == [2, 4, 6, 2, 2]
    assert [each.data.arguments["batch_size"] for each in trials] == [8, 8, 8, 16, 8]
    assert [each.optimizer.name for each in trials] == ["adam", "adam", "adam", "adam", "sgd"]
    wide = {"model.width": {"choices": list(range(2, 102))}}
    assert 1 < len(networks(load_study(write(space=wide)))) <= MOST_NETWORKS


def test_a_dry_run_ends_with_the_size_of_the_networks_and_creates_nothing(folder: StudyFolder, write: Write):
    path = write()
    output = folder.call("--dry-run", study=path)
    parameters = sum(each.numel() for each in toys.Net().parameters())
    assert f"no errors found: a network of {parameters} parameters, 18 steps per trial, at least " in output
    assert sorted(each.name for each in folder.path.iterdir()) == ["s.yaml"]


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [
        # 18 steps per trial, 0.5 s a step, 2 slots: 9 s a trial
        ({"trials": 3}, "at least 18 s for 3 trials, not including validation or pruning"),
        (
            {"trials": 29},
            "at least 2 min 15 s for 29 trials, including the final runs but not validation or pruning",
        ),
        ({"epochs": 9}, "at least 14 s for 9 epochs, not including validation"),
        ({"epochs": 87}, "at least 2 min 10 s for 87 epochs, including the final runs but not validation"),
        (
            {"epochs": 87, "trials": 30},
            "at least 2 min 15 s for 29 trials, including the final runs but not validation or pruning",
        ),
    ],
)
def test_the_least_time_is_that_of_the_whole_budget(budget: dict[str, int], sentence: str, write: Write):
    last = {"final": {"trials": 3, "seeds": 3}} if max(budget.values()) > 9 else {}
    described = Rehearsal([], (99, 99), 0.5).described(load_study(write(budget=budget, **last)), 2)
    assert described == f"a network of 99 parameters, 18 steps per trial, {sentence}"


class Leaves(toys.Base):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        os._exit(0)


class LeavesAtOnce(toys.Net):
    def __init__(self, how: str = "exit") -> None:
        super().__init__()
        match how:
            case "exit":
                os._exit(0)
            case "abort":
                os.abort()
            case "interrupt":
                raise KeyboardInterrupt
            case "generator":
                raise GeneratorExit
            case "stop":
                next(iter([]))


def test_a_dry_run_in_which_a_process_ended_finds_an_error(folder: StudyFolder, write: Write):
    path = Path(write())
    path.write_text(path.read_text().replace("tests.toys:Net", "tests.test_rehearsal:Leaves").replace("val/", "val_"))
    output = folder.run("--dry-run", study=str(path), expect=2)
    assert "tests.test_rehearsal:Leaves before the first trial ended with status 0 and no result" in output
    assert "no errors found" not in output


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("exit", "SystemExit: 0"),
        ("abort", "SystemExit: 134"),
        ("interrupt", "KeyboardInterrupt"),
        ("generator", "GeneratorExit"),
        ("stop", "StopIteration"),
    ],
)
def test_a_network_that_would_end_the_command_is_refused_with_its_line(
    how: str, error: str, write: Write, monkeypatch: pytest.MonkeyPatch
):
    path = write(add(monkeypatch, "LeavesAtOnce", LeavesAtOnce), space={"model.how": [how, "not"]})
    functions = os._exit, os.abort
    with on_interrupt(exit_at_once), pytest.raises(BadInputError) as caught:
        load_study(path)
    assert f": {error} (tests/test_rehearsal.py, line " in str(caught.value)
    assert (os._exit, os.abort) == functions


def test_ctrl_c_in_python_interrupts_the_check(write: Write, monkeypatch: pytest.MonkeyPatch):
    path = write(add(monkeypatch, "LeavesAtOnce", LeavesAtOnce), space={"model.how": ["interrupt", "not"]})
    with pytest.raises(KeyboardInterrupt):  # its class is all that is known of it
        load_study(path)


def test_a_fork_of_code_under_check_can_exit():
    with contained():
        child = os.fork()
        if child == 0:
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_dry_run_in_separate_processes_finds_errors(folder: StudyFolder, write: Write):
    output = folder.run("--dry-run", study=write("Raises"), expect=2)
    assert "trial with tests.toys:Raises: ValueError: caf\\udce9" in output
    assert "Traceback" not in output
    assert sorted(each.name for each in folder.path.iterdir() if not each.name.endswith(".db")) == ["s.yaml"]


def test_a_study_that_cannot_train_is_refused_before_it_begins(folder: StudyFolder, write: Write):
    output = folder.call("--rehearse", study=write("Raises"), expect=2)
    assert "trial with tests.toys:Raises: ValueError" in output
    assert not folder.directory("s").exists()


def broken(self: toys.ToyData) -> Any:
    inputs, labels = toys.table(96, 0).tensors
    inputs = inputs.clone()
    inputs[3, 2] = torch.nan
    return DataLoader(TensorDataset(inputs, labels), self.batch_size)


@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader"])
def test_numbers_in_the_data_that_are_not_finite_are_named(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loader: str
):
    monkeypatch.setattr(toys, "BrokenData", type("BrokenData", (toys.ToyData,), {loader: broken}), raising=False)
    _, notes = rehearsed(write(data="BrokenData"), tmp_path)
    assert "tests.toys:BrokenData has NaN or infinite values in its first batches" in notes


def test_batches_of_a_layout_that_torch_cannot_check_are_accepted():
    check, module = StepCheck(), nn.Linear(2, 2)
    for batch in (torch.eye(2).to_sparse(), {"x": torch.eye(2).to_sparse()}, (torch.ones(2), None)):
        check.on_train_batch_start(None, module, batch, 0)
    assert check.is_finite
    check.on_train_batch_start(None, module, (torch.tensor([0.0, torch.inf]),), 1)
    assert not check.is_finite


def test_code_of_the_user_does_not_change_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with contained():
        os.chdir("/")
    assert Path.cwd() == tmp_path
