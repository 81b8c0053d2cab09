"""What fresh seeds say: means, intervals, and whether the winner is better than chance."""

import math
from statistics import fmean

import pytest
from scipy import stats

from tuner.comparison import Comparison, Repeated, interval

A = Repeated("#1 cosine", dict(enumerate([0.91, 0.93, 0.92, 0.94])), claimed=0.97)
B = Repeated("#2 step", dict(enumerate([0.90, 0.91, 0.92, 0.92])), claimed=0.90)
C = Repeated("constant", dict(enumerate([0.80, 0.82, 0.81, 0.82])))


def compared(*configurations: Repeated, direction: str = "maximize", **test: float) -> Comparison:
    return Comparison("val/acc", direction, configurations, test)  # type: ignore[arg-type]


def test_the_interval_is_students():
    values = list(A.values.values())
    low, high = stats.t.interval(0.95, 3, loc=fmean(values), scale=stats.sem(values))
    assert interval(values) == pytest.approx((low, high), rel=1e-12)
    assert interval([0.9]) is None


def test_the_probability_is_one_minus_the_one_sided_p_value_of_the_paired_t_test():
    difference = compared(A, B).difference(A, B)
    p = stats.ttest_rel(list(A.values.values()), list(B.values.values()), alternative="greater").pvalue
    assert difference is not None
    assert difference.probability == pytest.approx(1 - p, rel=1e-9)
    assert difference.mean == pytest.approx(0.0125)
    assert difference.is_noise is bool(p > 0.05)


def test_the_same_differences_say_the_opposite_where_small_values_are_good():
    up, down = compared(A, B).difference(A, B), compared(A, B, direction="minimize").difference(A, B)
    assert up
    assert down
    assert down.probability == pytest.approx(1 - up.probability)
    assert [each.name for each in compared(B, A, direction="minimize").ranking] == ["#2 step", "#1 cosine"]


def test_only_seeds_that_both_have_are_compared():
    lame = Repeated("lame", {0: 0.9, 2: 0.9, 7: 0.1}, failed=1)
    difference = compared(A, lame).difference(A, lame)
    assert difference is not None
    assert (difference.seeds, difference.mean) == (2, pytest.approx(0.015))
    assert compared(A, lame).difference(A, Repeated("none", {9: 0.9})) is None


def test_one_seed_and_equal_differences_are_no_division_by_zero():
    one, same = Repeated("one", {0: 0.9}), Repeated("same", {seed: value + 0.5 for seed, value in A.values.items()})
    assert compared(A, one).difference(A, one).probability is None
    tie = Repeated("tie", dict(A.values))
    assert compared(A, tie).difference(A, tie).probability == 0.5
    exact = Repeated("exact", {0: 1.0, 1: 2.0}), Repeated("less", {0: 0.5, 1: 1.5})
    assert compared(*exact).difference(*exact).probability == 1.0
    assert compared(same, A).ranking[0] is same


def test_a_configuration_that_diverges_with_some_seed_is_worse_than_a_low_mean():
    risky = Repeated("risky", {0: 0.99, 1: 0.99}, failed=2)
    assert [each.name for each in compared(risky, C, A).ranking] == ["#1 cosine", "constant", "risky"]
    assert "risky had no end with 2 seeds: it diverged or failed." in compared(risky, C, A).findings({})


def test_the_findings_tell_noise_from_a_real_difference_and_luck_from_merit():
    found = compared(A, B, C, **{"test/acc": 0.91}).findings({"a constant lr": "constant", "the default": "#2 step"})
    winner, runner_up, constant, luck, test = found
    assert winner.startswith("The winner is #1 cosine: val/acc 0.9250 over 4 seeds (95% confidence interval 0.9")
    assert "the runner-up and the default, #2 step (0.9125)" in runner_up
    assert ("noise, 4 seeds cannot tell them apart" in runner_up) is compared(A, B).difference(A, B).is_noise
    assert constant.endswith("really better with a probability of more than 99%.")
    assert luck.startswith("The study's best value, 0.9700 of #1 cosine, comes to 0.9250 over 4 seeds")
    assert luck.endswith("the best of many trials was optimistic by 0.0450.")
    assert test == "On the test data, which decided nothing, its network of the first seed reaches test/acc 0.9100."


def test_a_value_within_its_interval_is_not_called_optimistic():
    modest = Repeated("#1 cosine", A.values, claimed=0.93)
    (luck,) = (sentence for sentence in compared(modest, B).findings({}) if sentence.startswith("The study's"))
    assert luck.endswith("): 0.0050 worse, which 4 seeds cannot tell from chance.")


def test_the_table_has_the_best_first_and_those_without_values_last():
    rows = compared(Repeated("dead", failed=3), B, A).rows()
    assert [row["configuration"] for row in rows] == ["#1 cosine", "#2 step", "dead"]
    assert rows[0]["behind the winner"] is None
    assert rows[1]["behind the winner"] == pytest.approx(0.0125)
    assert rows[2]["mean"] is None
    assert compared(Repeated("dead", failed=3)).findings({}) == [
        "No training came to its end, so there is nothing to compare."
    ]
    assert "| dead | 0 |  |  |  |  |" in compared(Repeated("dead", failed=3), A).markdown()
    assert math.isnan(Repeated("dead").mean)
