"""Shows a running study: live on a terminal, and by a line for each event elsewhere."""

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tuner.config.budget import Allowance
from tuner.config.study import StudyConfig, TrialConfig
from tuner.console import printable
from tuner.protocol import EpochReport, Slot, StepReport, TrialResult
from tuner.storage.reader import Trial
from tuner.text import pluralize

__all__ = ["Display", "clock"]

NOTEBOOK_SECONDS = 1.0
STYLES = {"complete": "green", "pruned": "yellow", "diverged": "magenta", "failed": "red"}


@dataclass
class _Line:
    config: TrialConfig
    slot: Slot
    step: StepReport | None = None
    value: float | None = None

    @property
    def share(self) -> float:
        return self.step.step / self.step.total_steps if self.step else 0.0

    def used(self, allowance: Allowance) -> int:
        """Return how much of the study's allowance the trial has used so far."""
        epochs = self.step.epoch if self.step else 0
        return allowance.cost(epochs, self.config.trainer.val_check_interval) if epochs else 0


class Display:
    """Shows a study.

    Args:
        config: The study.
        console: Prints it; if it is no terminal, only whole lines are printed.
        verbose: Whether to print each epoch.
    """

    def __init__(self, config: StudyConfig, console: Console, verbose: bool = False) -> None:
        self._config, self._console, self._verbose = config, console, verbose
        self._metric = config.objective.metric
        self._running: dict[int, _Line] = {}
        self._finished = self._spent = 0
        self._best: Trial | None = None
        self._began = time.monotonic()
        self._done_here = 0.0  # trials' worth of training in this run
        self._cell: Any = None  # where a notebook shows it
        self._next_drawing = 0.0
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> "Display":
        """Start the live part."""
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Remove the live part."""
        if self._live:
            self._live.stop()

    def start(self, number: int, config: TrialConfig, slot: Slot) -> None:
        """Add a running trial."""
        self._running[number] = _Line(config, slot)

    def progress(self, number: int, report: StepReport) -> None:
        """Show how far a trial is."""
        self._running[number].step = report

    def epoch(self, number: int, report: EpochReport) -> None:
        """Show the value of an epoch."""
        line = self._running[number]
        line.step, line.value = report.step, report.value
        if self._verbose:
            value = "" if report.value is None else f", {self._metric} {report.value:.4f}"
            epochs = line.config.trainer.evaluations
            self._print(escape(f"#{number} epoch {report.epoch}/{epochs}, lr {report.step.lr:.3g}{value}"))

    def finish(self, number: int, config: TrialConfig, result: TrialResult) -> None:
        """Print how a trial ended."""
        self._running.pop(number, None)
        self._done_here += 1
        value = "" if result.value is None else escape(f"{self._metric} {result.value:.4f}")
        style = STYLES[result.state]
        self._print(
            f"[bold]#{number:<3}[/bold] {escape(config.schedule.name):<16} initial_lr "
            f"{config.optimizer.arguments['initial_lr']:<9.3g} [{style}]{result.state:<9}[/{style}] {value:<16} "
            f"[dim]{pluralize(result.epochs, 'epoch')}, {result.seconds:.0f} s[/dim]"
        )

    def suspend(self, number: int) -> None:
        """Remove a trial that will be continued later."""
        self._running.pop(number, None)

    def standing(self, finished: int, spent: int, best: Trial | None) -> None:
        """Set the number of finished trials, what they have used of the study's allowance, and the best of them."""
        self._finished, self._spent, self._best = finished, spent, best

    def tested(self, metrics: Mapping[str, float]) -> None:
        """Print the test metrics of the best trial."""
        number = f" #{self._best.number}" if self._best else ""
        values = ", ".join(f"{escape(key)} {value:.4f}" for key, value in sorted(metrics.items()))
        self._print(f"[bold]test[/bold] of trial{number}: {values}")

    def note(self, text: str) -> None:
        """Print a remark."""
        self._print(f"[yellow]note:[/yellow] {escape(text)}")

    def tick(self) -> None:
        """Redraw."""
        if self._live:
            self._live.update(self._picture(), refresh=True)
        elif self._console.is_jupyter:
            self._draw_in_notebook()

    def _draw_in_notebook(self) -> None:
        """Redraw one output of a notebook's cell."""
        from IPython.display import HTML, DisplayHandle

        if time.monotonic() < self._next_drawing:
            return
        self._next_drawing = time.monotonic() + NOTEBOOK_SECONDS
        page = Console(record=True, file=io.StringIO(), width=100, force_jupyter=False)
        page.print(self._picture())
        drawn = HTML(  # type: ignore[no-untyped-call]
            page.export_html(inline_styles=True, code_format="<pre>{code}</pre>")
        )
        if self._cell is None:
            self._cell = DisplayHandle()  # type: ignore[no-untyped-call]
            self._cell.display(drawn)
        else:
            self._cell.update(drawn)

    def _print(self, markup: str) -> None:
        self._console.print(printable(markup), highlight=False, soft_wrap=True)

    def _picture(self) -> RenderableType:
        elapsed = time.monotonic() - self._began
        done, total, counted = self._progress()
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(self._config.name, style="bold"),
            ProgressBar(total=total, completed=done, width=30),
            counted,
            f"{clock(elapsed)} so far{self._left(elapsed)}",
        )
        rows = Table.grid(padding=(0, 2))
        for number, line in sorted(self._running.items()):
            epochs = line.config.trainer.evaluations
            step = line.step
            rows.add_row(
                Text(f"#{number}", style="bold"),
                Text(line.config.schedule.name),
                ProgressBar(total=1.0, completed=line.share, width=16),
                f"epoch {min(step.epoch + 1, epochs) if step else 1}/{epochs}",
                f"lr {step.lr:.3g}" if step else "starting",
                Text("" if line.value is None else f"{self._metric} {line.value:.4f}"),
                Text(line.slot.device, style="dim"),
            )
        parts: list[RenderableType] = [head, rows]
        if self._best is not None:
            value = f"{self._metric} {self._best.value:.4f}"
            parts.append(Text.assemble(("best so far ", "dim"), f"#{self._best.number} ", (value, "bold green")))
        return Group(*parts)

    def _progress(self) -> tuple[int, int, str]:
        """Return how much of the budget is used, how much there is, and both as text."""
        allowance = self._config.allowance
        if allowance is None:
            trials = self._config.trials
            return self._finished, trials, f"{self._finished}/{trials} trials"
        done = self._spent + sum(line.used(allowance) for line in self._running.values())
        counted = f"{done}/{allowance.amount} {allowance.unit}, {pluralize(self._finished, 'trial')} done"
        return done, allowance.amount, counted

    def _left(self, elapsed: float) -> str:
        """Estimate the time left from the pace of this run."""
        allowance, running = self._config.allowance, sum(line.share for line in self._running.values())
        done = self._done_here + running
        if done < 0.5:
            return ""
        if allowance is None:
            left = max(0.0, self._config.trials - self._finished - running)
        else:
            used, total, _ = self._progress()
            left = (total - used) / allowance.longest
        return f", about {clock(left * elapsed / done)} left"


def clock(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds.

    >>> clock(75), clock(3675)
    ('1:15', '1:01:15')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
