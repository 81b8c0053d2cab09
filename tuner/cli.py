"""Shared by the commands: their names, their parsers, arguments made from declared options, exit codes and signals."""

import argparse
import contextlib
import dataclasses
import functools
import os
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tuner.console import lenient_streams, open_missing_streams, wrapped
from tuner.errors import BadInputError, TunerError
from tuner.interrupts import INTERRUPTED, exit_at_once, on_interrupt
from tuner.runner.options import ExecutionOptions
from tuner.text import two_columns

__all__ = [
    "COMMANDS",
    "RUN_EXIT_CODES",
    "Parser",
    "add_options",
    "add_storage",
    "add_stores",
    "add_synonyms",
    "command",
    "confirmed",
    "existing_store",
    "make_parser",
]

COMMANDS = {
    "study": "run a study, or continue it",
    "preview": "draw the lr of every step, without training",
    "range": "test which lrs train the network, and suggest a range to search",
    "confirm": "retrain the best trials with new seeds and report which is really better",
    "league": "compare schedules, averages and optimizers, each at its best base lr",
    "retry": "retry the failed trials of a study",
    "replay": "repeat a trial and compare every number to the last bit",
    "list": "list the studies of a database",
    "show": "print the findings of a study",
    "report": "write studies into one HTML file",
    "dashboard": "open a study in MLflow",
    "export": "write a trial as a folder: weights, configuration, script, model card",
    "rename": "give a study another name",
    "delete": "delete a study",
    "doctor": "report what is installed and usable, for a bug report",
}
"""The commands and what they do; each is a module of this package with the functions `parser` and `main`."""

RUN_EXIT_CODES = {
    0: "done",
    1: "the study failed, no trial completed, or some records did not reach MLflow",
    2: "bad input",
    75: "the study is already running",
    "129, 130, 143": "interrupted; run the same command again to continue",
}


NARROWEST = 20  # columns of a help text


class Parser(argparse.ArgumentParser):
    """Parser of a command: options cannot be abbreviated; for an unknown one, it suggests the most similar."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Return the options; exit with status 2 if they are wrong."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}.{''.join(map(self._hint, unknown))}")
        return options

    def _hint(self, word: str) -> str:
        from tuner.config.annotations import did_you_mean  # imported here because it imports pydantic

        known = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
        return did_you_mean(word.partition("=")[0], known) if word.startswith("-") else ""

    def error(self, message: str) -> NoReturn:
        """Exit with a message; argparse's own prints the usage first, which hides it under many options."""
        self.exit(2, f"{self.prog}: error: {message}\n{self.prog} --help shows the options.\n")


def make_parser(
    name: str,
    description: str,
    examples: Mapping[str, str],
    exit_codes: Mapping[Any, str],
    more: str = "",
) -> Parser:
    """Return the parser of a command, with the options that every command has.

    Args:
        name: The command.
        description: A sentence for its help.
        examples: Examples without ``lr-tuner``, and their descriptions.
        exit_codes: Exit codes and their meanings.
        more: Further lines of the help.
    """
    columns = max(NARROWEST, shutil.get_terminal_size().columns - 2)  # as many as argparse uses
    lines = two_columns({f"lr-tuner {example}": text for example, text in examples.items()}, columns)
    codes = two_columns({str(code): text for code, text in exit_codes.items()}, columns)
    parts = [["examples:", *lines], textwrap.wrap(more, columns), ["exit codes:", *codes]]
    parser = Parser(
        prog=f"lr-tuner {name}",
        description=textwrap.fill(description, columns),
        epilog="\n\n".join("\n".join(part) for part in parts if part),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    more_output = "print the traceback of an error and, in a command that trains, each epoch of each trial"
    parser.add_argument("-v", "--verbose", action="store_true", help=more_output)
    return parser


def command(run: Callable[[], int], options: argparse.Namespace | ExecutionOptions, *, continues: bool = False) -> int:
    """Run a command and return its exit code.

    Args:
        run: The command.
        options: Its options, of which `quiet` and `verbose` are used here.
        continues: Whether the same command, run again after an interruption, continues what it did.
    """
    at_once = exit_at_once if continues else functools.partial(exit_at_once, text=INTERRUPTED)
    open_missing_streams()
    for size in ("COLUMNS", "LINES"):
        if os.environ.get(size) == "0":  # unknown, as in the standard library; rich would print nothing
            del os.environ[size]
    with contextlib.ExitStack() as stack:
        stack.enter_context(lenient_streams())
        stack.enter_context(on_interrupt(at_once))  # before and after the trials it is safe to exit at once
        if options.quiet:
            nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        try:
            return run()
        except TunerError as error:
            if options.verbose:
                traceback.print_exc()
            print(_on_terminal(str(error)), file=sys.stderr)  # noqa: T201
            return error.exit_code


def existing_store(given: str | None, storage: str, names: Sequence[str]) -> str:
    """Return MLflow's tracking URI for a command that reads studies.

    Args:
        given: The URI that the user gives; None for the default.
        storage: URL of Optuna's database.
        names: Names of the studies, or their study files.

    Raises:
        BadInputError: If there is no such study or store; if both are missing, the error names the study.
    """
    from tuner.tracking.store import tracking_uri

    try:
        return tracking_uri(given, must_exist=True)
    except BadInputError:
        from tuner.config.study_files import is_study_file
        from tuner.storage.reader import open_study

        for name in names:
            if not is_study_file(name):
                with open_study(storage, name):
                    pass
        raise


def _on_terminal(text: str) -> str:
    """Return a text for standard error: wrapped at words if that is a terminal."""
    return wrapped(text, shutil.get_terminal_size().columns) if sys.stderr.isatty() else text


def add_options(parser: argparse.ArgumentParser, kind: type[ExecutionOptions], without: Collection[str] = ()) -> None:
    """Add an argument for every option of a class; its own options come before the inherited ones.

    Args:
        parser: The parser.
        kind: The class.
        without: Names of options that the command does not use.
    """
    fields = {each.name: each for each in dataclasses.fields(kind) if "argument" in each.metadata}
    fields = {name: field for name, field in fields.items() if name not in without}
    for name in sorted(fields, key=lambda name: name in ExecutionOptions.__dataclass_fields__):
        _add(parser, fields[name])


def add_stores(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where studies are recorded."""
    add_storage(parser)
    _add(parser, ExecutionOptions.__dataclass_fields__["tracking_uri"])


def add_storage(parser: argparse.ArgumentParser) -> None:
    """Add the option for Optuna's database."""
    _add(parser, ExecutionOptions.__dataclass_fields__["storage"])


def add_synonyms(parser: argparse.ArgumentParser, option: str, *synonyms: str) -> None:
    """Add earlier names of an option, which the help does not show."""
    (action,) = (each for each in parser._actions if option in each.option_strings)
    parser.add_argument(
        *synonyms, dest=action.dest, type=action.type or str, default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )


def _add(parser: argparse.ArgumentParser, field: "dataclasses.Field[Any]") -> None:
    argument = {key: value for key, value in field.metadata["argument"].items() if value is not None}
    default = None if field.default is dataclasses.MISSING else field.default
    if field.metadata["is_positional"]:
        parser.add_argument(field.name, **argument, **({} if default is None else {"nargs": "?", "default": default}))
        return
    if isinstance(default, bool):
        argument["action"] = argparse.BooleanOptionalAction if default else "store_true"
    elif isinstance(default, tuple) and "nargs" not in argument:
        argument["action"], default = "append", list(default)
    parser.add_argument(f"--{field.name.replace('_', '-')}", default=default, **argument)


def confirmed(question: str, yes: bool) -> bool:
    """Ask the user a question and return whether the answer is yes.

    Args:
        question: The question.
        yes: Whether the user has answered by an option already.

    Raises:
        BadInputError: If standard input is not a terminal, so that nobody can answer.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise BadInputError([f'--yes: required if standard input is no terminal, as nobody can answer "{question}"'])
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)  # noqa: T201
    return sys.stdin.readline().strip().lower() in ("y", "yes")
