"""The table of a league: value, speed and sensitivity to the base lr of each contender."""

import csv
import io
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

from tuner.analysis.comparison import Comparison, Repeated, all_of
from tuner.analysis.intervals import Scale
from tuner.analysis.profiles import ratios_to_fastest, score
from tuner.analysis.record import CONSTANT
from tuner.analysis.simultaneous import Gap, gaps_to_best, median_interval
from tuner.analysis.sweeps import Sweep
from tuner.text import format_value, join_names, pluralize

__all__ = ["Member", "Standings", "default_target", "default_tolerance"]

OF_SHARES = 0.01
RELATIVE = 0.05
MOST_NAMED = 20


def default_target(comparison: Comparison, constant: Collection[str]) -> float:
    """Return the final median of a constant lr; if there is none, of the last contender.

    Args:
        comparison: The contenders with fresh seeds.
        constant: Names of the contenders with a constant lr. If there are several, ``constant`` counts, because the
            others have an average or another optimizer; without it, the best of them.
    """
    medians = {each.name: median(each.values.values()) for each in comparison.ranking}
    names = [CONSTANT, *(name for name in medians if name in constant), *reversed(medians)]
    return next((medians[name] for name in names if name in medians), 0.0)


def default_tolerance(comparison: Comparison) -> float:
    """Return the default for the largest negligible difference.

    It is 0.01 of an accuracy or another share, and otherwise a twentieth of the best median.
    """
    values = [list(each.values.values()) for each in comparison.ranking]
    if not values or Scale.of(comparison.metric, [value for each in values for value in each]).high == 1:
        return OF_SHARES
    return RELATIVE * abs(median(values[0]))


@dataclass(frozen=True)
class Member:
    """A contender with the configuration that was chosen for it.

    Args:
        name: Its name.
        configuration: What distinguishes the chosen configuration, as text.
        initial_lr: The chosen base lr.
        reached: The step at which each run with a fresh seed reached the target, by seed; infinity if it did not.
        sweep: The runs of the chosen shape that selected the base lr.
    """

    name: str
    configuration: str
    initial_lr: float
    reached: Mapping[int, float]
    sweep: Sweep


@dataclass(frozen=True)
class Standings:
    """The result of a league.

    Args:
        name: Its name.
        comparison: The chosen configurations with fresh seeds.
        members: The contenders.
        target: The value of the objective to which `Member.reached` refers.
        tolerance: The largest negligible difference in the objective.
        conditions: What all contenders shared, in a sentence.
        absent: Contenders without a completed run.
    """

    name: str
    comparison: Comparison
    members: Sequence[Member]
    target: float
    tolerance: float
    conditions: str
    absent: Sequence[str] = ()

    @cached_property
    def gaps(self) -> dict[str, Gap]:
        """The distance of each contender from the first one, in intervals that hold for all pairs at once."""
        ranking = self.comparison.ranking
        if not ranking:
            return {}
        samples = {each.name: each.values for each in ranking}
        return gaps_to_best(samples, ranking[0].name, self.comparison.direction, self._resolution)

    @property
    def _resolution(self) -> float:
        values = [value for each in self.comparison.ranking for value in each.values.values()]
        return Scale.of(self.comparison.metric, values, self.comparison.validation_images).resolution

    @cached_property
    def ratios(self) -> dict[str, list[float]]:
        """The steps to the target of each contender and seed, divided by those of the fastest with this seed."""
        return ratios_to_fastest({member.name: member.reached for member in self.members})

    def rows(self) -> list[dict[str, Any]]:
        """Return the table as plain values, the best contender first."""
        members = {member.name: member for member in self.members}
        ranking = self.comparison.ranking
        without = [each for each in self.comparison.configurations if not each.values]
        return [self._row(place, each, members[each.name]) for place, each in enumerate([*ranking, *without], start=1)]

    def _row(self, place: int, one: Repeated, member: Member) -> dict[str, Any]:
        values = list(one.values.values())
        mean_low, mean_high = self.comparison.interval(one) or (None, None)
        median_low, median_high = median_interval(values) or (None, None)
        low, high, _ = member.sweep.good_range(self.tolerance) or (None, None, False)
        gap = self.gaps.get(one.name)
        reached = [step for step in member.reached.values() if math.isfinite(step)]
        return {
            "place": place,
            "contender": one.name,
            "seeds": len(values),
            "failed": one.failed,
            "mean": one.mean if values else None,
            "mean from": mean_low,
            "mean to": mean_high,
            "median": median(values) if values else None,
            "median from": median_low,
            "median to": median_high,
            "behind the first": gap.mean if gap else None,
            "behind from": gap.low if gap and math.isfinite(gap.low) else None,
            "behind to": gap.high if gap and math.isfinite(gap.high) else None,
            "verdict": self._verdict(one),
            "steps to target": median(member.reached.values()) if reached else None,
            "reached target": len(reached),
            "profile score": score(self.ratios[one.name]),
            "good initial_lr from": low,
            "good initial_lr to": high,
            "initial_lr": member.initial_lr,
            "configuration": member.configuration,
        }

    def _verdict(self, one: Repeated) -> str:
        if not one.values:
            return "failed"
        if one.name not in self.gaps:
            return "first"
        if one.failed > self.comparison.ranking[0].failed:
            return "fails"  # its mean and the mean of the first are over different seeds
        return self.gaps[one.name].verdict(self.tolerance)

    def findings(self) -> list[str]:
        """Return the result in sentences."""
        ranking, metric = self.comparison.ranking, self.comparison.metric
        if not ranking:
            return ["No run with a fresh seed was completed, so there is nothing to compare."]
        first = ranking[0]
        values = list(first.values.values())
        text = f"The first is {first.name}: mean {metric} {_number(first.mean)}"
        own, wide = (self.comparison.interval(first, 1 - 0.05 / count) for count in (1, len(ranking)))
        if own and wide:
            text += f" (95% interval {_number(own[0])} to {_number(own[1])}; {_number(wide[0])} to {_number(wide[1])} "
            text += f"simultaneously for {all_of(len(ranking))} means)"
        text += f", median {_number(median(values))}, over {pluralize(len(values), 'fresh seed')}"
        order = "the fewest failed seeds, then by the mean" if any(each.failed for each in ranking) else "the mean"
        sentences = [f"{text}. Ranked by {order}."]
        by_verdict: dict[str, list[str]] = {}
        for each in ranking[1:]:
            by_verdict.setdefault(self._verdict(each), []).append(each.name)
        said = {
            "as good": f"as good for practical purposes (at most {self.tolerance:.3g} apart with 95% confidence)",
            "worse": "worse with 95% confidence",
            "fails": "failed with more seeds than it, so the means are not comparable",
            "open": f"not separated from it, nor shown to be as good, by {pluralize(len(values), 'seed')}",
        }
        for verdict, meaning in said.items():
            if names := by_verdict.get(verdict):
                sentences.append(f"{meaning[0].upper()}{meaning[1:]}: {join_names(names, MOST_NAMED)}.")
        at_edge = [f"{member.name} ({format_value(member.initial_lr)})" for member in self._at_edge()]
        if at_edge:
            sentences.append(
                f"The best base lr is the first or last of the list for {join_names(at_edge, MOST_NAMED)}: with a "
                "longer list they may be better."
            )
        sentences += [
            f"{each.name} diverged or failed with {pluralize(each.failed, 'fresh seed')}."
            for each in self.comparison.configurations
            if each.failed
        ]
        if self.absent:
            sentences.append(f"Left out, because every run diverged or failed: {join_names(self.absent, MOST_NAMED)}.")
        return [*sentences, *self._tested(first)]

    def _at_edge(self) -> list[Member]:
        return [member for member in self.members if member.sweep.is_at_edge]

    def _tested(self, first: Repeated) -> list[str]:
        if not self.comparison.test:
            return []
        reached = ", ".join(f"{metric} {_number(value)}" for metric, value in sorted(self.comparison.test.items()))
        return [
            f"On the test data, which were not used for any decision, the network of {first.name} with the first seed "
            f"reaches {reached}."
        ]

    def markdown(self) -> str:
        """Return a page in Markdown: conditions, findings, table."""
        headings, _, cells = zip(*self.columns(), strict=True)
        lines = [f"# {self.name}", "", self.conditions, "", *(f"- {each}" for each in self.findings()), ""]
        lines += [f"| {' | '.join(headings)} |".replace("|  |", "| |"), "|---" * len(headings) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in zip(*cells, strict=True)]
        return "\n".join([*lines, "", self._explained, ""])

    def columns(self) -> list[tuple[str, int, list[str]]]:
        """Return the table as text: heading, importance (0 is the most) and cells of each column."""
        rows, ranges = self.rows(), {member.name: self._range(member) for member in self.members}
        means = [
            ("" if row["mean"] is None else _number(row["mean"]))
            + (f" ({row['failed']} failed)" if row["failed"] else "")
            for row in rows
        ]
        behind = [_with_bounds(row["behind the first"], row["behind from"], row["behind to"]) for row in rows]
        return [
            ("", 0, [str(row["place"]) for row in rows]),
            ("contender", 0, [row["contender"] for row in rows]),
            (f"mean {self.comparison.metric}", 0, means),
            ("its 95% interval", 2, [_interval(row["mean from"], row["mean to"]) for row in rows]),
            (
                "median, and its 95% interval",
                3,
                [_with_bounds(row["median"], row["median from"], row["median to"]) for row in rows],
            ),
            ("behind the first", 2, behind),
            ("verdict", 1, [row["verdict"] for row in rows]),
            (f"steps to {_number(self.target)}", 4, list(map(_steps, rows))),
            ("profile", 6, [f"{row['profile score']:.2f}" for row in rows]),
            ("good initial_lr", 5, [ranges[row["contender"]] for row in rows]),
            ("configuration", 7, [row["configuration"] for row in rows]),
        ]

    @property
    def _explained(self) -> str:
        metric, tolerance = self.comparison.metric, f"{self.tolerance:.3g}"
        return (
            f"Mean and median of {metric} over fresh seeds, not used for selection, ranked by the fewest failed seeds, "
            "then by the mean. The 95% interval of each mean alone (Student's t) needs two seeds, the interval of the "
            "median (order statistics) six. Behind the first: "
            "difference of the means, with 95% intervals that hold for all pairs at once (Games and Howell). Verdict: "
            "fails if more of its seeds failed than of the first, so that the means are not comparable; else as good "
            f"if the interval is within {tolerance} of zero, else worse if it is above zero, else open. Steps to "
            f"{_number(self.target)}: median over the seeds, at the first validation that reached it. Profile: area "
            "under the performance profile of these steps, up to four times those of the fastest (AlgoPerf). Good "
            f"initial_lr: where the median of the seeds that selected it is at most {tolerance} worse than at the "
            "best; + where the list ended before the range did."
        )

    def _range(self, member: Member) -> str:
        found = member.sweep.good_range(self.tolerance)
        if found is None or len(member.sweep.values) == 1:
            return ""
        low, high, is_open = found
        return f"{format_value(low)} to {format_value(high)} (x{high / low:.3g}{'+' if is_open else ''})"

    def csv(self) -> str:
        """Return the table as CSV."""
        file, rows = io.StringIO(), self.rows()
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return file.getvalue()


def _number(value: float) -> str:
    """Return a value of a metric with four significant digits, zeros included."""
    return f"{value:#.4g}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{_number(low)} to {_number(high)}"


def _with_bounds(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return ""
    bounds = _interval(low, high)
    return f"{_number(value)} ({bounds})" if bounds else _number(value)


def _steps(row: Mapping[str, Any]) -> str:
    seeds = row["seeds"] + row["failed"]
    missing = seeds - row["reached target"]
    if missing == seeds:
        return "never"
    if math.isinf(row["steps to target"]):
        return f"not with {missing} of {pluralize(seeds, 'seed')}"
    text = f"{row['steps to target']:.0f}"
    return f"{text} (not with {pluralize(missing, 'seed')})" if missing else text
