"""Shared by the commands: arguments made from the declared options, exit codes, and signal handling."""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any

from tuner.console import lenient_streams, open_missing_streams
from tuner.errors import BadInputError, TunerError
from tuner.interrupts import exit_at_once, on_interrupt
from tuner.runner.options import ExecutionOptions

__all__ = ["EXIT_CODES", "add_options", "add_stores", "check_counts", "command"]

MOST = 1000

EXIT_CODES = """\
exit codes:
  0 done     1 the study failed, none of its trials was trained to its end, or MLflow lacks records
  2 bad input     75 the study is already running     129, 130, 143 interrupted
"""


def command(run: Callable[[], int]) -> int:
    """Run a command and return its exit code."""
    open_missing_streams()
    with lenient_streams(), on_interrupt(exit_at_once):  # before and after the trials it is safe to exit at once
        try:
            return run()
        except TunerError as error:
            print(error, file=sys.stderr)  # noqa: T201
            return error.exit_code


def add_options(parser: argparse.ArgumentParser, kind: type[ExecutionOptions]) -> None:
    """Add an argument for every option of a class; its own options come before the inherited ones."""
    fields = {each.name: each for each in dataclasses.fields(kind) if "argument" in each.metadata}
    for name in sorted(fields, key=lambda name: name in ExecutionOptions.__dataclass_fields__):
        _add(parser, fields[name])


def add_stores(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where studies are recorded."""
    for each in dataclasses.fields(ExecutionOptions):
        if each.name in ("storage", "tracking_uri"):
            _add(parser, each)


def _add(parser: argparse.ArgumentParser, field: "dataclasses.Field[Any]") -> None:
    argument = {key: value for key, value in field.metadata["argument"].items() if value is not None}
    default = None if field.default is dataclasses.MISSING else field.default
    if field.metadata["is_positional"]:
        parser.add_argument(field.name, **argument, **({} if default is None else {"nargs": "?", "default": default}))
        return
    if isinstance(default, bool):
        argument["action"] = argparse.BooleanOptionalAction if default else "store_true"
    elif isinstance(default, tuple):
        argument["action"], default = "append", list(default)
    parser.add_argument(f"--{field.name.replace('_', '-')}", default=default, **argument)


def check_counts(counts: Mapping[str, int]) -> None:
    """Refuse counts that no study can have.

    Args:
        counts: The counts, by option.

    Raises:
        BadInputError: If one is not from 1 to `MOST`.
    """
    wrong = {option: count for option, count in counts.items() if not 1 <= count <= MOST}
    if wrong:
        raise BadInputError([f"{option}: must be from 1 to {MOST} (got {count})." for option, count in wrong.items()])
