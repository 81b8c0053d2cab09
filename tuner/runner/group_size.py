"""The number of trials that are trained as one model, and which trials can be fused."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tuner.config.study import StudyConfig
from tuner.config.trial import AnyTrial, TrialConfig
from tuner.errors import BadInputError
from tuner.protocol import Assignment, MeasurementGroup, MeasurementResult, Slot

__all__ = ["ONE_BY_ONE", "GroupSize", "GroupSizeSearch", "alike", "check_divisible", "fuse_of", "group_size"]

MOST = 128
ROUNDS = 4


@dataclass(frozen=True)
class GroupSize:
    """The number of trials that a slot trains at a time, as one model.

    Args:
        most: Largest number.
        is_measured: Whether the fastest number is measured.
        why_alone: Why trials run alone, if they would otherwise be measured in groups; empty if there is no such
            reason.
        as_group: Whether a single trial may be trained as a group of one, where its steps can be recorded.
    """

    most: int
    is_measured: bool = False
    why_alone: str = ""
    as_group: bool = True


ONE_BY_ONE = GroupSize(1, as_group=False)


class GroupSizeSearch:
    """Finds the number of trials that are trained fastest as one model, by one measurement before the first run.

    Args:
        size: The number that the options ask for.
        note: Called with the result, in a sentence.

    Attributes:
        count: The number of trials that a slot trains at a time, as far as it is known.
        as_group: Whether a single trial may be trained as a group of one.
    """

    def __init__(self, size: GroupSize, note: Callable[[str], None]) -> None:
        self.count = 1 if size.is_measured else size.most
        self.as_group = size.as_group
        self._most = size.most if size.is_measured else 0  # largest number to measure; 0 once all are measured
        self._is_running = False
        self._note = note
        if size.why_alone:
            note(f"trials are trained one at a time: {size.why_alone}")

    @property
    def is_over(self) -> bool:
        """Whether the number is known, so that training can begin."""
        return not self._most

    def next_group(self, trial: Assignment) -> MeasurementGroup | None:
        """Return the measurement for a slot; None while another slot does it."""
        if self._is_running:
            return None
        self._is_running = True
        return MeasurementGroup((trial,), self._most)

    def done(self, result: MeasurementResult) -> None:
        """Use the number that was fastest."""
        self._most, self.count, self.as_group = 0, result.count, result.as_group
        if self.count > 1:
            speedup = f"{result.speedup:.1f} times as fast as one by one"
            self._note(f"{self.count} trials at a time are trained as one model, {speedup}")
        else:
            self._note(f"trials are trained one at a time: {result.message or 'fusing gave no speed-up'}")

    def died(self, reason: str) -> None:
        """Train one at a time, because the measurement has killed its process."""
        self.done(MeasurementResult(message=f"a process that tried more {reason}"))

    def returned(self) -> None:
        """Let another slot measure."""
        self._is_running = False

    def limit(self, count: int, reason: str) -> None:
        """Lower the number for the rest of the study.

        Args:
            count: Largest number from now on.
            reason: Why no more can be fused.
        """
        if count < self.count:
            few = f"{count} at a time from now on, because more do not fit into memory"
            one = "one at a time from now on, because they cannot be fused"
            self._note(f"trials are trained {one if count == 1 else few}: {reason}")
            self.count = count
            self.as_group = self.as_group and count > 1  # a trial that cannot be fused cannot be recorded


def group_size(fuse: str, slots: Sequence[Slot], trials: int) -> GroupSize:
    """Return how many trials a slot trains at a time.

    "off" means one, in a plain Trainer. On a CPU, "auto" means the same: vectorised convolutions are slower there
    (benchmarks/results has the numbers), and a trial trained alone can be repeated to the last bit. On a GPU it means
    the fastest number, but never so many that the study is over in less than four rounds, because trials that are
    sampled together cannot learn from each other.

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


def fuse_of(config: StudyConfig, fuse: str, slots: Sequence[Slot], trainings: int, is_search: bool = True) -> GroupSize:
    """Return how many runs of a study a slot does at a time.

    Args:
        config: The study.
        fuse: "auto", "off" or a number.
        slots: The slots.
        trainings: Number of runs.
        is_search: Whether later runs depend on the results of earlier ones.

    Raises:
        BadInputError: If `fuse` is none of these, or a number although its trials cannot be fused.
    """
    size = group_size(fuse, slots, trainings if is_search else ROUNDS * trainings)
    if size.most > 1 and (reason := config.why_alone):
        if fuse != "auto":
            raise BadInputError([f"--fuse: these trials are trained one by one: {reason}."])
        return GroupSize(1, why_alone=reason)
    return size


def check_divisible(config: StudyConfig, slots: Sequence[Slot]) -> None:
    """Check that the devices of a slot can have equal shares of a trial.

    Raises:
        BadInputError: If they cannot: each device would train all of it.
    """
    ranks = slots[0].ranks
    if ranks > 1 and (reason := config.kind.why_not_divided(config.trial, ranks)):
        raise BadInputError([f"--devices-per-trial: {reason}."])


def alike(one: AnyTrial, other: AnyTrial) -> bool:
    """Return whether trials can be one model: only optimizers, schedules, averages and seeds may differ."""
    if not isinstance(one, TrialConfig) or not isinstance(other, TrialConfig):
        return one is other
    first, second = ((each.data, each.model, each.loss, each.trainer) for each in (one, other))
    return first == second
