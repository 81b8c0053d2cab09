"""`python -m tuner.study`, as a user runs it."""

import csv
import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from lightning_modules import CosineDecay, CosineRestarts
from tests.networks import holding, holding_the_check, release
from tests.processes import children, connections_to, is_alive, servers_of, slots_of, sockets_of
from tests.studies import EPOCHS, STEPS, TINY, StudyFolder


def test_a_study_leaves_its_trials_in_optuna_and_its_curves_in_mlflow(undisturbed: StudyFolder):
    undisturbed.check(trials=4, epochs=EPOCHS, steps=STEPS)


def test_the_terminal_shows_every_trial_and_the_winner_without_noise(undisturbed: StudyFolder):
    output = undisturbed.output
    for number in range(4):
        assert len(re.findall(rf"^#{number} .*complete", output, re.MULTILINE)) == 1
    assert "tiny has all its 4 trials (4 complete)" in output
    lines = output.splitlines()
    (answer,) = (index for index, line in enumerate(lines) if line.startswith("tiny: The best is #"))
    margin = "ahead of all others by more than two standard errors (of 30 validation examples, not of seeds)."
    assert re.fullmatch(rf"tiny: The best is #\d \w+, val/acc 0\.\d+, {re.escape(margin)}", lines[answer])
    assert lines[answer + 1].startswith("tiny has all its 4 trials")
    commands = [line.split("lr-tuner ")[1] for line in lines[lines.index("next:") + 1 :] if "lr-tuner " in line]
    assert [command.split()[:2] for command in commands] == [
        [command, "tiny"] for command in ("dashboard", "confirm", "report")
    ]
    assert not re.search(r"warn|INFO|💡|Traceback|alembic", output, re.IGNORECASE)


def trial_params(folder: StudyFolder) -> dict[str, dict[str, str]]:
    """Return the parameters of every trial's run."""
    params: dict[str, dict[str, str]] = {}
    for trial, key, value in folder.mlflow(
        "select tags.value, params.key, params.value from params join tags using (run_uuid) "
        "where tags.key = 'tuner.trial'"
    ):
        params.setdefault(trial, {})[key] = value
    return params


def parent_artifacts(folder: StudyFolder) -> Path:
    """Return the folder of the artifacts of the study's run."""
    ((artifacts,),) = folder.mlflow(
        "select artifact_uri from runs join tags using (run_uuid) where key = 'tuner.study_id'"
    )
    return folder.path / artifacts


def test_the_curves_in_mlflow_are_those_of_the_schedules(undisturbed: StudyFolder):
    params = trial_params(undisturbed)
    restarts = {trial: values for trial, values in params.items() if values["schedule.name"] == "cosine_restarts"}
    assert restarts
    for trial, values in restarts.items():
        schedule = CosineRestarts(restart_period=float(values["schedule.restart_period"]))
        initial_lr = float(values["optimizer.initial_lr"])
        lr = [value for at, key, _, value in undisturbed.curves() if (at, key) == (trial, "lr")]
        assert lr == [initial_lr * schedule(step) for step in range(STEPS)]


def test_parameters_are_recorded_under_the_dotted_names_of_the_study_file(undisturbed: StudyFolder):
    keys = {key for (key,) in undisturbed.mlflow("select distinct key from params")}
    assert {
        "data.batch_size",
        "data.name",
        "model.neurons",
        "optimizer.initial_lr",
        "optimizer.name",
        "schedule.name",
        "seed",
        "trainer.max_epochs",
    } <= keys


def test_the_parent_run_carries_the_best_trial_the_table_and_the_study_file(undisturbed: StudyFolder):
    artifacts = parent_artifacts(undisturbed)
    table = list(csv.DictReader(io.StringIO((artifacts / "trials.csv").read_text())))
    assert [row["number"] for row in table] == ["0", "1", "2", "3"]
    best = max(table, key=lambda row: float(row["value"]))
    tags = dict(
        undisturbed.mlflow(
            "select key, value from tags where run_uuid in (select run_uuid from tags where key = 'tuner.study_id')"
        )
    )
    assert tags["tuner.best_trial"] == best["number"]
    standing = undisturbed.standing()
    best_values = [value for key, _, value in standing if key == "best_value"]
    assert best_values == sorted(best_values), "that of the best so far, after each trial"
    assert best_values[-1] == float(best["value"])
    assert [step for key, step, _ in standing if key == "test/acc"] == [4]
    assert (artifacts / "study.yaml").read_text().startswith(TINY.read_text())


RELATIVE = """\
budget: {trials: 4}
sampler: {name: random, seed: 2}
pruner: {name: none}
trial:
  data: {name: iris, batch_size: 10}
  model: {name: mlp, inputs: 4, neurons: 8}
  optimizer: {name: adam, initial_lr: 1e-2}
  trainer: {max_epochs: 3}
search_space:
  schedule:
    one_of:
      step: {decay_rate: 0.5, decay_steps: 1 epochs}
      cosine: {decay_steps: {low: 40%, high: 60%}}
"""


def test_lengths_in_epochs_and_percent_are_trained_in_steps_and_recorded_as_both(folder: StudyFolder):
    (folder.path / "relative.yaml").write_text(RELATIVE)
    output = folder.call("--trials", "2", study="relative.yaml")
    assert "schedule.cosine.decay_steps (%): 40 to 60" in output
    folder.call(study="relative.yaml")
    folder.check(trials=4, epochs=EPOCHS, steps=STEPS)
    params = trial_params(folder)
    assert {values["schedule.name"] for values in params.values()} == {"step", "cosine"}
    drawn = dict(
        folder.optuna(
            "select number, param_value from trials join trial_params using (trial_id) where param_name like '%(%'"
        )
    )
    for trial, values in params.items():
        lr = [value for at, key, _, value in folder.curves() if (at, key) == (trial, "lr")]
        steps, text = int(values["schedule.decay_steps"]), values["schedule.decay_steps.relative"]
        if values["schedule.name"] == "step":
            assert (steps, text) == (STEPS // EPOCHS, "1 epochs")
            assert lr == [1e-2 * 0.5 ** (step // steps) for step in range(STEPS)]
        else:
            assert (steps, text) == (round(drawn[int(trial)] / 100 * STEPS), f"{drawn[int(trial)]} %")
            assert lr == [1e-2 * CosineDecay(decay_steps=steps)(step) for step in range(STEPS)]
    best = yaml.safe_load((parent_artifacts(folder) / "best.yaml").read_text())
    assert isinstance(best["model"]["init_args"]["schedule"]["init_args"]["decay_steps"], int)


def test_only_the_winner_is_tested_and_its_weights_are_kept(undisturbed: StudyFolder):
    tested = undisturbed.mlflow(
        "select tags.value from metrics join tags using (run_uuid) "
        "where metrics.key = 'test/acc' and tags.key = 'tuner.trial'"
    )
    ((best,),) = undisturbed.optuna(
        "select number from trials join trial_values using (trial_id) order by value desc, number limit 1"
    )
    assert tested == [(str(best),)]
    weights = list(undisturbed.directory().glob("trials-*/*/*.ckpt"))
    assert [path.parent.name for path in weights] == [str(best)]
    torch.load(weights[0], weights_only=True)


def test_a_finished_study_says_so_and_adds_nothing(undisturbed: StudyFolder):
    before = undisturbed.values(), undisturbed.curves()
    assert "tiny has all its 4 trials" in undisturbed.call()
    assert (undisturbed.values(), undisturbed.curves()) == before


def test_more_trials_continue_a_study_as_if_they_had_been_asked_at_once(folder: StudyFolder, undisturbed: StudyFolder):
    folder.call("--trials", "2")
    folder.check(trials=2, epochs=EPOCHS, steps=STEPS)
    folder.call("--trials", "4")
    folder.check(trials=4, epochs=EPOCHS, steps=STEPS)
    assert folder.values() == undisturbed.values()


def test_the_inline_engine_gives_the_same_results(folder: StudyFolder, undisturbed: StudyFolder):
    folder.call("--trials", "2")
    assert folder.values() == [row for row in undisturbed.values() if row[0] < 2]


def test_a_finished_study_that_is_run_again_keeps_its_end_in_mlflow(folder: StudyFolder):
    folder.call("--trials", "1")
    query = "select status, start_time, end_time from runs order by start_time"
    before = folder.mlflow(query)
    folder.call("--trials", "1")
    assert folder.mlflow(query) == before


def test_a_changed_study_is_refused_with_the_difference_shown(undisturbed: StudyFolder):
    output = undisturbed.call("--set", "search_space.optimizer.initial_lr.high=1.0", expect=2)
    assert "search_space.optimizer.initial_lr.high: was 0.03, now 1.0" in output
    assert "name=" in output


def test_a_dry_run_notices_a_changed_study(undisturbed: StudyFolder):
    output = undisturbed.call("--dry-run", "--set", "sampler.seed=2", expect=2)
    assert "sampler.seed: was 1, now 2" in output
    undisturbed.call("--dry-run", "--set", "name=another")


def test_a_dry_run_checks_everything_and_creates_nothing(folder: StudyFolder):
    assert "4 trials" in folder.call("--dry-run")
    assert list(folder.path.iterdir()) == []


def test_bad_input_ends_with_status_2_and_creates_nothing(folder: StudyFolder):
    output = folder.call("--set", "trial.optimizer.initial_lr=-1", "--set", "search_space={}", expect=2)
    assert "initial_lr > 0 must hold, but got initial_lr=-1" in output
    assert "Traceback" not in output
    assert list(folder.path.iterdir()) == []


def test_an_invalid_duration_is_refused_before_anything_starts(folder: StudyFolder):
    output = folder.call("--checkpoint-every", "soon", "--stall-timeout", "0s", expect=2)
    assert '--stall-timeout: "0s" is not a duration; write 90s, 30m, 2h or 1h30m.' in output
    output = folder.call("--checkpoint-every", "soon", expect=2)
    assert '--checkpoint-every: "soon" is not a duration; write 90s, 30m, 2h or 1h30m.' in output
    assert list(folder.path.iterdir()) == []


def test_a_batch_larger_than_the_training_set_is_refused(folder: StudyFolder):
    output = folder.call("--set", "trial.data.batch_size=91", expect=2)
    assert "91" in output
    assert "but got batch_size=91 with 90 rows" in output
    assert list(folder.path.iterdir()) == []


def test_a_tracking_server_that_does_not_answer_is_reported_before_anything_starts(folder: StudyFolder):
    output = folder.call("--tracking-uri", "http://127.0.0.1:9", expect=2)
    assert "no MLflow server answers at http://127.0.0.1:9" in output
    assert list(folder.path.iterdir()) == []


def test_a_timeout_starts_no_further_trial(folder: StudyFolder):
    # Time enough for the first to start on a busy machine, and too little for all on a fast one.
    output = folder.call("--per-device", "1", "--timeout", "5s", "--trials", "500")
    told = re.search(r"tiny has ([1-9]\d*) of 500 trials .*; run the same command again to continue", output)
    assert told, output
    assert " confirm tiny" not in output, "it has not ended"
    table = csv.DictReader(io.StringIO((parent_artifacts(folder) / "trials.csv").read_text()))
    assert len(list(table)) == int(told[1]), "the last state is recorded"


def test_a_diverged_trial_is_pruned_and_the_study_continues(folder: StudyFolder):
    folder.call("--trials", "1", "--set", "search_space.optimizer.initial_lr={low: 1e12, high: 1e13}", expect=1)
    assert folder.optuna("select state from trials") == [("PRUNED",)]
    tags = dict(
        folder.mlflow(
            "select key, value from tags where run_uuid in (select run_uuid from tags where key = 'tuner.trial')"
        )
    )
    assert tags["tuner.state"] == "diverged"
    assert "not finite at step" in tags["tuner.message"]
    statuses = folder.mlflow("select status from runs join tags using (run_uuid) where key = 'tuner.trial'")
    assert statuses == [("KILLED",)]


def test_pruned_is_not_failed(folder: StudyFolder):
    options = ["--set", "pruner={name: successive_halving, min_resource: 1, reduction_factor: 4}"]
    folder.call("--trials", "6", *options)
    states = dict(folder.optuna("select state, count(*) from trials group by state"))
    assert states.keys() == {"COMPLETE", "PRUNED"}
    statuses = dict(
        folder.mlflow(
            "select status, count(*) from runs join tags using (run_uuid) where key = 'tuner.trial' group by 1"
        )
    )
    assert statuses == {"FINISHED": states["COMPLETE"] + states["PRUNED"]}, "MLflow shows a killed run as a failure"
    names = folder.mlflow("select name from runs where name like '%, pruned'")
    assert len(names) == states["PRUNED"]


def test_the_same_error_three_times_in_a_row_ends_the_study(folder: StudyFolder):
    (folder.path / "broken.py").write_text(
        "import torch\n\n\nclass Net(torch.nn.Linear):\n    def __init__(self):\n        super().__init__(1, 1)\n\n"
        "    def forward(self, images):\n        raise RuntimeError('this network cannot run')\n"
    )
    output = folder.run("--trials", "9", "--set", "trial.model={name: 'broken:Net'}", expect=1)
    assert "RuntimeError: this network cannot run" in output
    assert output.count("RuntimeError: this network cannot run") <= 2, "an error is shown once"
    assert folder.optuna("select state, count(*) from trials group by state") == [("FAIL", 3)] or (
        # a second slot may have begun a fourth before the third was told
        folder.optuna("select state, count(*) from trials group by state") == [("FAIL", 4)]
    )
    traces = [
        folder.path / path / "traceback.txt"
        for (path,) in folder.mlflow("select artifact_uri from runs where status = 'FAILED'")
    ]
    assert all("broken.py" in trace.read_text() for trace in traces)


def test_help_has_examples_and_does_not_import_torch():
    started = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tuner.study", "--help"], capture_output=True, text=True, check=True
    )
    assert "examples:" in started.stdout
    assert "exit codes" in started.stdout
    assert not re.search(r"\| +torch$", started.stderr, re.MULTILINE)


def test_a_shipped_study_is_found_by_its_name_from_any_folder(folder: StudyFolder):
    assert "quickstart: 280 epochs for the best val/acc" in folder.call("--dry-run", study="quickstart")


def test_a_folder_with_spaces_and_letters_of_any_script_works(tmp_path: Path):
    path = tmp_path / "ünï ✓ dir"
    path.mkdir()
    folder = StudyFolder(path)
    folder.call("--trials", "1")
    folder.check(trials=1, epochs=EPOCHS, steps=STEPS)


# -- killed ------------------------------------------------------------------------------------------------------------


def test_a_killed_trial_continues_from_its_last_epoch_to_the_same_result(folder: StudyFolder, undisturbed: StudyFolder):
    process = folder.start("--per-device", "2", *holding(folder))
    killed: set[int] = set()
    while len(killed) < 3:
        folder.wait_for(lambda: folder.has_checkpoint() and set(slots_of(process.pid)) - killed, process)
        slot = min(set(slots_of(process.pid)) - killed)
        os.kill(slot, signal.SIGKILL)
        killed.add(slot)
    release(folder)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert output.count("killed by SIGKILL") == 3
    folder.check(trials=4, epochs=EPOCHS, steps=STEPS)
    assert folder.values() == undisturbed.values()
    assert folder.curves() == undisturbed.curves()
    assert folder.weights() == undisturbed.weights()


def test_a_training_killed_before_its_first_checkpoint_restarts_and_gives_the_same_result(
    folder: StudyFolder, undisturbed: StudyFolder
):
    options = ("--checkpoint-every", "1h", *holding(folder))
    process = folder.start("--per-device", "2", *options)
    reports = "select count(*) from trial_intermediate_values"
    folder.wait_for(lambda: folder.optuna(reports)[0][0] > 0, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=240)
    assert not folder.has_checkpoint()
    release(folder)
    folder.call(*options)
    folder.check(trials=4, epochs=EPOCHS, steps=STEPS)
    assert folder.values() == undisturbed.values()
    assert folder.curves() == undisturbed.curves()
    assert folder.weights() == undisturbed.weights()


# The command, killed when MLflow has made some of its tables.
KILLED_AMONG_TABLES = """\
import os, runpy, signal
from sqlalchemy import Engine, event

made = []


@event.listens_for(Engine, "after_cursor_execute")
def kill(connection, cursor, statement, parameters, context, executemany):
    if "mlflow.db" in str(connection.engine.url) and "CREATE TABLE" in statement:
        made.append(statement)
        if len(made) == 10:
            os.kill(os.getpid(), signal.SIGKILL)


runpy.run_module("tuner.study", run_name="__main__", alter_sys=True)
"""


def test_a_study_that_is_killed_while_mlflow_makes_its_tables_can_begin_again(folder: StudyFolder):
    folder.has_databases = False
    (folder.path / "killed.py").write_text(KILLED_AMONG_TABLES)
    process = folder.start("--trials", "1", module="killed")
    process.communicate(timeout=240)
    assert process.returncode == -signal.SIGKILL
    assert not (folder.path / "mlflow.db").exists()
    assert list(folder.path.glob("mlflow.db.*"))
    folder.call("--trials", "1")
    folder.check(trials=1, epochs=EPOCHS, steps=STEPS)
    assert [file.name for file in folder.path.glob("mlflow.db*")] == ["mlflow.db"]


@pytest.mark.parametrize("victim", ["coordinator", "server", "everything"])
def test_the_same_command_ends_with_exactly_the_requested_trials_whatever_was_killed(
    folder: StudyFolder, undisturbed: StudyFolder, victim: str
):
    own = holding(folder)
    process = folder.start("--per-device", "2", *own)
    folder.wait_for(folder.has_checkpoint, process)
    trainings = slots_of(process.pid)
    match victim:
        case "coordinator":
            os.kill(process.pid, signal.SIGKILL)
        case "server":
            (server,) = servers_of(process.pid)
            os.kill(server, signal.SIGKILL)
        case "everything":
            for pid in (process.pid, *children(process.pid)):
                os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while any(is_alive(pid) for pid in trainings):
        assert time.monotonic() < deadline, "a training outlived its coordinator"
        time.sleep(0.05)
    release(folder)
    process.communicate(timeout=240)
    if victim == "everything":
        folder.run("--per-device", "2", *own)
    else:
        folder.call(*own)
    folder.check(trials=4, epochs=EPOCHS, steps=STEPS)
    assert folder.values() == undisturbed.values()
    assert folder.curves() == undisturbed.curves()
    assert folder.weights() == undisturbed.weights()


def test_a_server_that_dies_while_it_starts_a_trial_is_restarted(folder: StudyFolder):
    process = folder.start("--per-device", "1", "--trials", "1", *holding_the_check(folder))
    folder.wait_for(lambda: servers_of(process.pid), process)
    (server,) = servers_of(process.pid)
    folder.wait_for(lambda: sockets_of(server), process)
    (socket,) = sockets_of(server)
    os.kill(server, signal.SIGSTOP)
    release(folder)
    folder.wait_for(lambda: connections_to(socket), process)  # the coordinator waits for an answer
    os.kill(server, signal.SIGKILL)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    folder.check(trials=1, epochs=EPOCHS, steps=STEPS)


def test_a_dying_server_that_no_longer_answers_is_restarted(folder: StudyFolder):
    process = folder.start("--per-device", "1", "--trials", "1", *holding_the_check(folder))
    listening: dict[int, set[Path]] = {}

    def is_listening() -> bool:
        listening.update({server: found for server in servers_of(process.pid) if (found := sockets_of(server))})
        return bool(listening)

    folder.wait_for(is_listening, process)
    ((server, (socket,)),) = listening.items()
    socket.unlink()  # as when the kernel takes down a killed process: it is there, and cannot be reached
    release(folder)
    asked = "select count(*) from trials where state = 'RUNNING'"
    folder.wait_for(lambda: (folder.path / "mlflow.db").exists() and folder.optuna(asked) == [(1,)], process)
    os.kill(server, signal.SIGKILL)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    folder.check(trials=1, epochs=EPOCHS, steps=STEPS)


SLOW = pytest.mark.slow  # its handler is that of SIGINT
SIGNALS = [
    (signal.SIGINT, 130),
    pytest.param(signal.SIGTERM, 143, marks=SLOW),
    pytest.param(signal.SIGHUP, 129, marks=SLOW),
]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_an_interrupt_ends_after_the_epoch_and_the_study_can_continue(
    folder: StudyFolder, undisturbed: StudyFolder, number: signal.Signals, code: int
):
    own = holding(folder)
    process = folder.start("--per-device", "2", *own)
    folder.wait_for(folder.has_checkpoint, process)
    os.killpg(process.pid, number)  # as a terminal does: to all of the group
    release(folder)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == code, output
    assert "Traceback" not in output
    assert "killed" not in output, "the running epoch was not allowed to end"
    assert folder.optuna("select count(*) from trials where state = 'RUNNING'") == [(0,)]
    assert folder.mlflow("select count(*) from runs where status = 'RUNNING'") == [(0,)]
    ((cut_short,),) = folder.optuna("select count(*) from trials where state = 'WAITING'")
    assert (f"{cut_short} interrupted trial" in output) == (cut_short > 0)
    folder.call(*own)
    folder.check(trials=4, epochs=EPOCHS, steps=STEPS)
    assert folder.curves() == undisturbed.curves()


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_an_interrupt_while_the_study_is_checked_ends_at_once(folder: StudyFolder, number: signal.Signals, code: int):
    folder.is_new, folder.has_databases = True, False
    process = folder.start()
    folder.wait_for(lambda: servers_of(process.pid), process)  # it imports its libraries now
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=240)
    assert (process.returncode, output) == (code, "interrupted; run the same command again to continue\n")
    assert list(folder.path.iterdir()) == []


def test_a_second_interrupt_ends_at_once(folder: StudyFolder):
    process = folder.start("--per-device", "2", *holding(folder))
    folder.wait_for(folder.has_checkpoint, process)
    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGTERM)  # another, for two of a kind may count as one
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert folder.optuna("select count(*) from trials where state = 'RUNNING'") == [(0,)]


def test_a_second_coordinator_is_refused_with_the_name_of_the_first(folder: StudyFolder):
    own = holding(folder)
    process = folder.start("--per-device", "2", *own)
    folder.wait_for(folder.has_checkpoint, process)
    output = folder.call(*own, expect=75)
    assert f'study "tiny" is already being run by pid {process.pid}' in output


def test_a_finished_trial_that_mlflow_lacks_is_sent_by_the_next_run(folder: StudyFolder, undisturbed: StudyFolder):
    folder.call()
    with sqlite3.connect(folder.path / "mlflow.db") as database:
        for table in ("metrics", "latest_metrics", "params", "tags"):
            database.execute(
                f"delete from {table} where run_uuid in (select run_uuid from runs where name like '#1 %')"
            )
        database.execute("delete from runs where name like '#1 %'")
    database.close()
    folder.call()
    folder.check(trials=4, epochs=EPOCHS, steps=STEPS)
    trained = [point for point in undisturbed.curves() if not point[1].startswith("test/")]
    assert [point for point in folder.curves() if not point[1].startswith("test/")] == trained


def test_a_result_that_was_written_but_not_recorded_is_recorded_by_the_next_run(
    folder: StudyFolder, undisturbed: StudyFolder
):
    """The coordinator died between a trial's `result.json` and Optuna's commit."""
    folder.call()
    with sqlite3.connect(folder.path / "optuna.db") as database:
        database.execute("delete from trial_values where trial_id = (select trial_id from trials where number = 3)")
        database.execute("update trials set state = 'RUNNING', datetime_complete = null where number = 3")
    database.close()
    with sqlite3.connect(folder.path / "mlflow.db") as database:
        database.execute("update runs set status = 'RUNNING' where name like '#3 %'")
    database.close()
    result = json.loads(next(folder.directory().glob("trials-*/3/result.json")).read_text())
    output = folder.call()
    assert result["result"]["state"] == "complete"
    assert "#3" in output
    folder.check(trials=4, epochs=EPOCHS, steps=STEPS)
    assert folder.values() == undisturbed.values()


NEVER = ("--set", "trial.optimizer={name: sgd, initial_lr: 1e30}", "--set", "search_space.optimizer.initial_lr=null")


def test_a_study_in_which_no_trial_was_trained_to_its_end_has_status_1(folder: StudyFolder):
    output = folder.call(*NEVER, "--trials", "1", "--set", "search_space.schedule=null", expect=1)
    assert "No trial ran to completion." in output
    assert "its weights" not in output


def test_missing_weights_are_not_announced(folder: StudyFolder):
    folder.call("--trials", "1")
    (path,) = folder.directory().glob("trials-*/0/model.ckpt")
    path.unlink()
    assert "its weights: not on this machine" in folder.call("--trials", "1")
