"""Write a trial as a standalone Python script that needs only torch, pytorch-lightning and lightning_modules."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lightning_modules import LOSSES
from tuner.config import registry
from tuner.config.annotations import converted
from tuner.config.component import Component
from tuner.config.optimization import GroupConfig
from tuner.config.study import Objective
from tuner.config.trial import CROSS_ENTROPY, TrialConfig
from tuner.training.build import trainer_arguments
from tuner.training.conditions import on_cpu
from tuner.training.lightning_cli import as_trained, needs_evaluation_weights

__all__ = ["network_expression", "own_modules", "training_script"]

KNOWN = {"functools", "lightning_modules", "pathlib", "pytorch_lightning", "torch", "torchvision"}

TEMPLATE = '''\
"""Train {title} again. Needs torch, pytorch-lightning and lightning_modules, nothing else of lr-tuner.{own}"""

{imports}

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)  # as in a study, without hints
warnings.filterwarnings("ignore", module="pytorch_lightning")
SEED = {seed}
torch.set_num_threads({threads})  # as in the trial: the rounding of sums depends on it
torch.manual_seed(SEED)  # for the initial weights
optimizer = {optimizer}
schedule = {schedule}
module = {module}
data = {data}
trainer = pl.Trainer(
    {trainer},
)
trainer.fit(module, datamodule=data)
{end}
'''
END = """\
torch.save({{"state_dict": {network}.state_dict()}}, "trained.ckpt")
print("{metric}", trainer.callback_metrics["{metric}"].item())"""
END_OF_BEST = """\
best = trainer.checkpoint_callback
module.load_state_dict(torch.load(best.best_model_path, weights_only=False)["state_dict"])  # of Lightning, just written
torch.save({{"state_dict": {network}.state_dict()}}, "trained.ckpt")
print("{metric}", best.best_model_score.item())"""


def training_script(
    config: TrialConfig, objective: Objective, setup: Mapping[str, Any], title: str, epochs: int = 0
) -> str:
    """Return the script that trains a trial again and prints the objective.

    Args:
        config: The trial.
        objective: The study's objective.
        setup: The stored `training_conditions` of the trial.
        title: Name of the trial.
        epochs: Number of epochs that it was trained; 0 for the full run.
    """
    config = as_trained(config, setup, epochs)
    used: dict[str, set[str]] = {"lightning_modules": {"EpochSeed"}}
    is_module, is_best = registry.is_module(config.model.name), objective.epoch == "best"
    parts = {kind: _call(kind, getattr(config, kind), used) for kind in ("optimizer", "schedule")}
    further = {"seed": "SEED"} | ({"batches_per_epoch": str(batches)} if (batches := config.trainer.batches) else {})
    parts["data"] = _call("data", config.data, used, registry.accepted("data", config.data.name, further))
    averaging = _call("averaging", config.averaging, used) if config.averaging else ""
    if is_module:
        parts["module"] = _call("model", config.model, used, {name: name for name in ("optimizer", "schedule")})
    else:
        used["lightning_modules"].add("Classifier")
        further = {} if config.loss in (None, CROSS_ENTROPY) else {"loss": _loss(config.loss, used)}
        further |= {} if config.task is None else {"task": _literal(config.task)}
        further |= {key: _call("schedule", each, used) for key, each in config.schedules.items() if key != "schedule"}
        if config.groups:
            groups = {name: _group(config, group, used) for name, group in config.groups.items()}
            further["groups"] = f"{{{', '.join(f'{_literal(name)}: {group}' for name, group in groups.items())}}}"
        if averaging:
            further["averaging"] = averaging
        network = _call("model", config.model, used)
        given = "".join(f", {key}={value}" for key, value in further.items())
        parts["module"] = f"Classifier({network}, optimizer, schedule{given})"
    if config.trainer.precision == "64-true":
        parts["module"] += ".double()"
    settings = {
        "accelerator": "cpu" if on_cpu(setup) else "gpu",
        "devices": 1,
        **trainer_arguments(config.trainer, "cpu"),
        "precision": config.trainer.precision,
        "logger": False,
        "enable_checkpointing": is_best,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    usual = {"limit_train_batches": None, "gradient_clip_val": None, "accumulate_grad_batches": 1}
    lines = [f"{key}={_literal(value)}" for key, value in settings.items() if key not in usual or value != usual[key]]
    callbacks = ["EpochSeed(SEED)"]
    if not is_module:
        used["lightning_modules"].add("SeededDropout")
        callbacks.append("SeededDropout(SEED)")
    callbacks += [_call("callback", each, used) for each in config.trainer.callbacks]
    if needs_evaluation_weights(config):
        used["lightning_modules"].add("EvaluationWeights")
        callbacks.append(f"EvaluationWeights({averaging})")
    if is_best:
        used["pytorch_lightning.callbacks"] = {"ModelCheckpoint"}
        monitored = f'monitor={_literal(objective.metric)}, mode="{objective.direction.mode}"'
        callbacks.append(f'ModelCheckpoint(".", "best", {monitored})')
    own = _own(used)
    return TEMPLATE.format(
        title=title,
        own=f"\n\nAnd {', '.join(own)}, which must be next to this file or on PYTHONPATH.\n" if own else "",
        imports=_imports(used),
        seed=config.seed,
        threads=setup.get("threads", 1),
        trainer=",\n    ".join([*lines, f"callbacks=[{', '.join(callbacks)}]"]),
        end=(END_OF_BEST if is_best else END).format(
            metric=objective.metric, network="module" if is_module else "module.model"
        ),
        **parts,
    )


def network_expression(config: TrialConfig) -> tuple[str, str]:
    """Return an expression that builds the network of a trial's weights, after the import lines that it needs."""
    used: dict[str, set[str]] = {}
    further = {}
    if registry.is_module(config.model.name):
        further = {kind: _call(kind, getattr(config, kind), used) for kind in ("optimizer", "schedule")}
    text = _call("model", config.model, used, further)
    return "\n".join(_from(used)), text


def own_modules(config: TrialConfig) -> list[str]:
    """Return the full names of the modules of a trial's components, except those that all trials need."""
    used: dict[str, set[str]] = {}
    for kind in ("model", "data", "optimizer"):
        _call(kind, getattr(config, kind), used)
    for schedules in (config.schedules, *(group.schedules for group in config.groups.values())):
        for schedule in schedules.values():
            _call("schedule", schedule, used)
    if config.averaging:
        _call("averaging", config.averaging, used)
    for callback in config.trainer.callbacks:
        _call("callback", callback, used)
    if config.loss:
        _loss(config.loss, used)
    return sorted(module for module in used if _package(module) not in KNOWN)


def _group(config: TrialConfig, group: GroupConfig, used: dict[str, set[str]]) -> str:
    """Return the expression that builds a group of parameters, and add its names to `used`."""
    used["lightning_modules"].add("ParameterGroup")
    own = group.optimizer_of(config.optimizer)
    arguments = {"parameters": _literal(group.parameters)}
    arguments |= {"optimizer": _call("optimizer", own, used)} if own else {}
    arguments |= {key: _call("schedule", schedule, used) for key, schedule in group.schedules.items()}
    return f"ParameterGroup({', '.join(f'{key}={value}' for key, value in arguments.items())})"


def _loss(loss: Component, used: dict[str, set[str]]) -> str:
    """Return the expression of a loss, and add its names to `used`."""
    if loss.name in LOSSES and not loss.arguments:
        return _literal(loss.name)
    text = _call("loss", loss, used)
    if not registry.is_function(registry.resolve("loss", loss.name)):
        return text
    name, _, arguments = text.removesuffix(")").partition("(")
    used.setdefault("functools", set()).update(["partial"] if arguments else [])
    return f"partial({name}, {arguments})" if arguments else name


def _own(used: Mapping[str, set[str]]) -> list[str]:
    return sorted({_package(module) for module in used} - KNOWN)


def _package(module: str) -> str:
    return module.partition(".")[0]


def _from(used: Mapping[str, set[str]]) -> list[str]:
    return [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(used.items())]


def _imports(used: Mapping[str, set[str]]) -> str:
    """Return the import lines, standard library first."""
    lines = ["import pytorch_lightning as pl", "import torch", *_from(used)]
    standard = [line for line in lines if line.startswith(("from functools", "from pathlib"))]
    others = [line for line in lines if line not in standard]
    return "\n".join(["import logging", "import warnings", *standard, "", *others])


def _call(
    kind: str, component: Component, used: dict[str, set[str]], further: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Return the expression that builds a component with additional arguments, and add its names to `used`."""
    target = registry.resolve(kind, component.name)

    def plain(hint: Any, value: Any) -> str:
        made = converted(hint, value)
        if isinstance(made, Path):
            used.setdefault("pathlib", set()).add("Path")
            return f"Path({_literal(str(made))})"
        return _literal(made)

    arguments = component.map_arguments(kind, plain, lambda schedule: _call("schedule", schedule, used))
    arguments = {
        key: f"({', '.join(value)},)" if isinstance(value, tuple) else value for key, value in arguments.items()
    }
    arguments |= further
    module = "lightning_modules" if target.__module__.startswith("lightning_modules.") else target.__module__
    name, _, inner = target.__qualname__.partition(".")
    used.setdefault(module, set()).add(name)
    called = f"{name}.{inner}" if inner else name
    if registry.is_torch_optimizer(target):
        used.setdefault("functools", set()).add("partial")
        arguments["lr"] = arguments.pop("initial_lr")
        return f"partial({', '.join([called, *(f'{key}={value}' for key, value in arguments.items())])})"
    return f"{called}({', '.join(f'{key}={value}' for key, value in arguments.items())})"


def _literal(value: Any) -> str:
    """Return a plain value as a Python literal, with double quotes."""
    text = repr(value)
    return f'"{text[1:-1]}"' if isinstance(value, str) and text.startswith("'") and '"' not in value else text
