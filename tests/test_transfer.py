"""Whether the ranking of a short study holds in longer trainings."""

import random

import pytest

from tuner.analysis.comparison import Comparison, Repeated
from tuner.analysis.transfer import Transfer
from tuner.direction import Direction

NAMES = ["a", "b", "c", "d", "e"]
BEFORE = {name: 0.95 - index / 100 for index, name in enumerate(NAMES)}


def transfer(means: dict[str, float], noise: float, seeds: int = 5, before: dict[str, float] | None = None) -> Transfer:
    """Return trainings whose values scatter around the given means."""
    drawn = random.Random(1)
    configurations = [
        Repeated(name, {seed: mean + drawn.gauss(0, noise) for seed in range(seeds)}) for name, mean in means.items()
    ]
    comparison = Comparison("score", Direction.MAXIMIZE, configurations)
    bases = dict.fromkeys(name.partition(",")[0] for name in means)
    factors = {name: float(name.rpartition(" ")[2]) if "," in name else 1.0 for name in means}
    variants = {base: {factors[name]: name for name in means if name.partition(",")[0] == base} for base in bases}
    return Transfer(comparison, variants, BEFORE if before is None else before)


def test_a_ranking_that_is_the_same_in_every_training_has_held():
    (said,) = transfer(BEFORE, noise=1e-4).findings()
    assert said == (
        "The ranking of the study held: the rank correlation of its values and the means here is +1.00 among 5 "
        "configurations (95% interval +1.00 to +1.00 over 5 seeds). Its best is the best here with a probability of "
        "more than 99%."
    )


def test_a_reversed_ranking_has_not_held_and_noise_decides_nothing():
    reversed_ = {name: 0.9 + index / 100 for index, name in enumerate(NAMES)}
    (said,) = transfer(reversed_, noise=1e-4).findings()
    assert said.startswith("The ranking of the study did not hold: ")
    assert "-1.00 among" in said
    assert "the best here with a probability of less than 1%" in said
    (said,) = transfer(dict.fromkeys(NAMES, 0.9), noise=1e-2).findings()
    assert said.startswith("The ranking of the study may or may not have held: ")


def test_too_few_configurations_or_seeds_decide_nothing():
    (said,) = transfer(BEFORE, noise=1e-4, seeds=2).findings()
    assert said.endswith("is +1.00 among 5 configurations; with 2 seeds this may be chance.")
    (said,) = transfer(BEFORE, noise=1e-4, before={"a": 0.9, "b": 0.8}).findings()
    assert said == "At least 3 configurations are needed to tell whether the ranking held."


def test_the_best_initial_lr_of_each_is_named_and_counts_for_the_ranking():
    means = {"a, initial_lr x 0.5": 0.99, "a": 0.90, "a, initial_lr x 2": 0.80, "b": 0.95, "b, initial_lr x 2": 0.94}
    found = transfer(means, noise=1e-5, before={})
    first, second = found.findings()
    assert first == (
        "a is best with its initial_lr x 0.5 (0.9900), ahead of initial_lr x 1 (0.9000); "
        "an even smaller one was not tried."
    )
    assert second.startswith("b is best with its initial_lr x 1 (0.9500), ahead of initial_lr x 2 (0.9400)")
    assert found.best_of("a") == "a, initial_lr x 0.5"
    (tie,) = transfer({"a": 0.9, "a, initial_lr x 2": 0.9, "b": 0.9}, noise=1e-2, before={}).findings()
    assert "which may be chance" in tie
    (level,) = transfer({"a": 0.9, "a, initial_lr x 2": 0.9, "b": 0.9}, noise=0.0, before={}).findings()
    assert "level with" in level
    assert "which may be chance" not in level


@pytest.mark.parametrize("direction", [Direction.MAXIMIZE, Direction.MINIMIZE])
def test_the_direction_of_the_objective_counts(direction: Direction):
    values = [Repeated(name, dict.fromkeys(range(3), index / 10)) for index, name in enumerate(NAMES)]
    comparison = Comparison("score", direction, values)
    before = {name: index / 10 for index, name in enumerate(NAMES)}
    (said,) = Transfer(comparison, {name: {1.0: name} for name in NAMES}, before).findings()
    assert "+1.00 among 5" in said
