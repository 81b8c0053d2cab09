"""Measures how long each part of a command takes, for ``--timings``."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["TRIALS", "Phase", "last_epoch", "phase", "phases", "print_phases", "start", "step"]

TRIALS = "trials"
"""The phase from the first step to the last epoch; the others are what the command adds."""

_LAST = "results of the last epoch"


@dataclass(frozen=True)
class Phase:
    """A part of a command.

    Args:
        name: What was done.
        seconds: How long it took.
        processor: CPU time of this process in seconds, without other processes.
    """

    name: str
    seconds: float
    processor: float


@dataclass(frozen=True)
class _Moment:
    name: str
    at: float
    processor: float


_moments: list[_Moment] = []
"""The beginnings of phases; empty unless `--timings` was given."""


def start() -> None:
    """Measure from now on; the first phase is the time since the process was created."""
    _moments[:] = [_Moment("start of Python", _created(), 0.0)]


def phase(name: str) -> None:
    """Begin a phase, which ends when the next one begins."""
    if _moments and _moments[-1].name != name:
        _moments.append(_now(name))


def step() -> None:
    """Record that a training step was made."""
    if _moments and _moments[-1].name == _LAST:
        _moments.pop()
    phase(TRIALS)


def last_epoch() -> None:
    """Record that an epoch has ended: what follows the last one is a phase."""
    step()
    phase(_LAST)


def phases() -> Sequence[Phase]:
    """Return the phases so far."""
    ends = [*_moments[1:], _now("")]
    return [
        Phase(moment.name, end.at - moment.at, end.processor - moment.processor)
        for moment, end in zip(_moments, ends, strict=True)
    ]


def print_phases() -> None:
    """Print the phases to standard error, if they are measured."""
    found = phases() if _moments else ()
    names = [each.name for each in found]
    parts = [found]
    if TRIALS in names:
        index = names.index(TRIALS)
        parts = [found[:index], [each for each in found[index + 1 :] if each.name != TRIALS]]
    lines = [f"{'phase':<32} seconds  processor"] if found else []
    for part, title in zip(parts, ("before the first step", "after the last epoch"), strict=False):
        lines += [f"{each.name:<32} {each.seconds:7.2f}    {each.processor:7.2f}" for each in part]
        total = Phase(title, sum(each.seconds for each in part), sum(each.processor for each in part))
        lines += [f"= {total.name:<30} {total.seconds:7.2f}    {total.processor:7.2f}"] if part else []
    if lines:
        print("\n".join(lines), file=sys.stderr)  # noqa: T201


def _now(name: str) -> _Moment:
    return _Moment(name, _seconds(), time.process_time())


def _seconds() -> float:
    """Return the seconds since the machine was started; on macOS, without the time asleep."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _created() -> float:
    """Return when this process was created, on the clock of `_seconds`; now, if the system does not tell."""
    try:
        text = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _seconds()
    fields = text.rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")
