"""Configurations that were trained with the same seeds: how good each is, and whether the best is better than chance.

An interval is that of Student's t for a mean, at 95%. Two configurations are compared seed by seed, since both had the
same initial weights' seed and the same order of the data: the probability that one is better is Student's posterior
probability that the mean of the paired differences is above zero (one minus the one-sided p value of the paired t
test). It takes the differences for roughly normal, and knows nothing of the winner having been chosen by these very
numbers: among many that are equally good, the probabilities of the one on top are a little flattered.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any, Literal

from scipy import stats

from tuner.figures import COLORS, GREY, Figure, Panel, Series
from tuner.wording import counted, number, percent

__all__ = ["CONFIDENCE", "Comparison", "Difference", "Repeated", "interval"]

CONFIDENCE = 0.95


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the confidence interval of a mean; None for fewer than two values.

    >>> low, high = interval([1.0, 2.0, 3.0])
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    """
    if len(values) < 2:
        return None
    room = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - room, fmean(values) + room


@dataclass(frozen=True)
class Repeated:
    """A configuration, and what it came to with each seed.

    Args:
        name: What people call it.
        values: The objective at the end of the training, by seed.
        failed: With how many seeds the training had no end: it diverged or failed.
        claimed: Its value in the study that it comes from; None if it comes from none.
    """

    name: str
    values: Mapping[int, float] = field(default_factory=dict)
    failed: int = 0
    claimed: float | None = None

    @property
    def mean(self) -> float:
        """Return the mean over the seeds; NaN if there is no value."""
        return fmean(self.values.values()) if self.values else math.nan

    @property
    def interval(self) -> tuple[float, float] | None:
        """Return the confidence interval of the mean."""
        return interval(list(self.values.values()))


@dataclass(frozen=True)
class Difference:
    """How much better one configuration is than another.

    Args:
        mean: Mean of the differences, seed by seed; above zero if the first is better.
        probability: That the first is really better; None with fewer than two seeds.
        seeds: How many seeds both have.
    """

    mean: float
    probability: float | None
    seeds: int

    @property
    def is_noise(self) -> bool:
        """Tell whether the seeds cannot tell the two apart."""
        return self.probability is None or self.probability < CONFIDENCE


@dataclass(frozen=True)
class Comparison:
    """Configurations that were trained with the same seeds.

    Args:
        metric: The objective metric.
        direction: Whether large or small values are good.
        configurations: What is compared.
        test: What the winner reached on the test data; empty if it was not tested.
    """

    metric: str
    direction: Literal["maximize", "minimize"]
    configurations: Sequence[Repeated]
    test: Mapping[str, float] = field(default_factory=dict)

    @property
    def ranking(self) -> list[Repeated]:
        """Return those that have values, the best first: a training that fails with some seed is worse than a low mean.

        Of equals, the one that was named first.
        """
        sign = -1 if self.direction == "maximize" else 1
        return sorted((each for each in self.configurations if each.values), key=lambda e: (e.failed, sign * e.mean))

    def difference(self, one: Repeated, other: Repeated) -> Difference | None:
        """Return how much better one configuration is than another; None if no seed has values of both."""
        sign = 1 if self.direction == "maximize" else -1
        pairs = [sign * (one.values[seed] - other.values[seed]) for seed in one.values.keys() & other.values.keys()]
        if not pairs:
            return None
        mean = fmean(pairs)
        if len(pairs) < 2:
            return Difference(mean, None, 1)
        error = stdev(pairs) / math.sqrt(len(pairs))
        if error == 0:
            return Difference(mean, 0.5 + 0.5 * ((mean > 0) - (mean < 0)), len(pairs))
        return Difference(mean, float(stats.t.cdf(mean / error, len(pairs) - 1)), len(pairs))

    def findings(self, opponents: Mapping[str, str]) -> list[str]:
        """Return sentences: the winner, whom it really beats, what was only luck.

        Args:
            opponents: What to compare the winner with beside the runner-up, as people call it, and names.
        """
        ranking = self.ranking
        if not ranking:
            return ["No training came to its end, so there is nothing to compare."]
        winner, *others = ranking
        told = [f"The winner is {winner.name}: {self.metric} {_with_interval(winner)}."]
        against = {"the runner-up": others[0].name} if others else {}
        against |= {role: name for role, name in opponents.items() if name != winner.name}
        for name in dict.fromkeys(against.values()):
            roles = " and ".join(role for role, other in against.items() if other == name)
            told += [self._against(winner, roles, other) for other in others if other.name == name]
        told += [
            f"{each.name} had no end with {counted(each.failed, 'seed')}: it diverged or failed."
            for each in self.configurations
            if each.failed
        ]
        return told + self._luck() + self._tested(winner)

    def _against(self, winner: Repeated, roles: str, other: Repeated) -> str:
        difference = self.difference(winner, other)
        if difference is None:
            return f"No seed has values of both it and {roles}, {other.name}."
        text = f"It is {difference.mean:.4f} better than {roles}, {other.name} ({other.mean:.4f})"
        if difference.probability is None:
            return f"{text}, with one seed, which tells nothing about chance."
        text += f", and really better with a probability of {percent(difference.probability)}"
        if difference.is_noise:
            return f"{text}: that is noise, {counted(difference.seeds, 'seed')} cannot tell them apart."
        return f"{text}."

    def _luck(self) -> list[str]:
        """Say what the value of the study's best trial was worth."""
        claims = [each for each in self.configurations if each.claimed is not None]
        sign = -1 if self.direction == "maximize" else 1
        best = min(claims, key=lambda each: sign * (each.claimed or 0.0), default=None)
        if best is None or best.claimed is None or not best.values:
            return []
        text = f"The study's best value, {best.claimed:.4f} of {best.name}, comes to {_with_interval(best)}"
        excess, bounds = sign * (best.mean - best.claimed), best.interval
        if bounds is None or excess <= 0:
            return [f"{text}."]
        if bounds[0] <= best.claimed <= bounds[1]:
            return [f"{text}: {excess:.4f} worse, which {counted(len(best.values), 'seed')} cannot tell from chance."]
        return [f"{text}: the best of many trials was optimistic by {excess:.4f}."]

    def _tested(self, winner: Repeated) -> list[str]:
        if not self.test:
            return []
        reached = ", ".join(f"{metric} {value:.4f}" for metric, value in sorted(self.test.items()))
        return [f"On the test data, which decided nothing, its network of the first seed reaches {reached}."]

    def rows(self) -> list[dict[str, Any]]:
        """Return the table of the configurations, the best first, as plain values."""
        ranking = self.ranking
        rows = []
        for each in [*ranking, *(each for each in self.configurations if not each.values)]:
            low, high = each.interval or (None, None)
            difference = self.difference(ranking[0], each) if ranking and each is not ranking[0] else None
            rows.append(
                {
                    "configuration": each.name,
                    "seeds": len(each.values),
                    "failed": each.failed,
                    "mean": each.mean if each.values else None,
                    "low": low,
                    "high": high,
                    "in the study": each.claimed,
                    "behind the winner": difference and difference.mean,
                    "probability that the winner is better": difference and difference.probability,
                }
            )
        return rows

    def markdown(self) -> str:
        """Return the table of the configurations in Markdown."""
        head = f"| | seeds | mean {self.metric} | 95% interval | in the study | winner is really better |"
        lines = [head, "|---|---|---|---|---|---|"]
        for row in self.rows():
            bounds = "" if row["low"] is None else f"{row['low']:.4f} to {row['high']:.4f}"
            chance = row["probability that the winner is better"]
            cells = (row["configuration"], row["seeds"], number(row["mean"]), bounds, number(row["in the study"]))
            lines.append(f"| {' | '.join(map(str, cells))} | {'' if chance is None else percent(chance)} |")
        return "\n".join(lines)

    def csv(self) -> str:
        """Return every single value: a line for each configuration and seed."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["configuration", "seed", self.metric])
        writer.writerows([each.name, *pair] for each in self.configurations for pair in each.values.items())
        return file.getvalue()

    def figure(self, title: str, colors: Mapping[str, str] | None = None) -> Figure:
        """Return a picture: every value, the means and their intervals.

        Args:
            title: Its title.
            colors: Those of some configurations, by name; of the winner alone if not given. The others are grey.
        """
        ranking = self.ranking[::-1]
        if colors is None:
            colors = {ranking[-1].name: COLORS[0]} if ranking else {}
        series: list[Series] = []
        for place, each in enumerate(ranking):
            color = colors.get(each.name, GREY)
            values = list(each.values.values())
            series.append(Series(values, [place] * len(values), "points", color))
            if each.interval:
                series.append(Series(each.interval, (place, place), "line", color, width=2.5))
            series.append(Series([each.mean], [place + 0.2], "crosses", color))
        panels = [
            Panel(
                series,
                x_label=self.metric,
                y_ticks={place: each.name for place, each in enumerate(ranking)},
                y_range=(-0.7, len(ranking) - 0.3),
            )
        ]
        caption = "Points are seeds, a line is the 95% confidence interval of the mean, a cross the mean."
        return Figure("confirmation", title, caption, panels if ranking else [], height=1 + 0.4 * len(ranking))


def _with_interval(each: Repeated) -> str:
    text = f"{each.mean:.4f} over {counted(len(each.values), 'seed')}"
    if each.interval is None:
        return text
    low, high = each.interval
    return f"{text} (95% confidence interval {low:.4f} to {high:.4f})"
