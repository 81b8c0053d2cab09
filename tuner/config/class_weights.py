"""Class weights of a loss that follow from the labels of the training data: ``class_weights: balanced``.

The coordinator replaces "balanced" by numbers before a trial is trained, as it replaces lengths in percent by steps.
"""

from collections.abc import Callable, Mapping
from typing import Any

from lightning_modules.losses import LOSSES
from tuner.config.dataset_probe import DatasetProbe
from tuner.config.search_space import Template, corners
from tuner.errors import BadInputError

__all__ = ["check_class_weights", "with_class_weights"]

KEY, BALANCED = "class_weights", "balanced"


def with_class_weights(trial: Mapping[str, Any], probe: DatasetProbe) -> Mapping[str, Any]:
    """Return the values of a trial with numbers as its class weights.

    Args:
        trial: The values of the trial.
        probe: Measures its data.

    Raises:
        BadInputError: If the data cannot be loaded, or have no class labels.
    """
    if not _are_balanced(trial):
        return trial
    return {**trial, "loss": {**trial["loss"], KEY: list(probe.class_weights(trial["data"]))}}


def check_class_weights(template: Template, probe: DatasetProbe, fault: Callable[[tuple[str, ...], str], None]) -> None:
    """Report balanced class weights for data without class labels.

    Args:
        template: The template of a trial.
        probe: Measures its data.
        fault: Called with the place and the message of a fault.
    """
    for values in corners({key: template[key] for key in ("data", "loss")}):
        try:
            with_class_weights(values, probe)
        except BadInputError as error:
            for each in error.faults:
                place, _, message = each.partition(": ")
                fault(tuple(place.split(".")), message)


def _are_balanced(trial: Mapping[str, Any]) -> bool:
    """Return whether the loss of a trial has balanced class weights; one of the user may take any word."""
    loss = trial.get("loss")
    return isinstance(loss, Mapping) and loss.get("name") in LOSSES and loss.get(KEY) == BALANCED
