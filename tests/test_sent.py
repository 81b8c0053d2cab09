"""The points of a run that are stored."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from tuner.tracking.sent_points import SentPoints


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(-50, 50) | st.integers(-(2**63), 2**63))))
def test_exactly_the_added_points_are_known_in_any_order(points: list[tuple[str, int]]):
    sent = SentPoints(points)
    looked_for = {*points} | {(metric, step + 1) for metric, step in points} | {("c", 0)}
    assert {point for point in looked_for if point in sent} == {*points}


def test_the_memory_does_not_grow_with_the_steps_of_a_training():
    tracemalloc.start()
    sent = SentPoints()
    for step in range(200_000):
        sent.add("lr", step)
        if step % 50 == 49:
            sent.add("train/loss", step)
        if step % 1000 == 999:
            sent.add("val/acc", step)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 100_000
    assert ("lr", 199_999) in sent
    assert ("train/loss", 199_998) not in sent
