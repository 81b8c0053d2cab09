"""Shows a running study: live on a terminal, elsewhere as a line for each event."""

import io
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tuner.config.budget import Allowance
from tuner.config.study import StudyConfig
from tuner.config.trial import AnyTrial
from tuner.console import print_line, printable
from tuner.protocol import EpochReport, Slot, StepReport, TrialResult
from tuner.storage.reader import Trial
from tuner.text import fitting, format_metric, format_objective, join_names, pluralize

__all__ = ["Display", "Part", "clock"]

NOTEBOOK_SECONDS = 1.0
MOST_OF_FRONT = 8
NOTEBOOK_WIDTH = 100
LAG_SECONDS = 10.0
SHORTEST_VALUES = 16  # columns of the values of a call, at least
WHOLE_LINE = 80  # columns of a line that is printed where there is no terminal
STYLES = {"complete": "green", "pruned": "yellow", "diverged": "magenta", "failed": "red"}


@dataclass(frozen=True)
class Part:
    """The final runs of a study, as a part of its whole budget.

    Args:
        before: The amount that the search used, in the unit.
        total: The whole budget.
        each: The most that a run can take.
        unit: "trials", "epochs" or "steps".
    """

    before: int
    total: int
    each: int
    unit: str


@dataclass
class _Line:
    config: AnyTrial
    slot: Slot
    step: StepReport | None = None
    value: float | None = None
    further: dict[str, float] = field(default_factory=dict)  # values known before the run ends

    @property
    def share(self) -> float:
        return self.step.step / self.step.total_steps if self.step and self.step.total_steps else 0.0

    @property
    def place(self) -> str:
        """The epoch that the trial is in; the last reported step if its epochs are not known."""
        epochs, step = self.config.epochs, self.step
        if not epochs:
            return f"step {step.epoch}" if step else ""
        return f"epoch {min(step.epoch + 1, epochs) if step else 1}/{epochs}"

    @property
    def detail(self) -> str:
        """The lr now; the trial's values if it has none."""
        if not self.config.epochs:
            return self.config.brief
        return f"lr {self.step.lr:.3g}" if self.step else "starting"

    def used(self, allowance: Allowance) -> int:
        """Return how much of the study's allowance the trial has used so far."""
        epochs = self.step.epoch if self.step else 0
        return allowance.cost(epochs, self.config.epoch_steps) if epochs else 0


class Display:
    """Shows a study.

    Args:
        config: The study.
        console: Prints it; if it is not a terminal, only whole lines are printed.
        verbose: Whether to print each epoch.
        part: The budget whose last part its trials are; None if they have their own.

    Attributes:
        ending: Returns the expected seconds from the last test to the end of the study.
        lag: How many seconds MLflow is behind; shown if it is many.
    """

    EVERY_SECONDS = 60.0
    """Time between two lines about the progress, where there is no terminal."""

    def __init__(self, config: StudyConfig, console: Console, verbose: bool = False, part: Part | None = None) -> None:
        self._config, self._console, self._verbose, self._part = config, console, verbose, part
        self._metric, self._further = config.objective.metric, [each.metric for each in config.further]
        self._running: dict[int, _Line] = {}
        self._finished = self._spent = self._used = 0
        self._used_before: int | None = None  # the part of the allowance used in earlier runs
        self._best: Trial | None = None
        self._front: Sequence[Trial] = ()
        self._began = time.monotonic()
        self._done_here = 0.0  # trials' worth of training in this run
        self._widths: list[int] = []  # widths of the aligned columns of finished trials
        self._cell: Any = None  # where a notebook shows it
        self._next_drawing = 0.0
        self._next_line = self._began + self.EVERY_SECONDS
        self._epoch_seconds = 0.0
        self._is_tested = False
        self.ending: Callable[[], float] = lambda: 0.0
        self.lag = 0.0
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> "Display":
        """Start the live part."""
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Remove the live part; a notebook keeps how it ended."""
        if self._live:
            self._live.stop()
        elif self._cell is not None:
            self._draw_in_notebook()

    def start(self, number: int, config: AnyTrial, slot: Slot) -> None:
        """Add a running trial."""
        self._running[number] = _Line(config, slot)

    def progress(self, number: int, report: StepReport) -> None:
        """Show the progress of a trial."""
        self._running[number].step = report

    def epoch(self, number: int, report: EpochReport) -> None:
        """Show the value of an epoch."""
        line = self._running[number]
        line.step, line.value = report.step, report.value
        line.further |= {key: value for key, _, value in report.points if key in self._further}
        if self._verbose:
            value = "" if report.value is None else f", {self._metric} {format_metric(report.value)}"
            value += "".join(f", {metric} {format_objective(each)}" for metric, each in line.further.items())
            epochs, name = line.config.epochs, self._config.name_of(number)
            at = f"epoch {report.epoch}/{epochs}, lr {report.step.lr:.3g}" if epochs else f"step {report.epoch}"
            self._print(escape(f"{name}: {at}{value}"))

    def finish(self, number: int, config: AnyTrial, result: TrialResult) -> None:
        """Print how a trial ended."""
        self._running.pop(number, None)
        self._done_here += 1
        if result.epochs:
            self._epoch_seconds = result.seconds / result.epochs
        epochs = f"{pluralize(result.epochs, 'epoch')}, " if config.epochs else ""
        further = dict(zip(self._further, result.further, strict=False))
        widest = len(f"{config.epochs} epochs, 999 s") if config.epochs else 0
        brief = "" if self._config.labels_tell_all else config.brief
        columns = [  # width, importance, style, text
            (self._config.label_width, 0, "", self._config.label_of(number, config)),
            (9, 1, STYLES[result.state], result.state),
            (len(self._metric), 2, "", "" if result.value is None else self._metric),
            (6, 0, "", format_metric(result.value)),
            *(
                (0, 2, "", f"{each} {format_objective(further[each])}" if each in further else "")
                for each in self._further
            ),
            (10 * bool(brief), 3 if config.epochs else 0, "", brief),
            (widest, 4, "dim", f"{epochs}{result.seconds:.0f} s"),
        ]
        available = self._console.width if self._live else WHOLE_LINE
        widths = [max(width, len(text)) for width, _, _, text in columns]
        aligned = 4 + len(self._further)  # a function's arguments can be long in one row, and short in the next
        self._widths = [*map(max, widths[:aligned], self._widths or [0] * aligned)]
        widths[:aligned] = self._widths
        texts = [text for *_, text in columns]
        if brief and not config.epochs:  # the values of a call are always shown, as far as there is room
            widths[aligned] = min(len(brief), SHORTEST_VALUES)
        kept = fitting(widths, [importance for _, importance, _, _ in columns], available)
        if brief and not config.epochs:
            room = max(widths[aligned], available - sum(widths[index] + 2 for index in kept if index != aligned))
            texts[aligned] = brief if len(brief) <= room else f"{brief[: room - 4]} ..."
        line = Text()
        for index in kept:
            line.append(f"{printable(texts[index]):<{widths[index]}}  ", columns[index][2])
        line.rstrip()
        self._console.print(line, highlight=False, soft_wrap=True)

    def suspend(self, number: int) -> None:
        """Remove a trial that will be continued later."""
        self._running.pop(number, None)

    def standing(self, finished: int, spent: int, best: Trial | None, front: Sequence[Trial] = ()) -> None:
        """Set the number of finished trials, what they have used of the study's allowance, and the best of them.

        Args:
            finished: The number.
            spent: What they have used.
            best: The best trial; None if there is none.
            front: The Pareto front of several objectives.
        """
        self._finished, self._spent, self._best, self._front = finished, spent, best, front
        if self._used_before is None:
            self._used_before = spent

    def tested(self, metrics: Mapping[str, float]) -> None:
        """Print the test metrics of the best trial."""
        self._is_tested = True
        name = f" of {self._config.name_of(self._best.number)}" if self._best else ""
        values = ", ".join(f"{escape(key)} {format_metric(value)}" for key, value in sorted(metrics.items()))
        self._print(f"[bold]test[/bold]{escape(name)}: {values}")

    def note(self, text: str) -> None:
        """Print a remark; a trial in it gets the name that the study gives it."""
        named = re.sub(r"\btrial #(\d+)", lambda found: self._config.name_of(int(found[1])), text)
        self._print(f"[yellow]note:[/yellow] {escape(named)}")

    def tick(self) -> None:
        """Redraw; where there is no terminal, print a line about the progress every minute."""
        if self._live:
            self._live.update(self._picture(), refresh=True)
        elif self._console.is_jupyter:
            if time.monotonic() >= self._next_drawing:
                self._next_drawing = time.monotonic() + NOTEBOOK_SECONDS
                self._draw_in_notebook()
        elif (now := time.monotonic()) >= self._next_line:
            self._next_line = now + self.EVERY_SECONDS
            self._print(f"[dim]{escape(self._progress()[2])}, {self._clock()}[/dim]")

    def _draw_in_notebook(self) -> None:
        """Redraw one output of a notebook's cell."""
        from IPython.display import DisplayHandle

        page = Console(record=True, file=io.StringIO(), width=NOTEBOOK_WIDTH, force_jupyter=False)
        page.print(self._picture())
        html = page.export_html(inline_styles=True, code_format="<pre>{code}</pre>", clear=False)
        drawn = {"text/html": html, "text/plain": page.export_text()}
        if self._cell is None:
            self._cell = DisplayHandle()  # type: ignore[no-untyped-call]
            self._cell.display(drawn, raw=True)
        else:
            self._cell.update(drawn, raw=True)

    def _print(self, markup: str) -> None:
        print_line(self._console, markup)

    def _picture(self) -> RenderableType:
        done, total, counted = self._progress()
        bar = ProgressBar(total=total, completed=done, width=20)
        head: list[tuple[Text | ProgressBar, int]]
        head = [(Text(self._config.name, style="bold"), 2), (bar, 3), (Text(counted), 0), (Text(self._clock()), 0)]
        rows = [self._row(number, line) for number, line in sorted(self._running.items())]
        parts: list[RenderableType] = [self._grid([head]), self._grid(rows)]
        if self._best is not None:
            name = self._config.name_of(self._best.number).removeprefix("trial ")
            value = Text(format_metric(self._best.value), style="bold green")
            cells = [(Text("best so far", style="dim"), 0), (Text(name), 1), (Text(self._metric), 2), (value, 0)]
            parts.append(self._grid([cells]))
        if self._front:
            names = join_names([f"#{trial.number}" for trial in self._front], MOST_OF_FRONT)
            parts.append(Text.assemble(("Pareto front so far ", "dim"), (names, "bold green")))
        return Group(*parts)

    def _row(self, number: int, line: _Line) -> "list[tuple[Text | ProgressBar, int]]":
        """Return the cells of a running trial with their importance."""
        return [
            (Text(self._config.label_of(number, line.config), style="bold"), 0),
            (ProgressBar(total=1.0, completed=line.share, width=10), 4),
            (Text(line.place), 1),
            (Text(line.detail), 3),
            (Text("" if line.value is None else self._metric), 2),
            (Text(format_metric(line.value)), 0),
            *((Text(self._known(metric, line)), 2) for metric in self._further),
            (Text(line.slot.device, style="dim"), 5),
        ]

    @staticmethod
    def _known(metric: str, line: _Line) -> str:
        """Return name and value of a further objective; empty if the trial has no value yet."""
        value = line.further.get(metric)
        return "" if value is None else f"{metric} {format_objective(value)}"

    def _grid(self, rows: "Sequence[Sequence[tuple[Text | ProgressBar, int]]]") -> RenderableType:
        """Return rows of cells, without the columns that do not fit into the terminal."""
        if not rows:
            return Text()
        columns = list(zip(*rows, strict=True))
        widths = [
            max(cell.width or 0 if isinstance(cell, ProgressBar) else len(cell) for cell, _ in column)
            for column in columns
        ]
        grid = Table.grid(padding=(0, 2))
        kept = fitting(widths, [column[0][1] for column in columns], self._width())
        for row in rows:
            grid.add_row(*(row[index][0] for index in kept))
        return grid

    def _width(self) -> int:
        return NOTEBOOK_WIDTH if self._console.is_jupyter else self._console.width

    def _clock(self) -> str:
        """Return the time so far, and an estimate of the time left."""
        elapsed = time.monotonic() - self._began
        lag = f", MLflow {clock(self.lag)} behind" if self.lag >= LAG_SECONDS else ""
        return f"{clock(elapsed)} so far{self._left(elapsed)}{lag}"

    def _progress(self) -> tuple[int, int, str]:
        """Return how much of the budget is used, how much there is, and both as text."""
        allowance, final, part = self._config.allowance, self._config.final, self._part
        if part:
            used, finals = self._count_used(), pluralize(self._finished, f"final {self._config.kind.noun}")
            return used, part.total, f"{used}/{part.total} {part.unit}, {finals} done"
        trials = self._config.trials + (final.trainings if final else 0)
        if allowance is None:
            return self._finished, trials, f"{self._finished}/{trials} trials"
        whole, used = self._config.whole_allowance or allowance, self._count_used()
        if self._trials_bind(allowance, used):
            amount = pluralize(used, allowance.unit.removesuffix("s"))
            return self._finished, trials, f"{self._finished}/{trials} trials, {amount} done"
        return used, whole.amount, f"{used}/{whole.amount} {allowance.unit}, {pluralize(self._finished, 'trial')} done"

    def _count_used(self) -> int:
        """Return how much of the allowance is used, or of the part of it that final runs have."""
        lines, part, allowance = self._running.values(), self._part, self._config.allowance
        if part:
            running = sum(int(part.each * line.share) for line in lines) if part.each > 1 else 0
            used = part.before + part.each * self._finished + running
        else:
            used = self._spent + sum(line.used(allowance) for line in lines) if allowance else 0
        self._used = max(self._used, used)  # a trial that continues has not reported yet
        return self._used

    def _trials_bind(self, allowance: Allowance, used: int) -> bool:
        """Return whether the number of trials ends the study before its allowance does, as far as is known."""
        config = self._config
        if not config.limits_trials or config.fewest_trials == config.trials:
            return config.limits_trials
        return (self._finished + self._shares) / config.trials > used / allowance.amount

    @property
    def _shares(self) -> float:
        """How much of the running trials is done, in trials."""
        return sum(line.share for line in self._running.values())

    def _left(self, elapsed: float) -> str:
        """Estimate the time left: training at the pace of this run, the test, plots and report."""
        config, running = self._config, self._shares
        last = config.final.trainings if config.final else 0
        trials = max(0.0, config.trials - self._finished - running)
        done = self._done_here + running
        if config.allowance is None or config.whole_allowance is None:
            left = trials + last
        else:
            longest, by_trials = config.allowance.longest, trials / done if done else math.inf
            used = self._count_used()
            done = (used - (self._used_before or 0)) / longest
            left = (config.whole_allowance.amount - used) / longest
            if config.limits_trials:
                left = min(left, by_trials * done + last)
        if done < 0.5:
            return ""
        test = 0.0 if self._is_tested else self._epoch_seconds  # a test takes no longer than a training epoch
        plots = self.ending()
        for_what = " and ".join(["the test"] * (test > 0) + ["plots"] * (plots > 0))
        what = f"for {for_what}" if for_what and left == 0 else "left"
        return f", about {clock(left * elapsed / done + test + plots)} {what}"


def clock(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds.

    >>> clock(75), clock(3675)
    ('1:15', '1:01:15')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
