"""The table of a league: value, speed and sensitivity to the initial lr of each family of schedules."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from tuner.analysis.comparison import Comparison, Repeated, chance
from tuner.text import format_metric, format_value, pluralize

__all__ = ["Member", "Standings"]

ROUNDING = 1e-6  # of accuracies, which are single-precision numbers


@dataclass(frozen=True)
class Member:
    """A family of schedules.

    Args:
        name: Its name.
        values: The searched values of its best trial, as text.
        initial_lr: The initial lr of its best trial.
        reached: The step at which each training reached the target; trainings that did not are left out.
        sweep: The objective for each seed, by initial lr, with nothing else changed.
    """

    name: str
    values: str
    initial_lr: float
    reached: Sequence[int] = ()
    sweep: Mapping[float, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Standings:
    """The result of a league.

    Args:
        name: Its name.
        comparison: The best trials of all families, with fresh seeds.
        members: The families.
        target: The value of the objective to which `Member.reached` refers.
        tolerance: How much worse than the best of its sweep the objective may be with a good initial lr.
        conditions: The conditions that all families shared, in a sentence.
    """

    name: str
    comparison: Comparison
    members: Sequence[Member]
    target: float
    tolerance: float
    conditions: str

    def good_range(self, member: Member) -> tuple[float, float, bool] | None:
        """Return the range of good initial lrs of a family, and whether it is limited by the sweep.

        The range extends from the best of the sweep as long as the mean is at most `tolerance` worse.
        """
        means = {lr: fmean(values) for lr, values in sorted(member.sweep.items()) if values}
        if not means:
            return None
        direction = self.comparison.direction
        rates = sorted(member.sweep)
        best = min(means, key=lambda lr: direction.sort_key(means[lr]))
        good = [
            lr in means and direction.advantage(means[best], means[lr]) <= self.tolerance + ROUNDING for lr in rates
        ]
        low = high = rates.index(best)
        while low > 0 and good[low - 1]:
            low -= 1
        while high < len(rates) - 1 and good[high + 1]:
            high += 1
        return rates[low], rates[high], low == 0 or high == len(rates) - 1

    def rows(self) -> list[dict[str, Any]]:
        """Return the table, the best family first."""
        members = {member.name: member for member in self.members}
        rows = enumerate(self.comparison.rows(), start=1)
        return [self._row(place, row, members[row["configuration"]]) for place, row in rows]

    def _row(self, place: int, row: Mapping[str, Any], member: Member) -> dict[str, Any]:
        low, high, _ = self.good_range(member) or (None, None, False)
        return {
            "place": place,
            "schedule": member.name,
            "seeds": row["seeds"],
            "failed": row["failed"],
            "mean": row["mean"],
            "low": row["low"],
            "high": row["high"],
            "probability that the first is better": row["probability that the winner is better"],
            "steps to target": fmean(member.reached) if member.reached else None,
            "reached target": len(member.reached),
            "good initial_lr from": low,
            "good initial_lr to": high,
            "best values": member.values,
        }

    def findings(self) -> list[str]:
        """Return the result in sentences."""
        constant = {"a constant lr": "constant"} if any(each.name == "constant" for each in self.members) else {}
        sentences = self.comparison.findings(constant)
        ranking = self.comparison.ranking
        ties = [each.name for each in ranking[1:] if self._is_tie(each)]
        if ties:
            sentences.append(f"The seeds do not separate it from {', '.join(ties)}.")
        return sentences

    def _is_tie(self, other: Repeated) -> bool:
        difference = self.comparison.lead(other)
        return difference is None or difference.is_noise

    def markdown(self) -> str:
        """Return a page in Markdown: conditions, findings, table."""
        metric = self.comparison.metric
        head = (
            "schedule",
            f"mean {metric}",
            "95% interval",
            "first is really better",
            f"steps to {self.target:.4f}",
            "good initial_lr",
            "its best values",
        )
        lines = [f"# {self.name}", "", self.conditions, "", *(f"- {each}" for each in self.findings()), ""]
        lines += [f"| | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
        members = {member.name: member for member in self.members}
        for row in self.rows():
            cells = (
                row["place"],
                row["schedule"],
                format_metric(row["mean"]) + (f" ({row['failed']} failed)" if row["failed"] else ""),
                "" if row["low"] is None else f"{row['low']:.4f} to {row['high']:.4f}",
                "" if row["place"] == 1 or row["mean"] is None else chance(row["probability that the first is better"]),
                _steps(row),
                self._range(members[row["schedule"]]),
                row["best values"],
            )
            lines.append(f"| {' | '.join(map(str, cells))} |")
        explained = (
            f"Steps to {self.target:.4f}: mean over the trainings that reached it, at the first validation that did. "
            f"Good initial_lr: where, with nothing else changed, {metric} is at most {self.tolerance:g} worse than the "
            "best of the sweep; + where the sweep ended before the range did."
        )
        return "\n".join([*lines, "", f"{explained} {self.comparison.caption}".rstrip(), ""])

    def _range(self, member: Member) -> str:
        found = self.good_range(member)
        if found is None:
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


def _steps(row: Mapping[str, Any]) -> str:
    if row["steps to target"] is None:
        return "never"
    text = f"{row['steps to target']:.0f}"
    missing = row["seeds"] + row["failed"] - row["reached target"]
    return f"{text} (not with {pluralize(missing, 'seed')})" if missing else text
