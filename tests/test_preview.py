"""`python -m tuner.preview`, as a user runs it."""

import contextlib
import io
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich.console import Console

from lightning_modules import CosineRestarts, IrisDataModule, StepDecay
from tests.studies import DIGITS, TINY
from tests.test_study import RELATIVE
from tuner.analysis.lr_curves import Family, make_curve, schedule_families
from tuner.config.component import Component
from tuner.config.lengths import Length
from tuner.config.loader import load_study
from tuner.preview import main
from tuner.study import main as study_main
from tuner.visualization.lr_preview import draw_terminal, figure_of
from tuner.visualization.matplotlib_backend import sheet

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def call(*arguments: str, expect: int = 0) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = main(arguments)
    assert code == expect, output.getvalue()
    return output.getvalue()


def test_a_study_is_drawn_family_by_family_and_nothing_else_is_created(in_a_folder: Path):
    output = call(str(DIGITS))
    for family in ("exponential", "cosine_restarts", "plateau"):
        assert f"{family} (20 samples, 3 drawn: highest, middle, lowest mean lr)" in output
    assert "its reductions depend on the metric, so only the schedule inside is drawn" in " ".join(output.split())
    assert len(re.findall(r"^━ initial_lr 0\.0\d+, (decay_rate|restart_period) ", output, re.MULTILINE)) == 6
    assert len(re.findall(r"^━ initial_lr 0\.0\d+ *$", output, re.MULTILINE)) == 3
    assert [path.name for path in in_a_folder.iterdir()] == ["digits-preview.png"]
    assert (in_a_folder / "digits-preview.png").read_bytes().startswith(PNG)


@pytest.mark.slow
def test_the_same_command_draws_the_same_picture(in_a_folder: Path):
    first, second = call(str(DIGITS), "--samples", "4"), call(str(DIGITS), "--samples", "4")
    assert first == second
    assert call(str(DIGITS), "--samples", "4", "--seed", "1") != first


def test_lengths_follow_the_training_that_the_command_line_makes_longer(in_a_folder: Path):
    (in_a_folder / "relative.yaml").write_text(RELATIVE)
    assert "step 26" in call("relative.yaml")
    assert "step 53" in call("relative.yaml", "--set", "trial.trainer.max_epochs=6", "--out", "longer.svg")
    assert (in_a_folder / "longer.svg").read_text().startswith("<?xml")


def test_the_picture_has_the_exact_lr_of_every_step_on_both_axes():
    found = schedule_families(load_study(str(DIGITS)), samples=5)
    figure = sheet([figure_of(family) for family in found], "tiny")
    assert len(figure.subfigs) == 3
    for row, family in zip(figure.subfigs, found, strict=True):
        linear, logarithmic = row.axes
        assert (linear.get_yscale(), logarithmic.get_yscale()) == ("linear", "log")
        for axes in row.axes:
            drawn = [list(line.get_ydata()) for line in axes.lines if len(line.get_ydata()) > 2]
            assert sorted(drawn) == sorted([*curve.lr, curve.lr[-1]] for curve in family.curves), "to the end"
            assert all(list(line.get_xdata()) == list(range(121)) for line in axes.lines if len(line.get_ydata()) > 2)
        labels = [text.get_text() for text in row.legends[0].get_texts()]
        assert labels[0] == "initial lr"
        assert len(labels) == 4
        assert {label.split(",")[0] for label in labels[1:]} <= {
            f"initial_lr {curve.initial_lr:.3g}" for curve in family.curves
        }


@pytest.mark.filterwarnings("error")
def test_long_legends_are_wrapped_and_do_not_overlap_the_axes():
    step = make_curve(StepDecay(decay_rate=0.1, decay_steps=5), Component("sgd", {"initial_lr": 0.1}), Length(10, 1))
    long = [replace(step, label=", ".join(f"argument_{number} {number}.123" for number in range(12)))] * 3
    curves = [replace(each, lr=[lr / number for lr in each.lr]) for number, each in enumerate(long, start=1)]
    figure = sheet([figure_of(Family("step", "", curves)), figure_of(Family("other", "", [step]))], "long")
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    for row in figure.subfigs:
        legend = row.legends[0].get_window_extent(renderer)
        assert legend.x1 <= row.bbox.x1
        for axes in row.axes:
            assert legend.y1 <= axes.get_tightbbox(renderer).y0 + 1
            assert axes.get_window_extent(renderer).height > 100


def test_the_terminal_shows_the_curve_in_dots():
    curve = make_curve(StepDecay(decay_rate=0.1, decay_steps=5), Component("sgd", {"initial_lr": 0.1}), Length(10, 1))
    console = Console(file=io.StringIO(), width=60)
    console.print(draw_terminal(Family("step", "", [curve]), width=60, height=4))
    assert [line.rstrip() for line in console.file.getvalue().splitlines()] == [
        "step",
        "         lr (linear)                   lr (log)",
        "1.0e-01 │⠉⠉⠉⠉⠉⠉⠉⠉⠉⡇           1.0e-01 │⠉⠉⠉⠉⠉⠉⠉⠉⠉⡇",
        "        │         ⡇                   │         ⡇",
        "        │         ⡇                   │         ⡇",
        "0.0e+00 │         ⠧⠤⠤⠤⠤⠤⠤⠤⠤   1.0e-02 │         ⣇⣀⣀⣀⣀⣀⣀⣀⣀",
        "        └──────────────────           └──────────────────",
        "         0           step 9            0           step 9",
        "━ initial_lr 0.1, StepDecay(decay_rate=0.1,",
        "decay_steps=5)",
    ]


def test_a_schedule_is_drawn_from_the_command_line_alone(in_a_folder: Path):
    arguments = ["--set", "restart_period=240", "--set", "period_growth=1.5", "--initial-lr", "1e-3", "--steps", "1000"]
    output = call("--schedule", "cosine_restarts", *arguments)
    assert "step 999" in output
    assert "CosineRestarts(restart_period=240, period_growth=1.5" in output
    assert (in_a_folder / "cosine_restarts-preview.png").read_bytes().startswith(PNG)


def test_a_schedule_inside_another_and_lengths_in_epochs_are_given_by_their_paths():
    inner = ["--set", "schedule.name=cosine_restarts", "--set", "schedule.restart_period=2 epochs"]
    output = call("--schedule", "warmup", "--set", "steps=5%", *inner, "--steps", "1000", "--epochs", "10")
    assert repr(CosineRestarts(restart_period=200)) in " ".join(output.split())
    assert "steps=50" in " ".join(output.split())


def test_likely_mistakes_are_reported_below_the_picture():
    output = call("--schedule", "cosine", "--set", "decay_steps=50%", "--steps", "1000")
    assert "note: cosine: the lr reaches its last value before 75% of the 1000 steps of the run are over" in output
    assert "note" not in call("--schedule", "cosine", "--set", "decay_steps=100%", "--steps", "1000")


def test_a_study_says_the_same_before_it_starts(in_a_folder: Path):
    wide = "search_space.schedule.one_of.cosine_restarts.restart_period={low: 22.5, high: 202.5}"
    options = [str(TINY), "--set", wide]
    (note,) = re.findall(r"note: (cosine_restarts: in 19 of 20 samples the first restart .*)", call(*options))
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert study_main([*options, "--dry-run"]) == 0
    assert note in output.getvalue()
    with contextlib.redirect_stdout(output := io.StringIO()):
        assert study_main([str(TINY), "--dry-run"]) == 0
    assert "samples" not in output.getvalue()


class Unsized:
    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


class Endless(IrisDataModule):
    """A data module whose loader has no length."""

    def train_dataloader(self):
        return Unsized(super().train_dataloader())


class Empty(IrisDataModule):
    """A data module without a training batch."""

    def train_dataloader(self):
        return range(0)


def test_data_of_unknown_length_can_be_studied_but_not_previewed():
    data = ["--set", "trial.data={name: 'tests.test_preview:Endless'}"]
    message = "trial.data: its loader does not report its number of batches, so lengths must be in steps."
    assert message in call(str(TINY), *data, expect=2)
    with contextlib.redirect_stdout(output := io.StringIO()):
        assert study_main([str(TINY), *data, "--dry-run"]) == 0
    assert f"note: {message}" in output.getvalue()


def test_data_without_a_training_batch_are_refused():
    data = ["--set", "trial.data={name: 'tests.test_preview:Empty'}"]
    assert "trial.data: there is not a single training batch" in call(str(TINY), *data, expect=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.yaml"], "nowhere.yaml: no such file."),
        ([str(DIGITS), "--set", "trial.optimizer.eps=-1"], "eps >= 0 must hold, but got eps=-1."),
        (["--schedule", "constant", "--steps", "9", "--out", "x.xyz"], "--output: x.xyz: cannot be written (Form"),
        (["--schedule", "constant", "--steps", "9", "--out", "no/x.png"], "--output: no/x.png: cannot be written (["),
        (["--schedule", "cosin", "--steps", "9"], 'command line: schedule.name: unknown schedule "cosin".'),
        (
            ["--schedule", "cosine", "--steps", "9", "--set", "decay_step=4", "--initial-lr", "-1"],
            "command line: --initial-lr: must be above 0 (got -1.0).\n"
            "command line: schedule.decay_step: cosine has no argument decay_step. Did you mean decay_steps?\n",
        ),
        (
            ["--schedule", "cosine_restarts", "--steps", "9"],
            "command line: schedule.restart_period: required by cosine_restarts: write --set restart_period=VALUE.\n",
        ),
        (
            ["--schedule", "cosine", "--steps", "9", "--set", "decay_steps={low: 1, high: 5}"],
            "command line: schedule.decay_steps: a range belongs in a study file; write one value.",
        ),
        (
            ["--schedule", "cosine", "--steps", "9", "--set", "decay_steps=0%"],
            "command line: schedule.decay_steps: decay_steps > 0 must hold, but got decay_steps=0.",
        ),
        (
            ["--schedule", "lambda", "--steps", "200", "--set", "function=1 - step / 100"],
            "command line: schedule: the factor must be finite and >= 0, but got -0.01",
        ),
        (["--schedule", "cosine", "--steps", "9", "--set", "decay_steps"], "--set schedule.decay_steps: write it as"),
    ],
)  # fmt: skip
def test_errors_are_reported_as_by_a_study_and_nothing_is_created(
    in_a_folder: Path, arguments: list[str], message: str
):
    assert message in call(*arguments, expect=2)
    assert list(in_a_folder.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--steps", "9"],
        ["--schedule", "cosine"],
        ["quickstart", "--schedule", "cosine", "--steps", "9"],
        ["--schedule", "cosine", "--steps", "9", "--epochs", "2"],
        ["--schedule", "cosine", "--steps", "0"],
        ["--samples", "-1"],
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_help_has_examples_and_does_not_import_torch():
    started = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tuner.preview", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    assert "examples:" in started.stdout
    assert not re.search(r"\| +(torch|matplotlib)$", started.stderr, re.MULTILINE)
