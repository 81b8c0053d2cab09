"""Replication studies: given configurations, each trained with the same fresh seeds, for confirmations and leagues.

A replication study runs and continues like any study; only the parameters of its trials are fixed. The trials go
through all configurations for one seed after the other, so that all have about the same number at any time, and a study
with more seeds begins with the trials of one with fewer.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Self

from tuner.analysis.comparison import Comparison, Repeated, differing
from tuner.analysis.record import StudyRecord
from tuner.config.component import Component
from tuner.config.search_space import Choices, Suggester
from tuner.config.sources import Sources, changed_between
from tuner.config.study import StudyConfig
from tuner.config.trainings import as_training
from tuner.config.trial import AnyTrial, flatten
from tuner.storage.attributes import CONFIGURATION, CONFIRMS, SEED
from tuner.storage.reader import Trial, configurations_of
from tuner.storage.study_store import StudyStore
from tuner.storage.trial_ends import state_of
from tuner.text import join_names, pluralize

__all__ = ["LeagueStudy", "ReplicationStore", "ReplicationStudy", "fresh_seeds", "of_lr", "with_lr"]

INITIAL_LR = "initial_lr"


def fresh_seeds(seed: int, count: int, used: Collection[int], purpose: str = "fresh") -> list[int]:
    """Return seeds that a study has not used. They are always the same, and a larger count only adds seeds.

    Args:
        seed: The study's seed.
        count: Number of seeds.
        used: The seeds of its trials.
        purpose: Another purpose has other seeds.

    >>> fresh_seeds(0, 2, used=()) == fresh_seeds(0, 3, used=())[:2]
    True
    """
    seeds: list[int] = []
    index = 0
    while len(seeds) < count:
        digest = hashlib.sha256(f"{purpose}:{seed}:{index}".encode()).digest()
        drawn = int.from_bytes(digest[:4], "big")
        if drawn not in used and drawn not in seeds:
            seeds.append(drawn)
        index += 1
    return seeds


@dataclass(frozen=True, kw_only=True)
class ReplicationStudy(StudyConfig):
    """A study of given configurations, each trained with the same seeds.

    Args:
        candidates: The configurations by their display names.
        seeds: The seeds.
        claims: Values to confirm, by the names of the configurations.
        sources_of_claims: The source code with which they were reached, as far as it was recorded.
        has_winner: Whether the best configuration is evaluated on the test data.
    """

    RENAMING: ClassVar[str] = "--name ..."

    candidates: Mapping[str, AnyTrial]
    seeds: Sequence[int]
    claims: Mapping[str, float] = field(default_factory=dict)
    sources_of_claims: Mapping[str, Sources] = field(default_factory=dict)
    has_winner: bool = True

    @classmethod
    def of(
        cls,
        study: StudyConfig,
        name: str,
        candidates: Mapping[str, AnyTrial],
        seeds: Sequence[int],
        claims: Mapping[str, float],
        *,
        sources: Mapping[str, Sources] = MappingProxyType({}),
        confirms: str = "",
        has_winner: bool = True,
    ) -> Self:
        """Return a replication study of configurations from another study.

        Args:
            study: The other study, whose objective is used.
            name: Name of the new study.
            candidates: The configurations by name.
            seeds: The seeds.
            claims: The values of the configurations in the other study.
            sources: The source code with which the configurations reached these values.
            confirms: Identifier of the other study, inside whose MLflow run the new run is created; empty for none.
            has_winner: Whether the best configuration is evaluated on the test data.
        """
        described = {label: _without_seed(config) for label, config in candidates.items()}
        flat = {
            f"{label}: {path}": value
            for label, config in candidates.items()
            for path, value in flatten(config.values())
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
            probe=study.probe,
            kind=study.kind,
            candidates=candidates,
            seeds=seeds,
            claims=claims,
            sources_of_claims=sources,
            has_winner=has_winner,
        )

    def difference_from(self, identity: Mapping[str, Any]) -> str:
        """Return a sentence if the study was begun with other configurations; empty otherwise."""
        before = list(configurations_of(identity))
        if sorted(before) == sorted(self.candidates):
            return ""
        now = join_names(list(self.candidates))
        return (
            f'study "{self.name}" compares {join_names(before)}, and now it would compare {now}: the best trials, or '
            f"their number, have changed. Give it another name ({self.RENAMING})."
        )

    @property
    def own_names(self) -> list[str]:
        """Return the names ``package.module:Name`` in its configurations."""
        values = [config.values() for config in self.candidates.values()]
        return [name for each in values for name in self.kind.names(each) if ":" in name]

    @property
    def why_alone(self) -> str:
        """Return why trials are trained one by one, which may be due to a single configuration."""
        return next(filter(None, (self._why_alone(config.values()) for config in self.candidates.values())), "")

    @cached_property
    def can_repeat(self) -> bool:
        """Return whether its sampler can draw the same configuration twice: it draws nothing."""
        return False

    def fixed(self, number: int, drawn: Iterable[Mapping[str, Any]] | None = None) -> dict[str, Any]:
        """Return the configuration and the seed of a trial."""
        names = list(self.candidates)
        return {CONFIGURATION: names[number % len(names)], SEED: self.seeds[number // len(names)]}

    def name_of(self, number: int) -> str:
        """Return the configuration and the seed of a trial, as the table of the comparison names them."""
        names = list(self.candidates)
        return f"{names[number % len(names)]}, seed {number // len(names) + 1}/{len(self.seeds)}"

    @property
    def labels_tell_all(self) -> bool:
        """Return whether the labels of trials contain all their values: they name configurations."""
        return True

    @cached_property
    def label_width(self) -> int:
        """Return the width that all labels fit into."""
        return max(len(self.name_of(number)) for number in range(self.trials))

    def label_of(self, number: int, trial: AnyTrial) -> str:
        """Return the configuration and the seed of a trial, for the list of trials."""
        return self.name_of(number)

    def described(self, number: int) -> dict[str, Any]:
        """Return the configuration and the seed of a trial, for MLflow."""
        return self.fixed(number)

    def suggest(self, trial: Suggester) -> AnyTrial:
        """Return the configuration of a trial, with its seed."""
        name = trial.suggest_categorical(CONFIGURATION, list(self.candidates))
        seed = trial.suggest_int(SEED, 0, 2**32 - 1)
        return self.candidates[name].with_seed(seed)

    @cached_property
    def _parameters(self) -> dict[str, str]:
        """The parameters in which the configurations differ, by their names."""
        return differing(configurations_of(self.identity))

    def compare(self, trials: Sequence[Trial], validation_images: int | None = None, sources: Any = None) -> Comparison:
        """Return the comparison of the configurations by finished trials.

        Args:
            trials: The trials.
            validation_images: Number of validation images, if known.
            sources: The history of their source code, as stored.
        """
        numbers = [trial.number for trial in trials]
        values: dict[str, dict[int, float]] = {name: {} for name in self.candidates}
        failed: Counter[str] = Counter()
        for trial in trials:
            name = str(trial.params.get(CONFIGURATION))
            if trial.value is None or state_of(trial) != "complete":  # Optuna gives a diverged one its last value
                failed[name] += 1
            elif name in values:
                values[name][trial.params[SEED]] = trial.value
        return Comparison(
            self.objective.metric,
            self.objective.direction,
            [
                Repeated(
                    name,
                    values[name],
                    failed[name],
                    self.claims.get(name),
                    changed_between(self.sources_of_claims.get(name), sources, numbers),
                    self._parameters[name],
                )
                for name in self.candidates
            ],
            validation_images=validation_images,
        )


@dataclass(frozen=True, kw_only=True)
class LeagueStudy(ReplicationStudy):
    """The runs of a league, before or after each contender's configuration is chosen."""

    RENAMING: ClassVar[str] = "--set name=..."

    def difference_from(self, identity: Mapping[str, Any]) -> str:
        """Return a sentence if the league was begun with other configurations; empty otherwise."""
        before = configurations_of(identity).keys()
        if before == set(self.candidates):
            return ""
        counts = f"{pluralize(len(before), 'configuration')}, and now it would have {len(self.candidates)}"
        changed = "the contenders, their base lrs (--lrs) or the number of shapes (--shapes) have changed"
        return f'league "{self.name}" was begun with {counts}: {changed}. Give it another name ({self.RENAMING}).'

    def counted(self, trials: Sequence[Trial]) -> list[Trial]:
        """Return the trials with its seeds; a league that is run again with fewer has more."""
        return [trial for trial in trials if trial.params.get(SEED) in self.seeds]

    def compare(self, trials: Sequence[Trial], validation_images: int | None = None, sources: Any = None) -> Comparison:
        """Return the comparison of the configurations by finished trials with its seeds."""
        return super().compare(self.counted(trials), validation_images, sources)


@dataclass(frozen=True)
class _Standing:
    """The standing of a `ReplicationStore`.

    Args:
        count: Number of finished trials.
        comparison: Their comparison, without the test.
        first: The complete trial with the first seed, by configuration.
    """

    count: int
    comparison: Comparison
    first: Mapping[str, Trial]

    @property
    def winner(self) -> Trial | None:
        """Return the trial of the best configuration with the first seed."""
        ranking = self.comparison.ranking
        return self.first.get(ranking[0].name) if ranking else None


class ReplicationStore(StudyStore):
    """A replication study in Optuna.

    Its best trial is the one of the best configuration with the first seed, once all trials are finished.
    """

    _config: ReplicationStudy
    _standing: _Standing | None = None

    def _count_all(self) -> None:
        self._standing = None  # it may contain values that were not stored in the end
        super()._count_all()

    def comparison(self) -> Comparison:
        """Return the comparison so far."""
        now, tested = self._current(), self.attributes.tested()
        if tested and now.winner and tested.trial == now.winner.number:
            return dataclasses.replace(now.comparison, test=tested.metrics)
        return now.comparison

    def _current(self) -> _Standing:
        """Return the standing, computed again only when another trial has finished."""
        if self._standing is None or self._standing.count != self.count:
            finished = self.finished()
            first = {
                str(trial.params.get(CONFIGURATION)): trial
                for trial in finished
                if state_of(trial) == "complete" and trial.params.get(SEED) == self._config.seeds[0]
            }
            images, sources = self.attributes.validation_images(), self.attributes.sources()
            self._standing = _Standing(self.count, self._config.compare(finished, images, sources), first)
        return self._standing

    @property
    def best(self) -> Trial | None:
        """Return the best configuration's trial with the first seed, which is not selected by its own value."""
        if self.count < self._config.trials or not self._config.has_winner:
            return None
        return self._current().winner

    @property
    def best_value(self) -> float | None:
        """Return the mean of the best configuration, once all trials are finished."""
        if self.count < self._config.trials:
            return None
        ranking = self._current().comparison.ranking
        return ranking[0].mean if ranking else None

    def kept_numbers(self) -> set[int]:
        """Return the trials whose weights may still be needed: those with the first seed."""
        best = self.best
        return {trial.number for trial in ([best] if best else self._current().first.values())}

    def may_keep_weights(self, values: Mapping[int, float]) -> set[int]:
        """Return the trials whose weights may be needed: those with the first seed."""
        first = {number for number in values if self._config.fixed(number)[SEED] == self._config.seeds[0]}
        return first if self._config.has_winner else set()

    def history(self) -> list[tuple[datetime, float | None]]:
        """Return when each trial finished; only the last entry has a value."""
        times = [at for at, _ in super().history()]
        last = len(times) - 1
        return [(at, self.best_value if index == last else None) for index, at in enumerate(times)]

    def conclusion(self, record: StudyRecord) -> tuple[str, list[str]]:
        """Return the answer in a sentence, and the further findings."""
        answer, *others = self.comparison().findings({})
        return answer, others


def of_lr(name: str, factor: float) -> str:
    """Return the name of a configuration whose initial lr is multiplied by a factor."""
    return f"{name}, initial_lr x {factor:g}"


def with_lr(config: AnyTrial, factor: float) -> AnyTrial:
    """Return a configuration with its initial lr multiplied by a factor."""
    if factor == 1:
        return config
    training = as_training(config)
    arguments = {**training.optimizer.arguments, INITIAL_LR: training.optimizer.arguments[INITIAL_LR] * factor}
    return dataclasses.replace(training, optimizer=dataclasses.replace(training.optimizer, arguments=arguments))


def _without_seed(config: AnyTrial) -> dict[str, Any]:
    return {key: value for key, value in config.values().items() if key != SEED}
