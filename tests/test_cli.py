"""`lr-tuner`: one command for all, its help, its completion, and the small commands."""

import contextlib
import importlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.studies import INLINE, StudyFolder
from tests.test_retry import STUDY, Broken, toys
from tuner import cli
from tuner.__main__ import main
from tuner.confirm import main as confirm
from tuner.doctor import main as doctor
from tuner.list import main as list_studies
from tuner.retry import main as retry
from tuner.show import main as show


def call(*arguments: str, expect: int = 0) -> str:
    """Call `lr-tuner` in this process, and return what it prints."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            code = main(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
    assert code == expect, output.getvalue()
    return output.getvalue()


def test_the_help_lists_every_command_and_imports_no_library():
    shown = call("--help")
    width = max(map(len, cli.COMMANDS))
    for name, text in cli.COMMANDS.items():
        assert f"{name:<{width}}  {text}" in shown
    code = "import sys; from tuner.__main__ import main; main([]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "optuna", "mlflow", "pydantic", "rich", "argcomplete", "tuner.study"}
    assert heavy.isdisjoint(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_help_of_every_command_has_examples_and_exit_codes(name: str):
    shown = call(name, "--help")
    assert shown.startswith(f"usage: lr-tuner {name} ")
    assert f"examples:\n  lr-tuner {name}" in shown
    assert "exit codes:\n  0 " in shown
    assert "--quiet" in shown
    assert "==SUPPRESS==" not in shown


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_help_fits_a_terminal_except_for_commands(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "60")
    lines = call(name, "--help").splitlines()
    assert all(len(line) <= 60 for line in lines if "lr-tuner" not in line and not line.startswith("      --"))


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_help_is_shown_however_narrow_the_terminal_is(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "1")
    assert "exit codes:" in call(name, "--help")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stduy"], "lr-tuner: error: unknown command stduy. Did you mean study?"),
        (["study", "x.yaml", "--trails", "5"], "unrecognized arguments: --trails 5. Did you mean --trials?"),
        (["study", "x.yaml", "--trial", "5"], "unrecognized arguments: --trial 5. Did you mean --trials?"),
        (["list", "--stor=x"], "unrecognized arguments: --stor=x. Did you mean --storage?"),
        (["--vers"], "lr-tuner: error: unrecognized arguments: --vers. Did you mean --version?"),
        (["export", "x", "--ouput=y"], "unrecognized arguments: --ouput=y. Did you mean --output?"),
        (["study", "--engine", "locla"], "argument --engine: invalid choice: 'locla'"),
        (["preview", "--steps", "0"], "argument --steps: must be a whole number of at least 1 (got 0)."),
        (["list", "x"], "lr-tuner list: error: unrecognized arguments: x."),
    ],
)
def test_a_mistyped_word_is_refused_with_the_one_that_is_meant(arguments: list[str], message: str):
    assert message in call(*arguments, expect=2)


def test_a_width_of_zero_is_unknown_and_hides_nothing(short: StudyFolder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "0")
    assert "short" in short.command(lambda arguments: list_studies(arguments[:2]))


@pytest.mark.parametrize(("name", "old"), [("preview", "--out"), ("export", "--to"), ("league", "--to")])
def test_an_earlier_name_of_an_option_is_understood_and_not_shown(name: str, old: str):
    parser = importlib.import_module(f"tuner.{name}").parser()
    positional = ["x"] if name != "preview" else []
    assert str(parser.parse_args([*positional, old, "there"]).output) == "there"
    assert f"{old} " not in parser.format_help()


def test_the_script_looks_for_modules_in_the_working_folder(tmp_path: Path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "own.yaml").write_text("trial: {model: {name: own_module:Net}}\n")
    script = Path(sys.executable).with_name("lr-tuner")
    done = subprocess.run([script, "study", "files/own.yaml"], cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 2
    assert f"Looked in {tmp_path}, " in " ".join(done.stderr.split())


def test_it_says_its_version():
    assert call("--version").startswith("lr-tuner 0.")


@pytest.mark.parametrize(
    ("line", "completions"),
    [
        ("lr-tuner pre", {"preview"}),
        ("lr-tuner study --stall", {"--stall-timeout"}),
        ("lr-tuner study --engine r", {"ray"}),
        ("lr-tuner show th", {"that-one", "third"}),
        ("lr-tuner export x --t", {"--trial", "--tracking-uri"}),  # not --to
    ],
)
def test_the_shell_completes_commands_options_and_studies(line: str, completions: set[str], tmp_path: Path):
    for name in ("that-one", "third", "other"):
        (tmp_path / ".tuner" / name).mkdir(parents=True)
        (tmp_path / ".tuner" / name / "lock").touch()
    environment = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    root = {"PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(
        f"exec {sys.executable} -m tuner 8>&1 9>/dev/null >/dev/null",
        shell=True,
        cwd=tmp_path,
        env={**os.environ, **root, **environment, "_ARGCOMPLETE_COMP_WORDBREAKS": " "},
        capture_output=True,
        text=True,
        check=True,
    )
    assert {each.strip() for each in done.stdout.split("\n") if each.strip()} == completions


def test_it_prints_the_script_that_a_shell_needs_to_complete():
    assert "lr-tuner" in call("--completion", "bash")
    reader, writer = os.pipe()
    os.close(reader)  # as head does once it has its lines
    done = subprocess.run(
        [sys.executable, "-m", "tuner", "--completion", "fish"], stdout=writer, stderr=subprocess.PIPE, check=True
    )
    os.close(writer)
    assert done.stderr == b""


@pytest.fixture
def failed(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    """Return a folder with a study in which two of four trials have failed."""
    monkeypatch.setattr(toys, "Broken", Broken, raising=False)
    (folder.path / "s.yaml").write_text(yaml.safe_dump(STUDY))
    folder.call(study="s.yaml")
    return folder


def test_failed_trials_are_trained_again_by_the_name_of_their_study(
    failed: StudyFolder, monkeypatch: pytest.MonkeyPatch
):
    shown = call_in(failed, list_studies)
    assert " ".join(shown.splitlines()[1].split()[:3]) == "s finished 4/4"
    shown = call_in(failed, show, "s")
    assert "s: finished, 4 of 4 trials (2 complete, 2 failed)" in shown
    assert "failed: ValueError: not yet mended (tests/test_retry.py" in shown.replace(f"{Path.cwd()}/", "")
    monkeypatch.setattr(Broken, "broken", False)
    output = failed.command(retry, "s", *INLINE)
    assert "s has all its 4 trials (4 complete)" in output
    assert failed.optuna("select number, state from trials") == [(number, "COMPLETE") for number in range(4)]
    assert "no failed trials in s" in failed.command(retry, "s.yaml", *INLINE)
    options = "s", "--top", "4", "--seeds", "1", *INLINE
    monkeypatch.setattr(Broken, "broken", True)
    failed.command(confirm, *options)
    states = (
        "select state, count(*) from trials join studies using (study_id) where study_name = 's-confirm' group by 1"
    )
    ends = dict(failed.optuna(states))
    assert ends["FAIL"] > 0
    monkeypatch.setattr(Broken, "broken", False)
    advice = "confirm s --retry-failed, with the options that it was started with"
    assert advice in failed.command(retry, "s-confirm", *INLINE, expect=2)
    failed.command(confirm, *options, "--retry-failed")
    assert failed.optuna(states) == [("COMPLETE", sum(ends.values()))]


def call_in(folder: StudyFolder, command: object, *arguments: str, expect: int = 0) -> str:
    """Call a command that has the option --storage only."""
    output = io.StringIO()
    storage = ["--storage", f"sqlite:///{folder.path}/optuna.db"]
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = command([*arguments, *storage])  # type: ignore[operator]
    assert code == expect, output.getvalue()
    return output.getvalue()


def test_the_findings_of_a_study_and_of_its_confirmation_are_shown_in_the_terminal(confirmed: StudyFolder):
    shown = call_in(confirmed, list_studies)
    assert [line.split()[0] for line in shown.splitlines()] == ["study", "short", "short-confirm"]
    shown = call_in(confirmed, show, "short")
    assert "short: finished, 3 of 3 trials (3 complete)" in shown
    assert "With fresh seeds: the answer is " in shown
    assert "The best is #" not in shown
    assert "short-confirm, retrained with fresh seeds:" in shown
    table = shown[shown.index("short-confirm") :].splitlines()
    assert "winner better" in table[3]
    alone = call_in(confirmed, show, "short-confirm")
    assert table[4] in alone.splitlines()
    assert "no study" in call_in(confirmed, show, "shrt", expect=2)


def test_a_quiet_command_prints_errors_only(confirmed: StudyFolder):
    assert call_in(confirmed, show, "short", "-q") == ""
    assert "no study" in call_in(confirmed, show, "shrt", "-q", expect=2)


def test_a_verbose_command_shows_the_traceback_of_an_error(confirmed: StudyFolder):
    assert "Traceback" not in call_in(confirmed, show, "shrt", expect=2)
    assert "Traceback" in call_in(confirmed, show, "shrt", "--verbose", expect=2)


def test_the_doctor_says_what_can_be_used_and_shows_no_password(
    confirmed: StudyFolder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:secret@127.0.0.1:1")
    shown = confirmed.command(doctor)
    for part in ("torch ", "optuna ", "GPUs ", "[ray] ", "2 studies, 0 running", "can be used"):
        assert part in shown
    assert "!" not in "".join(line[0] for line in shown.splitlines())
    assert "secret" not in shown
    shown = call_in(confirmed, doctor, expect=1)
    assert "! MLflow's store" in shown
    assert "secret" not in shown
