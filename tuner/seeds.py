"""A study of given configurations, each trained with the same fresh seeds: what confirms a study, and decides a league.

It is asked, trained, told and continued as any study is; only what its trials draw is fixed. They go through the
configurations seed after seed, so that all have about equally many at any time, and a study with more seeds begins with
the trials of one with fewer.
"""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

import optuna

from tuner.comparison import Comparison, Repeated
from tuner.config import Component, StudyConfig, TrialConfig
from tuner.search_space import Choices, Drawing
from tuner.storage import StudyStore

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["CONFIGURATION", "CONFIRMS", "SEED", "SeedStore", "SeedStudy", "fresh_seeds"]

CONFIRMS = "confirms"
"""Key of the identity that holds which study is confirmed."""

CONFIGURATION, SEED = "configuration", "seed"


def fresh_seeds(seed: int, count: int, used: Collection[int]) -> list[int]:
    """Return seeds that a study has not used: always the same ones, and the first of more.

    Args:
        seed: The study's own.
        count: How many.
        used: Those of its trials.

    >>> fresh_seeds(0, 2, used=()) == fresh_seeds(0, 3, used=())[:2]
    True
    """
    seeds: list[int] = []
    index = 0
    while len(seeds) < count:
        digest = hashlib.sha256(f"fresh:{seed}:{index}".encode()).digest()
        drawn = int.from_bytes(digest[:4], "big")
        if drawn not in used and drawn not in seeds:
            seeds.append(drawn)
        index += 1
    return seeds


@dataclass(frozen=True, kw_only=True)
class SeedStudy(StudyConfig):
    """A study of given configurations.

    Args:
        candidates: The configurations, by the names that people call them.
        seeds: What each is trained with.
        claims: Values that are to be confirmed, by the names.
        has_winner: Whether the best is to be tested.
    """

    RENAMING: ClassVar[str] = "--name ..."

    candidates: Mapping[str, TrialConfig]
    seeds: Sequence[int]
    claims: Mapping[str, float] = field(default_factory=dict)
    has_winner: bool = True

    @classmethod
    def of(
        cls,
        study: StudyConfig,
        name: str,
        candidates: Mapping[str, TrialConfig],
        seeds: Sequence[int],
        claims: Mapping[str, float],
        *,
        confirms: str = "",
        has_winner: bool = True,
    ) -> "SeedStudy":
        """Return the study of configurations that come from another.

        Args:
            study: The other; what decides in it, decides here.
            name: Name of the new one.
            candidates: The configurations, by name.
            seeds: What each is trained with.
            claims: What they reached in the other study.
            confirms: Identifier of the other, in whose run in MLflow the new one is to lie; empty for none.
            has_winner: Whether the best is to be tested.
        """
        described = {label: _without_seed(config) for label, config in candidates.items()}
        flat = {
            f"{label}: {path}": value
            for label, config in candidates.items()
            for path, value in dataclasses.replace(config, relative={}).flat().items()
            if path != SEED
        }
        return cls(
            name=name,
            objective=study.objective,
            trials=len(candidates) * len(seeds),
            timeout=None,
            sampler=Component("random"),
            pruner=Component("none"),
            trial={
                **next(iter(described.values())),
                CONFIGURATION: Choices(tuple(candidates)),
                SEED: Choices(tuple(seeds)),
            },
            identity={
                CONFIRMS: confirms,
                "objective.metric": study.objective.metric,
                "objective.direction": study.objective.direction,
                **flat,
            },
            text=json.dumps({"name": name, "seeds": list(seeds), "configurations": described}, indent=1) + "\n",
            experiment=study.experiment or study.name,
            within=confirms,
            meter=study.meter,
            candidates=candidates,
            seeds=seeds,
            claims=claims,
            has_winner=has_winner,
        )

    def fixed(self, number: int) -> dict[str, Any]:
        """Return the configuration and the seed of a trial."""
        names = list(self.candidates)
        return {CONFIGURATION: names[number % len(names)], SEED: self.seeds[number // len(names)]}

    def draw(self, drawing: Drawing) -> TrialConfig:
        """Return the configuration that a trial has, with its seed."""
        name = drawing.suggest_categorical(CONFIGURATION, list(self.candidates))
        seed = drawing.suggest_int(SEED, 0, 2**32 - 1)
        return dataclasses.replace(self.candidates[name], seed=seed)

    def compare(self, trials: Sequence["FrozenTrial"]) -> Comparison:
        """Return what finished trials came to."""
        return Comparison(
            self.objective.metric,
            self.objective.direction,
            [
                Repeated(
                    name,
                    {each.params[SEED]: each.value for each in trials if each.value is not None and _is(each, name)},
                    sum(_is(each, name) and each.value is None for each in trials),
                    self.claims.get(name),
                )
                for name in self.candidates
            ],
        )


class SeedStore(StudyStore):
    """Such a study in Optuna: its best trial is the first of the best configuration, once all are trained."""

    _config: SeedStudy

    def comparison(self) -> Comparison:
        """Return what the trials came to so far."""
        finished, tested = self.finished(), self.tested()
        comparison = self._config.compare(finished)
        winner = next((trial for trial in finished if tested and trial.number == tested.trial), None)
        if tested and winner and comparison.ranking and _is(winner, comparison.ranking[0].name):
            return dataclasses.replace(comparison, test=tested.metrics)
        return comparison

    @property
    def best(self) -> "FrozenTrial | None":
        """Return the trial of the best configuration with the first seed, which no value has chosen."""
        if self.count < self._config.trials or not self._config.has_winner:
            return None
        ranking = self.comparison().ranking
        return next((each for each in self._of_first_seed() if ranking and _is(each, ranking[0].name)), None)

    @property
    def best_value(self) -> float | None:
        """Return the mean of the best configuration, once all are trained."""
        if self.count < self._config.trials:
            return None
        ranking = self.comparison().ranking
        return ranking[0].mean if ranking else None

    def keeps_weights(self, number: int) -> bool:
        """Tell whether the weights of a finished trial can still be wanted: those of a first seed can."""
        best = self.best
        return any(each.number == number for each in ([best] if best else self._of_first_seed()))

    def may_keep_weights(self, number: int, value: float) -> bool:
        """Tell whether the weights of a trial that is about to end may be wanted then: those of a first seed may."""
        return self._config.has_winner and bool(self._config.fixed(number)[SEED] == self._config.seeds[0])

    def history(self) -> list[tuple[datetime, float | None]]:
        """Return when each trial was finished; values come at the end."""
        times = [at for at, _ in super().history()]
        last = len(times) - 1
        return [(at, self.best_value if index == last else None) for index, at in enumerate(times)]

    def findings(self) -> list[str]:
        """Return what came out so far, in sentences."""
        return self.comparison().findings({})

    def _of_first_seed(self) -> list["FrozenTrial"]:
        complete = self.trials(optuna.trial.TrialState.COMPLETE)
        return [each for each in complete if each.params[SEED] == self._config.seeds[0]]


def _is(trial: "FrozenTrial", name: str) -> bool:
    return bool(trial.params.get(CONFIGURATION) == name)


def _without_seed(config: TrialConfig) -> dict[str, Any]:
    return {key: value for key, value in config.values().items() if key != SEED}
