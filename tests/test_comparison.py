"""Statistics over fresh seeds: means, intervals, and whether the winner is better than chance."""

import math
import random
from dataclasses import replace
from statistics import fmean

import pytest
from scipy import stats

from tuner.analysis.comparison import Comparison, Difference, Repeated
from tuner.analysis.intervals import interval
from tuner.direction import Direction

A = Repeated("#1 cosine", dict(enumerate([0.91, 0.93, 0.92, 0.94])), claimed=0.97)
B = Repeated("#2 step", dict(enumerate([0.90, 0.91, 0.92, 0.92])), claimed=0.90)
C = Repeated("constant", dict(enumerate([0.80, 0.82, 0.81, 0.82])))


def compared(*configurations: Repeated, direction: Direction = Direction.MAXIMIZE, **test: float) -> Comparison:
    return Comparison("val/acc", direction, configurations, test)


VERY_LARGE = (("a", 1.6e308), ("b", 1.5e308))


def test_the_interval_is_students():
    values = list(A.values.values())
    low, high = stats.t.interval(0.95, 3, loc=fmean(values), scale=stats.sem(values))
    assert interval(values) == pytest.approx((low, high), rel=1e-12)
    assert interval([0.9]) is None


def test_values_whose_sum_is_too_large_for_a_float_are_compared():
    one, other = (Repeated(name, {seed: value + seed * 1e305 for seed in range(3)}) for name, value in VERY_LARGE)
    comparison = Comparison("loss", Direction.MINIMIZE, [one, other])
    assert [each.name for each in comparison.ranking] == ["b", "a"]
    assert one.mean == pytest.approx(1.601e308)
    found = comparison.interval(one)
    assert found is not None
    assert found[0] < one.mean < found[1]
    difference = comparison.difference(other, one)
    assert difference is not None
    assert difference.mean == pytest.approx(1e307)
    assert "1.6e+308" in comparison.markdown()


def test_differences_that_are_too_large_for_a_float_have_no_probability():
    one, other = (Repeated(name, dict.fromkeys(range(3), value)) for name, value in (("a", 1.7e308), ("b", -1.7e308)))
    comparison = Comparison("loss", Direction.MAXIMIZE, [one, other])
    assert comparison.difference(one, other) == Difference(math.inf, None, 3)
    assert comparison.findings({})
    spread = Repeated("c", {0: 1.7e308, 1: -1.7e308})
    assert Comparison("loss", Direction.MAXIMIZE, [spread]).interval(spread) == (-math.inf, math.inf)


def test_the_probability_is_one_minus_the_one_sided_p_value_of_the_paired_t_test():
    difference = compared(A, B).difference(A, B)
    p = stats.ttest_rel(list(A.values.values()), list(B.values.values()), alternative="greater").pvalue
    assert difference is not None
    assert difference.probability == pytest.approx(1 - p, rel=1e-9)
    assert difference.mean == pytest.approx(0.0125)
    assert difference.is_noise is bool(p > 0.05)


def test_the_same_differences_say_the_opposite_where_small_values_are_good():
    up, down = compared(A, B).difference(A, B), compared(A, B, direction=Direction.MINIMIZE).difference(A, B)
    assert up
    assert down
    assert down.probability == pytest.approx(1 - up.probability)
    assert [each.name for each in compared(B, A, direction=Direction.MINIMIZE).ranking] == ["#2 step", "#1 cosine"]


def test_only_seeds_that_both_have_are_compared():
    lame = Repeated("lame", {0: 0.9, 2: 0.9, 7: 0.1}, failed=1)
    difference = compared(A, lame).difference(A, lame)
    assert difference is not None
    assert (difference.seeds, difference.mean) == (2, pytest.approx(0.015))
    assert compared(A, lame).difference(A, Repeated("none", {9: 0.9})) is None


def test_fewer_than_three_seeds_decide_nothing():
    one = Repeated("one", {0: 0.9})
    assert compared(A, one).difference(A, one).probability is None
    exact = Repeated("exact", {0: 1.0, 1: 2.0}), Repeated("less", {0: 0.5, 1: 1.5})
    assert compared(*exact).difference(*exact).probability is None
    assert compared(*exact).difference(*exact).is_noise
    _answer, _mean, runner_up = compared(*exact).findings({})
    assert runner_up.endswith("(1.0000); with 2 seeds this may be chance.")
    assert "| unknown |" in compared(*exact).markdown()


def test_equal_differences_prove_no_more_than_the_resolution_of_the_metric():
    tie, better = (Repeated(str(step), {seed: value + step for seed, value in A.values.items()}) for step in (0, 0.02))
    assert compared(A, tie).difference(A, tie).probability == 0.5
    assert compared(better, A).difference(better, A).probability is None, "the resolution is not known"
    known = Comparison("val/acc", Direction.MAXIMIZE, [better, A], validation_images=100)
    assert known.difference(better, A).probability == pytest.approx(stats.t.cdf(4.0, 3))


@pytest.mark.parametrize(
    ("metric", "values", "bounds"),
    [
        ("val/acc", [0.99, 1.0, 0.95], (0.0, 1.0)),
        ("val_accuracy", [0.01, 0.0, 0.05], (0.0, 1.0)),
        ("val_top3", [0.99, 1.0, 0.95], (0.0, 1.0)),
        ("val/f1", [0.99, 1.0, 0.95], (0.0, 1.0)),
        ("val/loss", [0.01, 0.2, 0.05], (0.0, math.inf)),
    ],
)
def test_the_interval_of_a_bounded_metric_is_students_cut_at_its_bounds(metric, values, bounds):
    low, high = interval(values)
    assert not bounds[0] <= low <= high <= bounds[1]
    (row,) = Comparison(metric, Direction.MAXIMIZE, [Repeated("one", dict(enumerate(values)))]).rows()
    assert (row["low"], row["high"]) == (max(low, bounds[0]), min(high, bounds[1]))


def test_an_accuracy_in_percent_has_no_bounds_that_are_known():
    percent = Repeated("one", dict(enumerate([99.0, 100.0, 95.0])))
    assert Comparison("val_acc", Direction.MAXIMIZE, [percent], validation_images=500).rows()[0]["high"] > 100


def test_equal_values_have_an_interval_of_the_resolution_or_none():
    same = Repeated("one", {0: 0.9, 1: 0.9, 2: 0.9})
    assert Comparison("val/acc", Direction.MAXIMIZE, [same]).rows()[0]["low"] is None
    (row,) = Comparison("val/acc", Direction.MAXIMIZE, [same], validation_images=500).rows()
    assert row["high"] - 0.9 == pytest.approx(0.002 / math.sqrt(3) * stats.t.ppf(0.975, 2))


def test_hardly_any_table_calls_one_of_the_best_configurations_worse_than_the_winner():
    rng = random.Random(0)
    beaten, tables = [0] * 5, 0
    for _ in range(300):
        equals = [Repeated(str(index), {seed: rng.gauss(0, 1) for seed in range(6)}) for index in range(5)]
        comparison = compared(*equals)
        worse = [other for other in comparison.ranking[1:] if not comparison.lead(other).is_noise]
        tables += bool(worse)
        for other in worse:
            beaten[int(other.name)] += 1
    assert max(beaten) <= 0.05 * 300
    assert 0.1 * 300 <= tables <= 0.2 * 300, "of any configuration, the caption and the documentation promise less"
    assert "a given configuration that is as good as any is called worse in at most one such" in comparison.caption


def test_the_lead_of_a_winner_allows_for_its_choice_among_the_others():
    pair = compared(A, B, C).difference(A, C).probability
    assert compared(A, B, C).lead(C).probability == pytest.approx(1 - 2 * (1 - pair))
    assert compared(A, B, C).lead(B).probability < compared(A, B).lead(B).probability
    wide = interval(list(A.values.values()), confidence=1 - 0.05 / 3)
    assert f"; {wide[0]:.4f} to {wide[1]:.4f} simultaneously for all 3 means)." in compared(A, B, C).findings({})[1]
    assert " simultaneously for both means)." in compared(A, B).findings({})[1]


def test_a_configuration_that_diverges_with_some_seed_is_worse_than_a_low_mean():
    risky = Repeated("risky", {0: 0.99, 1: 0.99}, failed=2)
    assert [each.name for each in compared(risky, C, A).ranking] == ["#1 cosine", "constant", "risky"]
    assert "risky diverged or failed with 2 seeds." in compared(risky, C, A).findings({})


def test_the_findings_distinguish_noise_from_real_differences():
    found = compared(A, B, C, **{"test/acc": 0.91}).findings({"a constant lr": "constant", "the default": "#2 step"})
    _answer, mean, runner_up, constant, luck, test = found
    assert mean.startswith("Its mean val/acc is 0.9250 over 4 seeds (95% confidence interval 0.9")
    assert "better than the runner-up, the default, #2 step (0.9125)" in runner_up
    assert runner_up.endswith("4 seeds cannot tell from chance; about 5 would show such a difference if it is real.")
    assert constant.endswith("really better with a probability of more than 99%.")
    assert luck.startswith("The study's best value, 0.9700 of #1 cosine, becomes 0.9250 over 4 seeds")
    assert luck.endswith("the best of many trials was optimistic by 0.0450.")
    assert test.endswith("the network of #1 cosine with the first fresh seed reaches test/acc 0.9100.")


def test_the_findings_say_next_to_a_constant_lr_how_little_it_was_tuned():
    caveat = "The search tried a constant lr once, so it says little about the benefit of the schedule itself."
    opponents = {"a constant lr": "constant"}
    found = replace(compared(A, B, C), caveat=caveat).findings(opponents)
    assert found[found.index(caveat) - 1].startswith("It is 0.1125 better than constant (0.8125)")
    assert caveat not in replace(compared(B, C), caveat=caveat).findings({"a constant lr": "#2 step"}), "it has won"


def test_the_number_of_seeds_that_would_decide_is_that_of_the_same_differences_repeated():
    noise = [0.004, -0.004, 0.012, -0.012]
    bad = Repeated("bad", dict.fromkeys(range(16), 0.9))
    for lead, needed in ((0.005, "about 14"), (0.0005, "more than 100")):
        good = Repeated("good", {seed: 0.9 + lead + noise[seed] for seed in range(4)})
        sentence = compared(good, bad).findings({})[2]
        assert f"cannot tell from chance; {needed} would" in sentence
    again = Repeated("good", {seed: 0.9 + 0.005 + noise[seed % 4] for seed in range(16)})
    assert not compared(again, bad).lead(bad).is_noise


def test_the_findings_begin_with_the_answer():
    answer, mean, *_ = compared(A, C).findings({})
    assert answer == "The answer is #1 cosine: it is really better than constant."
    assert mean.startswith("Its mean val/acc is 0.9250 over 4 seeds (")
    answer, mean, lead, *_ = compared(Repeated("same", A.values), A).findings({})
    assert answer == "The answer is a tie: the seeds do not separate same from #1 cosine."
    assert mean.startswith("same has the best mean: val/acc 0.9250 over 4 seeds (")
    assert lead == "It is no better than the runner-up, #1 cosine (0.9250)."


def test_a_lead_over_fewer_seeds_than_the_means_says_so():
    part = Repeated("part", {seed: value for seed, value in B.values.items() if seed != 3})
    lead, other = compared(A, part, B).findings({"the default": "part"})[2:4]
    assert lead.startswith("It is 0.0125 better than the runner-up, #2 step (0.9125)")
    assert other.startswith("With the seeds that both have, it is 0.0100 better than the default, part (0.9100)")


def test_means_that_are_shown_equal_are_called_equal():
    near = Repeated("near", {seed: value + 9e-7 * (-1) ** seed + 1e-7 for seed, value in A.values.items()})
    found = compared(near, A).findings({})
    assert found[2] == "It is no better than the runner-up, #1 cosine (0.9250)."


def test_a_value_within_its_interval_is_not_called_optimistic():
    modest = Repeated("#1 cosine", A.values, claimed=0.93)
    (luck,) = (sentence for sentence in compared(modest, B).findings({}) if sentence.startswith("The study's"))
    assert luck.endswith("): 0.0050 worse, which with 4 seeds may be chance.")


def test_the_table_has_the_best_first_and_those_without_values_last():
    rows = compared(Repeated("dead", failed=3), B, A).rows()
    assert [row["configuration"] for row in rows] == ["#1 cosine", "#2 step", "dead"]
    assert rows[0]["behind the winner"] is None
    assert rows[1]["behind the winner"] == pytest.approx(0.0125)
    assert rows[2]["mean"] is None
    assert compared(Repeated("dead", failed=3)).findings({}) == [
        "No run was completed, so there is nothing to compare."
    ]
    assert "| dead | 0 |  |  |  |  |" in compared(Repeated("dead", failed=3), A).markdown()
    assert math.isnan(Repeated("dead").mean)
