"""The pieces of the coordinator, without a study: its queue, the search for a group size, the streak of errors."""

import itertools
from pathlib import Path

import pytest

from tests.studies import TINY
from tuner.config.loader import load_study
from tuner.config.trial import TrialConfig
from tuner.protocol import Assignment, MeasurementGroup, MeasurementResult
from tuner.runner.error_streak import ErrorStreak
from tuner.runner.group_size import ONE_BY_ONE, GroupSize, GroupSizeSearch
from tuner.runner.rehearsal import networks
from tuner.runner.trial_queue import TrialQueue


@pytest.fixture(scope="module")
def config() -> TrialConfig:
    return networks(load_study(str(TINY)))[0]


@pytest.fixture(scope="module")
def other() -> TrialConfig:
    """Return a trial with a larger batch, which cannot be one model with the first."""
    return networks(load_study(str(TINY), ["trial.data.batch_size=200"]))[0]


def assignment(number: int, config: TrialConfig) -> Assignment:
    return Assignment(number, config, "val/acc", Path(str(number)))


def queue_of(*configs: TrialConfig) -> TrialQueue:
    queue = TrialQueue()
    for number, config in enumerate(configs):
        queue.add(assignment(number, config))
    return queue


def taken(queue: TrialQueue, size: int, suspects: tuple[int, ...] = ()) -> list[int]:
    return [each.number for each in queue.take(size, lambda number: number in suspects)]


def test_a_group_has_the_trials_that_are_alike_in_the_order_in_which_they_came(config: TrialConfig, other: TrialConfig):
    queue = queue_of(config, other, config, config)
    assert [taken(queue, 2), taken(queue, 2), taken(queue, 2)] == [[0, 2], [1], [3]]
    assert queue.first is None
    assert len(queue) == 4, "they are with slots now"


def test_a_trial_that_killed_its_process_twice_is_trained_alone(config: TrialConfig):
    queue = queue_of(config, config, config)
    assert taken(queue, 3, suspects=(1, 2)) == [1]
    assert taken(queue, 3, suspects=(1, 2)) == [2]
    assert taken(queue, 3) == [0]


def test_trials_of_a_lost_slot_come_first_again(config: TrialConfig):
    queue = queue_of(config, config, config)
    lost = queue.take(2, lambda number: False)
    queue.put_back(lost)
    assert taken(queue, 3) == [0, 1, 2]
    queue.remove(1)
    assert [each.number for each in queue.assignments] == [0, 2]


@pytest.mark.parametrize(
    ("trials", "size", "slots", "groups"),
    [
        (5, 1, 1, [1, 1, 1, 1, 1]),
        (9, 4, 1, [4, 4, 1]),
        (10, 4, 2, [4, 3, 2, 1]),
        (3, 8, 3, [1, 1, 1]),
        (2, 8, 5, [1, 1]),
    ],
)
def test_each_slot_has_its_share_of_the_trials_that_are_left(
    config: TrialConfig, trials: int, size: int, slots: int, groups: list[int]
):
    queue, numbers = TrialQueue(), itertools.count()
    found = []
    for _ in groups:
        for _ in range(queue.lacks(trials - len(queue), size, slots)):
            queue.add(assignment(next(numbers), config))
        found.append(len(taken(queue, size)))
    assert found == groups
    assert queue.lacks(trials - len(queue), size, slots) == 0


def test_a_group_size_that_is_given_is_not_measured(config: TrialConfig):
    notes: list[str] = []
    for size, count, as_group in ((ONE_BY_ONE, 1, False), (GroupSize(1), 1, True), (GroupSize(8), 8, True)):
        search = GroupSizeSearch(size, notes.append)
        assert (search.is_over, search.count, search.as_group) == (True, count, as_group)
    assert notes == []


def test_one_slot_measures_while_the_others_wait(config: TrialConfig):
    notes: list[str] = []
    search = GroupSizeSearch(GroupSize(16, is_measured=True), notes.append)
    first = assignment(0, config)
    assert not search.is_over
    assert search.next_group(first) == MeasurementGroup((first,), 16)
    assert search.next_group(first) is None
    search.returned()
    assert search.next_group(first) == MeasurementGroup((first,), 16), "its slot was lost"
    search.done(MeasurementResult(8, 3.21, as_group=True))
    assert (search.is_over, search.count, search.as_group) == (True, 8, True)
    search.limit(1, "an LSTM")
    assert not search.as_group
    notes.pop()
    assert notes == ["8 trials at a time are trained as one model, 3.2 times as fast as one by one"]


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (MeasurementResult(), "fusing gave no speed-up"),
        (MeasurementResult(message="they cannot be fused: an LSTM"), "they cannot be fused: an LSTM"),
        (None, "a process that tried more was killed"),
    ],
)
def test_trials_are_trained_one_at_a_time_where_fusing_does_not_pay(result: MeasurementResult | None, reason: str):
    notes: list[str] = []
    search = GroupSizeSearch(GroupSize(16, is_measured=True), notes.append)
    if result is None:
        search.died("was killed")
    else:
        search.done(result)
    assert (search.is_over, search.count, search.as_group) == (True, 1, False)
    assert notes == [f"trials are trained one at a time: {reason}"]


def test_a_group_size_is_only_lowered():
    notes: list[str] = []
    search = GroupSizeSearch(GroupSize(8), notes.append)
    for count, after in ((4, 4), (6, 4), (1, 1), (1, 1)):
        search.limit(count, "of a reason")
        assert search.count == after
    assert len(notes) == 2


def test_a_success_or_another_error_ends_a_streak():
    streak = ErrorStreak()
    for message in ("a 1", "a 2", None, "a 3", "b 1", "b 2"):
        streak.add(message)
        assert not streak.verdict
    streak.add("b 3")
    assert streak.verdict == "3 trials in a row failed in the same way: b 3"
    streak.add(None)
    assert not streak.verdict
