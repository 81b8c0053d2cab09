"""Cost of recording every step's lr: seconds of the same run with different loggers.

Three contenders take turns to train the reference CNN on MNIST-5k in this process, in a new order each round:

- off: no logger;
- tuner: the history and the reports of a trial, written to MLflow by the tracker's thread (in a study that thread runs
  in another process, so this is the worse case);
- lightning: Lightning's `MLFlowLogger` and `LearningRateMonitor`, at every step.

All write to an SQLite file. "after" is the time to write the remaining records after the training.

Run it on an idle machine:  python benchmarks/logging_cost.py --threads 1 --rounds 5
"""

import argparse
import logging
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers import Logger, MLFlowLogger

from lightning_modules import MNISTCNN, Adam, Classifier, ExponentialDecay, MNIST5kDataModule
from tuner.config.loader import load_study
from tuner.config.study import Objective
from tuner.config.trial import TrialConfig
from tuner.protocol import Decision, EpochReport, TrialResult
from tuner.tracking.tracker import Tracker
from tuner.training.history import History
from tuner.training.reporter import Reporter

EPOCHS = 2


def fit(logger: Logger | bool, callbacks: list[pl.Callback]) -> float:
    """Return the duration of a run, in seconds."""
    torch.manual_seed(0)
    schedule = ExponentialDecay(decay_rate=0.96, decay_steps=20)
    module = Classifier(MNISTCNN(), Adam(initial_lr=1e-3), schedule)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        logger=logger,
        callbacks=callbacks,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    began = time.perf_counter()
    trainer.fit(module, datamodule=MNIST5kDataModule(batch_size=50))
    return time.perf_counter() - began


def off(folder: Path) -> tuple[float, float]:
    return fit(False, []), 0.0


def tuner(folder: Path) -> tuple[float, float]:
    study = load_study(str(Path(__file__).parent / "four_schedules.yaml"))
    values = {kind: {"name": name} for kind, name in (("data", "mnist_5k"), ("model", "mnist_cnn"))}
    trial = TrialConfig.from_values(
        {
            **values,
            "optimizer": {"name": "adam", "initial_lr": 1e-3},
            "schedule": {"name": "exponential", "decay_rate": 0.96, "decay_steps": 20},
            "trainer": {"max_epochs": EPOCHS},
            "seed": 0,
        }
    )
    tracker = Tracker(study, f"sqlite:///{folder / 'mlflow.db'}", "benchmark", print)
    tracker.start_trial(0, trial)
    history = History(folder)

    def report(report: EpochReport) -> Decision:
        tracker.log_points(0, report.points)
        return "continue"

    reporter = Reporter(Objective(), history, report, progress=lambda step: None, save=lambda epoch, must: None)
    seconds = fit(history, [reporter])
    began = time.perf_counter()
    tracker.finish_trial(0, trial, TrialResult("complete", reporter.value, EPOCHS, seconds, points=history.points))
    tracker.close("FINISHED")
    return seconds, time.perf_counter() - began


def lightning(folder: Path) -> tuple[float, float]:
    logger = MLFlowLogger("benchmark", tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    return fit(logger, [LearningRateMonitor("step")]), 0.0


CONTENDERS: dict[str, Callable[[Path], tuple[float, float]]] = {"off": off, "tuner": tuner, "lightning": lightning}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    after: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    rng = random.Random(0)
    for _ in range(options.rounds):
        for name in rng.sample(list(CONTENDERS), len(CONTENDERS)):
            with tempfile.TemporaryDirectory() as folder:
                during, rest = CONTENDERS[name](Path(folder))
            seconds[name].append(during)
            after[name].append(rest)
    print(f"{options.threads} thread(s), {options.rounds} rounds, {EPOCHS} epochs, torch {torch.__version__}\n")
    print("| | median s | lowest | highest | median of the ratio to off | median s after |")
    print("|---|---|---|---|---|---|")
    for name, values in seconds.items():
        ratio = statistics.median(value / base for value, base in zip(values, seconds["off"], strict=True))
        low, middle, high = min(values), statistics.median(values), max(values)
        rest = statistics.median(after[name])
        print(f"| {name} | {middle:.2f} | {low:.2f} | {high:.2f} | {ratio:.3f} | {rest:.2f} |")


if __name__ == "__main__":
    main()
