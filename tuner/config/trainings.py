"""Studies whose trials are training runs of Lightning."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from tuner.config import registry
from tuner.config.budget import longest_training
from tuner.config.class_weights import with_class_weights
from tuner.config.component import Component
from tuner.config.dataset_probe import DatasetProbe, limited
from tuner.config.kind import Kind
from tuner.config.optimization import lengths_of, resolve_all
from tuner.config.search_space import OneOf, Template, component_names, corners
from tuner.config.trial import AnyTrial, TrialConfig
from tuner.errors import BadInputError

__all__ = ["TRAININGS", "Trainings", "as_training"]


class Trainings(Kind):
    """Trials that are training runs."""

    trains: ClassVar[bool] = True
    noun: ClassVar[str] = "run"

    def trial_of(self, values: Mapping[str, Any], probe: DatasetProbe) -> TrialConfig:
        """Return a training run, its lengths in steps and its class weights as numbers."""
        values = with_class_weights(values, probe)
        if relative := lengths_of(values):
            values = resolve_all(values, probe.length(values))
        return TrialConfig.from_values(values, relative)

    def comparable(
        self, values: Mapping[str, Any], probe: DatasetProbe, with_length: bool
    ) -> tuple[Mapping[str, Any], Mapping[str, float]]:
        """Return the values of a training run with lengths in steps, and its length."""
        lengths: dict[str, float] = {}
        if with_length:
            length = probe.length(values)
            lengths = {"steps": length.steps, "epochs": length.epochs}
        # Not the values of a `TrialConfig`, which leaves out defaults.
        return (resolve_all(values, probe.length(values)) if lengths_of(values) else values), lengths

    def measure_data(self, template: Template, probe: DatasetProbe) -> tuple[list[tuple[str, str]], int | None]:
        """Fetch, load and measure the data sets."""
        infos = [(values["name"], probe.info(values)) for values in corners(template["data"])]
        for trainer in corners(template["trainer"]):
            needed = trainer.get("val_check_interval", 0) * trainer.get("accumulate_grad_batches", 1)
            for name, info in infos:
                if info.batches:
                    limited(info.batches, trainer.get("limit_train_batches"))
                if (
                    info.batches
                    and info.batches < needed
                    and not registry.accepted("data", name, {"batches_per_epoch": needed})
                ):
                    fault = f"the {needed} batches to the next validation are more than the {info.batches} of {name}"
                    raise BadInputError(
                        [f"trial.trainer.val_check_interval: {fault}; it would have to accept batches_per_epoch."]
                    )
        counts = [info.validation_images for _, info in infos if info.validation_images is not None]
        return [(name, info.digest) for name, info in infos], min(counts, default=None)

    def trainings(self, template: Template) -> list[dict[str, Any]]:
        """Return ``data`` and ``trainer`` at the corners of the search space."""
        return [
            {"data": data, "trainer": trainer}
            for data in corners(template["data"])
            for trainer in corners(template["trainer"])
        ]

    def families(self, template: Template) -> list[str]:
        """Return the names of the schedules that trials can have."""
        schedule = template["schedule"]
        return list(schedule.options) if isinstance(schedule, OneOf) else [schedule["name"]]

    def names(self, values: Mapping[str, Any]) -> Iterator[str]:
        """Yield the names of all components."""
        return component_names(values)

    def why_alone(self, template: Template) -> Mapping[str, bool]:
        """Return the reasons in its model and its trainer."""
        model, trainer = template["model"], template["trainer"]
        models = model.options if isinstance(model, OneOf) else [model["name"]]
        return {
            "the model is a LightningModule": all(registry.is_module(name) for name in models),
            "their callbacks watch a single run": bool(trainer.get("callbacks")),
            "max_time is the time of a single run": trainer.get("max_time") is not None,
        }

    def longest(self, template: Template, pruner: Component) -> int:
        """Return the epochs of the longest run."""
        return longest_training(template["trainer"])

    def why_not_divided(self, template: Template, ranks: int) -> str:
        """Return the reason: if a batch cannot be divided equally, each process would train all of it."""
        sizes = [data.get("batch_size", 0) for data in corners(template["data"])]
        odd = next((size for size in sizes if size % ranks), None)
        return "" if odd is None else f"a batch of {odd} cannot be divided equally among {ranks}"


TRAININGS = Trainings()


def as_training(trial: AnyTrial) -> TrialConfig:
    """Return a trial of a study whose trials are training runs.

    Raises:
        TypeError: If it is something else.
    """
    if not isinstance(trial, TrialConfig):
        raise TypeError(f"{type(trial).__name__} is not a training run")
    return trial
