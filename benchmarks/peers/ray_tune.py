"""Ray Tune with a Lightning trainable, one concurrent trial per core."""

from pathlib import Path

import pytorch_lightning as pl
import ray
import torch
from mlflow import MlflowClient
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers import MLFlowLogger
from ray import tune
from ray.tune.integration.pytorch_lightning import TuneReportCallback
from work import DECAY_RATES, EPOCHS, EXPERIMENT, LRS, UsualModule, loaders

HERE = Path.cwd()


def train(config: dict[str, float]) -> None:
    torch.set_num_threads(1)
    pl.seed_everything(0)
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        logger=MLFlowLogger(experiment_name=EXPERIMENT, tracking_uri=f"sqlite:///{HERE}/mlflow.db"),
        callbacks=[
            LearningRateMonitor(logging_interval="step"),
            TuneReportCallback({"acc": "val/acc"}, on="validation_end"),
        ],
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(UsualModule(**config), *loaders())


if __name__ == "__main__":
    # Here, because otherwise the first two trials would do so at once, and one of them would fail.
    MlflowClient(f"sqlite:///{HERE}/mlflow.db").create_experiment(EXPERIMENT)
    ray.init(include_dashboard=False)
    space = {"initial_lr": tune.grid_search(LRS), "decay_rate": tune.grid_search(DECAY_RATES)}
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space=space,
        run_config=tune.RunConfig(storage_path=str(HERE / "ray"), name=EXPERIMENT),
    )
    for result in tuner.fit():
        if result.error:
            raise result.error
