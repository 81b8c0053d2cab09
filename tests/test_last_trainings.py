"""The last trainings of a study, with fresh seeds: inside the budget, resumable, and with an answer that holds."""

import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.studies import INLINE, TINY, StudyFolder, as_a_process, built_once
from tuner.analysis.comparison import Comparison, Repeated
from tuner.analysis.findings import duration
from tuner.analysis.record import StudyRecord
from tuner.config.loader import load_study
from tuner.delete import main as delete
from tuner.direction import Direction
from tuner.errors import BadInputError
from tuner.list import main as list_studies
from tuner.rename import main as rename
from tuner.report import main as report
from tuner.show import main as show
from tuner.storage.inventory import listed_studies
from tuner.storage.reader import open_study, record_of, with_final_runs

DATA = ("--set", "trial.data.batch_size=30")
OPTIONS = (*DATA, "--set", "budget={epochs: 40}", "--set", "final={trials: 1, seeds: 3}")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyFolder]:
    """Return a folder in which a study and its last trainings were run."""
    with built_once("last-trainings", lambda folder: folder.call(*OPTIONS), tmp_path_factory) as folder:
        yield folder


def trained(folder: StudyFolder, study: str) -> list[tuple[int, float, int]]:
    """Return number, value and epochs of the trials of studies whose names begin with a text."""
    return folder.optuna(
        "select number, value, value_json from trials join trial_values using (trial_id) "
        "join studies using (study_id) join trial_user_attributes using (trial_id) "
        f"where study_name like '{study}' and key = 'epochs' order by study_name, number"
    )


def test_the_best_the_default_and_a_constant_lr_are_trained_inside_the_budget(finished: StudyFolder):
    output = finished.output  # type: ignore[attr-defined]
    assert "tiny: 40 epochs for the best val/acc" in output
    assert "27 epochs to retrain its best trial, its own trial and a constant lr with 3 fresh seeds" in output
    assert "tiny has used 12 of the 13 epochs of its search in 4 trials" in output
    search, last = trained(finished, "tiny"), trained(finished, "tiny-final-%")
    assert (len(search), len(last)) == (4, 9)
    assert sum(int(epochs) for _, _, epochs in [*search, *last]) == 39
    means = [sum(value for number, value, _ in last if number % 3 == which) / 3 for which in range(3)]
    assert f"val/acc {max(means):.4f} over 3 seeds" in output
    assert re.search(r"^The answer is ", output, re.MULTILINE)
    assert output.count("The answer is ") == 1
    assert output.count("The search tried a constant lr twice, at 0.002968 and 0.01507 (the best trial has") == 1
    assert re.findall(r"^  \S*lr-tuner (\w+) tiny", output, re.MULTILINE) == ["dashboard", "export", "report"]


def test_the_answer_is_in_mlflow_in_show_and_in_the_report(finished: StudyFolder):
    ((stored,),) = finished.optuna("select value_json from study_user_attributes where key = 'answer'")
    verdict, winner, *_ = json.loads(stored)["sentences"]
    assert verdict.startswith("The answer is ")
    assert re.match("Its mean val/acc is |.* has the best mean: ", winner)
    tags = dict(finished.mlflow("select key, value from tags where key in ('tuner.confirmed', 'mlflow.note.content')"))
    assert tags["tuner.confirmed"].startswith(f"{verdict} {winner}")
    notes = finished.mlflow("select value from tags where key = 'mlflow.note.content'")
    assert any("With fresh seeds: the answer is " in note for (note,) in notes)
    with as_a_process(finished.path) as shown:
        assert show(["tiny"]) == 0
    assert f"With fresh seeds: {verdict[0].lower()}{verdict[1:]}" in " ".join(shown.getvalue().split())
    finished.command(report, "tiny")
    (page,) = finished.path.glob("*.html")
    text = page.read_text()
    assert "With fresh seeds: the answer is " in text
    ((mean,),) = finished.mlflow("select distinct value from metrics where key = 'fresh_mean'")
    assert f"val/acc {mean:.4f} over 3 seeds" in winner
    assert f"<b>{mean:.4f}</b><span" in text
    assert "mean of 3 fresh seeds, 95% interval" in text
    ((best,),) = finished.optuna(
        "select max(value) from trial_values join trials using (trial_id) join studies using (study_id) "
        "where study_name = 'tiny'"
    )
    assert f"best single run<b>{best:.4f}</b>" in text
    with as_a_process(finished.path) as shown:
        assert list_studies([]) == 0
    rows = shown.getvalue().splitlines()
    assert all(len(row) <= 80 for row in rows)
    assert re.search(rf"^tiny +.* {mean:.4f} +(#\d|default)", rows[1])


def test_the_time_of_a_study_includes_its_last_trainings(finished: StudyFolder):
    seconds = finished.optuna(
        "select study_name, value_json from trial_user_attributes join trials using (trial_id) "
        "join studies using (study_id) where key = 'seconds'"
    )
    with open_study(f"sqlite:///{finished.path}/optuna.db", "tiny") as study:
        record = with_final_runs(record_of(study), study)
    assert (record.final.trials, record.final.epochs) == (9, 27)
    assert record.seconds == pytest.approx(sum(float(each) for _, each in seconds))
    assert record.ended == record.final.ended > max(trial.ended for trial in record.trials)
    assert StudyRecord.from_json(json.loads(json.dumps(record.values()))).final == record.final
    finished.command(report, "tiny")
    (page,) = finished.path.glob("*.html")
    for each in (record.seconds, record.ended):
        assert f"<td>{duration(each)}</td>" in page.read_text()


def test_last_trainings_that_were_killed_continue_to_the_same_answer(finished: StudyFolder, folder: StudyFolder):
    first = folder.start(*OPTIONS, "--per-device", "2")
    folder.wait_for(lambda: any(folder.path.glob(".tuner/tiny-final-*/trials-*/2")), first)
    first.kill()
    first.communicate()
    states = [each.state for each in listed_studies(f"sqlite:///{folder.path}/optuna.db")]
    output = folder.call(*OPTIONS)
    assert states == ["can be continued"] * 2
    assert [each.state for each in listed_studies(f"sqlite:///{folder.path}/optuna.db")] == ["finished"] * 2
    answers = [each.partition("The answer is ")[2].partition("\ntiny has ")[0] for each in (output, finished.output)]  # type: ignore[attr-defined]
    assert answers[0] == answers[1] != ""
    assert trained(folder, "tiny%") == trained(finished, "tiny%")


def test_more_seeds_and_the_same_command_keep_what_is_trained(finished: StudyFolder, tmp_path: Path):
    copy = StudyFolder(shutil.copytree(finished.path, tmp_path / "copy"))
    before = trained(copy, "tiny%")
    output = copy.call(*OPTIONS)
    assert "complete  " not in output
    assert "The answer is " in output
    assert trained(copy, "tiny%") == before
    output = copy.call(*DATA, "--set", "budget={epochs: 49}", "--set", "final={trials: 1, seeds: 4}")
    assert trained(copy, "tiny%")[: len(before)] == before
    assert len(trained(copy, "tiny-final-%")) == 12
    assert "over 4 seeds" in output


def test_a_renamed_study_keeps_its_last_trainings_and_a_deleted_one_takes_them_along(
    finished: StudyFolder, tmp_path: Path
):
    copy = StudyFolder(shutil.copytree(finished.path, tmp_path / "copy"))
    before = trained(copy, "tiny%")
    output = copy.command(rename, "tiny", "tiny-other", "--yes")
    assert re.search(r"tiny-final-([0-9a-f]{6}) is now tiny-other-final-\1$", output, re.MULTILINE)
    renamed = "--set", "name=tiny-other"
    assert "complete  " not in copy.call(*OPTIONS, *renamed)
    copy.call(*DATA, *renamed, "--set", "budget={epochs: 49}", "--set", "final={trials: 1, seeds: 4}")
    assert trained(copy, "tiny-other%")[: len(before)] == before
    assert trained(copy, "tiny%") == trained(copy, "tiny-other%")
    copy.command(delete, "tiny-other", "--yes")
    assert trained(copy, "%") == []


LESS = "or lower trials or seeds, or do without final runs: --set final.trials=0"


@pytest.mark.parametrize(
    ("sections", "wrong"),
    [
        (
            ("budget={epochs: 20}", "final={trials: 1, seeds: 3}"),
            f"final: takes 27 epochs, so budget.epochs must be at least 30 (got 20); {LESS}.",
        ),
        (
            ("budget={trials: 9}", "final={trials: 1, seeds: 3}"),
            f"final: takes 9 trials, so budget.trials must be above that (got 9); {LESS}.",
        ),
        (("final={trials: 1, seeds: 2}",), "final.seeds: must be a whole number from 3 to 1000 (got 2)."),
        (("final={best: 3}",), "final.best: unknown key. Known: seeds, trials."),
        (("final=3",), "final: must be a mapping (got 3)."),
    ],
)
def test_last_trainings_that_do_not_fit_are_refused(sections: tuple[str, ...], wrong: str):
    with pytest.raises(BadInputError) as caught:
        load_study(str(TINY), sections)
    assert list(caught.value.faults) == [f"--set: {wrong}"]


def test_last_trainings_are_the_default_where_a_budget_in_epochs_has_room_for_them():
    cost = (3 + 2) * 3 * 3  # trials and opponents, seeds, epochs
    large, small = (load_study(str(TINY), [f"budget={{epochs: {3 * cost - less}}}"]) for less in (0, 1))
    assert large.final is not None
    assert large.allowance is not None
    assert large.allowance.amount == 2 * cost
    assert small.final is None
    assert load_study(str(TINY), ["budget={trials: 1000}"]).final is None
    off = load_study(str(TINY), ["budget={epochs: 1000}", "final={trials: 0}"])
    assert off.final is None
    assert load_study(str(TINY), ["budget={trials: 30}", "final={trials: 1, seeds: 3}"]).trials == 21


@pytest.mark.parametrize(
    ("means", "answer"),
    [
        ([0.9, 0.9, 0.9], "The answer is a tie: the seeds do not separate "),
        ([0.9, 0.8, 0.7], "The answer is a: it is really better than b and c."),
        ([0.9, 0.9, 0.5], "it is really better than c; the seeds do not separate it from "),
        ([0.9], "The answer is a; there is nothing to compare it with."),
    ],
)
def test_the_answer_says_what_the_seeds_separate(means: list[float], answer: str):
    drawn = random.Random(0)
    found = [
        Repeated(name, {seed: mean + drawn.gauss(0, 1e-3) for seed in range(5)})
        for name, mean in zip("abc", means, strict=False)
    ]
    assert answer in Comparison("score", Direction.MAXIMIZE, found).findings({})[0]


def test_a_study_without_any_result_has_no_last_trainings(folder: StudyFolder):
    folder.prepare()
    output = folder.call(
        *OPTIONS,
        *INLINE,
        "--set",
        "trial.optimizer={name: sgd}",
        "--set",
        "search_space.optimizer.initial_lr={low: 1e+30, high: 1e+31}",
        expect=1,
    )
    assert "tiny: No trial ran to completion." in output
    assert "The answer is" not in output
