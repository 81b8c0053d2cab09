"""``lr-tuner preview``: draw the lr of every step of a study, or of one schedule, without training."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.cli import Parser, add_synonyms, command, make_parser
from tuner.errors import BadInputError
from tuner.process import leave

if TYPE_CHECKING:
    from tuner.analysis.lr_curves import Family

__all__ = ["main", "parser"]


def parser() -> Parser:
    """Return the parser of the command."""
    made = make_parser(
        "preview",
        "Draw the exact lr of every step, without training.",
        {
            "preview": "the quickstart: a fan of samples for each of its schedules",
            "preview studies/mine.yaml --samples 50": "",
            "preview quickstart --set trial.data.batch_size=100": "",
            "preview --schedule cosine_restarts --set restart_period=240 \\\n      --initial-lr 1e-3 --steps 1000": "",
            "preview --schedule warmup --set steps=5% --set schedule.name=cosine \\\n"
            "      --set schedule.decay_steps=95% --steps 1000": "",
        },
        {0: "done", 2: "bad input"},
        "The curves are drawn in the terminal and into a PNG file. Warnings about likely mistakes are printed below "
        "them.",
    )
    made.add_argument(
        "study", nargs="?", metavar="FILE", help="study file, or the name of a shipped study (default: quickstart)"
    )
    made.add_argument("--schedule", metavar="NAME", help="draw this schedule instead of a study")
    made.add_argument("--steps", type=_whole, metavar="N", help="length of the run, with --schedule")
    made.add_argument("--epochs", type=_whole, metavar="N", default=1, help="epochs in these steps (default: 1)")
    made.add_argument(
        "--initial-lr", type=float, metavar="LR", default=1.0, help="initial lr, with --schedule (default: 1)"
    )
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="replace a value of the study file, or give the schedule an argument; repeatable",
    )
    made.add_argument(
        "--samples", type=_whole, metavar="N", default=20, help="sampled curves of each schedule (default: 20)"
    )
    made.add_argument("--seed", type=int, metavar="N", default=0, help="seed of the samples (default: 0)")
    made.add_argument("--output", metavar="FILE", help="picture to write (default: <study name>-preview.png)")
    add_synonyms(made, "--output", "--out")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the curves and return the exit code."""
    made = parser()
    options = made.parse_args(arguments)
    if options.schedule is None and options.steps is not None:
        made.error("--steps is for --schedule; the length of a study's runs follows from its data")
    if options.schedule is not None and options.study is not None:
        made.error("give a study or a --schedule, not both")
    if options.schedule is not None and options.steps is None:
        made.error("--schedule needs --steps, the length of the run")
    if options.schedule is not None and options.steps % options.epochs:
        made.error(f"{options.steps} steps do not make {options.epochs} epochs of equal length")
    return command(lambda: _run(options), options)


def _whole(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) < 10**9:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1 (got {text}).")
    return int(text)


def _run(options: argparse.Namespace) -> int:
    # Imported here: --help and a wrong option should not wait for torch.
    from rich.console import Console
    from rich.markup import escape

    from tuner.console import print_line

    console = Console(quiet=options.quiet)
    with console.status("drawing"):
        name, families = _schedule(options) if options.schedule is not None else _study(options)
        path = Path(options.output or f"{name.replace(':', '.')}-preview.png")
        _draw(families, name, path)

        from tuner.analysis.lint import lint_families
        from tuner.visualization.lr_preview import draw_terminal

        pictures = [draw_terminal(family, console.width) for family in families]
        findings = lint_families([family for family in families if family.curves[0].quantity == "lr"])
    for picture in pictures:
        console.print(picture, "")
    for finding in findings:
        print_line(console, f"[yellow]note:[/yellow] {escape(finding)}")
    print_line(console, escape(f"written to {path}"))
    return 0


def _study(options: argparse.Namespace) -> "tuple[str, list[Family]]":
    from tuner.analysis.lr_curves import further_families, schedule_families
    from tuner.config.loader import load_study

    config = load_study(options.study or "quickstart", options.set)
    config.check_trains("preview draws lr schedules")
    families = schedule_families(config, options.samples, options.seed)
    return config.name, [*families, *further_families(config, options.samples, options.seed)]


def _schedule(options: argparse.Namespace) -> "tuple[str, list[Family]]":
    """Return the curve of the schedule on the command line, which is checked like one in a study file."""
    from tuner.analysis.lr_curves import Family, make_curve
    from tuner.config.component import Component
    from tuner.config.document import COMMAND_LINE, Document
    from tuner.config.lengths import Length
    from tuner.config.loader import read_schedule
    from tuner.config.yaml_reader import override

    length = Length(options.steps // options.epochs, options.epochs)
    data = {"schedule": {"name": options.schedule}}
    document = Document("", data=data, lines={(): COMMAND_LINE}, command_line="command line")
    for assignment in options.set:
        override(document, f"schedule.{assignment}")
    if not 0 < options.initial_lr < math.inf:
        document.note((), f"--initial-lr: must be above 0 (got {options.initial_lr}).", COMMAND_LINE)
    schedule = read_schedule(document, length)
    try:
        curve = make_curve(schedule, Component("", {"initial_lr": options.initial_lr}), length)
    except ValueError as error:
        raise BadInputError([f"command line: schedule: {error}."]) from error
    return options.schedule, [Family(options.schedule, "", [curve])]


def _draw(families: "list[Family]", name: str, path: Path) -> None:
    from tuner.visualization.lr_preview import figure_of
    from tuner.visualization.matplotlib_backend import save, sheet

    try:
        save(sheet([figure_of(family) for family in families], f"{name}: lr of every step"), path)
    except (OSError, ValueError) as error:
        raise BadInputError([f"--output: {path}: cannot be written ({error})."]) from error


if __name__ == "__main__":
    leave(main())
