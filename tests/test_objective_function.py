"""Studies of an objective function: what is not a training run is asked, called, interrupted, recorded and reported."""

import io
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tests.launcher import output_of
from tests.processes import slots_of
from tests.studies import INLINE, StudyFolder, built_once
from tests.test_schema import VALIDATOR
from tuner import Study, Trial, TrialPruned
from tuner.config.loader import load_study
from tuner.config.yaml_reader import read_document
from tuner.confirm import main as confirm
from tuner.delete import main as delete
from tuner.errors import BadInputError
from tuner.export import main as export
from tuner.league import main as league
from tuner.list import main as list_studies
from tuner.preview import main as preview
from tuner.range import main as lr_range
from tuner.replay import main as replay
from tuner.report import main as report
from tuner.results import Result
from tuner.retry import main as retry
from tuner.runner.display import Display, Part
from tuner.show import main as show

DOCS = Path(__file__).parent.parent / "docs"
API_PAGE, FILE_PAGE = DOCS / "api-tuner.md", DOCS / "study-file.md"

OWN = """\
import contextlib
import os
import random
import threading
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
    if not (trial.folder / "latest").is_symlink():
        (trial.folder / "latest").symlink_to("nowhere")  # it has no content that could be stored
    return value


def threads(trial):
    def report(first):
        for step in range(first, 200, 20):
            with contextlib.suppress(ValueError):  # another thread has reported a later step
                trial.report(1.0, step)

    running = [threading.Thread(target=report, args=(first,)) for first in range(20)]
    for each in running:
        each.start()
    for each in running:
        each.join()
    trial.params["x"] = 99
    return trial["x"]


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


def test_the_final_part_of_a_study_of_a_function_counts_calls(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder.path)
    output, now = io.StringIO(), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    config = load_study(written(folder, "noisy"))
    display = Display(config, Console(file=output), part=Part(9, 12, 1, "trials"))
    display.standing(1, 0, None)
    now[0] = 60.0
    display.tick()
    assert output.getvalue().startswith("10/12 trials, 1 final call done, ")


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
        (replay, ["bowl"], "replay repeats a training run"),
        (export, ["bowl"], "export writes a trained network"),
        (confirm, ["bowl", "--epochs", "3", *INLINE], "--epochs and --lrs change training runs"),
        (lambda words: lr_range([*words[:1], "--per-device", "1"]), ["bowl.yaml"], "range trains a network"),
        (lambda words: preview(words[:1]), ["bowl.yaml"], "preview draws lr schedules"),
        (league, ["bowl.yaml", *INLINE], "a league compares training runs"),
    ],
)
def test_what_needs_a_training_refuses_a_function(
    bowl: StudyFolder, command: Callable[[list[str]], int], arguments: list[str], message: str
):
    output = bowl.command(command, *arguments, expect=2)
    assert f'{message}, but study "bowl" calls an objective function.' in output
    assert "Traceback" not in output


def test_options_of_trainings_are_refused(bowl: StudyFolder):
    divided = bowl.run("--devices-per-trial", "2", "--per-device", "1", study="bowl.yaml", expect=2)
    assert "--devices-per-trial: an objective function is called in one process, not in 2." in divided
    fused = bowl.call("--fuse", "2", study="bowl.yaml", expect=2)
    assert "--fuse: these trials are trained one by one: an objective function is called for one trial" in fused
    assert "no errors found: the function is not called before" in bowl.call("--dry-run", study="bowl.yaml")


def test_threads_report_one_after_the_other_and_values_cannot_be_changed(folder: StudyFolder):
    written(folder, "threads", 2)
    output = folder.run("--per-device", "1", study="threads.yaml")
    assert "2 complete" in output
    assert "is called again" not in output
    values = folder.optuna("select value, param_value from trial_values join trial_params using (trial_id)")
    assert all(value == pytest.approx(param) for value, param in values)


def test_fresh_seeds_confirm_the_best(folder: StudyFolder):
    file = written(folder, "noisy", 4, further="pruner: {name: median}\n")
    assert folder.call(study=file).count("reported nothing, so the median pruner cannot stop it") == 1
    output = folder.command(confirm, "noisy", "--top", "2", "--seeds", "3", *INLINE)
    assert "2 configurations of study noisy, 3 fresh seeds each: 6 calls" in output
    best = result_of(folder, "noisy").best
    assert best is not None
    assert re.search(rf"The answer is #{best.number}: |^#{best.number} has the best mean: loss ", output, re.MULTILINE)
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
    assert "stopping after the current steps" in output
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


def test_the_example_of_the_page_runs(folder: StudyFolder):
    (section,) = re.findall(r"^## An objective function\n(.*?)^## ", API_PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    folder.prepare()
    quick = "study.run(trials=4, review=False, quiet=True, engine='inline')"
    assert "study.run(trials=20)" in code
    output = output_of(code.replace("study.run(trials=20)", quick), folder.path)
    assert re.search(r"{'lr': .*, 'momentum': .*} \d", output), output


def test_the_file_of_the_page_is_valid(folder: StudyFolder):
    (text,) = re.findall(r"```yaml\n(objective: {metric: loss.*?)```", FILE_PAGE.read_text(), re.DOTALL)
    (folder.path / "my_module.py").write_text("def objective(trial):\n    return trial['lr']\n")
    (folder.path / "mine.yaml").write_text(text)
    assert "no errors found" in folder.call("--dry-run", study="mine.yaml")
    assert not list(VALIDATOR.iter_errors(read_document(folder.path / "mine.yaml").data))
    wrong = {"trial": {"objective_function": "f"}, "search_space": {"lr": {"low": 1}}}
    assert {".".join(map(str, each.path)) for each in VALIDATOR.iter_errors(wrong)} == {
        "trial.objective_function",
        "search_space.lr",
    }


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
