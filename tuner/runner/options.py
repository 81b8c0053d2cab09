"""The options of a run, declared once: `tuner.cli` makes arguments of them, `tuner.Study.run` takes keywords."""

import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tuner.errors import BadInputError
from tuner.protocol import EngineName
from tuner.text import shown
from tuner.urls import DEFAULT_STORAGE

__all__ = ["ExecutionOptions", "StudyOptions", "check_counts", "option"]

MOST = 1000


def option(
    default: Any,
    text: str,
    metavar: str | None = None,
    parse: Callable[[str], Any] | None = None,
    choices: Sequence[str] | None = None,
    is_positional: bool = False,
    takes_several: bool = False,
) -> Any:
    """Return a dataclass field that is also an option of a command.

    Args:
        default: Its default. A bool makes it a flag, a tuple an option that can be repeated or takes several values.
        text: Its help, in argparse's format.
        metavar: Name of its value in the help.
        parse: Converts its text to a value; None to keep the text.
        choices: Its possible values; None for any.
        is_positional: Whether it is a positional argument.
        takes_several: Whether it takes several values at once, and is not repeated.
    """
    nargs = "+" if takes_several else None
    argument = {"help": text, "metavar": metavar, "type": parse, "choices": choices, "nargs": nargs}
    return field(default=default, metadata={"argument": argument, "is_positional": is_positional})


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions:
    """Where and how trials are trained, and where they are recorded.

    ``quiet=True`` prints nothing; ``verbose=True`` prints each epoch of each trial.
    """

    devices: str = option("auto", "auto (all GPUs, else the CPU), cpu, or GPUs such as 0,1 (default: %(default)s)", "D")
    per_device: int | None = option(
        None, "trials at a time on each GPU (default: 1), or on the CPU (default: one for each core)", "K", int
    )
    devices_per_trial: int = option(
        1, "GPUs, or processes on the CPU, that train one trial together and divide its batches (default: 1)", "N", int
    )
    stall_timeout: str | float = option(
        "30m",
        "kill a run that is idle for this long (no report, no CPU time), and continue its trial from its "
        "last checkpoint (default: %(default)s)",
        "T",
    )
    checkpoint_every: str | float = option(
        "30s",
        "save a run at the end of an epoch when this time has passed since its last checkpoint; 0s: after every "
        "epoch (default: %(default)s)",
        "T",
    )
    fuse: str = option(
        "auto",
        "number of trials per slot, trained as one model: a number, off, or auto (on GPUs the fastest number, which "
        "is measured first; on the CPU off) (default: %(default)s)",
        "K",
    )
    engine: EngineName = option(
        "local",
        "local: processes of this machine; ray: all machines of a Ray cluster; inline: this process, for debugging "
        "(default: %(default)s)",
        choices=get_args(EngineName),
    )
    address: str = option(
        "auto", "address of the Ray cluster (default: the one that this machine belongs to, else a new one here)", "A"
    )
    storage: str | None = option(
        None, f"Optuna's database, SQLite or PostgreSQL (default: OPTUNA_STORAGE, else {DEFAULT_STORAGE})", "URL"
    )
    tracking_uri: str | None = option(
        None, "MLflow's store (default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db)", "URI"
    )
    quiet: bool = False
    verbose: bool = False

    def __post_init__(self) -> None:
        """Check the types of the values, which Python code can get wrong.

        Raises:
            BadInputError: If there is a value of another type.
        """
        hints = get_type_hints(type(self))
        wrong = {
            each.name: value
            for each in fields(self)
            if (value := getattr(self, each.name)) is not each.default and not _fits(value, hints[each.name])
        }
        if wrong:
            raise BadInputError(
                [
                    f"--{name.replace('_', '-')}: must be {_in_words(hints[name])} (got {shown(value)})."
                    for name, value in wrong.items()
                ]
            )


@dataclass(frozen=True, kw_only=True)
class StudyOptions(ExecutionOptions):
    """The options of a run of a study.

    `folder` contains its own modules, if they are not next to its file; it is not an option of the commands.
    """

    study: str = option(
        "quickstart", "study file, or the name of a shipped study (default: quickstart)", "FILE", is_positional=True
    )
    trials: int | None = option(None, "total trials, including earlier runs", "N", int)
    timeout: str | float | None = option(
        None, "start no more trials after this long: 90s, 30m, 2h, 1h30m; a plain number is in seconds", "T"
    )
    start_from: Sequence[str] = option(
        (), 'begin with the best trials of an earlier study, or with the list "shipped"; repeatable', "NAME"
    )
    set: Sequence[str] = option((), "replace a value of the study file; repeatable", "PATH=VALUE")
    review: bool = option(True, "publish plots, a report and the best model in MLflow (default: yes)")
    system_metrics: bool = option(
        False, "record in MLflow how busy CPU, memory, disk, network and GPUs are while the study runs"
    )
    retry_failed: bool = option(False, "retry failed trials, under the same numbers, once the cause is fixed")
    rehearse: bool = option(
        True,
        "before the first trial of a study, train each network for a few steps, to find mistakes early (default: yes)",
    )
    dry_run: bool = option(False, "check everything, train each network for a few steps, and start no trial")
    timings: bool = option(
        False, "print how long each part of the command took before the first step and after the last one"
    )
    folder: Path | None = None


WORDS = {str: "text", int: "a whole number", float: "a number", bool: "True or False", Path: "a path", NoneType: "None"}


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value has the type of an option."""
    if get_origin(hint) is Literal:  # the choices are checked where they are used
        return isinstance(value, str)
    if get_origin(hint) is Sequence:
        items = isinstance(value, Sequence) and not isinstance(value, str)
        return items and all(_fits(item, *get_args(hint)) for item in value)
    if members := get_args(hint):
        return any(_fits(value, each) for each in members)
    if hint in (int, float):
        kind = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool)
    return isinstance(value, hint)


def _in_words(hint: Any) -> str:
    """Return the type of an option in words."""
    if get_origin(hint) is Literal:
        return WORDS[str]
    if get_origin(hint) is Sequence:
        return f"a list, each {_in_words(*get_args(hint))}"
    return " or ".join(map(_in_words, get_args(hint))) or WORDS[hint]


def check_counts(counts: Mapping[str, int]) -> None:
    """Reject invalid counts.

    Args:
        counts: The counts, by option.

    Raises:
        BadInputError: If one is not from 1 to `MOST`.
    """
    wrong = {option: count for option, count in counts.items() if not 1 <= count <= MOST}
    if wrong:
        raise BadInputError([f"{option}: must be from 1 to {MOST} (got {count})." for option, count in wrong.items()])
