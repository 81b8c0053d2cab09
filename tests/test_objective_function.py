"""Studies of an objective function: what is no training is asked, called, interrupted, recorded and reported."""

import json
import math
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch

from tests.conftest import INLINE, StudyFolder, built_once
from tests.launcher import output_of
from tests.processes import slots_of
from tests.test_training import Answers
from tuner import Study, Trial, TrialPruned
from tuner.config.loader import load_study
from tuner.config.study import Objective
from tuner.confirm import main as confirm
from tuner.delete import main as delete
from tuner.direction import Direction
from tuner.errors import BadInputError
from tuner.export import main as export
from tuner.league import main as league
from tuner.list import main as list_studies
from tuner.preview import main as preview
from tuner.protocol import Assignment, TrainingGroup, TrialResult
from tuner.range import main as lr_range
from tuner.replay import main as replay
from tuner.report import main as report
from tuner.results import Result
from tuner.retry import main as retry
from tuner.show import main as show
from tuner.training.run import run

OWN = """\
import os
import random
import time
from pathlib import Path

from tuner import TrialPruned


def bowl(trial, center=0.25):
    value = (trial["x"] - center) ** 2 + trial.params["shift"]
    for epoch in range(1, 4):
        trial.report(value + 1 / epoch, epoch)
        trial.log({"twice": 2 * value}, epoch)
        if trial.should_prune():
            raise TrialPruned
    (trial.folder / "note.txt").write_text(f"x was {trial['x']}")
    return value


def fails(trial):
    if trial["x"] > 0.5 and not Path("mended").exists():
        raise ValueError("x is too large")
    return trial["x"]


def waits(trial):
    with (trial.folder / "calls").open("a") as file:
        file.write(f"{os.getpid()}\\n")
    trial.report(trial["x"], 0)
    while trial.number == 1 and Path("hold").exists():
        time.sleep(0.01)
    trial.report(trial["x"] / 2, 1)
    return trial["x"] / 4


def noisy(trial):
    return trial["x"] + random.gauss(0, 0.01)


def two(trial):
    return {"speed": trial["x"] ** 2, "cost": (trial["x"] - 1) ** 2}
"""

STUDY = """\
name: {name}
objective: {{metric: loss, direction: minimize}}
budget: {{trials: {trials}}}
sampler: {{name: random, seed: 2}}
trial: {{objective_function: 'own:{name}'{more}}}
search_space:
  x: {{low: 0.0, high: 1.0}}
"""


def written(folder: StudyFolder, name: str, trials: int = 4, more: str = "", further: str = "") -> str:
    """Write the module and a study of one of its functions; return the name of the file."""
    (folder.path / "own.py").write_text(OWN)
    (folder.path / f"{name}.yaml").write_text(STUDY.format(name=name, trials=trials, more=more) + further)
    return f"{name}.yaml"


@pytest.fixture(scope="module")
def bowl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyFolder]:
    """Return a folder with a finished study of the function `bowl`, of which some trials were pruned."""

    def build(folder: StudyFolder) -> str:
        file = written(folder, "bowl", 9, ", shift: 1", "pruner: {name: median, n_startup_trials: 3}\n")
        return folder.run("--per-device", "1", study=file)

    with built_once("objective-function", build, tmp_path_factory) as folder:
        yield folder


def result_of(folder: StudyFolder, name: str) -> Result:
    return Result(name, f"sqlite:///{folder.path}/optuna.db", f"sqlite:///{folder.path}/mlflow.db")


# -- a whole study -----------------------------------------------------------------------------------------------------


def test_a_study_of_a_function_ends_with_its_best_values(bowl: StudyFolder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(bowl.path)
    result, output = result_of(bowl, "bowl"), bowl.output  # type: ignore[attr-defined]
    trials = result.trials
    assert set(trials.state) == {"complete", "pruned"}
    complete = trials[trials.state == "complete"]
    assert np.allclose(complete.value, (complete.x - 0.25) ** 2 + 1)
    assert set(complete.reports) == {3}
    best = result.best
    assert best is not None
    assert best.value == complete.value.min()
    assert best.config == {"objective_function": {"name": "own:bowl"}, "x": best.params["x"], "shift": 1, "seed": 0}
    assert best.weights is None
    assert f"The best is #{best.number}, loss {best.value:.4f}" in output
    assert re.search(rf"^#{best.number} +complete +loss +{best.value:.4f} +x 0\.\d+, shift 1 +\d s$", output, re.M)
    for word in ("schedule", "constant", "lr ", "weights", "tested", "export", "epoch"):
        assert word not in output.partition("MLflow: ")[2], word
    assert all(word not in " ".join(result.findings) for word in ("schedule", "constant", "epoch", "train"))
    assert "<th" in result._repr_html_()
    assert "schedule" not in result._repr_html_()
    assert result.plot_intermediate_values()._repr_png_().startswith(b"\x89PNG")
    for plot in (result.plot_lr, result.plot_winner, result.plot_values_by_family):
        with pytest.raises(BadInputError, match="the trials are calls of an objective function, without an lr"):
            plot()


def test_mlflow_has_values_reports_metrics_and_files(bowl: StudyFolder):
    trials = result_of(bowl, "bowl").trials
    curves: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for number, key, step, value in bowl.curves():
        curves.setdefault((number, key), []).append((step, value))
    params = {(number, key): value for number, key, value in bowl.described()}
    for number, row in trials.iterrows():
        reported = 3 if row.state == "complete" else row.reports
        final = [(4, row.value)] if row.state == "complete" else []
        value = (row.x - 0.25) ** 2 + 1
        expected = [(epoch, value + 1 / epoch) for epoch in range(1, reported + 1)]
        assert np.allclose(curves[str(number), "loss"], expected + final)
        assert np.allclose(curves[str(number), "twice"], [(epoch, 2 * value) for epoch, _ in expected])
        assert params[str(number), "objective_function.name"] == "own:bowl"
        assert (params[str(number), "shift"], params[str(number), "seed"]) == ("1", "0")
        assert float(params[str(number), "x"]) == row.x
    names = dict(bowl.mlflow("select t.value, name from runs join tags t using (run_uuid) where t.key='tuner.trial'"))
    assert names["0"] == f"#0 {trials.value[0]:.4f}"
    notes = [path.read_text() for path in bowl.path.glob("mlartifacts/**/note.txt")]
    notes += [path.read_text() for path in bowl.path.glob("mlruns/**/note.txt")]
    assert sorted(notes) == sorted(f"x was {x}" for x in trials[trials.state == "complete"].x)
    assert not bowl.mlflow("select * from model_versions"), "there is no network"
    assert not bowl.mlflow("select * from inputs"), "there is no data set"


def test_the_commands_know_the_study(bowl: StudyFolder, tmp_path: Path):
    (best,) = result_of(bowl, "bowl").best_trials
    listed = bowl.command(lambda words: list_studies(words[:2]))
    assert f"#{best.number}" in listed
    shown = bowl.command(lambda words: show(words[:3]), "bowl")
    assert f"The best is #{best.number}, loss {best.value:.4f}" in shown
    page = Path(bowl.command(report, "bowl", "--output", str(tmp_path / "report.html")).strip()).read_text()
    assert 'data-plot="intermediate_values"' in page
    assert 'data-plot="lr_curves"' not in page
    assert "<th>schedule</th>" not in page
    assert "objective_function" in page


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (replay, ["bowl"], "replay repeats a training"),
        (export, ["bowl"], "export writes a trained network"),
        (confirm, ["bowl", "--epochs", "3", *INLINE], "--epochs and --lrs change trainings"),
        (lambda words: lr_range([*words[:1], "--per-device", "1"]), ["bowl.yaml"], "range trains a network"),
        (lambda words: preview(words[:1]), ["bowl.yaml"], "preview draws lr schedules"),
        (league, ["bowl.yaml", *INLINE], "a league compares trainings"),
    ],
)
def test_what_needs_a_training_refuses_a_function(
    bowl: StudyFolder, command: Callable[[list[str]], int], arguments: list[str], message: str
):
    output = bowl.command(command, *arguments, expect=2)
    assert f'{message}, and study "bowl" calls an objective function.' in output
    assert "Traceback" not in output


def test_options_of_trainings_are_refused(bowl: StudyFolder):
    divided = bowl.run("--devices-per-trial", "2", "--per-device", "1", study="bowl.yaml", expect=2)
    assert "--devices-per-trial: an objective function is called in one process, not in 2." in divided
    fused = bowl.call("--fuse", "2", study="bowl.yaml", expect=2)
    assert "--fuse: these trials are trained one by one: an objective function is called for one trial" in fused
    assert "nothing wrong: the first trial calls the function" in bowl.call("--dry-run", study="bowl.yaml")


def test_fresh_seeds_confirm_the_best(folder: StudyFolder):
    file = written(folder, "noisy", 4)
    folder.call(study=file)
    output = folder.command(confirm, "noisy", "--top", "2", "--seeds", "3", *INLINE)
    assert "2 configurations of study noisy, 3 fresh seeds each: 6 calls" in output
    best = result_of(folder, "noisy").best
    assert best is not None
    assert f"The winner is #{best.number}: loss " in output
    seeds = folder.mlflow("select distinct value from params where key = 'seed'")
    assert len(seeds) == 4, "0 and three fresh ones"
    values = {value for (value,) in folder.optuna("select value from trial_values")}
    assert len(values) == 10, "each seed has a noise of its own"


# -- disturbances ------------------------------------------------------------------------------------------------------


def test_a_killed_and_interrupted_study_calls_each_trial_again(folder: StudyFolder):
    (folder.path / "hold").touch()
    file = written(folder, "waits", 3)
    process = folder.start("--per-device", "1", study=file)
    calls = [folder.path / f".tuner/waits/trials-*/{number}/artifacts/calls" for number in range(3)]

    def called(number: int) -> list[str]:
        pattern = str(calls[number].relative_to(folder.path))
        return [line for path in folder.path.glob(pattern) for line in path.read_text().splitlines()]

    reported = "select count(*) from trial_intermediate_values join trials using (trial_id) where number = 1"
    folder.wait_for(lambda: folder.optuna(reported) == [(1,)], process)
    (slot,) = slots_of(process.pid)
    os.kill(slot, signal.SIGKILL)
    folder.wait_for(lambda: len(called(1)) == 2, process)
    os.kill(process.pid, signal.SIGINT)
    (folder.path / "hold").unlink()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT, output
    assert re.search("trial #1 .*; it is called again", output), output
    assert "ending after the running steps" in output
    assert folder.optuna("select number, state from trials order by 1") == [(0, "COMPLETE"), (1, "WAITING")]
    folder.run("--per-device", "1", study=file)
    assert [len(called(number)) for number in range(3)] == [1, 3, 1]
    assert {state for (state,) in folder.optuna("select state from trials")} == {"COMPLETE"}
    trials = result_of(folder, "waits").trials
    assert np.allclose(trials.value, trials.x / 4)
    points = [point[:3] for point in folder.curves()]
    assert len(points) == len(set(points)) == 9
    runs = folder.mlflow("select value, status from runs join tags using (run_uuid) where key = 'tuner.trial'")
    assert sorted(runs) == [(str(number), "FINISHED") for number in range(3)]


def test_a_failed_call_says_where_and_is_retried(folder: StudyFolder):
    file = written(folder, "fails", 6)
    output = folder.call(study=file)
    states = [state for (state,) in folder.optuna("select state from trials order by number")]
    assert 0 < states.count("FAIL") < 6
    line = OWN.splitlines().index('        raise ValueError("x is too large")') + 1
    assert f"failed: ValueError: x is too large (own.py, line {line}, in fails: raise ValueError(" in output
    (folder.path / "mended").touch()
    folder.command(lambda words: retry([*words, *INLINE]), "fails")
    assert {state for (state,) in folder.optuna("select state from trials")} == {"COMPLETE"}
    trials = result_of(folder, "fails").trials
    assert (trials.value == trials.x).all()
    folder.command(lambda words: delete([*words[:3], "--yes"]), "fails")
    assert not folder.optuna("select * from studies")


# -- from Python -------------------------------------------------------------------------------------------------------

NOTEBOOK = """\
from tuner import Study, TrialPruned

offset = 3.0

def objective(trial):
    value = offset
    for step in range(3):
        value = offset + trial["lr"] * trial["layers"] / (step + 1)
        trial.report(value, step)
        if trial.should_prune():
            raise TrialPruned
    return value

if __name__ == "__main__":
    study = Study(
        objective_function=objective,
        search_space={"lr": {"low": 1e-4, "high": 1, "log": True}, "optimizer": ["adam", "sgd"]},
        params={"layers": 2, "lr": 0.5},
        direction="minimize",
        constraints=["lr < 0.9 or optimizer == 'adam'"],
        sampler="random",
    )
    study.enqueue({"lr": 0.25, "optimizer": "sgd"})
    result = study.run(trials=3, per_device=1, review=False, quiet=True)
    print(study.name, list(result.trials.state), list(result.trials.lr))
    again = Study.load("objective").run(trials=4, engine="inline", review=False, quiet=True)
    print(result.best.value == 3 + 2 * result.best.params["lr"] / 3, len(again.trials))
"""


def test_a_function_of_main_is_sent_by_value_and_kept(folder: StudyFolder):
    folder.prepare()
    first, second = output_of(NOTEBOOK, folder.path).splitlines()
    rates = json.loads(first.partition("] ")[2])
    assert first.startswith("objective ['complete', 'complete', 'complete']")
    assert rates[0] == 0.5, "the value in params is that of the first trial"
    assert 0.25 in rates
    assert second == "True 4"


def test_python_says_what_the_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "bowl.yaml").write_text(STUDY.format(name="bowl", trials=4, more=", shift: 1"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    from own import bowl  # type: ignore[import-not-found]

    study = Study(
        name="bowl",
        objective_function=bowl,
        params={"shift": 1},
        objective={"metric": "loss"},
        direction="minimize",
        budget={"trials": 4},
        sampler={"name": "random", "seed": 2},
        search_space={"x": {"low": 0.0, "high": 1.0}},
    )
    written = load_study("bowl.yaml")
    assert study._load(()).identity == written.identity
    assert study._load(()).trial == written.trial
    study.to_yaml("again.yaml")
    assert load_study("again.yaml").identity == written.identity
    assert "objective_function: 'own:bowl'" in Path("again.yaml").read_text()
    partly = Study(objective_function=partial(bowl, center=0.5), search_space={"x": [0, 1]}, direction="minimize")
    assert partly.name == "bowl"
    assert "objective_function: {name: 'own:bowl', center: 0.5}" in partly.to_yaml()


# -- one call ----------------------------------------------------------------------------------------------------------


def called(
    function: Callable[[Trial], Any],
    tmp_path: Path,
    *answers: Any,
    metrics: Sequence[str] = ("value",),
    params: Mapping[str, Any] = {"x": 0.5},
    seed: int = 0,
) -> TrialResult:
    """Call a function as a slot does, and return the result."""
    study = Study(objective_function=function, params=params, direction="minimize", seed=seed)
    config = study._load(())
    first, *further = (Objective(metric, Direction.MINIMIZE) for metric in metrics)
    assignment = Assignment(7, config.trial_of(config.trial), first, tmp_path / "7", further)
    (result,) = run(TrainingGroup((assignment,)), Answers(*answers))
    assert isinstance(result, TrialResult)
    assert (result.state == "interrupted") != (tmp_path / "7" / "result.json").exists()
    return result


@pytest.mark.parametrize(
    "returned", [2, 2.0, np.float32(2), np.int64(2), torch.tensor(2.0), np.array(2.0), Fraction(2), {"value": 2}]
)
def test_numbers_of_every_library_are_values(tmp_path: Path, returned: Any):
    result = called(lambda trial: returned, tmp_path)
    assert (result.state, result.value, result.points) == ("complete", 2.0, [("value", 0, 2.0)])


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "what the function returned: must be a number, but got None (tests/test_objective_function.py"),
        ("0.5", "must be a number, but got '0.5'"),
        (True, "must be a number, but got True"),
        (np.bool_(True), "must be a number, but got"),
        (1j, "must be a number, but got 1j"),
        (np.array([1.0, 2.0]), "must be a number, but got array([1., 2.])"),
        ([1.0, 2.0], "must be a number, but got [1.0, 2.0]"),
        ({"loss": 1.0}, "the function must return value, but returned a mapping of loss"),
    ],
)  # fmt: skip
def test_what_is_no_number_fails_with_the_place_of_the_function(tmp_path: Path, returned: Any, message: str):
    result = called(lambda trial: returned, tmp_path)
    assert (result.state, result.value) == ("failed", None)
    assert message.removesuffix(" (tests/test_objective_function.py") in result.message
    assert re.search(r"test_objective_function\.py, line \d+, <lambda>\)", result.message)


@pytest.mark.parametrize("returned", [math.nan, math.inf, -math.inf, 10**400])
def test_a_value_that_is_not_finite_has_diverged(tmp_path: Path, returned: float):
    result = called(lambda trial: returned, tmp_path)
    assert result.state == "diverged"
    assert result.message.startswith("value was not finite: the function returned ")
    assert result.diverged_at == 0
    reported = called(lambda trial: trial.report(returned, 3), tmp_path)
    assert (reported.state, reported.message) == ("diverged", "value was not finite at step 3")


def reports(*pairs: tuple[Any, Any], then: Any = 1.0) -> Callable[[Trial], Any]:
    def function(trial: Trial) -> Any:
        for value, step in pairs:
            trial.report(value, step)
        return then

    return function


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([(1, 1), (2, 1)], "ValueError: report: step must be above the last one (1), but got 1"),
        ([(1, 3), (2, 2)], "ValueError: report: step must be above the last one (3), but got 2"),
        ([(1, -1)], "ValueError: report: step must be a whole number, 0 or above, but got -1"),
        ([(1, 0.5)], "TypeError: report: step must be a whole number, 0 or above, but got 0.5"),
        ([("a", 1)], "TypeError: report: must be a number, but got 'a'"),
        ([(None, 1)], "TypeError: report: must be a number, but got None"),
    ],
)  # fmt: skip
def test_a_report_that_cannot_be_fails_where_it_is_made(tmp_path: Path, pairs: list[Any], message: str):
    result = called(reports(*pairs), tmp_path)
    assert result.state == "failed"
    assert message in result.message
    assert re.search(r"_function\.py, line \d+, in function: trial\.report\(value, step\)", result.message)
    assert message in result.traceback


def test_the_final_value_follows_the_reports_unless_it_is_the_last_one(tmp_path: Path):
    same = called(reports((3, 1), (2, 4), then=2.0), tmp_path)
    assert same.points == [("value", 1, 3.0), ("value", 4, 2.0)]
    other = called(reports((3, 1), (2, 4), then=1.5), tmp_path)
    assert other.points[-1] == ("value", 5, 1.5)
    assert (other.value, other.epochs) == (1.5, 2)


@pytest.mark.parametrize("error", [TrialPruned, optuna.TrialPruned])
def test_a_function_ends_by_the_error_of_either_library(tmp_path: Path, error: type[Exception]):

    def function(trial: Trial) -> float:
        for step in range(1, 5):
            trial.report(step, step)
            if trial.should_prune():
                raise error
        return 0.0

    pruned = called(function, tmp_path, "continue", "prune")
    assert (pruned.state, pruned.value, pruned.epochs, pruned.message) == ("pruned", 2.0, 2, "")
    assert called(function, tmp_path).state == "complete"


def test_a_function_that_goes_on_is_complete(tmp_path: Path):
    result = called(reports((3, 1), (2, 2)), tmp_path, "prune", "prune")
    assert (result.state, result.value) == ("complete", 1.0)


def test_the_end_of_a_study_ends_the_function_at_its_next_report(tmp_path: Path):
    seen = []

    def function(trial: Trial) -> float:
        try:
            for step in range(9):
                seen.append(step)
                trial.report(step, step)
        except Exception:
            seen.append(-1)
        return 0.0

    assert called(function, tmp_path, "continue", "stop").state == "interrupted"
    assert seen == [0, 1]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ZeroDivisionError("mine"), "ZeroDivisionError: mine"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (torch.OutOfMemoryError("full"), "out of memory with x 0.5: OutOfMemoryError: full"),
    ],
)
def test_an_error_of_the_function_names_its_line(tmp_path: Path, error: BaseException, message: str):

    def function(trial: Trial) -> float:
        raise error

    result = called(function, tmp_path)
    assert (result.state, result.value) == ("failed", None)
    assert result.message.startswith(f"{message} (")
    assert "test_objective_function.py, line" in result.message
    assert ", in function: raise error)" in result.message


def test_a_call_has_its_values_seed_and_folder(tmp_path: Path):
    seen: dict[str, Any] = {}

    def function(trial: Trial) -> float:
        seen.update(trial.params, number=trial.number, seed=trial.seed, device=trial.device, x2=trial["x"])
        (trial.folder / "a.txt").write_text("a")
        trial.log({"a": 1, "b": np.float32(2)})
        trial.log({"a": 3}, 5)
        with pytest.raises(KeyError, match="the trial has no value 'y'; it has hidden, x"):
            trial["y"]
        with pytest.raises(ValueError, match="log: value is an objective: report it, or return it"):
            trial.log({"value": 1})
        with pytest.raises(ValueError, match=r"log: a: step must be above the last one \(5\), but got 5"):
            trial.log({"a": 4}, 5)
        return float(np.random.default_rng(trial.seed).normal() + torch.rand(1).item() + np.random.rand())

    values = {"x": 0.5, "hidden": [4, 4]}
    first = called(function, tmp_path, params=values, seed=3)
    assert seen == {**values, "number": 7, "seed": 3, "device": "cpu", "x2": 0.5}
    assert first.points[:3] == [("a", 0, 1.0), ("b", 0, 2.0), ("a", 5, 3.0)]
    assert (tmp_path / "7" / "artifacts" / "a.txt").exists()
    assert called(function, tmp_path, params=values, seed=3).value == first.value
    assert called(function, tmp_path, params=values, seed=4).value != first.value


@pytest.mark.parametrize("returned", [[1.0, 2], (1, np.float64(2)), {"cost": 2, "speed": 1}])
def test_several_objectives_are_a_list_or_a_mapping(tmp_path: Path, returned: Any):
    result = called(lambda trial: returned, tmp_path, metrics=("speed", "cost"))
    assert (result.state, result.value, list(result.further)) == ("complete", 1.0, [2.0])
    assert result.points == [("speed", 0, 1.0), ("cost", 0, 2.0)]


@pytest.mark.parametrize(
    ("returned", "state", "message"),
    [
        (1.0, "failed", "must return 2 numbers (speed, cost), as a list or a mapping, but returned 1.0"),
        ([1.0], "failed", "must return 2 numbers (speed, cost), as a list or a mapping, but returned 1"),
        ({"speed": 1.0}, "failed", "must return speed, cost, but returned a mapping of speed"),
        ([1.0, None], "failed", "the function returned cost: must be a number, but got None"),
        ([1.0, math.nan], "diverged", "cost was not finite: the function returned nan"),
    ],
)
def test_several_objectives_that_are_wrong(tmp_path: Path, returned: Any, state: str, message: str):
    result = called(lambda trial: returned, tmp_path, metrics=("speed", "cost"))
    assert (result.state, result.value) == (state, None)
    assert message in result.message


def test_a_study_of_several_objectives_has_a_front(folder: StudyFolder):
    file = written(folder, "two", 6)
    text = (folder.path / file).read_text()
    goals = "[{metric: speed, direction: maximize}, {metric: cost, direction: maximize}]"
    (folder.path / file).write_text(text.replace("{metric: loss, direction: minimize}", goals))
    output = folder.call(study=file)
    result = result_of(folder, "two")
    assert len(result.best_trials) == len(result.optuna_study.best_trials)
    assert "the Pareto front: " in output
    assert "export" not in output
    for best in result.best_trials:
        assert best.values == {"speed": best.params["x"] ** 2, "cost": (best.params["x"] - 1) ** 2}


# -- bad input ---------------------------------------------------------------------------------------------------------


def needs_nothing() -> float:
    return 0.0


def only_by_name(*, trial: Trial) -> float:
    return 0.0


def needs_more(trial: Trial, folder: str) -> float:
    return 0.0


def fine(trial: Trial) -> float:
    return 0.0


class Callable_:
    def __call__(self, trial: Trial) -> float:
        return 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": torch.nn.Linear, "trainer": {"max_epochs": 1}},
         "Study: model, trainer: leave out what defines a training: an objective function is the whole trial"),
        ({"objective_function": None}, "Study: params: are values for an objective function; give objective_function"),
        ({"objective_function": needs_nothing}, "the trial as its first argument, but is needs_nothing() -> float."),
        ({"objective_function": only_by_name}, "the trial as its first argument, but is only_by_name(*, trial: "),
        ({"objective_function": needs_more}, "trial.objective_function.folder: required by "),
        ({"objective_function": partial(fine, folder="a")}, "trial.objective_function.folder: "),
        ({"objective_function": Callable_}, "is a class: name a function, or pass an object that can be called."),
        ({"objective_function": 3}, "trial.objective_function: must be a class, a function, an object, or a name"),
        ({"objective_function": "nowhere"}, 'unknown objective_function "nowhere". Write module:name.'),
        ({"objective_function": "tests.test_objective_function.fine"}, "mean tests.test_objective_function:fine?"),
        ({"objective_function": "tests.test_objective_function:fin"}, "Did you mean fine?"),
        ({"direction": None}, "objective.direction: required: minimize or maximize what the function returns."),
        ({"direction": "down"}, "objective.direction: "),
        ({"objective": {"direction": "minimize"}}, "Study: direction: leave it out: each objective has its own"),
        ({"direction": None, "objective": {"direction": "minimize", "epoch": "best"}},
         "objective.epoch: leave it out: the value that counts is what the function returns."),
        ({"direction": None, "objective": [{"direction": "minimize"}, {"direction": "minimize"}]},
         "objective[1].metric: value is an objective already."),
        ({"params": {"a b": 1}}, 'a value has a name of letters, digits and _ that begins with no digit, such as lr'),
        ({"search_space": {"a.b": [1, 2]}}, '(got "a.b")'),
        ({"search_space": {"2": [1, 2]}}, '(got "2")'),
        ({"search_space": {"lr": 3}}, "search_space.lr: must be {low: ..., high: ...}, {choices: [...]} or {one_of"),
        ({"search_space": {"lr": {"low": 2, "high": 1}}}, "search_space.lr: low (2) must be below high (1)."),
        ({"search_space": {"lr": {"one_of": {"a": None}}}}, "search_space.lr.one_of: needs 2 to 1000 choices"),
        ({"params": {"x": {"low": 1, "high": 2}}}, "trial.x: a range belongs in search_space."),
        ({"params": {"model": {"name": "mlp"}}}, "trial.model: leave it out: objective_function is the whole trial"),
        ({"params": {"x": object()}}, "Study: trial.x: must be a number, text, true"),
        ({"params": {"seed": 1}}, "Study: params: seed: give it to Study, not among the values."),
        ({"seed": -1}, "trial.seed: "),
        ({"sampler": "curve"}, "sampler.name: curve reads the lr curves of trainings, which an objective function"),
        ({"pruner": "rungs"}, "pruner.name: rungs interrupts trainings and continues some of them later"),
        ({"pruner": "predicted"}, "pruner.name: predicted reads the loss curves of trainings"),
        ({"pruner": "hyperband"}, "pruner.max_resource: required: the last step that the function reports."),
        ({"budget": {"epochs": 9}}, "budget.epochs: is the length of trainings, and a function has none."),
        ({"budget": {"until": 0.1}}, "budget.until: needs the sampler curve"),
        ({"sampler": "grid"}, "grid needs step or choices for every parameter; lr has neither."),
        ({"constraints": ["lr < steps"]}, "trial has no steps."),
        ({"enqueue": [{"lr": 7}]}, "enqueue[0]: lr is 7, not in 0.0001 to 1 (log)."),
        ({"start": {"studies": ["shipped"]}}, "start.studies: shipped has values of schedules and optimizers"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_starts(changes: dict[str, Any], message: str):
    values: dict[str, Any] = {
        "objective_function": fine,
        "params": {"layers": 2},
        "search_space": {"lr": {"low": 1e-4, "high": 1, "log": True}},
        "direction": "minimize",
    }
    with pytest.raises(BadInputError) as caught:
        Study(**values | changes)
    assert [fault for fault in caught.value.faults if message in fault], caught.value.faults


def test_a_function_that_cannot_be_sent_is_refused():
    lock = time.get_clock_info, __import__("threading").Lock()

    def function(trial: Trial) -> float:
        return float(lock[1].locked())

    with pytest.raises(BadInputError, match=r"trial\.objective_function: .*function cannot be sent to a training"):
        Study(objective_function=function, direction="minimize")


@pytest.mark.parametrize(
    ("sampler", "pruner"),
    [
        ("tpe", {"name": "hyperband", "max_resource": 3}),
        ("gp", {"name": "successive_halving"}),
        ("qmc", {"name": "wilcoxon"}),
        ("grid", {"name": "none"}),
        ("cmaes", {"name": "median"}),
        ("nsga2", {"name": "median"}),
    ],
)
def test_samplers_and_pruners_choose_and_stop_calls(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch, sampler: str, pruner: dict[str, Any]
):
    folder.prepare()
    monkeypatch.chdir(folder.path)

    def function(trial: Trial) -> float:
        for step in range(1, 4):
            trial.report(trial["x"] / step, step)
            if trial.should_prune():
                raise TrialPruned
        return float(trial["x"])

    study = Study(
        name="any",
        objective_function=function,
        search_space={"x": {"low": 0, "high": 10, "step": 2}},
        direction="minimize",
        sampler=sampler,
        pruner=pruner,
    )
    result = study.run(trials=6, engine="inline", review=False, quiet=True)
    assert set(result.trials.state) <= {"complete", "pruned"}
    assert "complete" in set(result.trials.state)
    if sampler == "grid":
        assert sorted(result.trials.x) == [0, 2, 4, 6, 8, 10]
