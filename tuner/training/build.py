"""Build the data, module and Trainer of a trial; no other module builds a Trainer."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.callbacks import Checkpoint, Timer
from pytorch_lightning.loggers.logger import Logger

from lightning_modules import Averaging, Classifier
from lightning_modules.callbacks import seed_everywhere
from lightning_modules.losses import the_loss
from lightning_modules.tasks import Task
from tuner.config import registry
from tuner.config.optimization import build_optimization
from tuner.config.trainer import TrainerConfig
from tuner.config.trial import TrialConfig
from tuner.training import distributed
from tuner.training.checkpoints import AtomicCheckpointIO
from tuner.training.real_metrics import RealMetrics
from tuner.training.stop_iteration import StopIterationProfiler, convert_stop_iterations_of_data

__all__ = [
    "build_averaging",
    "build_callbacks",
    "build_classifiers",
    "build_data",
    "build_model",
    "build_module",
    "build_trainer",
    "network_of",
    "resolve_precision",
    "trainer_arguments",
]


def build_model(config: TrialConfig, weights: Mapping[str, Any]) -> torch.nn.Module:
    """Return a trial's network, or its LightningModule, with the weights of its `MODEL_FILE`."""
    model = network_of(build_module(config))
    model.load_state_dict(weights["state_dict"])
    return model


def network_of(module: pl.LightningModule) -> torch.nn.Module:
    """Return the module whose weights a trial saves: the network of a `Classifier`, or the user's LightningModule."""
    return module.model if type(module) is Classifier else module


def build_data(config: TrialConfig, seed: int | tuple[int, ...] | None = None) -> pl.LightningDataModule:
    """Return a trial's data; with several seeds, the data of trials that are trained as one model."""
    seed = config.seed if seed is None else seed
    data: pl.LightningDataModule = config.data.build("data", seed=seed, batches_per_epoch=config.trainer.batches)
    return data


def build_averaging(config: TrialConfig) -> Averaging | None:
    """Return a trial's average of the weights; None for none."""
    averaging: Averaging | None = config.averaging.build("averaging") if config.averaging else None
    return averaging


def build_callbacks(config: TrialConfig) -> list[pl.Callback]:
    """Return a trial's own callbacks and, if its time is limited, the one that ends it at the end of an epoch."""
    callbacks: list[pl.Callback] = [each.build("callback") for each in config.trainer.callbacks]
    if config.trainer.seconds is not None:
        callbacks.append(Timer(timedelta(seconds=config.trainer.seconds), interval="epoch", verbose=False))
    return callbacks


def build_module(config: TrialConfig, network: torch.nn.Module | None = None, loss: Any = None) -> pl.LightningModule:
    """Return the module to train: a `Classifier` of the trial's network, or its model if that is a LightningModule.

    Args:
        config: The trial.
        network: A network that was built with the same seed; None to build one.
        loss: A loss that was built before; None to build one.
    """
    seed_everywhere(config.seed)  # the initial weights
    made = build_optimization(config.optimizer, config.schedules, config.groups)
    if registry.is_module(config.model.name):
        module: pl.LightningModule = config.model.build("model", optimizer=made.optimizer, schedule=made.schedule)
    else:
        if network is None:
            network = config.model.build("model")
        module = Classifier(
            network,
            made.optimizer,
            made.schedule,
            loss or _built_loss(config),
            momentum_schedule=made.momentum_schedule,
            weight_decay_schedule=made.weight_decay_schedule,
            groups=made.groups,
            averaging=build_averaging(config),
            task=config.task,
        )
    # Lightning itself converts after it has restored a checkpoint, whose values would be rounded.
    return module.double() if config.trainer.precision == "64-true" else module


def _built_loss(config: TrialConfig) -> Any:
    return config.loss.build("loss") if config.loss else "cross_entropy"


def task_of(config: TrialConfig) -> Task:
    """Return the task of a trial's classifier, which its loss decides if the trial does not say it."""
    return the_loss(_built_loss(config), config.task)[1]


def build_classifiers(configs: Sequence[TrialConfig]) -> list[Classifier]:
    """Return a classifier for each trial, with one loss; trials of one seed share a network, which is slow to build."""
    networks: dict[int, torch.nn.Module] = {}
    classifiers, loss = [], _built_loss(configs[0])
    for config in configs:
        classifier = cast(Classifier, build_module(config, networks.get(config.seed), loss))
        networks[config.seed] = classifier.model
        classifiers.append(classifier)
    return classifiers


def build_trainer(
    config: TrialConfig,
    device: str,
    directory: Path,
    callbacks: list[pl.Callback],
    logger: Logger | None,
    checkpoints: AtomicCheckpointIO | None = None,
    **changes: Any,
) -> pl.Trainer:
    """Return the Trainer of a trial.

    Args:
        config: The trial.
        device: "cpu" or "cuda".
        directory: The trial's directory.
        callbacks: The training's callbacks.
        logger: The training's logger; None for none.
        checkpoints: Writes and reads checkpoints; None for `AtomicCheckpointIO`.
        changes: Arguments of the Trainer that replace those of the trial.
    """
    trainer = pl.Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=distributed.world_size(),
        strategy=distributed.SplitBatchDDPStrategy() if distributed.world_size() > 1 else "auto",
        **{**trainer_arguments(config.trainer, device), **changes},
        callbacks=[RealMetrics(), *callbacks],
        logger=logger or False,
        plugins=[checkpoints or AtomicCheckpointIO(), LightningEnvironment()],  # else Lightning takes over a Slurm job
        default_root_dir=directory,
        enable_checkpointing=any(isinstance(each, Checkpoint) for each in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        profiler=StopIterationProfiler(),
    )
    # Lightning would end a run in the middle of an epoch at SIGTERM; the coordinator handles signals instead.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    convert_stop_iterations_of_data(trainer)
    return trainer


def trainer_arguments(config: TrainerConfig, device: str) -> dict[str, Any]:
    """Return the arguments of Lightning's Trainer that depend on the trial alone, without its callbacks.

    Raises:
        ValueError: If the device lacks the precision, for which Lightning would take another one.
    """
    if config.precision == "16-mixed" and device != "cuda":
        raise ValueError('precision "16-mixed" needs a GPU: use "bf16-mixed"')
    every, algorithm = config.check_val_every_n_epoch, config.gradient_clip_algorithm
    return {
        "max_epochs": config.evaluations,
        "limit_train_batches": config.most_batches,
        **({"check_val_every_n_epoch": every} if every != 1 else {}),
        "precision": resolve_precision(config.precision, device),
        "gradient_clip_val": config.gradient_clip_val,
        **({"gradient_clip_algorithm": algorithm} if algorithm else {}),
        "accumulate_grad_batches": config.accumulate_grad_batches,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
    }


def resolve_precision(precision: str, device: str) -> str:
    """Return the precision that "auto" means on a device: bf16-mixed if the hardware supports it, else 32-true."""
    if precision != "auto":
        return precision
    if device == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "32-true"
    return "bf16-mixed" if "avx512_bf16" in flags or "amx_bf16" in flags else "32-true"
