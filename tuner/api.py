"""The Python API, ``from tuner import Study``: run studies in scripts and notebooks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.analysis.record import StudyRecord
from tuner.runner.options import StudyOptions
from tuner.runner.run import Outcome, run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Best", "Result", "Study"]


@dataclass(frozen=True)
class Best:
    """The best trial of a study.

    Args:
        number: Its number.
        value: Its value of the objective.
        params: Its values of the searched parameters, by dotted paths.
        config: All of its values, nested as in a study file.
        test: Its metrics on the test data; empty if it was not tested.
        weights: File with its weights; None if it is not on this machine.
    """

    number: int
    value: float
    params: Mapping[str, Any]
    config: Mapping[str, Any]
    test: Mapping[str, float]
    weights: Path | None


class Study:
    """A study, checked and ready to run.

    Args:
        source: Study file, or the name of a shipped study.
        overrides: ``dotted.path=value`` each, which replace values of the file.

    Raises:
        BadInputError: With every fault of the file.
    """

    def __init__(self, source: str | Path, overrides: Sequence[str] = ()) -> None:
        from tuner.config.loader import load_study

        self._source, self._overrides = str(source), tuple(overrides)
        self.name = load_study(self._source, self._overrides).name

    @classmethod
    def from_yaml(cls, source: str | Path, *overrides: str) -> "Study":
        """Read and check a study file.

        Args:
            source: Its path, or the name of a shipped study.
            overrides: ``dotted.path=value`` each, which replace values of the file.

        Raises:
            BadInputError: With every fault of the file.
        """
        return cls(source, overrides)

    def run(self, **options: Any) -> "Result":
        """Run or continue the study, and return its result.

        Trainings are forked from this process's fork server: its preloaded modules are set for the whole process, and
        `__main__` is replaced for a moment when a training starts. A program whose other threads use multiprocessing
        should run studies in a process of their own.

        Args:
            options: Named like the options of ``python -m tuner.study``: ``trials=50``, ``devices="cpu"``,
                ``review=False``, ``storage=...``; ``quiet=True`` prints nothing.

        Raises:
            KeyboardInterrupt: If it was interrupted. It has ended in order, and `run` continues from there.
            TunerError: If the input is bad, the study is already running, or it failed.
        """
        outcome = run(StudyOptions(study=self._source, set=self._overrides, **options))
        if outcome.interrupted:
            raise KeyboardInterrupt
        return Result(self, outcome)


class Result:
    """The result of a study, read from its stores."""

    def __init__(self, study: Study, outcome: Outcome) -> None:
        self._study, self._outcome = study, outcome

    def __repr__(self) -> str:
        best = self.best
        found = f"best #{best.number} {self.record.metric} {best.value:.4f}" if best else "none trained to its end"
        return f"Result({self.record.name}: {len(self.record.trials)} trials, {found})"

    @cached_property
    def record(self) -> StudyRecord:
        """The study as plain data, with the curves of its trials."""
        from tuner.storage.reader import identifier_of, open_study, record_of
        from tuner.tracking.reader import MlflowStudy

        with open_study(self._outcome.storage, self._outcome.name) as study:
            return record_of(study, MlflowStudy(self._outcome.tracking_uri, identifier_of(study)).curves)

    @cached_property
    def best(self) -> Best | None:
        """The best trial; None if none was trained to its end."""
        best = self.record.best
        if best is None or self._outcome.best is None:
            return None
        config, weights = self._outcome.best
        return Best(
            best.number, best.value, best.params, config, self.record.test, weights if weights.exists() else None
        )

    @cached_property
    def trials(self) -> "pd.DataFrame":
        """A row for each finished trial, with the searched parameters in columns named by their dotted paths."""
        import pandas as pd

        columns = ("number", "state", "value", "epochs", "seconds")
        rows = [
            {**{key: getattr(trial, key) for key in columns}, "schedule": trial.family, **trial.params}
            for trial in self.record.trials
        ]
        return pd.DataFrame(rows, columns=[*columns, "schedule"] if not rows else None).set_index("number")

    def plot_lr(self) -> "Figure":
        """Return a matplotlib figure of the lr curves of all trials, colored by their values."""
        from tuner.visualization.curves import lr_curves
        from tuner.visualization.matplotlib_backend import canvas

        return canvas(lr_curves(self.record))
