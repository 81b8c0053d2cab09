"""Warnings about schedules that are valid but probably a mistake, and would waste trials.

Pure functions of a curve. The rules and their thresholds:

* *unchanging*: the lr changes by less than 1% during training, although it would later.
* *hardly begun*: the lr peaks in the first half of the training and is above 90% of its peak at the end, although it
  would fall below half of it later.
* *over early*: it reaches its last value for good with more than a quarter of the run left. The last stretch of a
  staircase may be twice as long as the longest before it.
* *no restart*: the first restart, or the first end of a cycling polynomial, lies at or beyond the end.
* *no reduction*: no epoch but the last one can reduce the lr of a plateau, even if its metric never improves.
* *no peak*: the lr is still rising at the end of the run, and has risen all the time.
* *too small*: in more than a tenth of the steps the lr is too small to move a weight. An optimizer that normalises its
  steps (the Adam family) moves a weight by about the lr; a weight ``w`` that is stored with ``p`` significant bits does
  not change by less than ``|w| * 2**-p / 2``. Layers with 100 to 10,000 inputs begin with weights of 0.1 to 0.01, so
  the rule takes 0.01: a step lost there is lost everywhere. Mixed precisions store weights with 24 bits, bf16-true
  with 8. For the other optimizers the rule takes gradients of 1, which is more than they usually are.
* *too high*: the peak is above the largest lr at which the optimizer is known to train; see `HIGHEST_LR`.

In a search space, a rule is reported for a family if more than half of its samples break it.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from lightning_modules import (
    CosineRestarts,
    HoldThenDecay,
    Join,
    Plateau,
    PlateauState,
    PolynomialDecay,
    Scaled,
    Schedule,
    Warmup,
)
from tuner.analysis.lr_curves import Family, LrCurve
from tuner.text import pluralize

__all__ = ["HIGHEST_LR", "Finding", "lint", "lint_families"]

LEAST_CHANGE = 0.01
LATEST_END = 0.75
LEAST_DECAYED = 0.9
FAR = 4  # number of doublings of the length of the run, up to which the later lr is examined
LARGEST_LOST_SHARE = 0.1
SMALL_WEIGHT = 0.01
SIGNIFICANT_BITS = {"bf16-true": 8, "16-true": 11, "64-true": 53}  # the others keep float32 weights: 24 bits


def _adam(arguments: Mapping[str, Any]) -> float:
    return 0.03 * (1 + float(arguments.get("eps", 1e-8)) / 0.01)


def _muon(arguments: Mapping[str, Any]) -> float:
    return _adam(arguments) if arguments.get("scale", "match_rms_adamw") == "match_rms_adamw" else 0.3


def _momentum(limit: float) -> Callable[[Mapping[str, Any]], float]:
    return lambda arguments: limit * (1 - float(arguments.get("momentum", 0.0)))


HIGHEST_LR: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "adam": _adam,
    "adamw": _adam,
    "adam_epsilon_hat": _adam,
    "adan": _adam,
    "ademamix": _adam,
    "soap": _adam,
    "muon": _muon,
    "schedule_free_adamw": lambda arguments: 10 * _adam(arguments),
    "schedule_free_sgd": lambda arguments: 50.0,
    "prodigy": lambda arguments: 10.0,
    "lion": lambda arguments: 0.01,
    "rmsprop": _momentum(0.03),
    "sgd": _momentum(10.0),
    "adagrad": lambda arguments: 0.5,
    "adadelta": lambda arguments: 10.0,
}
"""The largest reasonable lr of each optimizer, from its arguments.

* The Adam family: 0.03. A step moves every weight by about the lr, and weights begin at 0.01 to 0.1. The papers use
  1e-3, small networks tolerate 1e-2. A large eps makes the steps smaller, at gradients of 0.01 by the factor
  ``0.01 / (0.01 + eps)``, and the limit higher: 3 for an eps of 1.
* Adan, AdEMAMix and SOAP: as for Adam, because their steps have the same size. Muon too, if its steps have the size of
  AdamW's; with ``scale: original``, 0.3: Jordan et al. 2024 use 0.02.
* Schedule-free AdamW: 10 times Adam's limit; schedule-free SGD: 50. The authors recommend lrs that are 1 to 10 and
  10 to 50 times as large as those of AdamW, and of SGD with the same momentum.
* Prodigy: 10. Its lr is a factor on an estimate; its paper (Mishchenko and Defazio 2024) uses 1.
* RMSprop: Adam's limit times ``1 - momentum``, because its momentum accumulates.
* Lion: 0.01. Each step is the whole lr; its paper (Chen et al. 2023) uses a third to a tenth of AdamW's.
* SGD: 10 times ``1 - momentum``: Goyal et al. 2017 use 0.1 at a momentum of 0.9 for 256 images and up to 3.2 for 8,192.
* Adagrad: 0.5; its steps begin at the lr and shrink from there. Torch's default is 0.01.
* Adadelta: 10; its paper (Zeiler 2012) uses 1.
"""


@dataclass(frozen=True)
class Finding:
    """A probable mistake.

    Args:
        rule: Name of the rule.
        text: The problem, as a clause.
        example: Values that cause it, in words; empty if there is nothing to add.
    """

    rule: str
    text: str
    example: str = ""


def lint_families(families: Iterable[Family]) -> list[str]:
    """Return the probable mistakes in a study's schedules, a sentence for each."""
    sentences = []
    for family in families:
        found = [finding for curve in family.curves for finding in lint(curve)]
        for rule, count in Counter(finding.rule for finding in found).items():
            if 2 * count > len(family.curves):
                finding = next(each for each in found if each.rule == rule)
                sentences.append(_sentence(family, finding, count))
    return sentences


def _sentence(family: Family, finding: Finding, count: int) -> str:
    samples = len(family.curves)
    if samples == 1:
        example = f" ({finding.example})" if finding.example else ""
        return f"{family.name}: {finding.text}{example}."
    example = f", such as with {finding.example}" if finding.example else ""
    return f"{family.name}: in {count} of {samples} samples {finding.text}{example}."


def lint(curve: LrCurve) -> list[Finding]:
    """Return the probable mistakes in the schedule of one run."""
    checks = (_unchanging, _hardly_begun, _over_early, _no_restart, _no_reduction, _no_peak, _too_small, _too_high)
    return [finding for check in checks if (finding := check(curve)) is not None]


def _inner(curve: LrCurve) -> Schedule:
    return curve.schedule.schedule if isinstance(curve.schedule, Plateau) else curve.schedule


def _training(curve: LrCurve) -> str:
    steps = curve.length.steps
    return f"the {steps} steps of the run" if steps > 1 else "the only step of the run"


def _later(curve: LrCurve, doublings: int = 20) -> list[float]:
    """Return the lr at steps far beyond the end of the run; steps at which a formula fails are left out."""
    lrs = []
    for doubling in range(doublings):
        for eighths in range(8, 16):
            with contextlib.suppress(Exception):  # a user's function can raise anything
                lrs.append(curve.initial_lr * _inner(curve)(curve.length.steps * 2**doubling * eighths // 8))
    return lrs


def _span(lrs: Sequence[float]) -> float:
    """Return the range of the lr as a share of its maximum."""
    highest = max(lrs, default=0.0)
    return (highest - min(lrs)) / highest if highest > 0 else 0.0


def _changes(curve: LrCurve) -> list[int]:
    """Return the steps at which the lr differs from that of the step before."""
    return [step for step, (before, after) in zip(curve.steps[1:], pairwise(curve.lr), strict=True) if after != before]


def _unchanging(curve: LrCurve) -> Finding | None:
    if _span(curve.lr) >= LEAST_CHANGE or _span([*curve.lr, *_later(curve)]) < LEAST_CHANGE:
        return None
    return Finding(
        "unchanging", f"the lr changes by less than {LEAST_CHANGE:.0%} within {_training(curve)}", curve.label
    )


def _hardly_begun(curve: LrCurve) -> Finding | None:
    highest = max(curve.lr)
    if 2 * curve.steps[curve.lr.index(highest)] > curve.length.steps or _no_restart(curve):
        return None
    if min(curve.lr[curve.lr.index(highest) :]) < LEAST_DECAYED * highest or _span(curve.lr) < LEAST_CHANGE:
        return None
    later = _later(curve, FAR)
    if not later or min(later) >= highest / 2 or max(later) > highest:
        return None
    text = f"the lr is still above {LEAST_DECAYED:.0%} of its peak at the end of {_training(curve)}"
    return Finding("hardly begun", text, curve.label)


def _over_early(curve: LrCurve) -> Finding | None:
    changes, steps = _changes(curve), curve.length.steps
    if not changes or changes[-1] >= LATEST_END * steps:
        return None
    longest = max(after - before for before, after in pairwise([0, *changes]))
    if steps - changes[-1] <= 2 * longest or set(_later(curve)) != {curve.lr[-1]}:
        return None
    text = f"the lr reaches its last value before {LATEST_END:.0%} of {_training(curve)} are over"
    return Finding("over early", text, curve.label or f"from step {changes[-1]} on")


def _no_restart(curve: LrCurve) -> Finding | None:
    restart = _first_restart(_inner(curve))
    if restart is None or restart < curve.length.steps:
        return None
    text = f"the first restart lies beyond {_training(curve)}"
    return Finding("no restart", text, curve.label or f"at step {restart:g}")


def _first_restart(schedule: Schedule) -> float | None:
    """Return the step of the first restart; None if there is none."""
    match schedule:
        case CosineRestarts(restart_period=period):
            return period
        case PolynomialDecay(cycle=True, decay_steps=period):
            return period
        case Warmup(schedule=inner, steps=start) | HoldThenDecay(decay=inner, hold_steps=start):
            restart = _first_restart(inner)
            return None if restart is None else start + restart
        case Scaled(schedule=inner):
            return _first_restart(inner)
        case Join(schedules=parts, starts=starts):
            for part, start, end in zip(parts, (0, *starts), (*starts, math.inf), strict=True):
                restart = _first_restart(part)
                if restart is not None and start + restart < end:
                    return start + restart
    return None


def _no_reduction(curve: LrCurve) -> Finding | None:
    plateau, epochs = curve.schedule, curve.length.max_epochs
    if not isinstance(plateau, Plateau) or not epochs:
        return None
    state = PlateauState()
    for _ in range(epochs - 1):  # what the last one changes affects no step
        state = plateau.update(state, 0.0)
        if state.scale < 1:
            return None
    within = pluralize(epochs, "epoch")
    too_long = f"a patience of {plateau.patience} is too long for {within}"
    text = f"the lr is never reduced: {too_long if plateau.patience else f'no patience can act within {within}'}"
    return Finding("no reduction", text, curve.label)


def _no_peak(curve: LrCurve) -> Finding | None:
    rises = all(before < after for before, after in pairwise(curve.lr))
    if not rises or max(_later(curve), default=0.0) <= (1 + LEAST_CHANGE) * curve.lr[-1]:
        return None
    return Finding("no peak", f"the lr is still rising at the end of {_training(curve)}", curve.label)


def _too_small(curve: LrCurve) -> Finding | None:
    bits = SIGNIFICANT_BITS.get(curve.precision, 24)
    least = SMALL_WEIGHT * 2.0 ** -(bits + 1)
    end = max(_changes(curve), default=curve.steps[0])
    lost = sum(lr < least for step, lr in zip(curve.steps, curve.lr, strict=True) if step < end)
    if lost <= LARGEST_LOST_SHARE * len(curve.steps):
        return None
    text = (
        f"over {LARGEST_LOST_SHARE:.0%} of the steps have an lr below {least:.1g}, too small for weights of {bits} bits"
    )
    return Finding("too small", text, curve.label)


def _too_high(curve: LrCurve) -> Finding | None:
    name, arguments = curve.optimizer.name, curve.optimizer.arguments
    limit = HIGHEST_LR[name](arguments) if name in HIGHEST_LR else math.inf
    if max(curve.lr) <= limit:
        return None
    text = f"the lr rises above {limit:.2g}, the most that is reasonable for {name}"
    return Finding("too high", text, curve.label or f"to {max(curve.lr):.3g}")
