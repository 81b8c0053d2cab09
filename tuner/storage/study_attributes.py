"""The attributes of a study: results and facts about all of its trials together."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import optuna
from optuna.trial import TrialState

from tuner.analysis.record import Retrained, TestResult
from tuner.config.sources import Sources, with_sources
from tuner.config.study import StudyConfig
from tuner.storage.attributes import ANSWER, ENDED, SOURCES, TEST, TRIALS, VALIDATION_IMAGES
from tuner.storage.reader import test_of
from tuner.storage.trial_ends import attribute
from tuner.text import pluralize

__all__ = ["StudyAttributes"]

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)

Result = TypeVar("Result")


class _Retry(Protocol):
    def __call__(self, action: Callable[[], Result], /) -> Result: ...


class StudyAttributes:
    """Reads and writes the attributes of a study.

    Args:
        study: The study in Optuna.
        config: The study.
        retry: Calls a function, again if the database was unreachable.
    """

    def __init__(self, study: optuna.Study, config: StudyConfig, retry: _Retry) -> None:
        self._study, self._config, self._retry = study, config, retry

    def _set(self, key: str, value: Any) -> None:
        stored = self._stored()
        if key not in stored or stored[key] != value:  # a write waits for the disk
            self._retry(lambda: self._study.set_user_attr(key, value))

    def _stored(self) -> Mapping[str, Any]:
        return self._retry(lambda: self._study.user_attrs)

    def _count(self, *states: TrialState) -> int:
        return self._retry(lambda: len(self._study.get_trials(deepcopy=False, states=states or None)))

    def set_answer(self, sentences: Sequence[str], winner: Retrained | None) -> None:
        """Record the findings of the final runs, with fresh seeds, and their winner."""
        found = dataclasses.asdict(winner) if winner else {}
        self._set(ANSWER, {"sentences": list(sentences), "trials": self._count(*FINISHED), "winner": found})

    def answer(self) -> dict[str, Any]:
        """Return the stored findings of the final runs; empty if there were none."""
        return attribute(self._stored(), ANSWER, {})

    def set_trials(self) -> None:
        """Record the requested number of trials; 0 if the budget limits their training instead."""
        self._set(TRIALS, 0 if self._config.allowance else self._config.trials)

    def set_ended(self, is_over: bool) -> None:
        """Record whether the budget allows no further trial."""
        self._set(ENDED, self._count(*FINISHED) if is_over else 0)

    def set_validation_images(self, number: int | None) -> None:
        """Record the number of validation images."""
        self._set(VALIDATION_IMAGES, number)

    def validation_images(self) -> int | None:
        """Return the number of validation images, if it is known."""
        return attribute(self._stored(), VALIDATION_IMAGES, 0) or None

    def set_sources(self, commit: str, files: Mapping[str, str]) -> str:
        """Record the sources used from now on, and return a note for the user if they changed; empty otherwise.

        Args:
            commit: The commit of the working folder; empty if there is none.
            files: Digests of the files that define the study's own modules.
        """
        trials = self._retry(lambda: self._study.get_trials(deepcopy=False))
        left = [trial for trial in trials if trial.state not in FINISHED]
        begun = frozenset(trial.number for trial in left if trial.intermediate_values)
        now = Sources(len(trials), commit, files, frozenset(trial.number for trial in left), begun)
        history, note = with_sources(self.sources(), now)
        self._set(SOURCES, history)
        return f"{note}, and so may the {pluralize(len(left), 'trial')} begun before" if note and left else note

    def sources(self) -> Any:
        """Return the history of the trials' source code, as stored."""
        return self._stored().get(SOURCES)

    def tested(self) -> TestResult | None:
        """Return the last test result; None if there was no test."""
        return self._retry(lambda: test_of(self._study))

    def set_tested(self, test: TestResult) -> None:
        """Record a test result."""
        self._set(TEST, dataclasses.asdict(test))
