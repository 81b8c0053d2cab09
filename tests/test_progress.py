"""The output of a study, on a terminal and in a file."""

import io
import itertools
import math
import re
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

import tuner.runner.display
from tests.test_charts import study as study_of
from tests.test_charts import trial as recorded
from tuner.config.component import Component
from tuner.config.function_trial import FunctionTrial
from tuner.config.loader import load_study
from tuner.config.study import StudyConfig
from tuner.config.trial import TrialConfig
from tuner.console import print_line
from tuner.direction import Direction
from tuner.process import own_command
from tuner.protocol import EpochReport, Slot, StepReport, TrialResult
from tuner.runner import open_study
from tuner.runner.display import Display
from tuner.runner.open_study import Outcome, checking
from tuner.runner.summary import exports, print_next, print_ranking, print_table
from tuner.storage.replicates import ReplicationStudy
from tuner.urls import storage_url

TINY = Path(__file__).parent / "tiny.yaml"


def trial() -> TrialConfig:
    return TrialConfig.from_values(
        {
            "data": {"name": "mnist_5k"},
            "model": {"name": "mnist_cnn"},
            "optimizer": {"name": "adam", "initial_lr": 0.01},
            "schedule": {"name": "cosine_restarts", "restart_period": 20},
            "trainer": {"max_epochs": 3},
            "seed": 0,
        }
    )


def play(console: Console, config: StudyConfig | None = None) -> None:
    with Display(config or load_study(str(TINY)), console) as display:
        display.ending = lambda: 100.0
        display.standing(0, 0, None)
        display.start(0, trial(), Slot(0, (), 1))
        display.tick()
        display.epoch(0, EpochReport(1, 0.75, [], False, StepReport(1, 40, 120, 0.00123)))
        display.tick()
        display.finish(0, trial(), TrialResult("complete", value=0.8123, epochs=3, seconds=2.5))
        display.standing(1, 0, None)
        display.note("trial #1 [killed]")
        display.tick()


def test_a_terminal_shows_a_line_for_each_running_trial():
    output = io.StringIO()
    play(Console(file=output, force_terminal=True, width=120, color_system=None))
    shown = output.getvalue()
    for part in ("tiny", "0/4 trials", "cosine_restarts", "epoch 2/3", "lr 0.00123", "val/acc  0.7500", "starting"):
        assert part in shown


@pytest.mark.parametrize("width", [44, 80])
def test_a_narrow_terminal_shows_whole_lines_with_the_digits_that_matter(width: int):
    output = io.StringIO()
    play(Console(file=output, force_terminal=True, width=width, color_system=None))
    lines = [re.sub(r"\x1b\[[0-9?;]*[A-Za-z]|\r", "", line) for line in output.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    shown = "\n".join(lines)
    for part in ("0/4 trials", "#0   cosine_restarts", "0.7500", "complete", "0.8123", " so far", " left"):
        assert part in shown
    assert "…" not in shown
    assert "epoch 2/3" in shown
    assert ("lr 0.00123" in shown) == (width == 80)


def test_a_file_gets_whole_lines_only():
    output = io.StringIO()
    play(Console(file=output, width=120))
    lines = output.getvalue().splitlines()
    assert len(lines) == 2
    assert " ".join(lines[0].split()) == "#0 cosine_restarts complete val/acc 0.8123 lr 0.01 3 epochs, 2 s"
    assert len(lines[0]) <= 80
    assert lines[1] == "note: trial #1 [killed]"
    assert "\x1b" not in output.getvalue()


@pytest.fixture
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Display, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(tuner.runner.display, "time", SimpleNamespace(monotonic=lambda: 1000.0))


@pytest.mark.usefixtures("stopped_clock")
def test_a_file_gets_a_line_a_minute_with_progress_and_time_left_until_the_report():
    output = io.StringIO()
    play(Console(file=output, width=120))
    first, second, _, _, last = output.getvalue().splitlines()
    assert first == "0/4 trials, 0:00 so far"
    assert second == "0/4 trials, 0:00 so far"
    assert last == "1/4 trials, 0:00 so far, about 1:40 left", "nothing but the test and the 100 s of the plots"


@pytest.mark.usefixtures("stopped_clock")
def test_after_the_last_trial_the_time_left_is_for_the_test_and_the_plots():
    output = io.StringIO()
    with Display(load_study(str(TINY), ["budget.trials=1"]), Console(file=output, width=120)) as display:
        display.ending = lambda: 100.0
        display.standing(0, 0, None)
        display.start(0, trial(), Slot(0, (), 1))
        display.finish(0, trial(), TrialResult("complete", value=0.8123, epochs=3, seconds=15.0))
        display.standing(1, 0, None)
        display.tick()
        display.tested({})
        display.tick()
    lines = output.getvalue().splitlines()
    assert lines[1] == "1/1 trials, 0:00 so far, about 1:45 for the test and plots"
    assert lines[-1] == "1/1 trials, 0:00 so far, about 1:40 for plots"


@pytest.mark.parametrize("width", [44, 80])
@pytest.mark.parametrize("state", ["complete", "pruned"])
def test_a_finished_call_always_shows_its_values_and_no_empty_column(width: int, state: str, tmp_path: Path):
    study = tmp_path / "calls.yaml"
    study.write_text(
        "objective: {direction: minimize}\n"
        "trial: {objective_function: math:sqrt}\n"
        "search_space: {x: {low: 0.0, high: 1.0}}\n"
    )
    output = io.StringIO()
    with Display(
        load_study(str(study)), Console(file=output, force_terminal=True, width=width, color_system=None)
    ) as display:
        for number, further in ((9, {}), (10, {"momentum": 0.9512, "layers": 3, "activation": "leaky_relu"})):
            called = FunctionTrial(Component("math:sqrt"), {"x": 0.125, **further})
            display.finish(number, called, TrialResult(state, value=30.7549, epochs=2, seconds=0.1))
    lines = re.sub(r"\x1b\[[0-9?;]*[A-Za-z]|\r", "", output.getvalue()).splitlines()
    lines = [line for line in lines if line]
    assert [line[:4].rstrip() for line in lines] == ["#9", "#10"]
    assert max(map(len, lines)) <= width
    assert all(re.search(r" 30\.7549  x 0\.125", line) for line in lines)
    assert all(re.match(rf"#\d+ +{state}  ", line) for line in lines)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_function_whose_length_is_not_known_shows_its_steps(is_terminal: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Display, "EVERY_SECONDS", 0.0)
    called = FunctionTrial(Component("math:sqrt"), {"lr": 0.125})
    output = io.StringIO()
    console = Console(file=output, force_terminal=is_terminal, width=120, color_system=None)
    with Display(load_study(str(TINY)), console) as display:
        display.standing(0, 0, None)
        display.start(0, called, Slot(0, (), 1))
        display.epoch(0, EpochReport(7, 0.75, [], False, StepReport(7, 0, 0, math.nan)))
        display.tick()
    shown = output.getvalue()
    for part in ("step 7", "lr 0.125", "0.7500") if is_terminal else ("0/4 trials, 0:00 so far",):
        assert part in shown


def test_a_terminal_shows_how_far_mlflow_is_behind_when_it_is_much():
    output = io.StringIO()
    with Display(load_study(str(TINY)), Console(file=output, force_terminal=True, width=120)) as display:
        display.lag = 9.0
        display.tick()
        assert "MLflow" not in output.getvalue()
        display.lag = 75.0
        display.tick()
    assert "MLflow 1:15 behind" in output.getvalue()


def test_a_training_of_a_confirmation_has_the_name_that_the_table_gives_it():
    study = load_study(str(TINY))
    candidates = {"#7 cosine_restarts": trial(), "default step": trial()}
    confirmation = ReplicationStudy.of(study, "tiny-confirm", candidates, [11, 12], {})
    output = io.StringIO()
    play(Console(file=output, width=120), confirmation)
    lines = output.getvalue().splitlines()
    assert " ".join(lines[0].split()[:4]) == "#7 cosine_restarts, seed 1/2"
    assert lines[0].endswith("  3 epochs, 2 s")
    assert lines[1] == "note: default step, seed 1/2 [killed]"
    assert confirmation.name_of(2) == "#7 cosine_restarts, seed 2/2"


def test_a_narrow_terminal_leaves_out_the_least_important_columns_of_a_table():
    columns = [("", 0, ["#7 cosine"]), ("mean", 0, ["0.9712"]), ("95% interval", 2, ["0.9700 to 0.9724"])]
    shown = {}
    for width in (44, 80):
        output = io.StringIO()
        console = Console(file=output, force_terminal=True, width=width, color_system=None)
        print_table(console, *columns, ("seeds", 3, ["10"]), ("winner better", 1, ["the winner"]))
        shown[width] = output.getvalue()
        assert max(map(len, shown[width].splitlines())) <= width
    assert shown[80].splitlines()[0].split() == ["mean", "95%", "interval", "seeds", "winner", "better"]
    assert shown[44].splitlines()[0].split() == ["mean", "winner", "better"]
    assert "0.9712" in shown[44]


@pytest.mark.parametrize("width", [24, 44, 80])
def test_no_digit_of_a_ranking_is_cut_off_in_a_narrow_terminal(width: int):
    params = {"model.activation": "leaky_relu_with_a_long_name", "optimizer.eps": 3.011e-11, "schedule.power": 0.9886}
    trials = [recorded(each, family="warmup_stable_decay", params=params) for each in (9, 10)]
    several = [replace(each, further=(18442.0, 1.2848, 0.1488)) for each in trials]
    metrics = [(name, Direction.MINIMIZE) for name in ("parameters", "train/seconds", "val/loss")]
    for record in (study_of(trials), study_of(several, further=metrics)):
        output = io.StringIO()
        print_ranking(Console(file=output, force_terminal=True, width=width, color_system=None), record, 5, "show")
        lines = output.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        assert "…" not in "".join(lines[1:])
        assert sum(line.startswith("#10") for line in lines) == 1
        assert width < 44 or "warmup_stable_decay" in "".join(output.getvalue().split())


def test_a_ranking_says_how_many_trials_it_leaves_out():
    record = study_of([recorded(number) for number in range(7)])
    shown = {}
    for most in (5, 7):
        output = io.StringIO()
        print_ranking(Console(file=output, width=80), record, most, "lr-tuner show some")
        shown[most] = output.getvalue().splitlines()
    assert len(shown[5]) == 1 + 5 + 1
    assert shown[5][-1] == "... 2 more: lr-tuner show some"
    assert len(shown[7]) == 1 + 7


@pytest.mark.parametrize("width", [44, 100])
def test_a_table_in_a_pipe_is_as_wide_as_its_cells_whatever_the_columns(width: int):
    output = io.StringIO()
    study = "a_study_with_quite_a_long_name_of_about_sixty_characters_as_here"
    print_table(
        Console(file=output, width=width),
        ("study", 0, [study]),
        ("value", 0, ["0.9567"]),
        ("best", 3, ["#3 one_cycle"]),
    )
    heading, row = output.getvalue().splitlines()
    assert heading.split() == ["study", "value", "best"]
    assert row == f"{study}  0.9567  #3 one_cycle"


@pytest.mark.parametrize("name", ["tiny", "a_study_with_a_name_of_thirty"])
@pytest.mark.parametrize("width", [44, 80, 0])
def test_the_next_commands_keep_their_explanations_wrapped_at_words(width: int, name: str):
    output = io.StringIO()
    texts = {"dashboard": "lr curves and accuracies, in MLflow", "confirm": "is the winner really better? test it"}
    console = Console(file=output, force_terminal=bool(width), width=width or 80, color_system=None)
    outcome = Outcome(name, storage=storage_url(None), tracking_uri="sqlite:///mlflow.db")
    print_next(console, outcome, name, texts)
    lines = output.getvalue().splitlines()[2:]
    assert " ".join(" ".join(lines).split()) == " ".join(
        f"{own_command()} {command} {name} {text}" for command, text in texts.items()
    )
    assert all(len(line) <= (width or 80) or line.strip().endswith(f" {name}") for line in lines)


def test_the_winner_is_exported_under_the_number_of_its_trial_and_only_if_it_is_one():
    record = study_of([recorded(7, value=0.9, family="cosine"), recorded(8, value=0.8, family="constant")])
    assert exports(record, "#7 cosine") == {"export": "the winner, #7 cosine, as a folder"}
    assert exports(record, "#8 constant") == {"export --trial 8": "the winner, #8 constant, as a folder"}
    for other in ("#7 at a constant lr", "default cosine", "#7 cosine, initial_lr x 2"):
        assert exports(record, other) == {}


SENTENCE = (
    "  [dim]note: the quick brown fox jumps over[/dim] the lazy dog, and writes /a/path/that/is/longer/than/a/line"
)


@pytest.mark.parametrize("width", [44, 24])
def test_a_terminal_gets_sentences_wrapped_at_words_and_a_file_gets_them_whole(width: int):
    output, file = io.StringIO(), io.StringIO()
    print_line(Console(file=output, force_terminal=True, width=width, color_system=None), SENTENCE)
    print_line(Console(file=file, width=width), SENTENCE)
    (whole,) = file.getvalue().splitlines()
    lines = output.getvalue().splitlines()
    assert [word for line in lines for word in line.split()] == whole.split()
    assert all(line.startswith("  ") for line in lines)
    assert all(len(line) <= width or line.split() == [line.strip()] for line in lines)
    assert all(len(line) + len(after.split()[0]) >= width for line, after in itertools.pairwise(lines))


def test_a_check_that_takes_long_says_so_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(open_study, "SECONDS_TO_CHECK", 0.01)
    output, started = io.StringIO(), time.monotonic()
    with checking(Console(file=output), "mine.yaml"):
        while not output.getvalue() and time.monotonic() - started < 60:
            time.sleep(0.01)
    assert output.getvalue() == "note: still checking mine.yaml, for which its data are loaded\n"


def test_a_command_is_not_wrapped_as_it_is_copied_from_the_terminal():
    output = io.StringIO()
    print_line(
        Console(file=output, force_terminal=True, width=20, color_system=None), "lr-tuner show a_long_name", whole=True
    )
    assert output.getvalue() == "lr-tuner show a_long_name\n"


@pytest.mark.parametrize("seeds", [2, 10])
def test_all_rows_of_a_confirmation_have_the_same_columns(seeds: int):
    """They do not repeat the lr of a configuration, so that the seconds fit."""
    candidates = {"#7 cosine_restarts": trial(), "default step": trial()}
    confirmation = ReplicationStudy.of(load_study(str(TINY)), "tiny-confirm", candidates, range(seeds), {})
    output = io.StringIO()
    with Display(confirmation, Console(file=output, width=120)) as display:
        for number in range(2 * seeds):
            value, seconds = 0.8 if number else 3e-7, 0.4 * number**2
            display.finish(
                number, trial(), TrialResult("complete", value=value, epochs=1 + number % 2, seconds=seconds)
            )
    first, *others = output.getvalue().splitlines()
    assert len(others) == 2 * seeds - 1
    assert "3e-07" in first
    assert all(line.index("val/acc") == first.index("val/acc") for line in others)
    assert all(line.endswith(" s") and line.index(" epoch") == first.index(" epoch") for line in others)
    assert all(len(line) <= 80 for line in others)
