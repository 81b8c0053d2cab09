"""The Python API, as shown in the README."""

import dataclasses
import inspect
import math
import multiprocessing
import os
import re
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pytorch_lightning.callbacks import EarlyStopping
from torch import nn

from lightning_modules import (
    EMA,
    MLP,
    SGD,
    Adam,
    Classifier,
    Constant,
    CosineDecay,
    CrossEntropy,
    IrisDataModule,
    OneHotSquaredError,
    ParameterGroup,
    Rex,
    Warmup,
    WarmupStableDecay,
)
from tests.launcher import Command
from tests.studies import TINY, StudyFolder
from tuner import Result, Study
from tuner.config import by_value
from tuner.config.loader import load_study
from tuner.config.yaml_reader import as_document, as_yaml, read_document
from tuner.errors import BadInputError
from tuner.runner.options import StudyOptions
from tuner.visualization.charts import OF_SEVERAL, PLOTS

EXAMPLE = Path(__file__).parent.parent / "examples" / "quickstart.ipynb"

SCRIPT = f"""
import asyncio, sys, threading
from tuner import Study

assert "torch" not in sys.modules and "optuna" not in sys.modules
print("begun")
study = Study.from_yaml({str(TINY)!r}, "trial.trainer.max_epochs=1")

async def main():
    return study.run(trials=2, per_device=2, review=False, quiet=True)

result = asyncio.run(main())
assert list(result.trials.index) == [0, 1] and set(result.trials.state) == {{"complete"}}
assert result.best.value == max(result.trials.value) and result.best.weights.exists()
assert result.best.config["model"]["name"] == "mlp" and "test/acc" in result.best.test
assert result.plot_lr()._repr_png_().startswith(b"\\x89PNG")

results = []
other = threading.Thread(target=lambda: results.append(study.run(trials=3, per_device=2, review=False)))
other.start()
other.join()
print(results[0])
"""


@pytest.mark.slow
def test_a_script_without_a_main_guard_runs_a_study_in_an_event_loop_and_in_a_thread(tmp_path: Path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("begun") == 1
    assert "Result(tiny: 3 trials, best #" in done.stdout


def test_a_bad_file_is_refused_before_anything_runs():
    with pytest.raises(BadInputError, match="max_epochs"):
        Study.from_yaml(TINY, "trial.trainer.max_epochs=0")


@pytest.fixture
def here(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    """Return the working folder, with empty databases."""
    folder.prepare()
    monkeypatch.chdir(folder.path)
    return folder


# -- studies defined in Python -----------------------------------------------------------------------------------------


class Net(nn.Sequential):
    def __init__(self, width: int = 4) -> None:
        super().__init__(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))


def defined(**changes: Any) -> Study:
    """Return the study of tiny.yaml, defined in Python."""
    values: dict[str, Any] = {
        "name": "defined",
        "data": IrisDataModule(batch_size=5),
        "model": partial(MLP, inputs=4, neurons=8),
        "optimizer": Adam(initial_lr=1e-2),
        "trainer": {"max_epochs": 1},
        "search_space": {"optimizer.initial_lr": {"low": 1e-3, "high": 3e-2, "log": True}},
    }
    return Study(**values | changes)


def test_objects_classes_and_functions_become_the_names_and_values_of_a_file():
    study = defined(
        optimizer=partial(torch.optim.NAdam, lr=np.float64(0.01), betas=(0.9, 0.99)),
        model={"name": Net, "width": np.int64(6)},
        schedule=Warmup(steps=10, schedule=CosineDecay(decay_steps=80)),
        averaging=EMA(decay=0.9),
        sampler="random",
        search_space={
            "schedule": {
                "one_of": [
                    Constant,
                    partial(CosineDecay, decay_steps="50%"),
                    {"name": "cosine_restarts", "restart_period": 9},
                ]
            }
        },
    )
    values = yaml.safe_load(study.to_yaml())
    assert values["trial"] == {
        "model": {"name": "tests.test_api:Net", "width": 6},
        "data": {"name": "iris"},
        "optimizer": {"name": "torch.optim:NAdam", "betas": [0.9, 0.99], "initial_lr": 0.01},
        "schedule": {"name": "warmup", "steps": 10, "schedule": {"name": "cosine", "decay_steps": 80}},
        "averaging": {"name": "ema", "decay": 0.9},
        "trainer": {"max_epochs": 1},
    }
    assert values["search_space"]["schedule"]["one_of"] == {
        "constant": {},
        "cosine": {"decay_steps": "50%"},
        "cosine_restarts": {"restart_period": 9},
    }


def test_a_study_in_python_is_the_study_of_its_file(tmp_path: Path):
    study = defined()
    study.to_yaml(tmp_path / "defined.yaml")
    read, written = load_study(str(tmp_path / "defined.yaml")), load_study(str(TINY))
    assert read.identity == study._load(()).identity
    assert read.trial == study._load(()).trial
    again = Study(read_document(TINY).data | {"name": "tiny"})._load(())
    assert again.identity == written.identity
    assert again.values == written.values


def test_text_that_looks_like_a_number_stays_text_in_the_file():
    values = yaml.safe_load(as_yaml({"a": "1e-3", "b": "010", "c": "no", "d": 1e-3}, compact=True))
    assert values == {"a": "1e-3", "b": "010", "c": "no", "d": 1e-3}
    assert as_document("Study", {"a": "1e-3", "b": 1e-3, "c": "null", "d": None}).data == {
        "a": "1e-3",
        "b": 1e-3,
        "c": "null",
        "d": None,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": partial(MLP, inputs=4, neuron=8)}, "Study: trial.model.neuron: mlp has no argument neuron. Did you"),
        ({"trainer": {"max_epochs": math.inf}}, "Study: trial.trainer.max_epochs: must be finite (got .inf)."),
        ({"trainer": {"max_epochs": object()}}, "Study: trial.trainer.max_epochs: must be a number, text, true"),
        ({"model": partial(Net, 4)}, "Study: trial.model: pass the arguments of Net by name (got (4,))."),
        ({"model": 3}, "Study: trial.model: must be a class, a function, an object, or a name (got 3)."),
        ({"model": Classifier(nn.Linear(4, 3), SGD(initial_lr=0.1))}, "give the class of a LightningModule"),
        ({"search_space": {"model.width": {"low": 1}}}, "Study: search_space.model.width: mlp has no argument width."),
        ({"name": "a/b"}, 'Study: name: "a/b" is not a valid name.'),
        ({"source": TINY}, "these come from the study file; use overrides to change them"),
        ({"overrides": "trial.seed=1"}, "Study: overrides: must be a list"),
    ],
)
def test_bad_input_in_python_gets_the_sentences_of_a_file(changes: dict[str, Any], message: str):
    with pytest.raises(BadInputError) as caught:
        defined(**changes)
    assert message in str(caught.value)
    assert message in "".join(caught.value._render_traceback_())


def test_what_cannot_be_sent_is_refused_with_the_reason():
    lock = threading.Lock()

    class Locked(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 3)
            lock.acquire(blocking=False)

    with pytest.raises(BadInputError, match=r"trial\.model: tests\.test_api:Locked cannot be sent"):
        defined(model=Locked)


def test_the_options_of_run_are_those_of_the_command():
    parameters = inspect.signature(Study.run).parameters
    options = [each for each in dataclasses.fields(StudyOptions) if "argument" in each.metadata or each.name == "quiet"]
    fields = {each.name: each.default for each in options if each.name not in ("study", "set", "timings")}
    assert {name: each.default for name, each in parameters.items() if name not in ("self", "callbacks")} == fields


def test_every_chart_has_a_method():
    names = {"plot_lr" if plot.__name__ == "lr_curves" else f"plot_{plot.__name__}" for plot in {*PLOTS, *OF_SEVERAL}}
    assert names == {name for name in dir(Result) if name.startswith("plot_")}


def test_the_size_of_much_that_is_sent_by_value_is_said():
    table = bytes(12_000_000)

    def objective(trial: Any) -> int:
        return len(table)

    study = Study(objective_function=objective, search_space={"lr": [1, 2]}, direction="minimize", sampler="random")
    assert "; with the objects that it refers to, 12 MB for each run" in study.to_yaml().replace("\n#", "")


def test_a_class_without_a_module_is_sent_by_value_and_kept(here: StudyFolder):

    class Local(nn.Sequential):
        def __init__(self, width: int = 4) -> None:
            super().__init__(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))

    seen: list[tuple[int, str]] = []
    study = defined(model=Local, search_space={"model.width": [3, 5]})
    assert "Local cannot be imported from a module, so each training process gets a copy of it" in study.to_yaml()

    def stop_after_one(study: Study, trial: Any) -> None:
        seen.append((trial.number, trial.state.name))
        study.stop()

    first = study.run(trials=3, devices="cpu", per_device=1, review=False, quiet=True, callbacks=[stop_after_one])
    assert seen == [(0, "COMPLETE")]
    assert len(first.trials) == 1
    by_value._held.clear()  # as in a later session
    by_value._found.clear()
    result = Study.load("defined").run(trials=3, engine="inline", review=False, quiet=True, rehearse=False)
    assert list(result.trials.state) == ["complete"] * 3
    assert result.best is not None
    shown = repr(result.best)
    assert shown.startswith(f"Best(#{result.best.number}: val/acc {result.best.value:.4f} in one trial, ")
    assert "test/acc" in shown
    assert len(shown) < 250, "and not the whole configuration"
    model = result.best_model()
    assert type(model).__name__ == "Local"
    assert not model.training
    assert result.best.config["model"]["name"] == "tests.test_api:Local"
    assert [trial.params for trial in result.optuna_study.trials] == [trial.params for trial in result.record.trials]
    html = result._repr_html_()
    assert "<table>" in html
    assert "model.width" in html
    assert result.plot_values_by_family()._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(BadInputError, match="importance: nothing to draw"):
        result.plot_importance()
    assert repr(Study.load("defined").result()) == repr(result)
    with pytest.raises(BadInputError, match="Local was sent to the training processes by value: a training script can"):
        result.export()


def test_a_network_that_is_an_object_begins_every_trial_as_it_is(here: StudyFolder):
    network = Net()
    study = defined(model=network, search_space={"seed": [0, 1]}, optimizer=SGD(initial_lr=1e-30))
    result = study.run(trials=2, engine="inline", review=False, quiet=True, rehearse=False)
    assert result.best is not None
    assert result.best.config["model"] == {"name": "tests.test_api:Net()"}
    for mine, trained in zip(network.parameters(), result.best_model().parameters(), strict=True):
        assert torch.equal(mine, trained)


def test_everything_that_python_can_say_is_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    study = Study(
        name="everything",
        data=IrisDataModule(batch_size=20, drop_last=True),
        model=partial(MLP, inputs=4, neurons=8),
        optimizer=Adam(initial_lr=1e-2),
        schedule=partial(WarmupStableDecay, warmup_steps="10%", decay_steps="20%", total_steps="100%"),
        momentum_schedule=partial(Rex, decay_steps="100%"),
        groups={"biases": ParameterGroup(parameters="*.bias", optimizer=Adam(initial_lr=1e-3))},
        averaging=EMA(decay=0.9),
        loss=CrossEntropy(label_smoothing=0.1),
        trainer={"max_epochs": 4, "max_time": "1h", "callbacks": [partial(EarlyStopping, monitor="val/loss")]},
        seed=3,
        search_space={
            "loss": {"one_of": [CrossEntropy(class_weights=(1, 2, 1)), OneHotSquaredError]},
            "schedule": {"one_of": {WarmupStableDecay: None, Rex: {"beta": {"low": 0.5, "high": 2}}}},
            "optimizer.initial_lr": {"low": 1e-3, "high": 3e-2, "log": True, "prior": {"center": 1e-2, "width": 2}},
            "trainer.callbacks.0.patience": [1, 2],
        },
        objective={"metric": "val/loss", "direction": "minimize", "epoch": "best"},
        budget={"epochs": 100},
        sampler="random",
        pruner={"name": "rungs", "epochs": [1]},
        final={"trials": 1, "seeds": 3},
        enqueue=[{"optimizer.initial_lr": 5e-3}],
        constraints=["schedule.warmup_steps < 0.2 * steps"],
    )
    text = study.to_yaml(tmp_path / "everything.yaml")
    assert not text.startswith("#")
    config, again = study._load(()), load_study("everything.yaml")
    assert again == dataclasses.replace(config, text=again.text)
    assert again.identity == config.identity


def test_an_error_of_a_callback_is_raised_and_the_study_can_continue(here: StudyFolder):

    def fails(study: Study, trial: Any) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        defined().run(trials=2, engine="inline", review=False, quiet=True, callbacks=[fails])
    result = defined().run(trials=2, engine="inline", review=False, quiet=True)
    assert list(result.trials.state) == ["complete"] * 2


def test_a_result_is_reported_exported_and_confirmed_and_takes_further_values(here: StudyFolder):
    study = defined()
    options: dict[str, Any] = {"engine": "inline", "review": False, "quiet": True, "rehearse": False}
    study.run(trials=3, **options)
    study.enqueue({"optimizer.initial_lr": 0.0123})
    with pytest.raises(BadInputError, match=r"Study: optimizer\.initial_lr is 5, not in 0\.001 to 0\.03"):
        study.enqueue({"optimizer.initial_lr": 5})
    result = study.run(trials=5, **options)
    rates = [trial.params["optimizer.initial_lr"] for trial in result.record.trials]
    assert [number for number, rate in enumerate(rates) if rate == 0.0123] == [3]
    assert "defined" in result.report("both.html").read_text()
    folder = result.export("mine", trial=1)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "best.yaml",
        "lr.csv",
        "train.py",
        "weights.ckpt",
    ]
    with pytest.raises(BadInputError, match="--output: mine already exists"):
        result.export("mine")
    confirmation = result.confirm(top=1, seeds=2, engine="inline", quiet=True)
    assert list(confirmation.table.seeds) == [2, 2]
    assert confirmation.findings[0] in confirmation._repr_html_()
    assert confirmation.plot()._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(BadInputError, match=r"--seeds: must be from 1 to 1000 \(got 0\)"):
        result.confirm(seeds=0)


def test_a_study_that_was_never_run_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match='no study "nothing" in'):
        Study.load("nothing")
    with pytest.raises(BadInputError):
        defined().result()
    with pytest.raises(BadInputError, match=r"must be the name of a study \(got 5\)"):
        Study.load(5)  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match=r"must be a mapping from dotted paths to values \(got null\)"):
        defined().enqueue(None)  # type: ignore[arg-type]


def test_a_daemonic_process_cannot_run_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    with pytest.raises(BadInputError, match=r"a worker of multiprocessing\.Pool, may not start the processes"):
        defined().run(trials=1, devices="cpu", quiet=True)
    assert list(tmp_path.iterdir()) == []


def kernel_with_imports(command: list[str], *, cwd: str, env: dict[str, str], **options: Any) -> Command:
    """Start the kernel of a notebook from a process that has imported the libraries."""
    arguments = command[command.index("ipykernel_launcher") + 1 :]
    with Path(os.devnull).open("w") as nowhere:
        kernel: Any = Command("ipykernel_launcher", arguments, Path(cwd), env, nowhere.fileno())
    kernel.stdin = kernel.stderr = None
    return kernel


@pytest.mark.parametrize(
    "run",
    [
        "study.run(trials=4, engine='inline', review=False, rehearse=False)",
        pytest.param("study.run(trials=4)", id="as it is", marks=pytest.mark.slow),
    ],
)
def test_the_notebook_of_the_examples_shows_the_progress_the_findings_and_the_curves(
    folder: StudyFolder, run: str, monkeypatch: pytest.MonkeyPatch
):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    provisioner = "jupyter_client.provisioning.local_provisioner"
    if run != "study.run(trials=4)":
        monkeypatch.setattr(f"{provisioner}.launch_kernel", kernel_with_imports)
    notebook = nbformat.read(EXAMPLE, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "clear the outputs before a commit"
    (cell,) = [cell for cell in notebook.cells if cell.source == "result = study.run(trials=4)"]
    cell.source = f"result = {run}"
    folder.prepare()
    os.environ["PYTHONFAULTHANDLER"] = "1"  # a kernel that dies tells nothing else
    nbclient.NotebookClient(
        notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(folder.path)}}
    ).execute()
    shown = {
        kind: " ".join(
            str(output["data"][kind])
            for cell in notebook.cells
            for output in cell.get("outputs", [])
            if kind in output.get("data", {})
        )
        for kind in ("text/html", "text/plain", "image/png")
    }
    assert "val/acc" in shown["text/html"]
    assert "<h4>notebook</h4>" in shown["text/html"]
    assert "MyNetwork(" in shown["text/plain"]
    assert "4/4 trials" in shown["text/plain"], "the progress as it ended"
    assert len(shown["image/png"]) > 10_000


def test_a_notebook_shows_an_error_of_the_tuner_as_one_message():
    assert BadInputError(["a", "b"])._render_traceback_() == ["BadInputError: a\nb"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"devices": 0}, "--devices: must be text (got 0)."),
        ({"devices": [0, 1]}, "--devices: must be text (got [0, 1])."),
        ({"per_device": "2", "trials": 2.0}, '--per-device: must be a whole number or None (got "2").'),
        ({"per_device": True}, "--per-device: must be a whole number or None (got true)."),
        ({"storage": Path("x.db")}, "--storage: must be text or None (got "),
        ({"start_from": "f1"}, '--start-from: must be a list, each text (got "f1").'),
        ({"checkpoint_every": None}, "--checkpoint-every: must be text or a number (got null)."),
        ({"review": "no"}, '--review: must be True or False (got "no").'),
        ({"callbacks": print}, 'callbacks: must be a list of functions (got "<built-in function print>").'),
    ],
)
def test_a_value_of_another_type_is_refused_before_anything_starts(
    given: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match=re.escape(message)):
        Study(str(TINY)).run(**given)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("source", [5, ["tiny"]])
def test_a_study_that_is_neither_a_file_nor_a_mapping_is_refused(source: Any):
    with pytest.raises(BadInputError, match=r"^Study: must be a study file, or a mapping with its sections \(got "):
        Study(source)


def test_an_unknown_keyword_is_refused_with_the_one_that_is_meant():
    with pytest.raises(
        TypeError, match=r"^Study.__init__\(\) has no argument 'serch_space'. Did you mean search_space\?$"
    ):
        Study(serch_space={})  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"^Study.run\(\) has no argument 'trails'. Did you mean trials\?$"):
        Study(str(TINY)).run(trails=3)  # type: ignore[call-arg]
    assert "search_space" in inspect.signature(Study).parameters
