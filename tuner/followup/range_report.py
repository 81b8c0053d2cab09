"""The result of an lr range test: printed, drawn, and written into the study file."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from tuner.analysis.lr_range import LrRange
from tuner.config.yaml_edit import with_searched
from tuner.console import print_line
from tuner.errors import BadInputError
from tuner.files import write_output
from tuner.followup.lr_range import RangePlan
from tuner.runner.summary import print_table
from tuner.text import format_metric, format_value, pluralize
from tuner.visualization.lr_range import of_range
from tuner.visualization.matplotlib_backend import png

__all__ = ["edited", "print_plan", "print_range", "write_file", "write_picture"]

PATH = "optimizer.initial_lr"


def print_plan(console: Console, plan: RangePlan) -> None:
    """Print how much the test trains, and what."""
    count = plan.count or "15 or more"
    print_line(
        console,
        f"[bold]{plan.config.name}[/bold]: {count} lrs from {plan.low:g} to {plan.high:g}, "
        f"{pluralize(len(plan.seeds), 'seed')} each, {plan.steps} of {pluralize(plan.all_steps, 'step')}, with "
        f"{plan.trial.model.name} and {plan.trial.optimizer.name}",
    )


def print_range(console: Console, found: LrRange) -> None:
    """Print a line for each lr, the findings, and the range as a study file has it."""
    lrs = list(found.values)
    seeds = [[format_metric(before)] for before in found.untrained]
    for values in found.values.values():
        for cells, value in zip(seeds, values, strict=True):
            cells.append("diverged" if value is None else format_metric(value))
    first = (f"{found.metric}, seed 1", 0, seeds[0])
    others = ((f"seed {number}", 2, cells) for number, cells in enumerate(seeds[1:], start=2))
    remarks = ("", 1, ["", *(_remark(found, lr) for lr in lrs)])
    print_table(console, ("initial_lr", 0, ["untrained", *map(format_value, lrs)]), first, *others, remarks)
    for sentence in found.findings():
        print_line(console, escape(sentence))
    if found.range is not None:
        print_line(console, f"search_space:\n  {PATH}: {found.yaml()}", whole=True)


def _remark(found: LrRange, lr: float) -> str:
    if lr == found.edge:
        return "edge"
    if lr == found.best:
        return "best"
    return "in the range" if found.range is not None and found.range[0] <= lr <= found.range[1] else ""


def write_picture(console: Console, found: LrRange, plan: RangePlan, path: Path) -> None:
    """Draw the results into a file.

    Raises:
        BadInputError: If it cannot be written.
    """
    picture = png(of_range(found, f"{plan.config.name}: {found.metric} after {plan.steps} steps at a constant lr"))
    write_output(path, picture, "--output: ")
    print_line(console, f"drawn in {escape(str(path))}")


def edited(file: str, value: str) -> str:
    """Return the text of a study file with a range for the initial lr.

    Raises:
        BadInputError: If it cannot be changed without touching more than the value.
    """
    text = Path(file).read_bytes().decode()
    lines = text.replace("\r\n", "\n")
    try:
        if text not in (lines, lines.replace("\n", "\r\n")):
            raise ValueError("some of its lines end with CRLF, others do not")
        changed = with_searched(lines, PATH, value)
        return changed if text == lines else changed.replace("\n", "\r\n")
    except ValueError as error:
        raise BadInputError([f"--write: {file}: {error}; edit the file yourself."]) from error


def write_file(file: str, text: str) -> None:
    """Write a study file, whole or not at all.

    Raises:
        BadInputError: If it cannot be written.
    """
    write_output(Path(file), text.encode(), "--write: ")
