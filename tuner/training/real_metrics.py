"""Complex metrics are errors; Lightning and NumPy would record their real parts."""

from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch

__all__ = ["RealMetrics", "real_number"]


def real_number(name: str, value: Any) -> float:
    """Return a metric as a float.

    Raises:
        TypeError: If it is complex, or no number.
        ValueError: If it is a text, or has several elements.
    """
    _refuse_complex(name, value)
    return float(value)


class RealMetrics(pl.Callback):
    """Makes ``self.log`` of a module and of all callbacks raise an error if a value is complex."""

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Begin to check what the module and the callbacks log."""
        module.log = partial(_log, module)  # type: ignore[method-assign]
        trainer._callback_connector._attach_model_logging_functions()  # before the setup, callbacks got the class's

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """End the checks."""
        module.__dict__.pop("log", None)


def _log(module: pl.LightningModule, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
    """Call the `log` of a module's class; a `partial` of this function is copied with its module."""
    _refuse_complex(name, value)
    type(module).log(module, name, value, *args, **kwargs)


def _refuse_complex(name: str, value: Any) -> None:
    dtype = getattr(value, "dtype", None)
    is_complex = dtype.is_complex if isinstance(dtype, torch.dtype) else getattr(dtype, "kind", "") == "c"
    if is_complex or isinstance(value, complex):
        raise TypeError(f"{name} is complex ({value}): log a real number, such as its absolute value")
