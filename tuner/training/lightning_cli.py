"""A trial as a configuration of Lightning's LightningCLI: the content of `best.yaml`."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from lightning_modules import LOSSES, Lambda
from lightning_modules.evaluation import has_switch
from tuner.config import registry
from tuner.config.component import Component
from tuner.config.optimization import GroupConfig
from tuner.config.study import Objective
from tuner.config.trial import TrialConfig
from tuner.training.build import trainer_arguments

__all__ = ["as_trained", "lightning_config", "needs_evaluation_weights", "unannotated"]

_KINDS = ("model", "optimizer")


def lightning_config(
    config: TrialConfig, objective: Objective, setup: Mapping[str, Any], epochs: int = 0
) -> dict[str, Any]:
    """Return the configuration with which ``python -m lightning_modules fit --config ...`` trains the same trial.

    On a CPU, with the same number of threads, it ends with exactly the same weights.

    Args:
        config: The trial.
        objective: The study's objective; if it is the best epoch, that epoch's checkpoint is kept.
        setup: The stored `training_conditions` of the trial, which have its precision.
        epochs: Number of epochs that it was trained; 0 for the full run.
    """
    config = as_trained(config, setup, epochs)
    parts = {kind: _described(kind, getattr(config, kind)) for kind in _KINDS}
    parts |= {key: _described("schedule", schedule) for key, schedule in config.schedules.items()}
    averaging = {"averaging": _described("averaging", config.averaging)} if config.averaging else {}
    model = parts.pop("model")
    if registry.is_module(config.model.name):
        model["init_args"] |= {"optimizer": _torch_optimizer(config), "schedule": parts["schedule"]}
    else:
        if config.groups:
            parts["groups"] = {name: _group(config, group) for name, group in config.groups.items()}
        model = {
            "class_path": "lightning_modules.Classifier",
            "init_args": {"model": model, **parts, **_loss(config), **averaging},
        }
    data = _described("data", config.data)
    extra = {"seed": config.seed, "batches_per_epoch": config.trainer.batches}
    data["init_args"] |= registry.accepted("data", config.data.name, extra)
    callbacks = [{"class_path": "lightning_modules.EpochSeed", "init_args": {"seed": config.seed}}]
    if not registry.is_module(config.model.name):
        callbacks.append({"class_path": "lightning_modules.SeededDropout", "init_args": {"seed": config.seed}})
    callbacks += [_described("callback", callback) for callback in config.trainer.callbacks]
    if needs_evaluation_weights(config):
        callbacks.append({"class_path": "lightning_modules.EvaluationWeights", "init_args": averaging})
    if objective.epoch == "best":
        arguments = {"monitor": objective.metric, "mode": objective.direction.mode}
        callbacks.append({"class_path": "pytorch_lightning.callbacks.ModelCheckpoint", "init_args": arguments})
    trainer = {**trainer_arguments(config.trainer, "cpu"), "devices": 1, "callbacks": callbacks}
    return {"seed_everything": config.seed, "trainer": trainer, "model": model, "data": data}


def as_trained(config: TrialConfig, setup: Mapping[str, Any], epochs: int = 0) -> TrialConfig:
    """Return a trial as it was trained: with its precision in place of "auto", and its length in place of `max_time`.

    Args:
        config: The trial.
        setup: The stored `training_conditions` of the trial.
        epochs: Number of epochs that it was trained; 0 for the full run.
    """
    trainer = config.trainer
    changes: dict[str, Any] = {"precision": setup.get("precision") or trainer.precision}
    if trainer.max_time is not None and epochs:
        length = {"max_epochs": epochs} if trainer.max_epochs else {"max_steps": epochs * trainer.val_check_interval}
        changes |= {"max_time": None, **length}
    return dataclasses.replace(config, trainer=dataclasses.replace(trainer, **changes))


def unannotated(config: TrialConfig) -> list[str]:
    """Return those of `optimizer` and `schedule` that the ``__init__`` of a trial's own LightningModule leaves untyped.

    LightningCLI builds only arguments with a type annotation; others stay mappings.
    """
    if not registry.is_module(config.model.name):
        return []
    parameters = inspect.signature(registry.resolve("model", config.model.name)).parameters
    untyped = (inspect.Parameter.empty, Any, "Any")
    return [key for key in ("optimizer", "schedule") if key in parameters and parameters[key].annotation in untyped]


def needs_evaluation_weights(config: TrialConfig) -> bool:
    """Return whether a trial's own LightningModule needs the callback that evaluates an average of the weights."""
    optimizer = registry.sample_optimizer(config.optimizer.build("optimizer"))
    return registry.is_module(config.model.name) and (config.averaging is not None or has_switch(optimizer))


def _group(config: TrialConfig, group: GroupConfig) -> dict[str, Any]:
    """Return a group of parameters as the arguments of a `ParameterGroup`."""
    own = group.optimizer_of(config.optimizer)
    schedules = {key: _described("schedule", schedule) for key, schedule in group.schedules.items()}
    return {
        "parameters": group.parameters,
        **({"optimizer": _described("optimizer", own)} if own else {}),
        **schedules,
    }


def _loss(config: TrialConfig) -> dict[str, Any]:
    """Return loss and task as arguments of a `Classifier`."""
    task = {} if config.task is None else {"task": config.task}
    if config.loss is None or (not config.loss.arguments and config.loss.name in LOSSES):
        return {"loss": config.loss and config.loss.name, **task}
    described = _described("loss", config.loss)
    if registry.is_function(registry.resolve("loss", config.loss.name)):
        arguments = {"function": described["class_path"], "arguments": described["init_args"]}
        described = {"class_path": "lightning_modules.OwnLoss", "init_args": arguments}
    return {"loss": described, **task}


def _torch_optimizer(config: TrialConfig) -> dict[str, Any]:
    """Return the torch optimizer's class and arguments, as LightningCLI passes them to a module that builds it."""
    optimizer = registry.sample_optimizer(config.optimizer.build("optimizer"))
    known, cls = inspect.signature(type(optimizer)).parameters, type(optimizer)
    changed = {key: value for key, value in optimizer.defaults.items() if key in known and known[key].default != value}
    if config.trainer.gradient_clip_val is not None:
        changed.pop("fused", None)  # with it, Lightning does not clip torch's optimizers in mixed precision
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in changed.items()}
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": values}


def _described(kind: str, component: Component) -> dict[str, Any]:
    """Return a component as ``{class_path: ..., init_args: ...}``, including nested schedules."""
    target = registry.resolve(kind, component.name)
    path = f"{target.__module__}.{target.__qualname__}"
    if target.__module__.startswith("lightning_modules."):
        path = f"lightning_modules.{target.__qualname__}"
    arguments = component.map_arguments(
        kind, lambda hint, value: value, lambda schedule: _described("schedule", schedule)
    )
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in arguments.items()}
    if registry.is_torch_optimizer(target):
        values["lr"] = values.pop("initial_lr")
    if target is not Lambda:
        return {"class_path": path, "init_args": values}
    function = values.pop("function")  # LightningCLI takes arguments that the signature does not name apart
    return {"class_path": path, "init_args": {"function": function}, **({"dict_kwargs": values} if values else {})}
