"""The configurations of a study that are worth more seeds: its best trials, its default and a constant lr.

The constant lr comes from the study's best trial with a constant schedule, whose initial lr was searched for it; if
there is none, it is the best trial with a constant lr instead of its schedule.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from tuner.analysis.comparison import CONSTANT_LR_ROLE, DEFAULT_ROLE
from tuner.analysis.findings import untuned_constant_lr
from tuner.analysis.record import CONSTANT
from tuner.config.component import Component
from tuner.config.sources import Sources, sources_of
from tuner.config.trainings import as_training
from tuner.config.trial import AnyTrial
from tuner.storage.stored_study import StoredStudy, label

__all__ = ["Finalists", "finalists"]


@dataclass(frozen=True)
class Finalists:
    """Configurations of a study.

    Args:
        configs: The configurations by their display names, the study's best first.
        claims: Their values in the study.
        opponents: The names of its default and of the constant lr, by their roles.
        sources: The source code with which they reached these values, as far as it was recorded.
        caveat: A sentence on how little the study tuned the constant lr; empty if it was tuned enough.
    """

    configs: Mapping[str, AnyTrial]
    claims: Mapping[str, float]
    opponents: Mapping[str, str]
    sources: Mapping[str, Sources]
    caveat: str = ""


def finalists(past: StoredStudy, top: int) -> Finalists:
    """Return the best configurations of a study, its default and a constant lr.

    Args:
        past: The study.
        top: How many of its best configurations.

    Raises:
        BadInputError: If no trial ran to completion.
    """
    ranking = [trial.number for trial in past.ranking()]
    configs = {trial.number: past.config_of(trial) for trial in past.trials}
    values = {trial.number: float(trial.value or 0) for trial in past.trials}
    labels = {number: label(number, configs[number]) for number in ranking}
    chosen: dict[str, AnyTrial] = {}
    claims: dict[str, float] = {}
    opponents: dict[str, str] = {}

    def same(config: AnyTrial) -> str | None:
        """Return the chosen configuration that differs in the seed only, which is replaced."""
        pairs = chosen.items()
        return next((name for name, known in pairs if known.with_seed(config.seed) == config), None)

    def sources() -> dict[str, Sources]:
        recorded = {labels[number]: sources_of(past.sources, number) for number in ranking}
        return {name: known for name in claims if (known := recorded[name])}

    for trial in ranking:
        if len(chosen) < top and same(configs[trial]) is None:
            chosen[labels[trial]], claims[labels[trial]] = configs[trial], values[trial]

    def add(role: str, name: str, config: AnyTrial) -> None:
        opponents[role] = same(config) or name
        chosen.setdefault(opponents[role], config)

    baseline = past.config.first.baseline
    twin = next((trial.number for trial in past.trials if trial.number in labels and trial.params == baseline), None)
    if twin is not None:
        add(DEFAULT_ROLE, labels[twin], configs[twin])
        claims.setdefault(labels[twin], values[twin])
    elif default := past.default():
        add(DEFAULT_ROLE, f"default {default.family}".rstrip(), default)
    if not past.config.kind.trains:
        return Finalists(chosen, claims, opponents, sources())
    constant = next((number for number in ranking if configs[number].family == CONSTANT), None)
    if constant is not None:
        add(CONSTANT_LR_ROLE, labels[constant], configs[constant])
        claims.setdefault(labels[constant], values[constant])
    else:
        best = ranking[0]
        taken = dataclasses.replace(as_training(configs[best]), schedule=Component(CONSTANT), relative={})
        add(CONSTANT_LR_ROLE, f"#{best} at a constant lr", taken)
    return Finalists(chosen, claims, opponents, sources(), untuned_constant_lr(past.record))
