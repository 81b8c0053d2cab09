"""``lr-tuner range``: short runs at many lrs, and the range of lrs that is worth searching."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner.cli import Parser, add_options, command, make_parser
from tuner.errors import BadInputError
from tuner.process import leave
from tuner.runner.options import ExecutionOptions, option

__all__ = ["main", "parser"]

NOT_USED = ("storage", "tracking_uri", "checkpoint_every")


@dataclass(frozen=True, kw_only=True)
class RangeOptions(ExecutionOptions):
    """The study whose lrs are tested, and how."""

    study: str = option(
        "quickstart", "study file, or the name of a shipped study (default: quickstart)", "FILE", is_positional=True
    )
    low: float = option(1e-6, "the lowest lr (default: %(default)s)", "LR", float)
    high: float = option(10.0, "the highest lr (default: %(default)s)", "LR", float)
    lrs: int = option(0, "number of lrs (default: 15, or as many as fit on a GPU at once)", "N", int)
    seeds: int = option(3, "seeds for each lr (default: %(default)s)", "N", int)
    share: float = option(5.0, "length of each run, in percent of the study's (default: %(default)s)", "P", float)
    set: Sequence[str] = option((), "replace a value of the study file; repeatable", "PATH=VALUE")
    output: Path | None = option(None, "picture to write (default: <study name>-range.png)", "FILE", Path)
    write: bool = option(False, "write the range into the search space of the study file, keeping its comments")
    dry_run: bool = option(False, "check everything, report the number of runs, and start none")


def parser() -> Parser:
    """Return the parser of the command."""
    made = make_parser(
        "range",
        "Test which lrs train the network of a study: short runs at many lrs, with several seeds.",
        {
            "range mine.yaml": "15 lrs from 1e-6 to 10, a twentieth of the full length each",
            "range mine.yaml --write": "writes the range into the file",
            "range mine.yaml --low 1e-4 --high 1 --lrs 25": "a closer look",
        },
        {0: "done", 1: "the runs failed", 2: "bad input"},
        "Each run has a constant lr and no warmup, so a schedule that warms up can go a little higher.\n"
        "Nothing is recorded in Optuna or MLflow. Set the range before you start the study; it cannot change "
        "afterwards.",
    )
    add_options(made, RangeOptions, without=NOT_USED)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Test the lrs and return the exit code."""
    options = RangeOptions(**vars(parser().parse_args(arguments)))
    return command(lambda: _run(options), options)


def _run(options: RangeOptions) -> int:
    _check(options)

    from tuner.runner.open_study import checking, opened_engine, status

    with opened_engine(options) as engine:
        from rich.console import Console
        from rich.markup import escape

        from tuner.console import print_line
        from tuner.followup.lr_range import plan_range, test_range
        from tuner.followup.range_report import edited, print_plan, print_range, write_file, write_picture

        console = Console(quiet=options.quiet)
        with checking(console, options.study):
            values = options.low, options.high, options.lrs, options.seeds, options.share, options.fuse
            plan = plan_range(options.study, options.set, *values, engine.slots)
            if options.write:
                edited(options.study, "[1]")
        print_plan(console, plan)
        if options.dry_run:
            return 0

        def note(text: str) -> None:
            print_line(console, f"[yellow]note:[/yellow] {escape(text)}")

        with status(console, "training") as shown:

            def show(done: int, total: int) -> None:
                if shown is not None:
                    shown.update(f"{done} of {total} runs")

            found = test_range(plan, engine, note, show)
    print_range(console, found)
    write_picture(console, found, plan, options.output or Path(f"{plan.config.name}-range.png"))
    if found.range is not None and options.write:
        write_file(options.study, edited(options.study, found.yaml()))
        print_line(console, f"written into {escape(options.study)}")
    elif found.range is not None:
        print_line(console, "[dim]--write puts this into the study file[/dim]")
    return 0


def _check(options: RangeOptions) -> None:
    from tuner.config.study_files import shipped_studies

    faults = []
    if not 0 < options.low < options.high < math.inf:
        faults.append(f"--low, --high: must be 0 < low < high (got {options.low:g} and {options.high:g}).")
    if options.lrs != 0 and not 3 <= options.lrs <= 100:
        faults.append(f"--lrs: must be from 3 to 100 (got {options.lrs}).")
    if not 1 <= options.seeds <= 20:
        faults.append(f"--seeds: must be from 1 to 20 (got {options.seeds}).")
    if not 0 < options.share <= 100:
        faults.append(f"--share: must be above 0 and at most 100 percent (got {options.share:g}).")
    if options.write and not Path(options.study).is_file() and options.study in shipped_studies():
        faults.append(f"--write: {options.study} ships with lr-tuner; copy it to your own file.")
    if faults:
        raise BadInputError(faults)


if __name__ == "__main__":
    leave(main())
