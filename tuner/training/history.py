"""Loggers that keep a run's metrics in memory."""

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.loggers.logger import Logger

from tuner.protocol import Point
from tuner.text import cut, join_names
from tuner.training.experiment_proxy import ExperimentProxy
from tuner.training.real_metrics import real_number

__all__ = ["History", "MemoryLogger"]


class MemoryLogger(Logger):
    """Base of loggers that keep metrics in memory: everything that Lightning requires, except for `log_metrics`."""

    @property
    def name(self) -> str:
        """Return a name, which Lightning requires."""
        return "history"

    @property
    def version(self) -> int:
        """Return a version, which Lightning requires."""
        return 0

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Ignore hyperparameters: the coordinator records the trial's configuration."""


class History(MemoryLogger):
    """Logger that keeps all metrics of a run in memory, in order. Checkpoints save and restore them.

    Args:
        folder: The trial's folder.
        note: Called with messages for the user.
        reserved: Names that only `log_scheduled` records, such as the lr of a user's module.
    """

    def __init__(
        self, folder: Path, note: Callable[[str], None] = lambda text: None, reserved: Collection[str] = ()
    ) -> None:
        super().__init__()
        self.points: list[Point] = []
        self.open = True
        self.records = ExperimentProxy(folder, lambda key, value, step: self.log_metrics({key: value}, step))
        self._note = note
        self._held: list[Point] | None = None
        self._refused: set[str] = set()
        self._reserved = set(reserved)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append metrics, except Lightning's own `epoch`. `Reporter` adds the metrics of whole epochs."""
        if not self.open:
            return
        self._refuse_reserved(metrics.keys())
        points = self._now
        for key, value in metrics.items():
            if key != "epoch" and key not in self._refused:
                try:
                    points.append((key, int(step or 0), real_number(key, value)))
                except (TypeError, ValueError):
                    self._refused.add(key)
                    self._note(f"logs {key}, which is not a number and not recorded: {cut(repr(value))}")

    def add(self, points: Sequence[Point]) -> None:
        """Append the points of an epoch, except those with reserved names."""
        self._refuse_reserved({key for key, _, _ in points})
        self.points += [point for point in points if point[0] not in self._refused]

    def _refuse_reserved(self, names: Set[str]) -> None:
        if own := self._reserved & names - self._refused:
            self._refused |= own
            self._note(f"logs {join_names(sorted(own))}, which is left out: the tuner records it at every step")

    def log_scheduled(self, values: Mapping[str, float], step: int) -> None:
        """Append scheduled values at a step; what a module logs under their names is left out from now on."""
        self._reserved |= values.keys()
        if self.open:
            self._now.extend((key, step, value) for key, value in values.items())

    @property
    def _now(self) -> list[Point]:
        """The points that metrics are appended to."""
        return self.points if self._held is None else self._held

    @property
    def experiment(self) -> ExperimentProxy:
        """Return the proxy of the trial's run, for a user's module that logs to it."""
        return self.records

    @property
    def run_id(self) -> str:
        """Return a placeholder for the run id: only the coordinator knows MLflow's."""
        return "trial"

    def hold(self) -> None:
        """Keep metrics that are logged from now on apart, until `release`."""
        self._held = []

    def release(self, without: Collection[str]) -> None:
        """Append the metrics that were kept apart, except those with these names."""
        self.points += [point for point in self._held or () if point[0] not in without]
        self._held = None

    def state(self) -> dict[str, Any]:
        """Return the points as tensors, by metric."""
        grouped: dict[str, tuple[list[int], list[float]]] = {}
        for key, step, value in self.points:
            steps, values = grouped.setdefault(key, ([], []))
            steps.append(step)
            values.append(value)
        return {
            key: {"steps": torch.tensor(steps), "values": torch.tensor(values, dtype=torch.float64)}
            for key, (steps, values) in grouped.items()
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the points from a checkpoint."""
        self.points = [
            (key, step, value)
            for key, series in state.items()
            for step, value in zip(series["steps"].tolist(), series["values"].tolist(), strict=True)
        ]
