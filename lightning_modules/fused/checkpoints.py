"""Convert checkpoints between a `FusedClassifier` and the classifiers of its trials."""

from collections.abc import Iterator, Mapping
from typing import Any

from lightning_modules.evaluation import SAVED_KEY
from lightning_modules.fused.stacking import rows_of, stack

__all__ = ["merge_checkpoints", "split_checkpoint"]


def split_checkpoint(checkpoint: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the checkpoint of each trial of a `FusedClassifier`, in the form that a `Classifier` saves.

    The states of callbacks are copied unchanged.
    """
    (optimizers,) = checkpoint["optimizer_states"]
    averaging = checkpoint.get(SAVED_KEY, {})
    shared = {key: value for key, value in checkpoint.items() if key not in ("trials", SAVED_KEY)}
    for row, name in enumerate(checkpoint["trials"]):
        yield (
            name,
            {
                **shared,
                "state_dict": rows_of(checkpoint["state_dict"], row),
                "optimizer_states": [optimizers[name]["optimizer"]],
                "lr_schedulers": [optimizers[name]["scheduler"]],
                **({SAVED_KEY: averaging[name]} if name in averaging else {}),
            },
        )


def merge_checkpoints(checkpoints: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a checkpoint for a `FusedClassifier`, made of the checkpoints of its trials by name.

    The states of callbacks are those of the first trial.

    Raises:
        ValueError: If the trials are not at the same epoch and step.
    """
    steps = {name: (checkpoint["epoch"], checkpoint["global_step"]) for name, checkpoint in checkpoints.items()}
    if len(set(steps.values())) > 1:
        raise ValueError(f"the trials must be at the same (epoch, step), but they are at {steps}")
    first, *_ = checkpoints.values()
    optimizers = {
        name: {"optimizer": checkpoint["optimizer_states"][0], "scheduler": checkpoint["lr_schedulers"][0]}
        for name, checkpoint in checkpoints.items()
    }
    averaging = {name: checkpoint[SAVED_KEY] for name, checkpoint in checkpoints.items() if SAVED_KEY in checkpoint}
    shared = {key: value for key, value in first.items() if key != SAVED_KEY}
    return {
        **shared,
        **({SAVED_KEY: averaging} if averaging else {}),
        "trials": list(checkpoints),
        "state_dict": {
            key: stack([checkpoint["state_dict"][key] for checkpoint in checkpoints.values()])
            for key in first["state_dict"]
        },
        "optimizer_states": [optimizers],
        "lr_schedulers": [],
    }
