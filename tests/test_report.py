"""`python -m tuner.report`: one self-contained file."""

import contextlib
import html
import io
import re
import shutil
import sqlite3
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lightning_modules import SCHEDULES
from tests.studies import StudyFolder, empty_databases
from tests.test_charts import study, trial
from tuner.analysis.record import Retrained
from tuner.report import main
from tuner.reporting.page import Chapter, render

HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">{{ 7*7 }}"


class Page(HTMLParser):
    """The tags of a page, as a browser would parse them, and the text between them."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._in_code = False
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_code = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._in_code = False

    def handle_data(self, data: str) -> None:
        if not self._in_code:
            self.text += data


def report(folder: StudyFolder, *arguments: str, expect: int = 0) -> str:
    """Run the command in a folder; return the page or the error message."""
    output = io.StringIO()
    uri = f"sqlite:///{folder.path / 'mlflow.db'}"
    with contextlib.chdir(folder.path), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = main([*arguments, "--tracking-uri", uri])
    assert code == expect, output.getvalue()
    return Path(folder.path, output.getvalue().strip()).read_text() if code == 0 else output.getvalue()


def test_a_report_has_the_winner_its_margin_and_the_code_to_use_it(reviewed: StudyFolder):
    page = Page(report(reviewed, "tiny"))
    ((number, value),) = reviewed.optuna(
        "select number, value from trials join trial_values using (trial_id) order by 2 desc, 1 limit 1"
    )
    assert f"The best is #{number} " in page.text
    assert f"{value:.4f}" in page.text
    assert "better than the runner-up" in page.text
    assert "models:/tiny@champion" in page.text
    assert "from lightning_modules import" in page.text
    assert "lightning_modules.MNISTCNN" in page.text
    drawn = [attributes["data-plot"] for tag, attributes in page.tags if "data-plot" in attributes]
    assert drawn[:3] == ["top_trials", "best_of_each", "lr_curves"]
    pictures = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 2
    assert all(source.startswith("data:image/png;base64,") for source in pictures)


def test_the_code_that_a_report_shows_builds_the_winner_s_schedule(reviewed: StudyFolder):
    (code,) = re.findall(r"<pre>(from lightning_modules.*?)</pre>", report(reviewed, "tiny"), re.DOTALL)
    ((best,),) = reviewed.mlflow("select value from tags where key = 'tuner.best_run_id'")
    params = dict(reviewed.mlflow(f"select key, value from params where run_uuid = '{best}'"))
    ((first,),) = reviewed.mlflow(f"select value from metrics where run_uuid = '{best}' and key = 'lr' and step = 0")
    built: dict = {"your_network": __import__("torch").nn.Linear(784, 10)}
    exec(html.unescape(code), built)  # what a user would paste
    assert built["optimizer"].initial_lr == float(params["optimizer.initial_lr"])
    schedule = built["schedule"]
    assert type(schedule) is SCHEDULES[params["schedule.name"]]
    assert getattr(schedule, "schedule", schedule)(0) * built["optimizer"].initial_lr == pytest.approx(first)


def test_a_report_needs_no_network_and_has_its_library_once(reviewed: StudyFolder):
    source = report(reviewed, "tiny")
    page = Page(source)
    policy = [attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes]
    assert policy == ["default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"]
    assert not [tag for tag, attributes in page.tags if tag == "link" or (tag == "script" and "src" in attributes)]
    assert source.count("plotly.js v") == 1
    assert len(source) < 12e6


def test_a_report_does_not_claim_that_a_missing_network_is_registered(folder: StudyFolder):
    folder.call("--trials", "1", "--set", "trial.trainer.max_epochs=1")
    page = Page(report(folder, "tiny"))
    assert "is not in MLflow's registry" in page.text
    assert "@champion" not in page.text


def test_studies_stand_side_by_side(folder: StudyFolder):
    for name in ("one", "two"):
        folder.call("--trials", "1", "--set", f"name={name}", "--set", "trial.trainer.max_epochs=1")
    page = Page(report(folder, "one", "two", "--output", "both.html"))
    identifiers = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(identifiers) == len(set(identifiers))
    assert {"comparison", "study-0", "study-1", "all-compare"} <= set(identifiers)
    assert page.text.index("one") < page.text.index("two")
    assert "can be compared within" not in page.text


def test_only_values_of_the_same_objective_and_validation_data_are_in_one_table(folder: StudyFolder):
    of = {
        "one": (),
        "lowest": ("objective={metric: val/loss, direction: minimize}",),
        "two": (),
        "larger": ("trial.data.val_fraction=0.3",),
    }
    for name, values in of.items():
        changed = (f"name={name}", "trial.trainer.max_epochs=1", *values)
        folder.call("--trials", "1", *(part for each in changed for part in ("--set", each)))
    source = report(folder, *of, "--output", "all.html")
    tables = re.findall(
        r'<h2>([^<]*)</h2>\s*<div class="scroll"><table id="comparison-\d">(.*?)</table>', source, re.DOTALL
    )
    found = [(title, re.findall(r'<a href="#study-\d">(\w+)</a>', table)) for title, table in tables]
    ((digest,),) = folder.optuna(
        "select distinct json_extract(value_json, '$.\"data digest\"') from study_user_attributes "
        "where key = 'identity'"
    )
    assert found == [
        (f"val/acc (maximize), data {digest[:8]}, 30 validation examples", ["one", "two"]),
        ("val/loss (minimize)", ["lowest"]),
        (f"val/acc (maximize), data {digest[:8]}, 45 validation examples", ["larger"]),
    ]
    page = Page(source)
    assert "their values can be compared within a table only" in page.text
    identifiers = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(identifiers) == len(set(identifiers))
    assert source.count('data-plot="compare"') == 1, "of the table with two studies"


def test_a_confirmation_is_reported_as_its_configurations_not_as_trials(confirmed: StudyFolder):
    (winner, mean), *others = confirmed.optuna(
        "select label, avg(value) from (select trial_id, json_extract(distribution_json, "
        "'$.attributes.choices[' || cast(param_value as integer) || ']') label from trial_params "
        "where param_name = 'configuration') join trial_values using (trial_id) group by label order by 2 desc, label"
    )
    source = report(confirmed, "short-confirm", "--output", "own.html")
    page = Page(source)
    assert re.search(rf"has the best mean: val/acc {mean:.4f} over 2 seeds", page.text)
    for name, value in ((winner, mean), *others):
        assert re.search(rf"<td>{re.escape(name)}</td><td>2</td><td>{value:.4f}</td>", source)
    for text in ("The best is", "runner-up, #0 constant", "separate good trials", "Leaderboard", "with configuration"):
        assert text not in page.text
    assert [attributes["data-plot"] for _, attributes in page.tags if "data-plot" in attributes] == ["confirmation"]
    table = source[source.index('class="configurations"') : source.index("</table>")]
    both = report(confirmed, "short", "short-confirm", "--output", "both.html")
    assert both.count(table) == 2, "the study has it, and the confirmation"
    assert both.count('data-plot="compare"') == 1
    identifiers = [attributes["id"] for _, attributes in Page(both).tags if attributes.get("id")]
    assert len(identifiers) == len(set(identifiers))
    (overview,) = re.findall(r'<table id="comparison">.*?</table>', both, re.DOTALL)
    assert overview.count(f"<td>{mean:.4f}</td>") == 2


@pytest.mark.parametrize(
    ("winner", "values", "which"),
    [
        ("#2 cosine_restarts", "initial_lr 0.02", "which lr-tuner export x --trial 2 exports"),
        ("#1 at a constant lr", "", "which is no trial of this study"),
    ],
)
def test_a_report_has_the_values_of_the_winner_and_says_which_trial_its_code_is_of(
    winner: str, values: str, which: str
):
    trials = [
        trial(number, value=value, family=family, params={"optimizer.initial_lr": number / 100})
        for number, value, family in ((1, 0.98, "exponential"), (2, 0.97, "cosine_restarts"))
    ]
    best = study(trials, name="x")
    answered = replace(best, answer=[f"The answer is {winner}."], retrained=Retrained(winner, 0.975, 3))
    source = render([Chapter(each, {}, "", {}, {}, False, ()) for each in (answered, replace(best, name="y"))])
    (table,) = re.findall(r'<table id="comparison">.*?</table>', source, re.DOTALL)
    assert re.findall(r"<td>([^<]*)</td></tr>", table) == [values, "initial_lr 0.01"]
    use = "This is #1, the best of the search; with fresh seeds, "
    assert f"{use}{winner} has the best mean, {which}." in Page(source).text
    assert source.count(use) == 1, "not of the study without an answer"


def make_hostile(reviewed: StudyFolder, folder: Path) -> str:
    """Copy a study's stores, write hostile content to them directly, and return the study's new name."""
    for name in ("optuna.db", "mlflow.db"):
        shutil.copy(reviewed.path / name, folder / name)
    quoted = HOSTILE.replace("'", "''")
    with sqlite3.connect(folder / "optuna.db") as database:
        database.execute(f"update studies set study_name = '{quoted}'")
        database.execute("update trials set state = 'FAIL' where number = 3")
        database.execute(
            "insert into trial_user_attributes (trial_id, key, value_json) "
            f"select trial_id, 'message', json_quote('{quoted}') from trials"
        )
        database.execute(
            "update trial_user_attributes set value_json = '\"failed\"' where key = 'state' "
            "and trial_id = (select trial_id from trials where number = 3)"
        )
    database.close()
    with sqlite3.connect(folder / "mlflow.db") as database:
        database.execute(f"update tags set value = '{quoted}' where key in ('hardware', 'devices')")
        database.execute(f"update params set value = '{quoted}' where key in ('model.name', 'optimizer.name')")
        database.execute("update tags set value = '../../../../etc/passwd' where key = 'tuner.best_run_id'")
    database.close()
    return HOSTILE


def test_hostile_content_of_the_stores_is_shown_and_not_obeyed(reviewed: StudyFolder, tmp_path: Path):
    page = Page(report(StudyFolder(tmp_path), make_hostile(reviewed, tmp_path)))
    assert page.text.count(HOSTILE) >= 4, "name, message and tags, as they are"
    assert not [attributes for _, attributes in page.tags if "onerror" in attributes]
    scripts = [tag for tag, _ in page.tags if tag == "script"]
    assert len(scripts) <= len([tag for tag, _ in Page(report(reviewed, "tiny")).tags if tag == "script"])


def test_an_unknown_study_is_reported_with_the_existing_ones(reviewed: StudyFolder):
    message = report(reviewed, "tinny", expect=2)
    assert 'no study "tinny" in sqlite:///optuna.db; there are: tiny. Did you mean tiny?' in message


def test_a_missing_database_is_reported_and_not_created(tmp_path: Path):
    assert 'no study "tiny" in sqlite:///optuna.db; there is none' in report(StudyFolder(tmp_path), "tiny", expect=2)
    assert list(tmp_path.iterdir()) == []
    shutil.copy(empty_databases() / "mlflow.db", tmp_path)
    assert 'no study "tiny" in sqlite:///optuna.db; there is none' in report(StudyFolder(tmp_path), "tiny", expect=2)
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_study_without_a_finished_trial_has_a_report(folder: StudyFolder):
    folder.call("--trials", "1", "--set", "search_space.optimizer.initial_lr={low: 1e12, high: 1e13}", expect=1)
    page = Page(report(folder, "tiny"))
    assert "No trial ran to completion" in page.text
    assert "diverged" in page.text
