"""The search of a league: every shape of every contender with every base lr, and the best configuration of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tuner.analysis.comparison import Comparison
from tuner.analysis.sweeps import Sweep, choose
from tuner.config.contenders import Contender, at_lr
from tuner.config.study import StudyConfig
from tuner.config.trial import TrialConfig
from tuner.storage.replicates import LeagueStudy, fresh_seeds
from tuner.text import format_value

__all__ = ["Choice", "LeagueSearch"]

RELATIVE = ".relative"


@dataclass(frozen=True)
class Choice:
    """The configuration that was chosen for a contender.

    Args:
        config: The configuration.
        shape: Number of its shape, from 1.
        sweep: The runs of its shape, which selected its base lr.
        described: The base lr, and the values in which it differs from other shapes of the contender.
    """

    config: TrialConfig
    shape: int
    sweep: Sweep
    described: str

    @property
    def initial_lr(self) -> float:
        """Return its base lr."""
        return float(self.config.optimizer.arguments["initial_lr"])


@dataclass(frozen=True)
class LeagueSearch:
    """All configurations of a league, before one is chosen for each contender.

    Args:
        league: The study file's study.
        contenders: The contenders.
        most_shapes: The largest number of shapes of each.
        seeds: Number of seeds.
    """

    league: StudyConfig
    contenders: Sequence[Contender]
    most_shapes: int
    seeds: int

    @property
    def seed(self) -> int:
        """Return the seed from which shapes and seeds are drawn."""
        seed: int = self.league.sampler.arguments.get("seed", 0)
        return seed

    @cached_property
    def shapes(self) -> Mapping[str, Sequence[TrialConfig]]:
        """The shapes of each contender, at its first base lr."""
        return {each.name: each.shapes(self.most_shapes, self.seed) for each in self.contenders}

    @cached_property
    def places(self) -> Mapping[str, tuple[str, int, float]]:
        """The contender, the number of the shape and the base lr of each configuration, by its name."""
        return {
            f"{contender.name}, shape {number}, initial_lr {lr:g}": (contender.name, number, lr)
            for contender in self.contenders
            for number in range(1, len(self.shapes[contender.name]) + 1)
            for lr in contender.initial_lrs
        }

    def trainings_of(self, contender: Contender) -> int:
        """Return the number of runs of a contender."""
        return len(self.shapes[contender.name]) * len(contender.initial_lrs) * self.seeds

    @cached_property
    def study(self) -> LeagueStudy:
        """The study that trains them."""
        seeds = fresh_seeds(self.seed, self.seeds, (), purpose="search")
        candidates = {name: at_lr(self.shapes[of][shape - 1], lr) for name, (of, shape, lr) in self.places.items()}
        return LeagueStudy.of(self.league, f"{self.league.name}-search", candidates, seeds, {}, has_winner=False)

    def choices(self, comparison: Comparison) -> dict[str, Choice]:
        """Return the configuration with the best median of each contender; without those whose runs all failed.

        Args:
            comparison: The finished runs of `study`.
        """
        repeated = {each.name: each for each in comparison.configurations}
        chosen = {}
        for contender, shapes in self.shapes.items():
            sweeps = []
            for number in range(1, len(shapes) + 1):
                places = self.places.items()
                found = {lr: repeated[name] for name, (*of, lr) in places if of == [contender, number]}
                values = {lr: list(each.values.values()) for lr, each in found.items()}
                sweeps.append(Sweep(comparison.direction, values, {lr: each.failed for lr, each in found.items()}))
            if best := choose(sweeps):
                index, lr = best
                config = at_lr(shapes[index], lr)
                chosen[contender] = Choice(config, index + 1, sweeps[index], _described(config, shapes))
        return chosen


def _described(config: TrialConfig, shapes: Sequence[TrialConfig]) -> str:
    """Return the base lr, and the values in which a configuration differs from others; lengths as they were given."""
    flat, others = config.flat(), [shape.flat() for shape in shapes]
    lr = "optimizer.initial_lr"
    differing = [path for path, value in flat.items() if any(other.get(path) != value for other in others)]
    shown = {path: flat[path] for path in differing if f"{path}{RELATIVE}" not in flat and path != lr}
    texts = [f"{path.removesuffix(RELATIVE).rpartition('.')[2]} {_short(path, value)}" for path, value in shown.items()]
    return ", ".join([f"initial_lr {format_value(flat[lr])}", *texts])


def _short(path: str, value: Any) -> str:
    """Return a value, or a length in epochs or percent, with four significant digits."""
    if not path.endswith(RELATIVE):
        return format_value(value)
    number = value.rstrip("%epochs ")
    return f"{float(number):.4g}{value[len(number) :]}"
