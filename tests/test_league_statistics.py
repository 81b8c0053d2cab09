"""The statistics of a league: the choice of a base lr, simultaneous intervals, performance profiles, the table."""

import csv
import dataclasses
import io
import math
import random
import re

import numpy
import pytest
from rich.console import Console
from scipy import stats

from tuner.analysis.comparison import Comparison, Repeated
from tuner.analysis.profiles import profile, ratios_to_fastest, score
from tuner.analysis.simultaneous import Gap, gaps_to_best, median_interval
from tuner.analysis.standings import Member, Standings, default_target, default_tolerance
from tuner.analysis.sweeps import Sweep, choose
from tuner.direction import Direction
from tuner.runner.summary import print_table
from tuner.visualization.comparisons import of_standings

NONE: dict[float, int] = {}
SAMPLES = {"a": {0: 1.0, 1: 2.0, 2: 4.0}, "b": {0: 2.0, 1: 4.0, 2: 5.0}, "c": {0: 2.5, 1: 2.0}}


def sweep(values: dict[float, list[float]], failed: dict[float, int] = NONE) -> Sweep:
    return Sweep(Direction.MAXIMIZE, values, failed)


STANDINGS = Standings(
    "which",
    Comparison(
        "val/acc",
        Direction.MAXIMIZE,
        [
            Repeated("constant", dict(enumerate([0.90, 0.91, 0.92, 0.91, 0.90, 0.92]))),
            Repeated("cosine", dict(enumerate([0.951, 0.953, 0.952, 0.950, 0.952, 0.953]))),
            Repeated("linear", dict(enumerate([0.950, 0.952, 0.951, 0.951, 0.952, 0.953]))),
            Repeated("step", dict(enumerate([0.97, 0.93, 0.96, 0.90, 0.95])), failed=1),
        ],
    ),
    [
        Member(
            "constant",
            "initial_lr 0.001",
            0.001,
            dict.fromkeys(range(6), 500.0),
            sweep({0.0005: [0.90], 0.001: [0.91]}),
        ),
        Member(
            "cosine",
            "initial_lr 0.002",
            0.002,
            dict.fromkeys(range(6), 250.0),
            sweep({0.001: [0.9], 0.002: [0.96], 0.004: [0.955]}),
        ),
        Member(
            "linear",
            "initial_lr 0.002",
            0.002,
            dict.fromkeys(range(6), 125.0),
            sweep({0.001: [0.95], 0.002: [0.96], 0.004: [0.9]}),
        ),
        Member(
            "step",
            "initial_lr 0.004",
            0.004,
            dict.fromkeys(range(6), math.inf),
            sweep({0.002: [0.90], 0.004: [0.95], 0.008: []}, {0.008: 1}),
        ),
    ],
    target=0.9,
    tolerance=0.01,
    conditions="All had the same.",
    absent=["lion"],
)


@pytest.mark.parametrize("factor", [2.0**1020, 2.0**-1000])
def test_gaps_of_values_of_any_size_are_those_of_usual_ones(factor: float):
    scaled = {name: {seed: value * factor for seed, value in values.items()} for name, values in SAMPLES.items()}
    usual, found = (gaps_to_best(each, "a", Direction.MINIMIZE) for each in (SAMPLES, scaled))
    for name, gap in usual.items():
        assert found[name] == Gap(gap.mean * factor, gap.low * factor, gap.high * factor)


def test_without_common_seeds_simultaneous_intervals_are_those_of_games_and_howell():
    draws = numpy.random.default_rng(0)
    drawn = {name: draws.normal(mean, spread, 6) for name, mean, spread in (("a", 0, 1), ("b", 1, 3), ("c", 4, 0.5))}
    samples = {name: dict(enumerate(values, 10 * index)) for index, (name, values) in enumerate(drawn.items())}
    gaps = gaps_to_best(samples, "a", Direction.MINIMIZE)
    found = stats.tukey_hsd(*drawn.values(), equal_var=False).confidence_interval(0.95)
    for index, name in ((1, "b"), (2, "c")):
        assert gaps[name].mean == pytest.approx(drawn[name].mean() - drawn["a"].mean())
        bounds = float(found.low[index, 0]), float(found.high[index, 0])
        assert (gaps[name].low, gaps[name].high) == pytest.approx(bounds, rel=1e-6)


def test_two_with_common_seeds_have_the_interval_of_the_paired_t_test():
    draws = numpy.random.default_rng(1)
    seeds = draws.normal(0, 10, 6)
    one, other = seeds + draws.normal(0, 1, 6), seeds + draws.normal(1, 2, 6)
    gap = gaps_to_best({"a": dict(enumerate(one)), "b": dict(enumerate(other))}, "a", Direction.MINIMIZE)["b"]
    found = stats.ttest_rel(other, one).confidence_interval(0.95)
    assert (gap.low, gap.high) == pytest.approx((found.low, found.high), rel=1e-6)
    negative = {"a": dict(enumerate(-one)), "b": dict(enumerate(-other))}
    assert gaps_to_best(negative, "a", Direction.MAXIMIZE)["b"] == gap


def test_what_the_seeds_share_does_not_widen_the_intervals():
    rng = random.Random(2)
    noise = {name: [rng.gauss(0, 1) for _ in range(5)] for name in "abc"}
    alike = {name: dict(enumerate(values)) for name, values in noise.items()}
    apart = {name: {seed: value + 100 * seed for seed, value in values.items()} for name, values in alike.items()}
    one, other = (gaps_to_best(samples, "a", Direction.MINIMIZE)["b"] for samples in (alike, apart))
    assert (one.low, one.high) == pytest.approx((other.low, other.high))
    lame = {**apart, "d": {0: 0.0, 1: 100.0, 2: 199.0, 3: 301.0}}  # failed with one seed
    assert gaps_to_best(lame, "a", Direction.MINIMIZE)["d"].high < 5


def test_an_interval_is_never_narrower_than_the_resolution_of_the_metric():
    same = {"a": {0: 0.9, 1: 0.9}, "b": {0: 0.9, 1: 0.9}}
    assert gaps_to_best(same, "a", Direction.MAXIMIZE, resolution=0.002)["b"] == Gap(0.0, -0.002, 0.002)
    unknown = gaps_to_best(same, "a", Direction.MAXIMIZE)["b"]
    assert math.isnan(unknown.low)
    assert unknown.verdict(0.01) == "open"
    single = gaps_to_best({"a": {0: 0.9}, "b": {0: 0.8}}, "a", Direction.MAXIMIZE, resolution=0.002)["b"]
    assert single.verdict(0.01) == "open"


def test_the_interval_of_a_median_is_that_of_order_statistics():
    values = [0.3, 0.1, 0.9, 0.7, 0.5, 0.2, 0.8, 0.4, 0.6]
    assert stats.binom.cdf(1, 9, 0.5) < 0.025 < stats.binom.cdf(2, 9, 0.5), "so the second and the last but one"
    assert median_interval(values) == (0.2, 0.8)
    assert median_interval([0.1]) is None


def test_a_base_lr_counts_by_its_median_in_which_a_failure_is_the_worst_value():
    swept = sweep({0.1: [0.5, 0.6, 0.7], 0.2: [0.9, 0.9], 0.4: [0.99]}, {0.2: 1, 0.4: 2})
    assert swept.best == 0.2
    assert swept.median(0.4) == -math.inf
    assert not swept.is_at_edge
    assert sweep({0.1: [0.9], 0.2: [0.8]}).is_at_edge
    assert sweep({0.1: []}, {0.1: 3}).best is None


def test_of_equal_medians_the_better_mean_counts():
    assert sweep({0.1: [0.9, 0.9, 0.2], 0.2: [0.9, 0.9, 0.8]}).best == 0.2
    assert choose([sweep({0.1: [0.9]}), sweep({0.1: [0.8], 0.2: [0.95]})]) == (1, 0.2)
    assert choose([sweep({0.1: []}, {0.1: 1})]) is None


def test_the_range_of_good_base_lrs_extends_from_the_best_until_the_median_is_worse():
    constant, cosine, _, step = STANDINGS.members
    assert constant.sweep.good_range(0.01) == (0.0005, 0.001, True)
    assert cosine.sweep.good_range(0.01) == (0.002, 0.004, True)
    assert step.sweep.good_range(0.01) == (0.004, 0.004, False)


def test_a_performance_profile_is_the_share_of_instances_within_a_ratio_of_the_fastest():
    ratios = ratios_to_fastest({"a": {0: 10, 1: 30, 2: math.inf}, "b": {0: 20, 1: 15, 2: math.inf}})
    assert ratios == {"a": [1.0, 2.0, math.inf], "b": [2.0, 1.0, math.inf]}
    assert profile(ratios["a"]) == [
        (1.0, pytest.approx(1 / 3)),
        (2.0, pytest.approx(2 / 3)),
        (4.0, pytest.approx(2 / 3)),
    ]
    area = (2 - 1) * 1 / 3 + (4 - 2) * 2 / 3
    assert score(ratios["a"]) == pytest.approx(area / 3)


def test_the_table_has_the_verdicts():
    rows = {row["contender"]: row for row in csv.DictReader(io.StringIO(STANDINGS.csv()))}
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "cosine": "first",
        "linear": "as good",
        "constant": "worse",
        "step": "fails",
    }
    assert [row["place"] for row in rows.values()] == ["1", "2", "3", "4"]
    assert float(rows["cosine"]["median"]) == pytest.approx(0.952)
    assert (float(rows["cosine"]["median from"]), float(rows["cosine"]["median to"])) == (0.950, 0.953)
    assert float(rows["cosine"]["steps to target"]) == 250
    assert [rows[name]["profile score"] for name in ("linear", "step")] == ["1.0", "0.0"]
    page = STANDINGS.markdown()
    assert re.search(r"\| 4 \| step \| 0\.\d+ \(1 failed\) \| 0\.\d+ to \d\.\d+ \| 0\.9500 ", page)
    assert "| never (not with 6 seeds) |" in page or "| never |" in page
    assert "| 0.002 to 0.004 (x2+) |" in page


@pytest.mark.parametrize("width", [44, 80])
def test_the_table_fits_a_terminal_and_keeps_what_matters(width: int):
    output = io.StringIO()
    print_table(Console(file=output, force_terminal=True, width=width, color_system=None), *STANDINGS.columns())
    heading, *rows = output.getvalue().splitlines()
    assert max(map(len, (heading, *rows))) <= width
    assert "contender" in heading
    assert "mean val/acc" in heading
    assert "verdict" in heading
    assert ("95% interval" in heading) == (width == 80)
    assert [row.split()[1] for row in rows] == ["cosine", "linear", "constant", "step"]


def test_the_findings_separate_worse_as_good_open_and_what_fails():
    text = " ".join(STANDINGS.findings())
    assert "The first is cosine: mean val/acc 0.95" in text
    assert "median 0.9520, over 6 fresh seeds. Ranked by the fewest failed seeds, then by the mean." in text
    first = STANDINGS.comparison.ranking[0]
    alone, wide = (STANDINGS.comparison.interval(first, 1 - 0.05 / count) for count in (1, 4))
    assert f"(95% interval {alone[0]:#.4g} to {alone[1]:#.4g}; {wide[0]:#.4g} to {wide[1]:#.4g} simultaneously" in text
    assert "As good for practical purposes (at most 0.01 apart with 95% confidence): linear." in text
    assert "Worse with 95% confidence: constant." in text
    assert "Failed with more seeds than it, so the means are not comparable: step." in text
    lasting = [dataclasses.replace(each, failed=0) for each in STANDINGS.comparison.configurations]
    whole = dataclasses.replace(STANDINGS, comparison=dataclasses.replace(STANDINGS.comparison, configurations=lasting))
    assert "Not separated from it, nor shown to be as good, by 6 seeds: step." in " ".join(whole.findings())
    assert "first or last of the list for constant (0.001)" in text
    assert "step diverged or failed with 1 fresh seed." in text
    assert "lion" in text


def test_the_figure_has_means_sweeps_and_profiles():
    left, middle, right = of_standings(STANDINGS).panels
    assert list(left.y_ticks.values())[-1] == "cosine"
    named = {series.mark: series.label for series in left.series if series.label}
    assert named == {"points": "a seed", "crosses": "mean", "line": "95% interval of this mean alone"}
    assert {series.label for series in middle.series} == {"cosine", "linear", "constant", "step"}
    assert len(right.series) == 4


def test_the_tolerance_and_the_target_have_defaults():
    assert default_tolerance(STANDINGS.comparison) == 0.01
    losses = Comparison("val/loss", Direction.MINIMIZE, [Repeated("a", {0: 2.0, 1: 4.0}), Repeated("b", {0: 8.0})])
    assert default_tolerance(losses) == pytest.approx(0.05 * 3.0)
    assert default_target(losses, []) == 8.0, "that of the last one"
    assert default_target(losses, ["a", "b"]) == 3.0, "the best of those with a constant lr"
    assert default_target(STANDINGS.comparison, ["constant", "cosine"]) == pytest.approx(0.91)
