"""Loads the data sets of a study and measures them: batches, validation images, and a digest of their content."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from lightning_modules.data.base import DataError, TensorLoader
from tuner.config.component import Component
from tuner.config.lengths import Length
from tuner.errors import BadInputError, place_of, reason_of

__all__ = ["DatasetInfo", "DatasetProbe", "limited"]


@dataclass(frozen=True)
class DatasetInfo:
    """The measurements of a data set.

    Args:
        batches: Training batches in an epoch; None if its loader has no length.
        digest: Digest of the data; empty if the data module has none.
        validation_images: Number of validation images; None if it is unknown.
    """

    batches: int | None
    digest: str
    validation_images: int | None = None


class DatasetProbe:
    """Loads data sets and measures them, each one once."""

    def __init__(self) -> None:
        self._seen: dict[str, DatasetInfo] = {}

    def info(self, values: Mapping[str, Any]) -> DatasetInfo:
        """Fetch, load and measure a data set.

        Args:
            values: ``{name: ..., argument: value}`` of a data module.

        Raises:
            BadInputError: If it cannot be fetched, loaded or used.
        """
        key = json.dumps(values, sort_keys=True)
        if key not in self._seen:
            try:
                data = Component.from_values(values).build("data", seed=0)
                data.prepare_data()
                data.setup("fit")
                loader = data.train_dataloader()
                batches = _count(loader)
                if batches == 0:
                    raise ValueError("there is not one training batch")
                digest = data.digest() if hasattr(data, "digest") else ""
                images = _count_images(data)
            except (Exception, SystemExit) as error:  # of the network, the disk, or the user's data module
                text = str(error) if isinstance(error, DataError) else reason_of(error)
                raise BadInputError([f"trial.data: {text}{place_of(error)}"]) from error
            self._seen[key] = DatasetInfo(batches, digest, images)
        return self._seen[key]

    def length(self, trial: Mapping[str, Any]) -> Length:
        """Return the length of a trial's training.

        Args:
            trial: Its values, of which ``data`` and ``trainer`` are used.

        Raises:
            BadInputError: If its data cannot be loaded, or the number of batches is unknown.
        """
        batches = self.info(trial["data"]).batches
        if batches is None:
            reason = "its loader does not tell how many batches it has, so lengths must be in steps"
            raise BadInputError([f"trial.data: {reason}."])
        trainer = trial["trainer"]
        batches = limited(batches, trainer.get("limit_train_batches"))
        # As in Lightning: the last batches of an epoch make a step, however few they are.
        steps_per_epoch = -(-batches // trainer.get("accumulate_grad_batches", 1))
        return Length(steps_per_epoch, trainer.get("max_epochs", 0), trainer.get("max_steps", 0))


def limited(batches: int, limit: int | float | None) -> int:
    """Return how many batches of an epoch a training uses, as Lightning counts them.

    Args:
        batches: All batches.
        limit: A number of batches, or a share of them; None for all.

    Raises:
        BadInputError: If none is left.
    """
    left = batches if limit is None else min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    if not left:
        reason = f"{limit} of the {batches} batches is less than one batch"
        raise BadInputError([f"trial.trainer.limit_train_batches: {reason}; raise it."])
    return left


def _count(loader: Any) -> int | None:
    """Return the number of batches of a loader, or None if it has no length."""
    try:
        return None if isinstance(loader, dict | list | tuple) else len(loader)  # several loaders
    except (TypeError, NotImplementedError):  # an iterable data set
        return None


def _count_images(data: Any) -> int | None:
    """Return the number of validation images without reading them, which may take long or, if iterable, never end."""
    try:
        loader = data.val_dataloader()
        if isinstance(loader, TensorLoader):
            return len(loader.labels)
        return len(loader.dataset) if isinstance(loader, DataLoader) else None  # type: ignore[arg-type]
    except (TypeError, MisconfigurationException):  # no length, or no validation data
        return None
