"""Callbacks that make training reproducible and pass metrics to plateaus."""

import random
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset

from lightning_modules.lr_scheduler import ScheduleLR

__all__ = ["EpochSeed", "PlateauUpdates", "check_monitor", "is_of_training", "monitored", "seed_everywhere"]


class EpochSeed(pl.Callback):
    """Makes the random numbers of an epoch a function of seed and epoch, so that resuming is exact.

    It seeds the generators of torch, NumPy and Python, and those that were passed to the training DataLoaders, before
    an epoch's batches are drawn, and the global ones again at its first batch. For dropout, add `SeededDropout`, which
    needs no generator.

    The order of an `IterableDataset`, and of a sampler or loader that is not torch's, is their own, and so are random
    numbers in the workers of a loader with ``persistent_workers=True``.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._is_first = False
        self._initial: dict[torch.Generator, int] = {}  # the seeds with which loaders' generators were made

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Note that the first epoch comes, for which Lightning has begun to draw batches already."""
        self._is_first = True

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Seed the generators before the epoch's batches are drawn."""
        self._seed_global(trainer)
        loop = trainer.fit_loop
        loaders = [] if loop._combined_loader is None else loop._combined_loader.flattened
        for generator in _generators(loaders):
            initial = self._initial.setdefault(generator, generator.initial_seed())
            generator.manual_seed(self.of_epoch(initial, trainer.current_epoch))
        if self._is_first and loop._data_fetcher is not None and all(map(_can_begin_again, loaders)):
            iter(loop._data_fetcher)
        self._is_first = False

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed the global generators again at the first batch: before it, a resumed run may draw other numbers."""
        if batch_idx == 0:
            self._seed_global(trainer)

    def _seed_global(self, trainer: pl.Trainer) -> None:
        of_rank = 1_000_000_007 * trainer.global_rank  # ranks have different images: they need different numbers
        seed_everywhere((self.of_epoch(self.seed, trainer.current_epoch) + of_rank) % 2**63)

    @staticmethod
    def of_epoch(seed: int, epoch: int) -> int:
        """Return the seed of an epoch."""
        return (seed * 1_000_003 + epoch + 1) % 2**63


def seed_everywhere(seed: int) -> None:
    """Seed the global generators of torch, NumPy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def _can_begin_again(loader: Any) -> bool:
    """Return whether a loader loses no batches if it is asked for its first one again: torch's, with its sampler."""
    return (
        isinstance(loader, DataLoader)
        and type(loader).__iter__ is DataLoader.__iter__
        and not isinstance(loader.dataset, IterableDataset)
        and type(loader.sampler).__module__.startswith("torch.")
    )


def _generators(loaders: Iterable[Any]) -> list[torch.Generator]:
    """Return the generators from which torch's loaders and their samplers draw."""
    found = [
        getattr(owner, "generator", None)
        for loader in loaders
        if isinstance(loader, DataLoader)
        for owner in (loader, loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    ]
    return list(dict.fromkeys(each for each in found if isinstance(each, torch.Generator)))


class PlateauUpdates(pl.Callback):
    """Passes each `Plateau` in a module's `ScheduleLR` the metric that it monitors.

    A metric whose name begins with "train" must be logged in ``training_step``; the plateau gets it at the end of each
    training epoch. It gets any other metric after each validation, except Lightning's sanity check. Checkpoints saved
    at these points include the update, so a resumed run has the same lrs; if it is resumed within an epoch, its
    training metrics cover only the rest of that epoch. This callback ignores schedulers that Lightning updates itself
    (``"reduce_on_plateau": True``), and does not touch the lr once Lightning's ``StochasticWeightAveraging`` sets it.

    `Classifier` adds this callback. In your own module::

        def configure_callbacks(self):
            return [PlateauUpdates()]
    """

    def __init__(self) -> None:
        self._has_trained = False  # whether the current epoch has had a batch

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Reject a plateau whose metric will never arrive."""
        self._has_trained = False
        for _, monitor in self._plateaus(trainer):
            check_monitor(monitor, trainer)

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Note that the epoch has training metrics."""
        self._has_trained = True

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Pass on the metrics of a validation."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._update(trainer, of_training=False)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Pass on the metrics of a training epoch; an epoch resumed after its last batch has none."""
        if self._has_trained:
            self._update(trainer, of_training=True)
        self._has_trained = False

    def _update(self, trainer: pl.Trainer, of_training: bool) -> None:
        for scheduler, monitor in self._plateaus(trainer):
            if is_of_training(monitor) == of_training:
                scheduler.update_plateau(monitored(trainer.callback_metrics, monitor))

    @staticmethod
    def _plateaus(trainer: pl.Trainer) -> list[tuple[ScheduleLR, str]]:
        """Return the schedulers with a plateau that Lightning does not update itself, and the metrics they monitor."""
        configs = trainer.lr_scheduler_configs
        fed = [config.scheduler for config in configs if config.reduce_on_plateau]
        schedulers = [config.scheduler for config in configs if config.scheduler not in fed]
        return [
            (scheduler, scheduler.plateau.monitor)
            for scheduler in schedulers
            if isinstance(scheduler, ScheduleLR) and scheduler.plateau is not None
        ]


def is_of_training(monitor: str) -> bool:
    """Return whether a plateau gets a metric at the end of the training epoch instead of after a validation."""
    return monitor.startswith("train")


def monitored(metrics: Mapping[str, Any], monitor: str) -> float:
    """Return the metric that a plateau monitors.

    Raises:
        ValueError: If it is not among the metrics.
    """
    if monitor not in metrics:
        step = "training_step" if is_of_training(monitor) else "validation_step"
        raise ValueError(f"Plateau monitors {monitor!r}, but only {sorted(metrics)} are logged: log it in {step}")
    return float(metrics[monitor])


def check_monitor(monitor: str, trainer: pl.Trainer) -> None:
    """Reject a metric that will never reach a plateau in the run that a Trainer is about to start.

    Args:
        monitor: Name of the metric.
        trainer: The Trainer, after it has set up its data.

    Raises:
        ValueError: If it is a validation metric and there is no validation.
    """
    every, epochs = trainer.check_val_every_n_epoch, trainer.max_epochs
    is_empty = trainer.val_dataloaders is not None and not any(trainer.num_val_batches)
    is_too_rare = every is not None and epochs is not None and 0 <= epochs < every
    if not is_of_training(monitor) and (not trainer.enable_validation or is_empty or is_too_rare):
        raise ValueError(
            f"Plateau monitors {monitor!r}, but this run has no validation: give the Trainer validation data, "
            'or monitor a training metric such as "train/loss"'
        )
