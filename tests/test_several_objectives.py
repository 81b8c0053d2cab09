"""Studies of several objectives: their Pareto front in Optuna, MLflow, the terminal, the report and Python."""

import contextlib
import dataclasses
import io
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.study import StudyDirection
from optuna.trial import create_trial
from rich.console import Console

from tests.studies import INLINE, StudyFolder, built_once
from tests.test_training import Answers
from tuner.analysis import record as records
from tuner.analysis.pareto import dominates, pareto_front
from tuner.analysis.record import StudyRecord, TrialRecord
from tuner.config.loader import load_study
from tuner.config.objectives import TIME
from tuner.config.study import Objective
from tuner.confirm import main as confirm
from tuner.direction import Direction
from tuner.errors import BadInputError
from tuner.export import main as export
from tuner.league import main as league
from tuner.list import main as list_studies
from tuner.protocol import Assignment, EpochReport, Slot, StepReport, TrainingGroup
from tuner.replay import main as replay
from tuner.report import main as report
from tuner.reporting.page import Chapter, render
from tuner.results import Result
from tuner.runner.display import Display
from tuner.show import main as show
from tuner.text import join_names
from tuner.training.recording import may_be_recorded
from tuner.training.run import run
from tuner.visualization.charts import OF_SEVERAL, draw
from tuner.visualization.landscape import contour, rank
from tuner.visualization.parameters import parallel_coordinates

STUDY = """\
name: two
objective: [{metric: val/acc}, {metric: parameters, direction: minimize}]
budget: {trials: 9}
sampler: {name: tpe, seed: 3, n_startup_trials: 3}
trial:
  data: {name: iris, batch_size: 30}
  model: {name: mlp, inputs: 4, neurons: 8, num_classes: 3}
  optimizer: {name: sgd, initial_lr: 1e-2}
  trainer: {max_epochs: 2, precision: 32-true}
search_space:
  optimizer.initial_lr: {choices: [1e-2, 1e-1, 1e30]}
  model.neurons: {low: 1, high: 32, log: true}
  schedule: {one_of: {constant: {}, cosine: {}}}
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a folder with a finished study of two objectives, of which some trials diverged."""

    def build(folder: StudyFolder) -> str:
        (folder.path / "two.yaml").write_text(STUDY)
        folder.call("--trials", "4", study="two.yaml")
        return folder.call("--review", study="two.yaml")

    with built_once("several-objectives", build, tmp_path_factory) as folder:
        yield folder


def result_of(folder: StudyFolder) -> Result:
    return Result("two", f"sqlite:///{folder.path}/optuna.db", f"sqlite:///{folder.path}/mlflow.db")


POINTS = st.dictionaries(st.integers(0, 30), st.tuples(*[st.integers(0, 4)] * 3), max_size=12)


@given(POINTS)
def test_a_front_has_the_points_that_none_dominates(points: dict[int, tuple[float, ...]]):
    directions = [Direction.MAXIMIZE, Direction.MINIMIZE, Direction.MINIMIZE]
    expected = {
        key for key, point in points.items()
        if not any(dominates(other, point, directions) for other in points.values())
    }  # fmt: skip
    front = pareto_front(points, directions)
    assert set(front) == expected
    assert len(front) == len(expected)
    assert [points[key][0] for key in front] == sorted((points[key][0] for key in front), reverse=True)


def test_the_front_is_optunas_everywhere(two: StudyFolder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(two.path)
    result = result_of(two)
    numbers = [trial.number for trial in result.best_trials]
    assert sorted(numbers) == sorted(trial.number for trial in result.optuna_study.best_trials)
    names = "|".join(f"#{number}" for number in numbers)
    line = two.output.partition("the Pareto front: ")[2].partition(".")[0]  # type: ignore[attr-defined]
    assert re.findall(r"#\d+", line) == names.split("|")
    assert result.findings[0].endswith(f"the Pareto front: {line}.")
    ((tag,),) = two.mlflow("select value from tags where key = 'tuner.pareto_front'")
    assert tag == ", ".join(map(str, numbers))
    assert f"Pareto front {', '.join(names.split('|')[:-1])} and {names.split('|')[-1]}" in repr(result)
    assert f"{line.partition(' ')[0]}" in printed(list_studies)
    shown = printed(show, "two")
    assert line in shown
    rows = re.findall(r"^#(\d+) +\d\.\d+ +[\d.,]+ +(\*?)", shown, re.MULTILINE)
    assert [int(number) for number, star in rows if star] == numbers
    assert len(rows) > len(numbers)
    ends = re.findall(r"^#\d.* complete +val/acc +\d\.\d{4} +parameters \d+ ", two.output, re.MULTILINE)  # type: ignore[attr-defined]
    assert ends, "lines of trials have all objectives"
    page = Path(printed(report, "two", "--tracking-uri", f"sqlite:///{two.path}/mlflow.db").strip()).read_text()
    assert 'data-plot="pareto_front"' in page
    assert 'data-plot="winner"' not in page
    assert f"{len(numbers)} of 9 trials" in page


def test_a_trial_with_an_infinite_value_is_not_on_the_front(
    two: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    copy = StudyFolder(shutil.copytree(two.path, tmp_path / "copy"))
    monkeypatch.chdir(copy.path)
    front = [trial.number for trial in result_of(copy).best_trials]
    study = optuna.load_study(study_name="two", storage=f"sqlite:///{copy.path}/optuna.db")
    first = study.trials[0]
    best = [math.inf if each is StudyDirection.MAXIMIZE else 0.0 for each in study.directions]
    study.add_trial(create_trial(values=best, params=first.params, distributions=first.distributions))
    result = result_of(copy)
    assert [trial.number for trial in result.best_trials] == front
    assert result.trials.state.tolist()[-1] == "diverged"
    assert f"#{len(result.trials) - 1}" not in printed(list_studies)
    assert "the Pareto front: " + join_names([trial.name for trial in result.record.front], 10) in copy.call(
        "--trials", "5", study="two.yaml"
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("objective.1.direction=maximize", 'objective[1].direction: was "minimize", now "maximize"'),
        ("objective={metric: val/acc}", 'objective[1].metric: was "parameters", now not given'),
    ],
)
def test_a_changed_objective_is_named_as_in_the_study_file(two: StudyFolder, change: str, expected: str):
    output = two.call("--set", change, study="two.yaml", expect=2)
    assert f"  {expected}" in output
    assert "objective.further" not in output


def printed(command: Callable[[list[str]], int], *arguments: str) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert command([*arguments]) == 0
    return output.getvalue()


def test_trials_have_the_values_of_all_objectives_and_the_front_keeps_its_weights(two: StudyFolder):
    result = result_of(two)
    with pytest.raises(BadInputError, match=r"several objectives \(val/acc and parameters\).* use best_trials"):
        _ = result.best
    trials = result.trials[result.trials.state == "complete"]
    hidden = trials["model.neurons"]
    assert (trials["parameters"] == hidden * 5 + hidden * (hidden + 1) + 3 * (hidden + 1)).all()
    runs = dict(two.mlflow("select t.value, m.value from metrics m join tags t using (run_uuid) "
                           "where m.key = 'parameters' and t.key = 'tuner.trial'"))  # fmt: skip
    assert {int(number): value for number, value in runs.items()} == trials["parameters"].to_dict()
    assert (result.trials.state == "diverged").any(), "which the sampler has seen"
    kept = {int(path.parent.name) for path in two.path.glob(".tuner/two/trials-*/*/model.ckpt")}
    assert kept == {trial.number for trial in result.best_trials}
    last = result.best_trials[-1]
    assert last.values == {"val/acc": last.value, "parameters": trials["parameters"][last.number]}
    assert sum(each.numel() for each in result.best_model(last.number).parameters()) == last.values["parameters"]
    assert StudyRecord.from_json(result.record.values()) == result.record
    assert len(result.plot_pareto_front().axes) == 1
    figures = draw(result.record)
    assert figures[0].name == "pareto_front"
    assert len(figures) == len(OF_SEVERAL)


def test_what_needs_one_best_trial_asks_for_it(two: StudyFolder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(two.path)
    best = result_of(two).best_trials[0].number
    for command in (replay, export):
        assert f"--trial: study \"two\" has several objectives; its best trials, the Pareto front, are #{best}" in (
            two.command(command, "two", expect=2)
        )  # fmt: skip
    assert "the same to the last bit" in two.command(replay, "two", "--trial", str(best))
    two.command(export, "two", "--trial", str(best))
    card = (two.path / f"two-{best}" / "README.md").read_text()
    assert "searched for the highest val/acc and the lowest parameters in 9 trials" in card
    assert re.search(r"\| parameters \| [0-9,]+ \| parameters of the network \|", card)
    said = 'compares trials by a single objective, but study "two" has val/acc and parameters.'
    assert f"a confirmation {said}" in two.command(confirm, "two", *INLINE, expect=2)
    assert f"a league {said}" in two.command(league, "two.yaml", *INLINE, expect=2)


def test_a_continued_study_suggests_what_an_undisturbed_one_does(folder: StudyFolder):
    text = STUDY.replace("{name: tpe, seed: 3, n_startup_trials: 3}", "{name: nsga2, population_size: 3}")
    for name in ("whole", "parts"):
        (folder.path / f"{name}.yaml").write_text(text.replace("name: two", f"name: {name}"))
    folder.call("--trials", "7", "--per-device", "1", study="whole.yaml")
    for trials in ("2", "5", "7"):
        folder.call("--trials", trials, "--per-device", "1", study="parts.yaml")
    query = ("select number, param_name, param_value from trials join trial_params using (trial_id) "
             "join studies using (study_id) where study_name = '{}' order by 1, 2")  # fmt: skip
    assert folder.optuna(query.format("whole")) == folder.optuna(query.format("parts"))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (["objective=[{metric: val/acc}]"], "--set: objective: a list needs two or more objectives"),
        (["objective=[{metric: parameters, direction: minimize}, {metric: val/acc}]"],
         'objective[0].metric: must be train/acc, train/loss, val/acc or val/loss (got "parameters")'),
        (["objective=[{metric: val/acc}, {metric: parameters}]"],
         "objective[1].direction: required: lower values of parameters are better; write minimize."),
        (["objective={metric: val/loss, direction: maximize}"],
         "objective.direction: lower values of val/loss are better; write minimize."),
        (["objective=[{metric: val/acc, direction: minimize}, {metric: parameters, direction: maximize}]"],
         "objective[0].direction: higher values of val/acc are better; write maximize."),
        (["objective=[{metric: val/acc}, {metric: val/acc}]"], "objective[1].metric: val/acc is already an objective."),
        (["objective=[{metric: val/acc}, {metric: val/loss, direction: minimize, epoch: best}]"],
         "objective[1].epoch: remove it: the values of all objectives come from the same epoch"),
        (["sampler={name: curve}"], "curve compares trials by one objective; with several, use gp, grid, nsga2, qmc"),
        (["sampler={name: cmaes}"], "cmaes compares trials by one objective"),
        (["pruner={name: median}"], "median compares trials by one objective; there is no pruner for several"),
        (["pruner={name: rungs}"], "rungs compares trials by one objective"),
        (["budget.until=0.1"], "the expected gain needs a single objective; remove it."),
        (["final={trials: 2}"], "retraining the best trial needs a single objective; remove it"),
    ],
)  # fmt: skip
def test_what_compares_trials_by_one_objective_is_refused(change: list[str], expected: str, tmp_path: Path):
    (tmp_path / "x.yaml").write_text(STUDY)
    with pytest.raises(BadInputError) as caught:
        load_study(str(tmp_path / "x.yaml"), change)
    assert [fault for fault in caught.value.faults if expected in fault], caught.value.faults


def test_a_file_that_names_no_sampler_and_no_pruner_gets_those_for_several_objectives(tmp_path: Path):
    (tmp_path / "x.yaml").write_text(STUDY.replace("sampler: {name: tpe, seed: 3, n_startup_trials: 3}\n", ""))
    config = load_study(str(tmp_path / "x.yaml"), ["budget={epochs: 400}"])
    assert (config.sampler.name, config.pruner.name, config.final) == ("tpe", "none", None)
    assert load_study(str(tmp_path / "x.yaml"), ["sampler={population_size: 4}"]).sampler.name == "nsga2"


def test_all_values_are_of_the_epoch_that_the_first_objective_chooses(tmp_path: Path):
    (tmp_path / "x.yaml").write_text(STUDY)
    changes = ["search_space={}", "trial.trainer.max_epochs=6", "trial.optimizer.initial_lr=0.3",
               "trial.schedule={name: constant}", "sampler={name: random}"]  # fmt: skip
    config = load_study(str(tmp_path / "x.yaml"), changes)
    further = [Objective(metric, Direction.MINIMIZE) for metric in ("val/loss", "steps", "train/seconds")]
    goal = Objective("val/acc", epoch="best")
    assignment = Assignment(0, config.trial_of(config.trial), goal, tmp_path / "0", further)
    (result,) = run(TrainingGroup((assignment,)), Answers())
    assert result.state == "complete", result.message
    curves = {key: [value for name, _, value in result.points if name == key] for key in ("val/acc", "val/loss")}
    best = curves["val/acc"].index(max(curves["val/acc"]))
    assert best < 5, "so the last epoch is another"
    loss, steps, seconds = result.further
    assert (result.value, loss, steps) == (curves["val/acc"][best], curves["val/loss"][best], 18)
    assert 0 < seconds < result.seconds
    assert ("train/seconds", 18, seconds) in result.points
    absent = Assignment(1, assignment.config, goal, tmp_path / "1", [Objective("val/f1")])
    (failed,) = run(TrainingGroup((absent,)), Answers())
    logged = "train/acc, train/loss, val/acc, val/loss"
    assert failed.message == f"val/f1 is an objective, but only {logged} are logged with val/acc"


def test_steps_are_not_recorded_where_their_time_is_an_objective(tmp_path: Path):
    (tmp_path / "x.yaml").write_text(STUDY)
    config = load_study(str(tmp_path / "x.yaml"), ["search_space={}", "trial.schedule={name: constant}"])
    for metric in ("steps", TIME):
        further = [Objective(metric, Direction.MINIMIZE)]
        assignment = Assignment(0, config.trial_of(config.trial), Objective("val/acc"), tmp_path / "0", further)
        assert may_be_recorded(assignment, "cuda") == (metric != TIME), "a group has no times of its trials"


def test_charts_rank_by_the_first_objective_and_mark_no_best_trial():
    params = [{"a": number / 8, "b": number % 3} for number in range(8)]
    accuracies, sizes = [0.1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], [1, *range(90, 97)]
    trials = [
        TrialRecord(
            number, "complete", "cosine", accuracies[number], 2, 1.0, 1.0, params[number], further=[sizes[number]]
        )
        for number in range(8)
    ]
    record = StudyRecord("two", "val/acc", Direction.MAXIMIZE, trials, {}, further=[("parameters", Direction.MINIMIZE)])
    assert [each.number for each in record.ranking[:2]] == [1, 0], "the front"
    drawn = rank(record, "a", "b")
    (panel,) = drawn.panels
    (points,) = panel.series
    colors = dict(zip(points.x, points.colors, strict=True))
    assert colors[params[0]["a"]] == drawn.scale.color(8.0), "the last by accuracy, although it is on the front"
    assert colors[params[1]["a"]] == drawn.scale.color(1.0)
    for chart in (rank, contour, parallel_coordinates):
        labels = {series.label for panel in chart(record).panels for series in panel.series}
        assert not any("best" in label for label in labels)


def test_the_line_of_a_running_trial_has_every_objective_that_is_known(tmp_path: Path):
    (tmp_path / "two.yaml").write_text(STUDY.replace("metric: parameters", "metric: val/loss"))
    config = load_study(str(tmp_path / "two.yaml"), [])
    schedule = {"name": "constant"}
    trial = config.trial_of({**config.trial, "model": {**config.trial["model"], "neurons": 4}, "schedule": schedule,
                             "optimizer": {"name": "sgd", "initial_lr": 0.01}})  # fmt: skip
    output = io.StringIO()
    with Display(config, Console(file=output, force_terminal=True, width=120, color_system=None)) as display:
        display.start(0, trial, Slot(0, (), 1))
        display.start(1, trial, Slot(1, (), 1))
        points = [("val/loss", 9, 0.75), ("val/loss", 18, 0.5), ("val/f1", 18, 0.25)]
        display.epoch(0, EpochReport(2, 0.875, points, False, StepReport(2, 18, 18, 0.01)))
        display.tick()
    line = re.findall(r"val/acc +0\.8750 +val/loss (\S+)", output.getvalue())
    assert line
    assert set(line) == {"0.5000"}


def test_of_a_long_study_the_report_computes_the_front_a_few_times(two: StudyFolder, monkeypatch: pytest.MonkeyPatch):
    record = result_of(two).record
    (first, *_) = record.front
    counts = []
    for size in (30, 60):
        trials = [dataclasses.replace(first, number=number) for number in range(size)]
        calls: list[int] = []

        def counted(points: Any, directions: Any, calls: list[int] = calls) -> list[int]:
            calls.append(len(points))
            return pareto_front(points, directions)

        monkeypatch.setattr(records, "pareto_front", counted)
        long = dataclasses.replace(record, trials=trials, importances={})
        assert len(long.ranking) == size
        assert len(calls) == 1
        page = render([Chapter(long, {}, "", {}, {}, is_registered=False, figures=draw(long))])
        assert page.count('<tr class="best">') == size
        counts.append(len(calls))
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    "sampler", ["gp", "random", *(pytest.param(name, marks=pytest.mark.slow) for name in ("grid", "qmc"))]
)
def test_every_sampler_of_several_objectives_trains_past_a_trial_that_diverges(sampler: str, folder: StudyFolder):
    options = {"gp": "{name: gp, seed: 3, n_startup_trials: 3}"}.get(sampler, f"{{name: {sampler}, seed: 3}}")
    space = "search_space={optimizer.initial_lr: {choices: [1e-2, 1e30]}, model.neurons: {low: 1, high: 4, step: 1}}"
    first = "enqueue=[{optimizer.initial_lr: 1e30}]"
    changes = [f"sampler={options}", space, "trial.schedule={name: constant}", *([first] * (sampler != "grid"))]
    (folder.path / "two.yaml").write_text(STUDY)
    sets = [part for each in changes for part in ("--set", each)]
    for trials in ("5", "8"):
        folder.call("--trials", trials, *sets, study="two.yaml")
    result = result_of(folder)
    states = result.trials.state
    assert len(states) == 8
    assert {*states} == {"complete", "diverged"}
    points = {trial.number: (trial.value, *trial.further) for trial in result.record.trials if trial.is_complete}
    front = pareto_front(points, [Direction.MAXIMIZE, Direction.MINIMIZE])
    assert [trial.number for trial in result.best_trials] == front
    assert sorted(front) == sorted(trial.number for trial in result.optuna_study.best_trials)
    pairs = [tuple(trial.params.values()) for trial in result.record.trials]
    assert len({*pairs}) == 8 or sampler != "grid"
