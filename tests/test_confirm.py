"""`python -m tuner.confirm`, as a user runs it."""

import csv
import io
import json
import re
import shutil
import sqlite3
from pathlib import Path

import optuna
import pytest

from tests.studies import INLINE, StudyFolder
from tuner.analysis.findings import duration
from tuner.confirm import main as confirm
from tuner.report import main as report
from tuner.show import main as show
from tuner.storage.inventory import comparisons, with_fresh_seeds
from tuner.storage.reader import open_study, record_of
from tuner.storage.replicates import fresh_seeds
from tuner.storage.stored_study import StoredStudy

ROWS = "select number, param_name, param_value, distribution_json from trials join trial_params using (trial_id)"

WINNER = re.compile(r"^(?:The answer is )?(.*?)(?: has the best mean|: it is really|; there is nothing)", re.MULTILINE)


def values(folder: StudyFolder, study: str) -> dict[int, float]:
    rows = folder.optuna(
        "select number, value from trials join trial_values using (trial_id) join studies using (study_id) "
        f"where study_name = '{study}' order by number"
    )
    return dict(rows)


def seeds_of(folder: StudyFolder) -> list[int]:
    rows = folder.optuna(
        "select number, param_value from trials join trial_params using (trial_id) join studies using (study_id) "
        "where study_name = 'short-confirm' and param_name = 'seed' order by number"
    )
    return [int(seed) for _, seed in rows]


@pytest.fixture
def copied(confirmed: StudyFolder, tmp_path: Path) -> StudyFolder:
    return StudyFolder(shutil.copytree(confirmed.path, tmp_path / "copy"))


def test_the_best_the_default_and_a_constant_lr_are_trained_with_the_same_fresh_seeds(confirmed: StudyFolder):
    first, second = fresh_seeds(1, 2, used={0})
    assert seeds_of(confirmed) == [first] * 3 + [second] * 3
    trained = values(confirmed, "short-confirm")
    assert len(trained) == 6
    params = dict(
        confirmed.mlflow(
            "select tags.value || ' ' || params.key, params.value from params join tags using (run_uuid) "
            "where tags.key = 'tuner.trial' and run_uuid in (select run_uuid from params where key = 'configuration')"
        )
    )
    best = max(values(confirmed, "short").items(), key=lambda item: item[1])[0]
    names = [params[f"{number} configuration"] for number in range(3)]
    assert names[0].startswith(f"#{best} ")
    assert names[1:] == ["default constant", f"#{best} at a constant lr"]
    assert params["2 schedule.name"] == "constant"
    assert params["2 optimizer.initial_lr"] == params["0 optimizer.initial_lr"]
    assert params["1 optimizer.initial_lr"] == "0.01"


def test_the_output_agrees_with_the_values(confirmed: StudyFolder):
    trained = values(confirmed, "short-confirm")
    means = [(trained[number] + trained[number + 3]) / 2 for number in range(3)]
    mean = re.search(r"^.* has the best mean: val/acc ([\d.]+) over 2 seeds", confirmed.output, re.MULTILINE)
    assert mean
    assert mean[1] == f"{max(means):.4f}"
    ranking = sorted(range(3), key=lambda number: -means[number])
    others = {ranking[1], 1, 2} - {ranking[0]}  # the runner-up, the default, a constant lr
    assert len(re.findall(r"; with 2 seeds this may be chance\.|It is no better than", confirmed.output)) == len(others)
    assert "and really better with a probability" not in confirmed.output
    tuned = "The search tried a constant lr once, at 0.002968 (the best trial has 0.01507), so it says little about"
    assert re.search(rf"^.* at a constant lr \(.*\n{re.escape(tuned)}", confirmed.output, re.MULTILINE)
    assert re.search(r"On the test data, which were not used for any decision, .* reaches test/acc", confirmed.output)


def test_the_winner_is_exported_or_its_weights_are_named(confirmed: StudyFolder, copied: StudyFolder):
    """`export` writes trials of the study: not its default, a constant lr or a longer run."""
    (winner,) = re.findall(WINNER, confirmed.output)
    whole = " ".join(confirmed.output.split())
    exported = re.findall(r"lr-tuner export short [^,]*(the winner, [^,]*), as a folder", whole)
    assert exported == ([f"the winner, {winner}"] if re.fullmatch(r"#\d \w+", winner) else [])
    longer = copied.command(confirm, "short", "--top", "1", "--seeds", "1", "--epochs", "3", *INLINE)
    for output in (longer, *([] if exported else [confirmed.output])):
        assert " export short" not in output
        (winner,) = re.findall(WINNER, output)
        assert re.search(rf"^The weights of {winner} with the first fresh seed: \S+/model.ckpt$", output, re.MULTILINE)


def test_mlflow_has_the_confirmation_in_the_run_of_the_study(confirmed: StudyFolder):
    runs = dict(confirmed.mlflow("select t.value, run_uuid from tags t where t.key = 'tuner.study'"))
    children = confirmed.mlflow("select run_uuid, value from tags where key = 'mlflow.parentRunId'")
    parents: dict[str, list[str]] = {}
    for run, parent in children:
        parents.setdefault(parent, []).append(run)
    study = confirmed.mlflow("select run_uuid from tags where key = 'tuner.study_id' order by run_uuid")
    assert len(study) == 2
    (confirmation,) = [run for (run,) in study if run in {child for child, _ in children}]
    (original,) = [run for (run,) in study if run != confirmation]
    assert confirmation in parents[original]
    assert len(parents[original]) == 3 + 1
    assert len(parents[confirmation]) == 6
    assert set(runs) == {"short", "short-confirm"}
    ((place,),) = confirmed.mlflow(f"select artifact_uri from runs where run_uuid = '{confirmation}'")
    folder = confirmed.path / place
    assert (folder / "confirmation.png").read_bytes().startswith(b"\x89PNG")
    assert "The answer is" in (folder / "confirmation.md").read_text()
    rows = list(csv.DictReader(io.StringIO((folder / "confirmation.csv").read_text())))
    assert sorted(float(row["val/acc"]) for row in rows) == sorted(values(confirmed, "short-confirm").values())
    ((said,),) = confirmed.mlflow(f"select value from tags where key = 'tuner.confirmed' and run_uuid = '{original}'")
    assert said.startswith("The answer is")


def note_of(folder: StudyFolder, study: str) -> str:
    """Return the description of a study's run in MLflow, without the escapes of Markdown."""
    ((note,),) = folder.mlflow(
        f"select value from tags join runs using (run_uuid) where key = 'mlflow.note.content' and runs.name = '{study}'"
    )
    return str(note).replace("\\", "")


def test_the_description_in_mlflow_and_the_summary_of_the_study_lead_with_the_confirmation(
    confirmed: StudyFolder, copied: StudyFolder
):
    shown = confirmed.command(lambda arguments: show(arguments[:3]), "short").splitlines()
    verdict = shown[1].replace("With fresh seeds: the", "The")
    assert verdict.startswith("The answer is ")
    note = note_of(copied, "short")
    assert note.startswith(f"**{verdict}**\n\n3 of 3 trials")
    assert all(f"- {sentence}\n" in note for sentence in shown[1:5])
    means = "select value from metrics where key = 'fresh_mean'"
    ((mean,),) = copied.mlflow(means)
    assert f"val/acc is {mean:.4f}" in shown[2] or f"val/acc {mean:.4f} over 2 seeds" in shown[2]
    (said,) = re.findall("^The answer is .*", confirmed.output, re.MULTILINE)
    assert note_of(copied, "short-confirm").startswith(f"**{said}**")

    output = copied.call(study=copied.directory("short") / "study.yaml")
    assert f"\nshort: {verdict}\n" in output
    assert re.findall(r"^  \S*lr-tuner (\w+) short", output, re.MULTILINE)[-1:] == ["report"]
    assert "is the winner really better?" not in output
    assert note_of(copied, "short") == note
    assert copied.mlflow(means) == [(mean,)]


def test_a_shown_confirmation_tells_its_configurations_apart_and_has_no_empty_column(confirmed: StudyFolder):
    shown = confirmed.command(lambda arguments: show(arguments[:3]), "short-confirm")
    (heading,) = [line.split() for line in shown.splitlines() if "95% interval" in line]
    assert heading == ["seeds", "mean", "95%", "interval", "winner", "better", "parameters"]
    assert re.search(r"^#\d+ \w+ .* initial_lr [\d.e-]+", shown, re.MULTILINE)


def led(folder: StudyFolder) -> list[str]:
    """Return the winner with fresh seeds in the findings of `short`; empty if there is none."""
    with open_study(f"sqlite:///{folder.path}/optuna.db", "short") as study:
        record = with_fresh_seeds(record_of(study), study)
    assert bool(record.answer) == bool(record.retrained)
    return [record.retrained.name] if record.retrained else []


def test_a_finished_confirmation_leads_the_findings_of_the_study(confirmed: StudyFolder):
    trained = values(confirmed, "short-confirm")
    mean = max((trained[number] + trained[number + 3]) / 2 for number in range(3))
    (winner,) = re.findall(WINNER, confirmed.output)
    assert led(confirmed) == [winner]
    shown = confirmed.command(lambda arguments: show(arguments[:3]), "short").splitlines()
    assert shown[1].startswith("With fresh seeds: the answer is ")
    assert f"val/acc is {mean:.4f}" in shown[2] or f"val/acc {mean:.4f} over 2 seeds" in shown[2]
    output = confirmed.command(report, "short", "--output", "confirmed.html")
    page = (confirmed.path / output.strip()).read_text()
    assert f"<li>{shown[1]}</li>" in page
    assert f"val/acc of {winner}<b>{mean:.4f}</b>" in page
    for text in (page, "".join(shown)):
        assert "The search tried a constant lr once, at 0.002968 (the best trial has" in text
        assert "difference between seeds was not measured" not in text
        assert "Each trial is one run with one seed" not in text


def test_a_confirmation_leads_no_findings_before_it_is_finished_or_once_a_better_trial_exists(copied: StudyFolder):
    database = sqlite3.connect(copied.path / "optuna.db")
    of = "(select study_id from studies where study_name = '{}')".format
    last = f"trial_id = (select max(trial_id) from trials where study_id = {of('short-confirm')})"
    with database:
        database.execute(f"update trials set state = 'WAITING' where {last}")
    assert led(copied) == []
    shown = copied.command(lambda arguments: show(arguments[:3]), "short")
    assert "\nshort-confirm, retrained with fresh seeds, 5 of 6 runs done:\n" in shown
    with database:
        database.execute(f"update trials set state = 'COMPLETE' where {last}")
    assert len(led(copied)) == 1
    shown = copied.command(lambda arguments: show(arguments[:3]), "short")
    assert "\nshort-confirm, retrained with fresh seeds:\n" in shown
    worst = f"select trial_id from trials join trial_values using (trial_id) where study_id = {of('short')}"
    with database:
        database.execute(
            f"update trial_values set value = 1.0 where trial_id = ({worst} order by value, number desc limit 1)"
        )
    database.close()
    assert led(copied) == []


def test_the_same_command_shows_the_result_again_and_trains_nothing(copied: StudyFolder, confirmed: StudyFolder):
    before = copied.optuna(ROWS), copied.curves(), copied.standing()
    output = copied.command(confirm, "short", "--top", "1", "--seeds", "2", *INLINE)
    assert "complete" not in output
    assert output.partition("The answer is")[2] == confirmed.output.partition("The answer is")[2] != ""
    assert (copied.optuna(ROWS), copied.curves(), copied.standing()) == before


def test_more_seeds_keep_the_earlier_trainings(copied: StudyFolder):
    before = values(copied, "short-confirm")
    output = copied.command(confirm, "short", "--top", "1", "--seeds", "3", *INLINE)
    after = values(copied, "short-confirm")
    assert len(after) == 9
    assert {number: after[number] for number in before} == before
    assert "over 3 seeds" in output
    assert re.search(r"really better with a probability of|cannot tell from chance|It is no better than", output)


def test_a_training_that_diverged_after_an_epoch_is_no_success(copied: StudyFolder, monkeypatch: pytest.MonkeyPatch):
    """Optuna gives a pruned trial the value of its last epoch."""
    monkeypatch.chdir(copied.path)
    name = "select study_id from studies where study_name = 'short-confirm'"
    with sqlite3.connect(copied.path / "optuna.db") as database:
        database.execute(f"update trials set state = 'PRUNED' where number = 0 and study_id = ({name})")
        database.execute(
            "update trial_user_attributes set value_json = '\"diverged\"' where key = 'state' and trial_id = "
            f"(select trial_id from trials where number = 0 and study_id = ({name}))"
        )
    database.close()
    output = copied.command(confirm, "short", "--top", "1", "--seeds", "2", *INLINE)
    assert re.search(r"#\d+ \w+ diverged or failed with 1 seed\.", output)
    past = StoredStudy.load("short", "sqlite:///optuna.db")
    best = past.ranking()[0]
    again = past.confirmed(best)
    assert again
    assert len(again.configurations[0].values) == 1
    study = optuna.load_study(study_name="short-confirm", storage="sqlite:///optuna.db")
    failed = {each.name: each.failed for each in comparisons(study)["short-confirm"].configurations}
    assert sorted(failed.values()) == [0, 0, 1]


def test_a_killed_confirmation_continues_to_the_same_result(
    short: StudyFolder, confirmed: StudyFolder, folder: StudyFolder
):
    shutil.copytree(short.path, folder.path, dirs_exist_ok=True)
    first = folder.start("--top", "1", "--seeds", "2", "--per-device", "2", study="short", module="tuner.confirm")
    folder.wait_for(lambda: any(folder.directory("short-confirm").glob("trials-*/2")), first)
    first.kill()
    first.communicate()
    output = folder.command(confirm, "short", "--top", "1", "--seeds", "2", *INLINE)
    assert values(folder, "short-confirm") == values(confirmed, "short-confirm")
    assert folder.curves() == confirmed.curves()
    assert output.partition("The answer is")[2] == confirmed.output.partition("The answer is")[2] != ""


def test_a_confirmation_with_fused_trials_gives_the_same(short: StudyFolder, confirmed: StudyFolder, tmp_path: Path):
    folder = StudyFolder(shutil.copytree(short.path, tmp_path / "copy"))
    folder.command(confirm, "short", "--top", "1", "--seeds", "2", "--fuse", "3", *INLINE)
    alone, fused = values(confirmed, "short-confirm"), values(folder, "short-confirm")
    assert fused == pytest.approx(alone, abs=1e-6)
    setups = folder.optuna("select value_json from trial_user_attributes where key = 'setup' order by trial_id")
    assert [json.loads(setup)["fused"] for (setup,) in setups][-6:] == [3] * 6


def test_the_winners_of_a_short_study_are_carried_to_long_trainings(copied: StudyFolder):
    """All lengths are scaled, each configuration has several initial lrs, and the ranking is compared."""
    options = ("--top", "3", "--seeds", "1", "--epochs", "4", "--lrs", "0.5", "1")
    output = copied.command(confirm, "short", *options, "--dry-run", *INLINE)
    assert "short-4-epochs: " in output
    (winner,) = led(copied)
    output = copied.command(confirm, "short", *options, *INLINE)
    assert led(copied) == [winner], "the newer confirmation has another length"
    rows = copied.mlflow(
        "select run_uuid, params.key, params.value from params join tags using (run_uuid) "
        "where tags.key = 'tuner.study' and tags.value = 'short-4-epochs'"
    )
    runs: dict[str, dict[str, str]] = {}
    for run, key, value in rows:
        runs.setdefault(run, {})[key] = value
    by_name = {each["configuration"]: each for each in runs.values() if "configuration" in each}  # not the study's
    assert len(by_name) % 2 == 0
    assert len(by_name) >= 8, "three, the default and a constant lr, with two lrs each"
    of_study = params_of(copied, "short")
    for number, old in of_study.items():
        (name,) = [each for each in by_name if each.startswith(f"#{number} ") and each.count(" ") == 1]
        new, halved = by_name[name], by_name[f"{name}, initial_lr x 0.5"]
        assert new["trainer.max_epochs"] == "4"
        assert float(new["optimizer.initial_lr"]) == pytest.approx(old["optimizer.initial_lr"])
        assert float(halved["optimizer.initial_lr"]) == pytest.approx(old["optimizer.initial_lr"] / 2)
        for key, length in (
            ("exponential.decay_steps", "decay_steps"),
            ("cosine_restarts.restart_period", "restart_period"),
        ):
            if f"schedule.{key}" in old:
                assert float(new[f"schedule.{length}"]) == pytest.approx(2 * old[f"schedule.{key}"], abs=0.51)
                assert f"{name}: schedule.{length} " in output
    assert re.search(r"It is unclear whether the ranking of the study held: .* with 1 seed this may be chance", output)
    assert output.count(" is best with its initial_lr x ") == len(by_name) / 2
    assert "was optimistic" not in output, "a short training claims nothing about long ones"


def params_of(folder: StudyFolder, study: str) -> dict[int, dict[str, float]]:
    rows = folder.optuna(
        "select number, param_name, param_value from trials join trial_params using (trial_id) "
        f"join studies using (study_id) where study_name = '{study}'"
    )
    numbers: dict[int, dict[str, float]] = {}
    for number, name, value in rows:
        numbers.setdefault(number, {})[name] = value
    return numbers


def test_other_trials_are_another_confirmation(copied: StudyFolder):
    message = copied.command(confirm, "short", "--top", "2", "--seeds", "2", *INLINE, expect=2)
    assert re.search(r'study "short-confirm" compares #\d \w+, .* and now it would compare #\d \w+, #\d', message)
    assert "Give it another name (--name ...)" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("shrot",), 'no study "shrot" in sqlite:////'),
        (("shrot",), "Did you mean short?"),
        (("short", "--seeds", "0"), "--seeds: must be from 1 to 1000 (got 0)."),
        (("short", "--top", "-1"), "--top: must be from 1 to 1000 (got -1)."),
        (("short", "--name", "A b"), '--name: "A b" is not a valid name'),
        (("short", "--epochs", "0"), "--epochs: must be from 1 to 1000000 (got 0)."),
        (("short", "--lrs", "1", "0"), "--lrs: must be different factors from 0.001 to 1000 (got 1 0)."),
        (("short", "--lrs", "2", "2"), "--lrs: must be different factors from 0.001 to 1000 (got 2 2)."),
    ],
)
def test_studies_that_cannot_be_confirmed_are_refused(short: StudyFolder, arguments: tuple[str, ...], message: str):
    before = short.optuna("select study_name from studies")
    assert message in short.command(confirm, *arguments, *INLINE, expect=2)
    assert short.optuna("select study_name from studies") == before


def test_a_study_whose_definition_is_gone_needs_its_file(copied: StudyFolder):
    (copied.directory("short") / "study.yaml").unlink()
    assert 'has no definition of study "short"' in copied.command(confirm, "short", *INLINE, expect=2)


def test_a_dry_run_says_how_many_trainings_there_are_and_how_long_they_take(confirmed: StudyFolder):
    before = confirmed.optuna("select * from trials"), confirmed.mlflow("select run_uuid, status from runs")
    output = confirmed.command(confirm, "short", "--top", "1", "--seeds", "5", "--dry-run", *INLINE)
    (count, trainings, done) = map(int, re.findall(r"(\d+) configurations? .* (\d+) runs, (\d+) of them", output)[0])
    assert trainings == 5 * count
    assert done == 2 * count
    assert re.search(r"; about \d+ s on 1 slot, at the pace of the study$", output, re.MULTILINE)
    after = confirmed.optuna("select * from trials"), confirmed.mlflow("select run_uuid, status from runs")
    assert after == before


@pytest.mark.parametrize(("epochs", "seconds"), [((), 100), (("--epochs", "4"), 200)])
def test_the_time_is_estimated_from_the_trials_that_were_trained_to_the_end(
    copied: StudyFolder, epochs: tuple[str, ...], seconds: int
):
    database = sqlite3.connect(copied.path / "optuna.db")
    study = "(select trial_id from trials join studies using (study_id) where study_name = 'short'"
    changed = "update trial_user_attributes set value_json = '{}' where key = '{}' and trial_id in {}".format
    with database:
        database.execute(f"update trials set state = 'PRUNED' where trial_id in {study} and number > 0)")
        for key, pruned, whole in (("seconds", 1, 100), ("epochs", 1, 2)):
            database.execute(changed(pruned, key, f"{study} and state = 'PRUNED')"))
            database.execute(changed(whole, key, f"{study} and state = 'COMPLETE')"))
    database.close()
    output = copied.command(
        confirm, "short", "--top", "1", "--seeds", "3", "--name", "other", "--dry-run", *epochs, *INLINE
    )
    (count,) = map(int, re.findall(r"(\d+) runs", output))
    assert f"; about {duration(seconds * count)} on 1 slot, at the pace of the study" in output
