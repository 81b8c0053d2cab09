"""Lightning, Optuna and MLflow, combined as in their examples: a loop of trials in one process."""

import optuna
import pytorch_lightning as pl
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers import MLFlowLogger
from work import DECAY_RATES, EPOCHS, EXPERIMENT, LRS, URI, UsualModule, loaders


def objective(trial: optuna.Trial) -> float:
    initial_lr = trial.suggest_categorical("initial_lr", LRS)
    decay_rate = trial.suggest_categorical("decay_rate", DECAY_RATES)
    pl.seed_everything(trial.number)
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        logger=MLFlowLogger(experiment_name=EXPERIMENT, tracking_uri=URI),
        callbacks=[LearningRateMonitor(logging_interval="step")],
        log_every_n_steps=1,
        enable_checkpointing=False,
    )
    trainer.fit(UsualModule(initial_lr, decay_rate), *loaders())
    return trainer.callback_metrics["val/acc"].item()


if __name__ == "__main__":
    grid = {"initial_lr": LRS, "decay_rate": DECAY_RATES}
    study = optuna.create_study(
        study_name=EXPERIMENT,
        storage="sqlite:///optuna.db",
        direction="maximize",
        sampler=optuna.samplers.GridSampler(grid, seed=0),
    )
    study.optimize(objective, n_trials=len(LRS) * len(DECAY_RATES))
