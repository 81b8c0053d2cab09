"""How many trials are trained as one model, and which."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tuner.config.study import TrialConfig
from tuner.errors import BadInputError
from tuner.protocol import Slot

__all__ = ["ONE_BY_ONE", "GroupSize", "alike", "check_divisible", "group_size"]

MOST = 128
ROUNDS = 4


@dataclass(frozen=True)
class GroupSize:
    """How many trials a slot trains at a time, as one model.

    Args:
        most: How many at most.
        is_measured: Whether it is found out how many are trained fastest.
    """

    most: int
    is_measured: bool = False


ONE_BY_ONE = GroupSize(1)


def group_size(fuse: str, slots: Sequence[Slot], trials: int) -> GroupSize:
    """Return how many trials a slot trains at a time.

    On a CPU, "auto" means one: vectorised convolutions are slower there (benchmarks/results has the numbers), and a
    trial that is alone can be repeated to the bit. On a GPU it means as many as are trained fastest, but never so many
    that the study is over in less than four rounds, for those who are asked for together know nothing of each other.

    Args:
        fuse: "auto", "off" or a number.
        slots: The slots.
        trials: Trials in the study.

    Raises:
        BadInputError: If `fuse` is none of these, or a slot's devices are to share one trial.
    """
    alone = slots[0].ranks > 1
    if fuse == "off" or (fuse == "auto" and (alone or slots[0].kind == "cpu")):
        return ONE_BY_ONE
    if fuse == "auto":
        most = max(1, min(MOST, trials // (ROUNDS * len(slots))))
        return GroupSize(most, is_measured=most > 1)
    if not fuse.isdecimal() or int(fuse) < 1:
        raise BadInputError([f'--fuse: must be auto, off, or a number of trials such as 8 (got "{fuse}").'])
    if alone and int(fuse) > 1:
        raise BadInputError(["--fuse: several trials as one model cannot be divided among devices; use off."])
    return GroupSize(int(fuse))


def check_divisible(batch_sizes: Iterable[int], slots: Sequence[Slot]) -> None:
    """Find out whether the devices of a slot can have equal shares of every batch.

    Raises:
        BadInputError: If they cannot: each of them would train the whole batch.
    """
    ranks = slots[0].ranks
    for size in batch_sizes:
        if size % ranks:
            raise BadInputError([f"--devices-per-trial: a batch of {size} cannot be divided equally among {ranks}."])


def alike(one: TrialConfig, other: TrialConfig) -> bool:
    """Tell whether trials can be one model: optimizers, schedules and seeds may differ, but nothing else."""
    first, second = ((each.data, each.model, each.loss, each.trainer) for each in (one, other))
    return first == second
