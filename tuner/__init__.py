"""Search learning-rate schedules with Optuna, train with Lightning, record in MLflow."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuner.api import Best, Confirmation, Result, Study
    from tuner.errors import BadInputError, StudyFailedError
    from tuner.objective import Trial, TrialPruned

__all__ = [
    "BadInputError",
    "Best",
    "Confirmation",
    "Result",
    "Study",
    "StudyFailedError",
    "Trial",
    "TrialPruned",
]


def __getattr__(name: str) -> Any:
    """Import the Python API on first use, so that the commands do not wait for its imports."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in ("Trial", "TrialPruned"):  # objective functions need these in the processes of trials
        from tuner import objective

        return getattr(objective, name)
    if name.endswith("Error"):
        from tuner import errors

        return getattr(errors, name)
    from tuner import api

    return getattr(api, name)
