"""Writes the options of all commands into docs/cli.md, from their argument parsers.

Run ``python docs/make_cli.py`` after an option changed; a test compares the page with the parsers.
"""

import argparse
import importlib
from collections import defaultdict
from pathlib import Path

from tuner.cli import COMMANDS, Parser

PAGE = Path(__file__).parent / "cli.md"
BEGIN, END = "<!-- options: written by make_cli.py -->\n", "<!-- end of the options -->\n"

Row = tuple[str, str]
"""An argument as its user writes it, and its help."""


def parser_of(command: str) -> Parser:
    """Return the parser of a command."""
    parser: Parser = importlib.import_module(f"tuner.{command}").parser()
    return parser


def rows_of(parser: argparse.ArgumentParser) -> list[Row]:
    """Return the arguments of a parser, without ``--help``."""
    formatter = parser.formatter_class(parser.prog)
    return [
        (_written(action), _escaped(formatter._expand_help(action)))
        for action in parser._actions
        if "--help" not in action.option_strings and action.help != argparse.SUPPRESS
    ]


def _written(action: argparse.Action) -> str:
    value = action.metavar or (f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.dest)
    if not action.option_strings:
        return f"`{value}`"
    if action.nargs == 0:  # a flag, or a pair of them
        return ", ".join(f"`{option}`" for option in action.option_strings)
    several = f" [{value} ...]" if action.nargs == "+" else ""
    return f"`{action.option_strings[0]} {value}{several}`"


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;").replace("|", r"\|")


def table(rows: list[Row]) -> list[str]:
    """Return a Markdown table of arguments."""
    return ["| argument | meaning |", "|---|---|", *(f"| {written} | {meaning} |" for written, meaning in rows), ""]


def options() -> str:
    """Return the section of each command, and the options that several commands share."""
    parsers = {command: parser_of(command) for command in COMMANDS}
    users: defaultdict[Row, list[str]] = defaultdict(list)
    for command, parser in parsers.items():
        for row in rows_of(parser):
            users[row].append(command)
    shared = {row: names for row, names in users.items() if len(names) >= 3 and row[0].startswith("`-")}
    every = [row for row in shared if len(shared[row]) == len(parsers)]
    lines = ["## Options", "", "Every command has these options, and `--help`:", ""]
    lines += table(every)
    shared = {row: names for row, names in shared.items() if row not in every}
    for command, parser in parsers.items():
        rows = rows_of(parser)
        lines += [f"### {command}", "", parser.description or "", ""]
        lines += table([row for row in rows if row not in shared and row not in every])
        if further := [f"`{row[0].strip('`').split()[0]}`" for row in rows if row in shared]:
            lines += [f"And [shared options](#shared-options): {', '.join(further)}.", ""]
        if parser.epilog:
            lines += ["```text", parser.epilog.strip(), "```", ""]
    lines += ["### Shared options", "", "| argument | meaning | commands |", "|---|---|---|"]
    lines += [f"| {written} | {meaning} | {', '.join(shared[written, meaning])} |" for written, meaning in shared]
    return "\n".join([*lines, ""])


def contents(text: str) -> str:
    """Return the text of docs/cli.md with the current options."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{options()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(contents(PAGE.read_text()))
