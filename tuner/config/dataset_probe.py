"""Loads the data sets of a study and measures them: batches, validation images, and a digest of their content."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import LightningDataModule
from torch import Tensor, cat
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler

from lightning_modules import DATASETS
from lightning_modules.data.base import DataError, TensorLoader
from lightning_modules.losses import balanced_weights
from tuner.config.component import Component
from tuner.config.lengths import Length
from tuner.config.user_code import contained
from tuner.errors import BadInputError, place_of, reason_of
from tuner.text import shown

__all__ = ["DatasetInfo", "DatasetProbe", "limited"]

NUMBERS = "give the weights as numbers"


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
        self._weights: dict[str, tuple[float, ...]] = {}

    def info(self, values: Mapping[str, Any]) -> DatasetInfo:
        """Fetch, load and measure a data set.

        Args:
            values: ``{name: ..., argument: value}`` of a data module.

        Raises:
            BadInputError: If it cannot be fetched, loaded or used.
        """
        key = json.dumps(values, sort_keys=True)
        if key not in self._seen:
            with _loaded(values, "trial.data") as data:
                batches = _count(data.train_dataloader())
                if batches == 0:
                    raise ValueError("there is not a single training batch")
                digest = data.digest() if hasattr(data, "digest") else ""
                if not isinstance(digest, str):
                    raise TypeError(f"digest() must return text, but it returns {shown(digest)}")
                self._seen[key] = DatasetInfo(batches, digest, _count_images(data))
        return self._seen[key]

    def class_weights(self, values: Mapping[str, Any]) -> tuple[float, ...]:
        """Return the balanced weights of the classes of a data set.

        All training labels are read once for each combination of arguments. Those of the shipped data sets do not
        depend on the batch size.

        Args:
            values: As in `info`.

        Raises:
            BadInputError: If it cannot be loaded, or has no class labels.
        """
        ignored = ["batch_size"] if values["name"] in DATASETS else []
        key = json.dumps({name: value for name, value in values.items() if name not in ignored}, sort_keys=True)
        if key not in self._weights:
            with _loaded(values, "trial.loss.class_weights") as data:
                self._weights[key] = balanced_weights(_training_labels(data.train_dataloader()))
        return self._weights[key]

    def length(self, trial: Mapping[str, Any]) -> Length:
        """Return the length of a trial's run.

        Args:
            trial: Its values, of which ``data`` and ``trainer`` are used.

        Raises:
            BadInputError: If its data cannot be loaded, or the number of batches is unknown.
        """
        batches = self.info(trial["data"]).batches
        if batches is None:
            reason = "its loader does not report its number of batches, so lengths must be in steps"
            raise BadInputError([f"trial.data: {reason}."])
        trainer = trial["trainer"]
        batches = limited(batches, trainer.get("limit_train_batches"))
        # As in Lightning, the last batches of an epoch make a step even if there are too few to accumulate.
        steps_per_epoch = -(-batches // trainer.get("accumulate_grad_batches", 1))
        return Length(steps_per_epoch, trainer.get("max_epochs", 0), trainer.get("max_steps", 0))


@contextmanager
def _loaded(values: Mapping[str, Any], place: str) -> Iterator[LightningDataModule]:
    """Fetch and load a data set.

    Raises:
        BadInputError: If that fails, or the use of the data does.
    """
    try:
        with contained():
            data = Component.from_values(values).build("data", seed=0)
            data.prepare_data()
            data.setup("fit")
            yield data
    except Exception as error:  # the network, the disk or the user's data module failed
        text = str(error) if isinstance(error, DataError) else reason_of(error)
        raise BadInputError([f"{place}: {text}{place_of(error)}"]) from error


def _training_labels(loader: Any) -> Tensor:
    """Return the labels of all training examples, each once.

    Raises:
        ValueError: If they cannot be determined.
    """
    if isinstance(loader, TensorLoader):
        return loader.labels
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        raise ValueError(f"class_weights: balanced needs a torch DataLoader of a data set with a length; {NUMBERS}")
    batches: Any = loader.batch_sampler  # None with batch_size=None: each item of the data set is a batch
    sampler = batches.sampler if type(batches) is BatchSampler else batches or loader.sampler
    if type(sampler) not in (RandomSampler, SequentialSampler) or len(sampler) != len(loader.dataset):  # type: ignore[arg-type]
        raise ValueError(f"class_weights: balanced cannot be computed with a {type(sampler).__name__}; {NUMBERS}")
    size = batches.batch_size if batches else None
    labels = []
    for batch in DataLoader(loader.dataset, batch_size=size, collate_fn=loader.collate_fn):
        if not (isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[1], Tensor)):
            raise ValueError(f"class_weights: balanced needs pairs of inputs and labels as batches; {NUMBERS}")
        if not batch[1].ndim:
            raise ValueError("labels must be int64 [batch]; with batch_size=None, an item of the data set is a batch")
        labels.append(batch[1])
    return cat(labels)


def limited(batches: int, limit: int | float | None) -> int:
    """Return how many batches of an epoch a run uses, as Lightning counts them.

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
    """Return the number of validation images without reading them, which may take long or never end."""
    try:
        loader = data.val_dataloader()
        if isinstance(loader, TensorLoader):
            return len(loader.labels)
        return len(loader.dataset) if isinstance(loader, DataLoader) else None  # type: ignore[arg-type]
    except (TypeError, MisconfigurationException):  # no length, or no validation data
        return None
