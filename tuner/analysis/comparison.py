"""Comparison of configurations that were trained with the same seeds: means, and whether the best is really better.

Two configurations are compared seed by seed, since both had the same seed of the initial weights and the same order of
the data. The probability that one is better is Student's posterior probability that the mean of the paired differences
is above zero (one minus the one-sided p value of the paired t test), which assumes roughly normal differences. Their
standard deviation is at least the resolution of the metric, if that is known: with N validation images, an accuracy is
a multiple of 1/N. No probability is given with fewer than three seeds, and none for equal differences of a metric of
unknown resolution.

The winner is chosen by the same seeds that judge it, which would bias its probabilities. They are therefore corrected
for that choice (Bonferroni): each of k configurations may be beaten by k - 1 others, and the p value is multiplied by
that number, so the probability is a lower bound. As in Hsu's multiple comparisons with the best, this holds for each
configuration, such as the one that is really the best: if it is as good as any, it is called worse than the winner in
at most one table in twenty. It does not hold for all at once: if all are equal, some configuration is called worse in a
tenth (k = 2) to a fifth (k = 7) of the tables. A correction for all pairs would prevent that, but halve the share of
real differences that seven configurations with ten seeds show (benchmarks/equal_configurations.py). (Choosing by one
half of the seeds and judging by the other would be equally valid, but needs twice as many runs.) The interval of the
winner is also given at the confidence at which all k intervals hold at once.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import scipy

from tuner.analysis.findings import own_name
from tuner.analysis.intervals import CONFIDENCE, Scale, interval, spread, standard_error
from tuner.analysis.record import FAMILY, ROUNDING, Retrained
from tuner.analysis.sweeps import mean_of
from tuner.direction import Direction
from tuner.text import format_interval, format_metric, format_probability, format_value, join_names, pluralize

__all__ = [
    "CONSTANT_LR_ROLE",
    "DEFAULT_ROLE",
    "Comparison",
    "Difference",
    "Repeated",
    "all_of",
    "chance",
    "differing",
]

DEFAULT_ROLE = "the study's default"
CONSTANT_LR_ROLE = "a constant lr"
MOST_NAMED = 5
MOST_SEEDS = 100
FEWEST_SEEDS = 3
"""With fewer seeds, no probability is given: two differences are too often nearly equal by chance."""


@dataclass(frozen=True)
class Repeated:
    """A configuration and its values with several seeds.

    Args:
        name: Its name in messages.
        values: The objective at the end of the run, by seed.
        failed: Number of seeds with which the run diverged or failed.
        claimed: Its value in the original study; None if there is none.
        changed: The files of the user's own modules that changed between that value and these.
        parameters: The parameters in which the configurations differ, with its values; see `differing`.
    """

    name: str
    values: Mapping[int, float] = field(default_factory=dict)
    failed: int = 0
    claimed: float | None = None
    changed: Sequence[str] = ()
    parameters: str = ""

    @property
    def mean(self) -> float:
        """Return the mean over the seeds; NaN if there is no value."""
        return mean_of(list(self.values.values())) if self.values else math.nan


@dataclass(frozen=True)
class Difference:
    """The difference between two configurations.

    Args:
        mean: Mean of the paired differences; above zero if the first is better.
        probability: Probability that the first is really better, or a lower bound; None if there are too few seeds.
        seeds: Number of seeds with values of both.
    """

    mean: float
    probability: float | None
    seeds: int

    @property
    def is_noise(self) -> bool:
        """Return whether the difference may be chance."""
        return self.probability is None or self.probability < CONFIDENCE


@dataclass(frozen=True)
class Comparison:
    """Configurations that were trained with the same seeds.

    Args:
        metric: The objective metric.
        direction: Whether large or small values are better.
        configurations: The configurations.
        test: Metrics of the winner on the test data; empty if it was not tested.
        validation_images: Number of images from which the objective is computed, if known.
        caveat: A sentence on how little the constant lr was tuned; empty if it was tuned enough.
    """

    metric: str
    direction: Direction
    configurations: Sequence[Repeated]
    test: Mapping[str, float] = field(default_factory=dict)
    validation_images: int | None = None
    caveat: str = ""

    @property
    def ranking(self) -> list[Repeated]:
        """Return the configurations that have values, the best first: by the fewest failed seeds, then by the mean.

        Equal ones keep their order.
        """
        with_values = [each for each in self.configurations if each.values]
        return sorted(with_values, key=lambda each: (each.failed, self.direction.sort_key(each.mean)))

    @property
    def retrained(self) -> Retrained | None:
        """Return the winner; None if no configuration has values."""
        winner = next(iter(self.ranking), None)
        if winner is None:
            return None
        return Retrained(winner.name, winner.mean, len(winner.values), self.interval(winner) or ())

    def interval(self, one: Repeated, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
        """Return the confidence interval of a configuration's mean; see `interval`."""
        values = list(one.values.values())
        return interval(values, self._scale(values), confidence)

    def _scale(self, values: Iterable[float]) -> Scale:
        return Scale.of(self.metric, values, self.validation_images)

    def difference(self, one: Repeated, other: Repeated) -> Difference | None:
        """Return how much better one configuration is than another; None if no seed has values of both."""
        pairs = self._paired(one, other)
        if not pairs:
            return None
        mean = mean_of(pairs)
        if len(pairs) < FEWEST_SEEDS:
            return Difference(mean, None, len(pairs))
        values = [*one.values.values(), *other.values.values()]
        error = standard_error(pairs, self._scale(values), values)
        if error in (0, math.inf):
            is_tie = abs(mean) <= ROUNDING * max(map(abs, values))
            return Difference(mean, 0.5 if is_tie else None, len(pairs))
        return Difference(mean, float(scipy.stats.t.cdf(mean / error, len(pairs) - 1)), len(pairs))

    def _paired(self, one: Repeated, other: Repeated) -> list[float]:
        """Return how much better one configuration is than another with each seed that has values of both."""
        seeds = one.values.keys() & other.values.keys()
        return [self.direction.advantage(one.values[seed], other.values[seed]) for seed in seeds]

    def lead(self, other: Repeated) -> Difference | None:
        """Return how much better the winner is than another configuration, corrected for its choice by these seeds.

        The probability is a lower bound.

        Args:
            other: The other configuration; not the winner.
        """
        ranking = self.ranking
        difference = self.difference(ranking[0], other) if ranking else None
        if difference is None or difference.probability is None:
            return difference
        bound = 1 - (len(ranking) - 1) * (1 - difference.probability)
        return replace(difference, probability=max(0.0, bound))

    def _needed(self, other: Repeated) -> int | None:
        """Return how many seeds would show the winner's lead, if its mean and spread stay as they are.

        Return None if more than `MOST_SEEDS` would be needed.
        """
        winner, *others = self.ranking
        pairs, values = self._paired(winner, other), [*winner.values.values(), *other.values.values()]
        deviation, lead = spread(pairs, self._scale(values), values), mean_of(pairs)
        for count in range(len(pairs) + 1, MOST_SEEDS + 1 if deviation else 0):
            score = lead / (deviation / math.sqrt(count))
            if len(others) * scipy.stats.t.sf(score, count - 1) <= 1 - CONFIDENCE:
                return count
        return None

    def findings(self, opponents: Mapping[str, str]) -> list[str]:
        """Return sentences: the answer, the winner's lead over others, and how much of the study's best value was luck.

        Args:
            opponents: Names of further configurations to compare the winner with, by their role in the sentence.
        """
        ranking = self.ranking
        if not ranking:
            return ["No run was completed, so there is nothing to compare."]
        winner, *others = ranking
        mean = self._with_interval(winner, chosen_from=len(ranking))
        has = f"Its mean {self.metric} is"
        if self._is_tie:
            is_best = all(self.direction.advantage(winner.mean, each.mean) >= 0 for each in others)
            place = "has the best mean" if is_best else "comes first, as it failed with the fewest seeds"
            has = f"{winner.name} {place}: {self.metric}"
        sentences = [self._answer(), f"{has} {mean}."]
        against = {"the runner-up": others[0].name} if others else {}
        against |= {role: name for role, name in opponents.items() if name != winner.name}
        for name in dict.fromkeys(against.values()):
            roles = [role for role, other in against.items() if other == name]
            found = [self._against(roles, other) for other in others if other.name == name]
            sentences += [*found, self.caveat] if found and CONSTANT_LR_ROLE in roles and self.caveat else found
        sentences += [
            f"{each.name} diverged or failed with {pluralize(each.failed, 'seed')}."
            for each in self.configurations
            if each.failed
        ]
        return sentences + self._luck() + self._tested(winner)

    def _answer(self) -> str:
        """Return the result in a sentence: the winner and which others it beats, or a tie."""
        ranking = self.ranking
        if len(ranking) == 1:
            alone = "no other has a value" if len(self.configurations) > 1 else "there is nothing to compare it with"
            return f"The answer is {ranking[0].name}; {alone}."
        if len(ranking[0].values) < FEWEST_SEEDS:
            return f"The answer is open: fewer than {FEWEST_SEEDS} seeds decide nothing."
        ties = self._ties
        beaten = join_names([each.name for each in ranking[1:] if each.name not in ties] or [""], MOST_NAMED)
        winner = ranking[0].name
        if self._is_tie:
            return f"The answer is a tie: the seeds do not separate {winner} from {join_names(ties, MOST_NAMED)}."
        text = f"The answer is {winner}: it is really better than {beaten}"
        return f"{text}; the seeds do not separate it from {join_names(ties, MOST_NAMED)}." if ties else f"{text}."

    @property
    def _ties(self) -> list[str]:
        """Return the names of the configurations that the seeds do not separate from the winner."""
        leads = {each.name: self.lead(each) for each in self.ranking[1:]}
        return [name for name, lead in leads.items() if lead is None or lead.is_noise]

    @property
    def _is_tie(self) -> bool:
        """Return whether the seeds separate the winner from none of the others."""
        return 0 < len(self._ties) == len(self.ranking) - 1

    def _against(self, roles: Sequence[str], other: Repeated) -> str:
        difference, named = self.lead(other), _named(roles, other.name)
        if difference is None:
            return f"No seed has values of both the winner and {named}."
        mean = format_metric(other.mean)
        is_shown_equal = difference.is_noise and mean == format_metric(self.ranking[0].mean)
        if is_shown_equal or abs(difference.mean) <= ROUNDING * abs(other.mean):
            return f"It is no better than {named} ({mean})."
        has_all = self.ranking[0].values.keys() == other.values.keys()
        it_is = "It is" if has_all else "With the seeds that both have, it is"
        if difference.mean < 0:  # other seeds made it the winner
            text = f"{it_is} {format_metric(-difference.mean)} worse than {named} ({mean})"
            return f"{text}, which diverged or failed with others." if other.failed else f"{text}."
        text = f"{it_is} {format_metric(difference.mean)} better than {named} ({mean})"
        if difference.probability is None:
            return f"{text}; with {pluralize(difference.seeds, 'seed')} this may be chance."
        if not difference.is_noise:
            return f"{text}, and really better with a probability of {chance(difference.probability)}."
        text += f", which {pluralize(difference.seeds, 'seed')} cannot tell from chance"
        if needed := self._needed(other):
            return f"{text}; about {needed} would show such a difference if it is real."
        return f"{text}; more than {MOST_SEEDS} would be needed for so small a difference."

    def _luck(self) -> list[str]:
        """Return a sentence that compares the value of the study's best trial with its mean."""
        claims = [each for each in self.configurations if each.claimed is not None]
        best = min(claims, key=lambda each: self.direction.sort_key(each.claimed or 0.0), default=None)
        if best is None or best.claimed is None or not best.values:
            return []
        text = (
            f"The study's best value, {format_metric(best.claimed)} of {best.name}, becomes {self._with_interval(best)}"
        )
        if best.changed:
            changed = f"{join_names(list(best.changed), MOST_NAMED)} changed in between"
            return [f"{text}: {changed}, so the difference does not show how optimistic the study was."]
        excess, bounds = self.direction.advantage(best.claimed, best.mean), self.interval(best)
        if bounds is None or excess <= ROUNDING * abs(best.mean):
            return [f"{text}."]
        if bounds[0] <= best.claimed <= bounds[1]:
            seeds = pluralize(len(best.values), "seed")
            return [f"{text}: {format_metric(excess)} worse, which with {seeds} may be chance."]
        return [f"{text}: the best of many trials was optimistic by {format_metric(excess)}."]

    def _tested(self, winner: Repeated) -> list[str]:
        if not self.test:
            return []
        reached = ", ".join(f"{metric} {format_metric(value)}" for metric, value in sorted(self.test.items()))
        network = f"the network of {winner.name} with the first fresh seed"
        return [f"On the test data, which were not used for any decision, {network} reaches {reached}."]

    def _with_interval(self, one: Repeated, chosen_from: int = 1) -> str:
        text = f"{format_metric(one.mean)} over {pluralize(len(one.values), 'seed')}"
        bounds, wide = (self.interval(one, 1 - (1 - CONFIDENCE) / count) for count in (1, chosen_from))
        if bounds is None or wide is None:
            return text
        text += f" (95% confidence interval {format_interval(bounds)}"
        simultaneous = f"; {format_interval(wide)} simultaneously for {all_of(chosen_from)} means"
        return f"{text}{simultaneous if chosen_from > 1 else ''})"

    def rows(self) -> list[dict[str, Any]]:
        """Return the table of the configurations, the best first, as plain values."""
        ranking = self.ranking
        rows = []
        for each in [*ranking, *(each for each in self.configurations if not each.values)]:
            low, high = self.interval(each) or (None, None)
            difference = self.lead(each) if ranking and each is not ranking[0] else None
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
                    "parameters": each.parameters,
                }
            )
        return rows

    @property
    def caption(self) -> str:
        """Return an explanation of the last column of the table; empty if it has no probabilities."""
        count = len(self.ranking)
        if all(row["probability that the winner is better"] is None for row in self.rows()):
            return ""
        return (
            f"The same seeds picked the winner as the best of {count}. The probabilities are lower bounds: a given "
            "configuration that is as good as any is called worse in at most one such table in twenty. Not separated "
            f"from the winner: below {CONFIDENCE:.0%}."
        )

    def markdown(self) -> str:
        """Return the table of the configurations in Markdown."""
        head = f"| | seeds | mean {self.metric} | 95% interval | in the study | winner is really better | parameters |"
        lines = [head, "|---|---|---|---|---|---|---|"]
        for row in self.rows():
            bounds = "" if row["low"] is None else format_interval((row["low"], row["high"]))
            cells = (
                row["configuration"],
                row["seeds"],
                format_metric(row["mean"]),
                bounds,
                format_metric(row["in the study"]),
            )
            lead = "" if row["behind the winner"] is None else chance(row["probability that the winner is better"])
            lines.append(f"| {' | '.join(map(str, cells))} | {lead} | {row['parameters']} |")
        return "\n".join([*lines, *(["", self.caption] if self.caption else [])])

    def csv(self) -> str:
        """Return the values as CSV, a line for each configuration and seed."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["configuration", "seed", self.metric])
        writer.writerows([each.name, *pair] for each in self.configurations for pair in each.values.items())
        return file.getvalue()


def differing(configurations: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the parameters in which configurations differ, with their values, by the names of the configurations.

    The schedule is left out: it is part of the names.

    Args:
        configurations: The values of each configuration, by their dotted paths.

    >>> slow, fast = {"optimizer.initial_lr": 0.001, "seed": 1}, {"optimizer.initial_lr": 0.01, "seed": 1}
    >>> differing({"#1 constant": slow, "#2 cosine": {**fast, "schedule.name": "cosine", "schedule.decay_steps": 90}})
    {'#1 constant': 'initial_lr 0.001', '#2 cosine': 'initial_lr 0.01, decay_steps 90'}
    """
    paths = dict.fromkeys(path for values in configurations.values() for path in values if path != FAMILY)
    differ = []
    for path in paths:
        first, *others = (values.get(path) for values in configurations.values())
        if any(other != first for other in others):
            differ.append(path)
    return {
        name: ", ".join(f"{own_name(path)} {format_value(values[path])}" for path in differ if path in values)
        for name, values in configurations.items()
    }


def chance(probability: float | None) -> str:
    """Return the probability of a winner's lead, which is a lower bound.

    >>> chance(0.999), chance(0.9789), chance(0.94), chance(None)
    ('more than 99%', 'at least 97%', 'not separated', 'unknown')
    """
    if probability is None:
        return "unknown"
    if probability < CONFIDENCE:
        return "not separated"
    return format_probability(probability) if probability > 0.99 else f"at least {math.floor(100 * probability)}%"


def all_of(count: int) -> str:
    """Return "both", or "all" and a number.

    >>> all_of(2), all_of(3)
    ('both', 'all 3')
    """
    return "both" if count == 2 else f"all {count}"


def _named(roles: Sequence[str], name: str) -> str:
    """Return the roles of a configuration and its name, for a sentence; roles that the name states are left out.

    >>> _named(["the runner-up", "a constant lr"], "#4 at a constant lr"), _named(["a constant lr"], "#5 constant")
    ('the runner-up, #4 at a constant lr', '#5 constant')
    >>> _named(["the runner-up", "the study's default"], "default step")
    "the runner-up, the study's default, step"
    >>> _named(["the study's default", "a constant lr"], "default constant")
    "the study's default, a constant lr"
    """
    default, _, schedule = name.partition(" ")
    if default == "default" and DEFAULT_ROLE in roles:
        return ", ".join([*roles, *([schedule] if schedule and CONSTANT_LR_ROLE not in roles else [])])
    return ", ".join([*(role for role in roles if role != CONSTANT_LR_ROLE or "constant" not in name), name])
