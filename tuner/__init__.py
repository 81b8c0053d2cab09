"""Search learning-rate schedules with Optuna, train with Lightning, record in MLflow."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuner.api import Best, Confirmation, Result, Study

__all__ = ["Best", "Confirmation", "Result", "Study"]


def __getattr__(name: str) -> Any:
    """Import the Python API on first use, so that the commands do not wait for its imports."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tuner import api

    return getattr(api, name)
