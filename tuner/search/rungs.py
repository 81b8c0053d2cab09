"""The choice of the trials that continue at a rung.

The first trials of a study wait for each other: all are trained to the first rung, the best quarter of them to the
second, and so on (successive halving: Jamieson and Talwalkar, 2016, arXiv:1502.07943). So which of them continue
depends on their values alone, and neither on the order in which they end nor on the number of slots. A later trial is
compared with all that have reached its rung, and continues if it is among the best quarter (Li et al., 2018,
arXiv:1810.05934).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tuner.config.rungs import Rungs

__all__ = ["Entry", "continues", "decided"]


@dataclass(frozen=True)
class Entry:
    """A trial at the rungs.

    Args:
        number: Its number.
        losses: Its value after each epoch; lower is better.
        judged: The epoch after which it was compared, for each rung that it has reached.
        is_over: Whether it is finished.
    """

    number: int
    losses: Mapping[int, float]
    judged: Sequence[int] = ()
    is_over: bool = False

    def has_reached(self, rung: int) -> bool:
        """Return whether it was compared at a rung."""
        return len(self.judged) > rung

    def rank_at(self, rung: int) -> tuple[float, int]:
        """Return a sort key at a rung that puts the best trial first: its best value so far."""
        return min(loss for epoch, loss in self.losses.items() if epoch <= self.judged[rung]), self.number


def continues(rungs: Rungs, entry: Entry, others: Iterable[Entry]) -> bool:
    """Return whether a trial that waits for no others continues after it was compared.

    Args:
        rungs: The rungs of the study.
        entry: The trial.
        others: All other trials.
    """
    rung = len(entry.judged) - 1
    rivals = [other.rank_at(rung) for other in others if other.has_reached(rung)]
    place = sum(rival < entry.rank_at(rung) for rival in rivals)
    return place < max(1, (len(rivals) + 1) // rungs.reduction_factor)


def decided(rungs: Rungs, entries: Iterable[Entry]) -> tuple[set[int], set[int]]:
    """Return which of the first trials continue from the rung that they wait at, and which do not, by number.

    Trials of a rung that not all have reached are in neither.

    Args:
        rungs: The rungs of the study.
        entries: The first trials that wait for each other, as far as they have begun.
    """
    rivals = list(entries)
    continuing: set[int] = set()
    out: set[int] = set()
    if len(rivals) < rungs.starts:
        return continuing, out
    for rung, count in enumerate(rungs.counts[1:]):
        if not all(entry.has_reached(rung) or entry.is_over for entry in rivals):
            break
        ranking = sorted((entry for entry in rivals if entry.has_reached(rung)), key=lambda entry: entry.rank_at(rung))
        rivals, losers = ranking[:count], ranking[count:]
        continuing |= {entry.number for entry in rivals if len(entry.judged) == rung + 1 and not entry.is_over}
        out |= {entry.number for entry in losers if not entry.is_over}
    return continuing, out
