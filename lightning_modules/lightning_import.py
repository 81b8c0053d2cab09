"""Imports Lightning, when it is imported itself, without the modules that Lightning imports for what few programs use.

They take longer than all the rest of Lightning. Each is replaced by a placeholder during the import, and imported when
something is used that needs it.
"""

import contextlib
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["uncompiled_optimizers"]

PLOT = "torchmetrics.utilities.plot"


def _import_lightning() -> None:
    """Import Lightning without torch._dynamo, triton, matplotlib and scipy.signal, unless they are imported already.

    Lightning imports torch._dynamo to recognise compiled networks, and torch's flop counter, which imports triton, to
    summarize networks; torchmetrics, which Lightning imports, matplotlib for the plots of metrics, and scipy.signal to
    add an old name for gammatone.
    """
    if "pytorch_lightning" in sys.modules:
        return
    importlib.import_module("torch")
    placeholders = [each for each in _placeholders() if each.__name__ not in sys.modules]
    sys.modules.update({each.__name__: each for each in placeholders})
    try:
        importlib.import_module("pytorch_lightning")
    finally:
        _remove_placeholders()
    for each in placeholders:
        if each.__name__ == PLOT:  # unlike torch and scipy, this package does not import its modules when they are used
            sys.modules["torchmetrics.utilities"].__dict__["plot"] = each


@contextlib.contextmanager
def uncompiled_optimizers() -> Iterator[None]:
    """Let torch build optimizers in the block without importing torch._dynamo.

    Building one calls a method that torch.compile must skip, and the first call imports torch._dynamo to mark it.
    """
    from torch.optim import Optimizer

    method, mark = getattr(Optimizer.add_param_group, "__wrapped__", None), "__dynamo_disable"
    if method is None or hasattr(method, mark):
        yield
        return
    setattr(method, mark, method)  # where torch looks for what to call
    try:
        yield
    finally:
        delattr(method, mark)


class _Placeholder(types.ModuleType):
    """Stands for a module; a name that it lacks imports that module."""

    def __init__(self, module: str, **names: Any) -> None:
        super().__init__(module)
        self.__dict__.update(names)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system asks for these
            raise AttributeError(name)
        _remove_placeholders()
        return getattr(importlib.import_module(self.__name__), name)


def _remove_placeholders() -> None:
    for name in [name for name, module in sys.modules.items() if isinstance(module, _Placeholder)]:
        del sys.modules[name]


def _placeholders() -> list[_Placeholder]:
    from torch._compile import _disable_dynamo

    def disable(function: Callable[..., Any] | None, recursive: bool = True, **_: Any) -> Callable[..., Any]:
        disabled: Callable[..., Any] = _disable_dynamo(function, recursive)  # imports torch._dynamo in the first call
        return disabled

    utils, flops = "torch._dynamo.utils", "torch.utils.flop_counter"
    plots = {name: _later(PLOT, name) for name in ("plot_confusion_matrix", "plot_curve", "plot_single_or_multi_val")}
    found = [
        _Placeholder("torch._dynamo", OptimizedModule=_OptimizedModule, disable=disable),
        _Placeholder(utils, is_compile_supported=_later(utils, "is_compile_supported")),  # torchvision imports it
        _Placeholder(flops, FlopCounterMode=_later(flops, "FlopCounterMode")),
        _Placeholder(PLOT, _AX_TYPE=Any, _PLOT_OUT_TYPE=Any, _CMAP_TYPE=Any, **plots),
    ]
    if importlib.util.find_spec("gammatone") is None:
        found.append(_Placeholder("scipy.signal", hamming=None))
    return found


def _later(module: str, name: str) -> Callable[..., Any]:
    """Return a function that imports the one of this name when it is called."""

    def call(*args: Any, **arguments: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*args, **arguments)

    return call


class _Recognising(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        imported = sys.modules.get("torch._dynamo")  # there is no instance before it is imported
        return imported is not None and isinstance(instance, imported.OptimizedModule)


class _OptimizedModule(metaclass=_Recognising):
    """Has the instances of torch._dynamo.OptimizedModule."""


_import_lightning()
