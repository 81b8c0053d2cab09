"""A StopIteration of user code fails the trial; Lightning's loops would take it for the end of the data.

It is raised as another exception with the same name, arguments and traceback. Samplers and iterable data sets may raise
StopIteration, which is how they end.
"""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.profilers import PassThroughProfiler
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter, _SingleProcessDataLoaderIter

from tuner.errors import as_exception

__all__ = ["StopIterationProfiler", "convert_stop_iterations_of_data"]


class _Converting:
    """Context manager that converts a StopIteration."""

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Convert the exception if it is a StopIteration."""
        if isinstance(error, StopIteration):
            raise as_exception(error) from None


_CONVERTING = _Converting()


class StopIterationProfiler(PassThroughProfiler):
    """Converts the StopIteration of a hook; Lightning calls every hook of modules and callbacks in its profiler."""

    def profile(self, action_name: str) -> _Converting:  # type: ignore[override]
        """Return the context manager in which a hook is called."""
        return _CONVERTING


def convert_stop_iterations_of_data(trainer: pl.Trainer) -> None:
    """Make the data loaders of a Trainer convert the StopIteration of a data set with a length, or of a collate_fn."""
    prepare = trainer._data_connector._prepare_dataloader

    def prepared(*arguments: Any, **others: Any) -> object:
        loader = prepare(*arguments, **others)
        if isinstance(loader, DataLoader):
            loader._get_iterator = lambda: _converting(type(loader)._get_iterator(loader))  # type: ignore[method-assign]
        return loader

    trainer._data_connector._prepare_dataloader = prepared  # type: ignore[method-assign]


def _converting(batches: Any) -> Any:
    """Convert what an iterator of a DataLoader raises, except at its end."""
    if isinstance(batches, _MultiProcessingDataLoaderIter):
        _convert(batches, "_process_data")
    elif isinstance(batches, _SingleProcessDataLoaderIter):  # not that of another library
        is_iterable = isinstance(batches._dataset, IterableDataset)
        _convert(batches._dataset_fetcher, "collate_fn" if is_iterable else "fetch")
    return batches


def _convert(owner: Any, name: str) -> None:
    function = getattr(owner, name)

    def called(*arguments: Any) -> Any:
        with _CONVERTING:
            return function(*arguments)

    setattr(owner, name, called)
