# PYTHON_ARGCOMPLETE_OK
"""``lr-tuner COMMAND``, or ``python -m tuner COMMAND``: runs one command, and imports no other."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from tuner.cli import COMMANDS, Parser
from tuner.console import lenient_streams
from tuner.process import leave

__all__ = ["main", "script"]

EPILOG = """\
lr-tuner COMMAND --help shows the options of a command, with examples and exit codes.

examples:
  lr-tuner study                    the quickstart: seven schedules on MNIST-5k, in two to nine minutes
  lr-tuner study mine.yaml          your own study; the same command continues it
  lr-tuner show quickstart          its findings
  eval "$(lr-tuner --completion bash)"    completes commands, options and studies in this shell
"""
SHELLS = ("bash", "zsh", "fish", "tcsh")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    if "_ARGCOMPLETE" in os.environ:
        _complete()
    parser = _parser()
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.completion:
        from argcomplete.shell_integration import shellcode

        with lenient_streams():  # head, for example, closes a pipe early
            print(shellcode(["lr-tuner"], shell=options.completion), flush=True)  # noqa: T201
        return 0
    if options.command is None:
        parser.print_help()
        return 0
    if options.command not in COMMANDS:
        from tuner.config.annotations import did_you_mean

        parser.error(f"unknown command {options.command}.{did_you_mean(options.command, COMMANDS)}")
    flags = [flag for flag in ("--quiet", "--verbose") if getattr(options, flag[2:])]
    code: int = importlib.import_module(f"tuner.{options.command}").main([*flags, *options.rest])
    return code


def script() -> NoReturn:
    """Run the command that the script ``lr-tuner`` was called with, and exit; it finds modules as python -m does."""
    if not sys.flags.safe_path:
        try:
            sys.path.insert(0, str(Path.cwd()))
        except FileNotFoundError:
            sys.exit("the working folder was deleted; change to another one")
    leave(main())


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> None:
        from importlib.metadata import version

        parser.exit(0, f"lr-tuner {version('lr-tuner')}\n")


def _parser() -> Parser:
    width = max(map(len, COMMANDS)) + 2
    commands = "\n".join(f"  {name:<{width}}{text}" for name, text in COMMANDS.items())
    parser = Parser(
        prog="lr-tuner",
        usage="lr-tuner [-q] [-v] COMMAND ...",
        description="Find the learning-rate schedule for your network.",
        epilog=f"commands:\n{commands}\n\n{EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    parser.add_argument("--completion", choices=SHELLS, help="print a script that lets this shell complete commands")
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    parser.add_argument("-v", "--verbose", action="store_true", help="print more, such as the traceback of an error")
    return parser


def _complete() -> None:
    """Print completions of the command line for the shell, and exit; only the command on the line is imported."""
    import argcomplete
    from argcomplete.completers import FilesCompleter

    parser = _parser()
    commands = parser.add_subparsers()
    words = os.environ.get("COMP_LINE", "").split()
    for name, text in COMMANDS.items():
        parents = [importlib.import_module(f"tuner.{name}").parser()] if name in words[1:] else []
        for action in (each for parent in parents for each in parent._actions):
            if action.metavar == "NAME" and not action.option_strings:
                action.completer = lambda **_: [path.parent.name for path in Path().glob(".tuner/*/lock")]
            elif action.metavar in ("FILE", "FOLDER"):
                action.completer = FilesCompleter(["yaml"] if not action.option_strings else [])
        commands.add_parser(name, help=text, parents=parents, add_help=not parents)
    argcomplete.autocomplete(parser)


if __name__ == "__main__":
    script()
