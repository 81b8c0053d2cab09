"""The results of a study for Python: numbers, tables, figures and networks, read from its stores."""

import html
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.analysis.record import StudyRecord, TrialRecord
from tuner.errors import BadInputError
from tuner.protocol import EngineName
from tuner.text import format_metric, format_objective, format_value, join_names
from tuner.visualization.study_plots import StudyPlots, drawn

if TYPE_CHECKING:
    import optuna
    import pandas as pd
    import torch
    from matplotlib.figure import Figure

    from tuner.analysis.comparison import Comparison
    from tuner.storage.stored_study import StoredStudy

__all__ = ["Best", "Confirmation", "Result"]

SHOWN = 10
FIRST_SIGNAL = 128  # exit codes from here on mean an interruption
STYLE = "text-align: left; padding: 2px 12px 2px 0"


@dataclass(frozen=True, repr=False)
class Best:
    """A best trial of a study.

    Args:
        number: Its number.
        value: Its value of the objective, the first one if there are several.
        params: Its values of the searched parameters, by dotted paths.
        config: All of its values, nested as in a study file.
        test: Its metrics on the test data; empty if it was not tested.
        weights: File with its weights; None if it is not on this machine.
        values: Its values of all objectives, by their metrics.
    """

    number: int
    value: float
    params: Mapping[str, Any]
    config: Mapping[str, Any]
    test: Mapping[str, float]
    weights: Path | None
    values: Mapping[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        reached = ", ".join(f"{metric} {format_objective(value)}" for metric, value in self.values.items())
        parts = [f"{reached} in one trial"]
        parts += [f"{name} {format_value(value)}" for name, value in self.params.items()]
        parts += [f"{metric} {format_metric(value)}" for metric, value in sorted(self.test.items())]
        return f"Best(#{self.number}: {', '.join(parts)})"


@dataclass(frozen=True)
class Confirmation:
    """The result of a confirmation: which of the best trials are really better.

    Args:
        comparison: The values with fresh seeds.
        findings: The findings in sentences, the most important first.
    """

    comparison: "Comparison"
    findings: Sequence[str]

    @property
    def table(self) -> "pd.DataFrame":
        """Return mean and 95% interval over the seeds of each configuration, and its distance from the winner."""
        import pandas as pd

        return pd.DataFrame(self.comparison.rows()).set_index("configuration")

    def plot(self) -> "Figure":
        """Return a matplotlib figure of the values."""
        from tuner.visualization.comparisons import of_comparison

        return drawn(of_comparison(self.comparison, "the best, retrained with fresh seeds"))

    def _repr_html_(self) -> str:
        found = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.findings)
        return f"{found}{self.table.to_html()}"


class Result(StudyPlots):
    """The result of a study, read from its stores on first access, and then cached.

    A notebook shows the findings and the best trials.

    Args:
        name: Name of the study.
        storage: URL of Optuna's database.
        tracking_uri: MLflow's store.
    """

    def __init__(self, name: str, storage: str, tracking_uri: str) -> None:
        self.name, self.storage, self.tracking_uri = name, storage, tracking_uri

    def __repr__(self) -> str:
        record = self.record
        best = record.best
        found = "no trial completed"
        if best:
            found = f"best #{best.number} {record.metric} {format_metric(best.value)}"
        if won := record.retrained:
            found = f"{won.name} {record.metric} {format_metric(won.mean)}, {won.certainty}; single {found}"
        if record.front:
            found = f"Pareto front {join_names([f'#{trial.number}' for trial in record.front], SHOWN)}"
        return f"Result({self.name}: {len(record.trials)} trials, {found})"

    def _repr_html_(self) -> str:
        record = self.record
        rows = [
            [
                f"#{trial.number}",
                format_metric(trial.value),
                *map(format_objective, trial.further),
                *([] if record.of_function else [trial.family]),
                *(_shown(trial.params.get(key)) for key in self._keys),
            ]
            for trial in record.ranking[:SHOWN]
        ]
        head = ["", *record.metrics, *([] if record.of_function else ["schedule"]), *self._keys]
        table = _row("th", head) + "".join(_row("td", row) for row in rows)
        found = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.findings)
        return f"<h4>{html.escape(self.name)}</h4>{found}<table>{table}</table>"

    @property
    def _keys(self) -> list[str]:
        return [key for key in self.record.searched if key != "schedule.name"]

    @cached_property
    def record(self) -> StudyRecord:
        """The study as plain data, with the curves of its trials."""
        from tuner.storage.inventory import with_fresh_seeds
        from tuner.storage.reader import identifier_of, open_study, record_of
        from tuner.tracking.reader import MlflowStudy

        with open_study(self.storage, self.name) as study:
            record = record_of(study, MlflowStudy(self.tracking_uri, identifier_of(study)).curves)
            return with_fresh_seeds(record, study)

    @cached_property
    def findings(self) -> list[str]:
        """The findings of the study in sentences, the most important first."""
        from tuner.analysis.findings import findings

        return findings(self.record)

    @cached_property
    def best(self) -> Best | None:
        """The best trial; None if no trial was completed.

        Raises:
            BadInputError: If the study has several objectives, and so several best trials.
        """
        if self.record.further:
            names = join_names(self.record.metrics)
            fault = f'study "{self.name}" has several objectives ({names}), so there is no single best trial'
            raise BadInputError([f"{fault}; use best_trials."])
        return next(iter(self.best_trials), None)

    @cached_property
    def best_trials(self) -> list[Best]:
        """The Pareto front of several objectives, the best in the first one first; with one objective, the best trial.

        Empty if no trial was completed.
        """
        return [self._best(trial) for trial in self.record.front or self.record.ranking[:1]]

    def _best(self, trial: TrialRecord) -> Best:
        config = self._stored.config_of(self._stored.trial(trial.number)).values()
        weights = self._weights(trial.number)
        values = dict(zip(self.record.metrics, (trial.value, *trial.further), strict=True))
        there = weights if weights.exists() else None
        return Best(trial.number, trial.value, trial.params, config, self.record.test, there, values)

    @cached_property
    def trials(self) -> "pd.DataFrame":
        """A row for each finished trial, with the searched parameters in columns named by their dotted paths."""
        import pandas as pd

        of_function = self.record.of_function
        columns = {key: key for key in ("number", "state", "value", "epochs", "seconds")}
        if of_function:
            columns["epochs"] = "reports"
        schedule = [] if of_function else ["schedule"]
        further = self.record.metrics[1:]
        rows = [
            {
                **{column: getattr(trial, key) for key, column in columns.items()},
                **dict(zip(further, trial.further or [math.nan] * len(further), strict=True)),
                **dict.fromkeys(schedule, trial.family),
                **trial.params,
            }
            for trial in self.record.trials
        ]
        known = [*columns.values(), *further, *schedule]
        return pd.DataFrame(rows, columns=None if rows else known).set_index("number")

    @cached_property
    def optuna_study(self) -> "optuna.Study":
        """Return a copy of the Optuna study, in memory. Changes to it do not reach the database."""
        from tuner.storage.reader import copy_of, open_study

        with open_study(self.storage, self.name) as study:
            return copy_of(study)

    def best_model(self, trial: int | None = None) -> "torch.nn.Module":
        """Return the network of the best trial with its weights, in evaluation mode, on the CPU.

        Args:
            trial: Which of the `best_trials`; None for the best trial.

        Raises:
            BadInputError: If there is none, or several; or if its weights are not on this machine.
        """
        from tuner.training.build import build_model
        from tuner.training.checkpoints import load_tensors

        self._stored.config.check_trains("best_model returns a network")
        best = self.best if trial is None else next((each for each in self.best_trials if each.number == trial), None)
        if best is None:
            which = "complete trial" if trial is None else f"trial #{trial} among the best ones"
            raise BadInputError([f'study "{self.name}" has no {which}.'])
        if best.weights is None:
            raise BadInputError([f"the weights of trial #{best.number} are not on this machine."])
        config = self._stored.training_of(self._stored.trial(best.number))
        return build_model(config, load_tensors(best.weights)).eval()

    def report(self, path: str | Path = "report.html") -> Path:
        """Write the study as one HTML file, as ``lr-tuner report`` does, and return its path.

        Args:
            path: The file.

        Raises:
            BadInputError: If it cannot be written.
        """
        from tuner.reporting.page import write_report

        write_report([self.name], self.storage, self.tracking_uri, Path(path))
        return Path(path)

    def export(self, folder: str | Path | None = None, *, trial: int | None = None) -> Path:
        """Write a trial as a folder: configuration, weights, lr table, training script, model card.

        Args:
            folder: The folder to create; by default ``<study>-<trial>``.
            trial: Its number; by default the best trial's.

        Returns:
            The folder.

        Raises:
            BadInputError: If there is no such trial, it has classes that were sent by value, or the folder exists.
        """
        from tuner.followup.exporting import export

        to, notes = export(self.name, self.storage, self.tracking_uri, trial, Path(folder) if folder else None)
        for note in notes:
            warnings.warn(note, stacklevel=2)
        return to

    def confirm(
        self,
        *,
        top: int = 5,
        seeds: int = 10,
        name: str | None = None,
        devices: str = "auto",
        per_device: int | None = None,
        fuse: str | int = "auto",
        engine: EngineName = "local",
        address: str = "auto",
        quiet: bool = False,
        retry_failed: bool = False,
    ) -> "Confirmation":
        """Retrain the best trials with fresh seeds, or continue to do so, and return the result.

        Args:
            top: How many of the best trials.
            seeds: Seeds for each, in total.
            name: Name of the confirmation, a separate study (default: <study>-confirm).
            devices: As in `Study.run`, like the following arguments.
            per_device: Trials at a time on each device.
            fuse: Trials that each slot trains at once.
            engine: Where training runs.
            address: Address of the Ray cluster.
            quiet: Whether nothing is printed.
            retry_failed: Whether failed runs are retried.

        Raises:
            KeyboardInterrupt: If it was interrupted.
            TunerError: If the input is bad, the confirmation is already running, or it failed.
        """
        from tuner.followup.confirmation import ConfirmationOptions, confirm

        options = ConfirmationOptions(
            study=self.name,
            top=top,
            seeds=seeds,
            name=name,
            devices=devices,
            per_device=per_device,
            fuse=str(fuse),
            engine=engine,
            address=address,
            storage=self.storage,
            tracking_uri=self.tracking_uri,
            quiet=quiet,
            retry_failed=retry_failed,
        )
        found: list[Confirmation] = []
        code = confirm(options, lambda comparison, sentences: found.append(Confirmation(comparison, tuple(sentences))))
        if code >= FIRST_SIGNAL:
            raise KeyboardInterrupt
        return found[0]

    @cached_property
    def _stored(self) -> "StoredStudy":
        from tuner.storage.stored_study import StoredStudy

        return StoredStudy.load(self.name, self.storage)

    def _weights(self, number: int) -> Path:
        from tuner.training.results import MODEL_FILE

        return self._stored.directory(number) / MODEL_FILE


def _shown(value: Any) -> str:
    return "" if value is None else format_value(value)


def _row(cell: str, values: list[str]) -> str:
    return "<tr>" + "".join(f'<{cell} style="{STYLE}">{html.escape(value)}</{cell}>' for value in values) + "</tr>"
