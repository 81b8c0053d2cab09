"""The output of a study, on a terminal and in a file."""

import io
from pathlib import Path

from rich.console import Console

from tuner.config.loader import load_study
from tuner.config.study import TrialConfig
from tuner.protocol import EpochReport, Slot, StepReport, TrialResult
from tuner.runner.display import Display

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


def play(console: Console) -> None:
    with Display(load_study(str(TINY)), console) as display:
        display.standing(0, 0, None)
        display.start(0, trial(), Slot(0, (), 1))
        display.tick()
        display.epoch(0, EpochReport(1, 0.75, [], False, StepReport(1, 40, 120, 0.00123)))
        display.tick()
        display.finish(0, trial(), TrialResult("complete", value=0.8123, epochs=3, seconds=2.5))
        display.note("trial #1 [killed]")
        display.tick()


def test_a_terminal_shows_a_line_for_each_running_trial():
    output = io.StringIO()
    play(Console(file=output, force_terminal=True, width=120, color_system=None))
    shown = output.getvalue()
    for part in ("tiny", "0/4 trials", "cosine_restarts", "epoch 2/3", "lr 0.00123", "val/acc 0.7500", "starting"):
        assert part in shown


def test_a_file_gets_whole_lines_only():
    output = io.StringIO()
    play(Console(file=output, width=120))
    lines = output.getvalue().splitlines()
    assert len(lines) == 2
    assert " ".join(lines[0].split()) == "#0 cosine_restarts initial_lr 0.01 complete val/acc 0.8123 3 epochs, 2 s"
    assert lines[1] == "note: trial #1 [killed]"
    assert "\x1b" not in output.getvalue()
