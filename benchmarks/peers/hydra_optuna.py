"""Hydra with its Optuna sweeper, which instantiates modules as in lightning-hydra-template."""

import hydra
import pytorch_lightning as pl
from omegaconf import DictConfig
from work import loaders


@hydra.main(version_base="1.3", config_path=".", config_name="hydra_optuna")
def train(config: DictConfig) -> float:
    pl.seed_everything(config.seed, workers=True)
    callbacks = [hydra.utils.instantiate(callback) for callback in config.callbacks.values()]
    logger = hydra.utils.instantiate(config.logger)
    trainer = hydra.utils.instantiate(config.trainer, callbacks=callbacks, logger=logger)
    trainer.fit(hydra.utils.instantiate(config.model), *loaders())
    return trainer.callback_metrics["val/acc"].item()


if __name__ == "__main__":
    train()
