"""The section ``trainer`` of a trial: the length of its run, and arguments of Lightning's Trainer."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import Field

from tuner.config.budget import Million, Positive, evaluations, longest_training
from tuner.config.component import Component
from tuner.config.search_space import Choices, Range, highest, lowest
from tuner.text import parse_duration

__all__ = ["TrainerConfig", "epochs_of", "length_faults", "numbers_of"]

LATER = ("limit_train_batches", "check_val_every_n_epoch", "gradient_clip_algorithm", "max_time", "callbacks")
"""Arguments that earlier versions did not have: left out at their defaults, because digests depend on them."""


@dataclass(frozen=True)
class TrainerConfig:
    """Arguments of Lightning's Trainer.

    The length of a run is given in epochs or in steps. A trial is validated, reported, pruned and resumed at the end of
    an epoch; if the length is in steps, an epoch is `val_check_interval` steps.

    Args:
        max_epochs: Passes over the training data; or
        max_steps: optimizer steps, a multiple of `val_check_interval`.
        val_check_interval: Steps between validations, if the length is in steps.
        precision: Lightning's precision, or "auto": bf16-mixed if the device supports it, else 32-true.
        gradient_clip_val: Maximum gradient norm or value; None for no clipping.
        gradient_clip_algorithm: "norm" (default) clips the norm of the gradient, "value" each of its elements.
        accumulate_grad_batches: Batches whose gradients are accumulated for one step.
        limit_train_batches: Training batches in an epoch: a number, or a share of them; None for all.
        check_val_every_n_epoch: Epochs from one validation to the next.
        max_time: Training ends after the first epoch that ends later than this, such as 30m; None for no limit.
        callbacks: Lightning's and the user's callbacks.
    """

    max_epochs: Million = 0  # here and below, 0 means not given
    max_steps: Million = 0
    val_check_interval: Million = 0
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true"] = "auto"
    gradient_clip_val: Annotated[float, Field(gt=0)] | None = None
    accumulate_grad_batches: Positive = 1
    gradient_clip_algorithm: Literal["norm", "value"] | None = None
    limit_train_batches: Positive | Annotated[float, Field(gt=0, le=1)] | None = None
    check_val_every_n_epoch: Positive = 1
    max_time: str | int | float | None = None
    callbacks: Sequence[Component] = ()

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "TrainerConfig":
        """Read the section ``trainer`` of a trial."""
        callbacks = tuple(Component.from_values(each) for each in values.get("callbacks", ()))
        return cls(**{**values, "callbacks": callbacks})

    def values(self) -> dict[str, Any]:
        """Return the section as in a study file, without missing settings."""
        absent = ("max_steps", "val_check_interval") if self.max_epochs else ("max_epochs",)
        given = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in absent}
        defaults = {each.name: each.default for each in fields(self)}
        given = {key: value for key, value in given.items() if key not in LATER or value != defaults[key]}
        return given | ({"callbacks": [each.values() for each in self.callbacks]} if self.callbacks else {})

    @property
    def evaluations(self) -> int:
        """Return the number of epochs of a trial; at the end of each it can be pruned and resumed."""
        return evaluations(self.max_epochs, self.max_steps, self.val_check_interval)

    @property
    def batches(self) -> int | None:
        """Return the batches between validations of a run in steps; None for a whole pass over the data."""
        return self.val_check_interval * self.accumulate_grad_batches or None

    @property
    def most_batches(self) -> int | float | None:
        """Return the batches of an epoch, a number or a share of all; None for all."""
        return self.batches or self.limit_train_batches

    @property
    def seconds(self) -> float | None:
        """Return `max_time` in seconds."""
        return None if self.max_time is None else parse_duration(self.max_time)


def length_faults(trainer: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield key and message of each error in the length of a run, which is in epochs or in steps.

    Args:
        trainer: The template of the section.
    """
    epochs, steps, interval = (trainer.get(key) for key in ("max_epochs", "max_steps", "val_check_interval"))
    if epochs is not None and steps is not None:
        yield "max_steps", "remove it or max_epochs: give the length of a run in either epochs or steps."
    elif epochs is not None and interval is not None:
        yield "val_check_interval", "is for a length in steps; with max_epochs, write check_val_every_n_epoch."
    elif steps is not None and interval is None:
        yield "val_check_interval", "required by max_steps: the steps from one validation to the next."
    elif steps is not None:
        yield from _multiple_faults("max_steps", steps, "val_check_interval", interval)
        for key in ("limit_train_batches", "check_val_every_n_epoch"):
            if trainer.get(key) is not None:
                yield key, "is for a length in epochs; with max_steps, use val_check_interval."
    elif trainer.get("check_val_every_n_epoch") is not None:
        yield from _multiple_faults("max_epochs", epochs, "check_val_every_n_epoch", trainer["check_val_every_n_epoch"])


def _multiple_faults(key: str, length: Any, unit: str, interval: Any) -> Iterator[tuple[str, str]]:
    """Reject a run that does not end with a validation."""
    if isinstance(interval, Range):
        yield unit, f"must be a number or choices, of which {key} is a multiple."
        return
    for each in numbers_of(interval):
        if odd := [number for number in numbers_of(length) if number % each]:
            yield key, f"must be a multiple of {unit} ({each}), but can be {odd[0]}."


def numbers_of(spec: Any) -> Iterable[int]:
    """Return the possible whole numbers of a value, choices or a range; of a range, enough to find a common divisor."""
    if isinstance(spec, Range):
        return (int(spec.low), int(spec.low + (spec.step or 1)), int(spec.high))
    return [int(number or 0) for number in spec.values] if isinstance(spec, Choices) else [int(spec)]


def epochs_of(trainer: Mapping[str, Any]) -> tuple[int, int]:
    """Return the epochs of the shortest and of the longest run of a search space."""
    shortest, steps = (int(lowest(trainer.get(key, 0))) for key in ("max_epochs", "max_steps"))
    return evaluations(shortest, steps, int(highest(trainer.get("val_check_interval", 0)))), longest_training(trainer)
