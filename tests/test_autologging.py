"""MLflow's autologging of trainings in the user's own Trainer."""

import os
from pathlib import Path

import pytest

from tests.launcher import Command

TRAINING = """
import mlflow, pytorch_lightning as pl
from lightning_modules import MNISTCNN, Adam, Classifier, CosineRestarts, MNIST5kDataModule

mlflow.pytorch.autolog(log_models=False)
network = MNISTCNN(channels=(4, 4, 4), hidden=(16, 8))
module = Classifier(network, Adam(initial_lr=1e-2), CosineRestarts(restart_period=20))
trainer = pl.Trainer(max_epochs=2, accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False)
with mlflow.start_run() as run:
    trainer.fit(module, datamodule=MNIST5kDataModule(batch_size=200))
client = mlflow.MlflowClient()
recorded = client.get_run(run.info.run_id).data
print(recorded.params["optimizer_name"], recorded.params["lr"], recorded.params["epochs"])
print(*(f"{key}:{len(client.get_metric_history(run.info.run_id, key))}" for key in sorted(recorded.metrics)))
print(*(artifact.path for artifact in client.list_artifacts(run.info.run_id)))
"""


@pytest.mark.slow
def test_it_records_a_classifier_s_optimizer_metrics_and_layers(tmp_path: Path):
    (tmp_path / "training.py").write_text(TRAINING)
    process = Command(  # it changes Lightning for the whole process
        "training", [], tmp_path, os.environ | {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
    )
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert output.splitlines()[-3:] == [
        "Adam 0.01 2",
        "train/acc:2 train/loss:2 val/acc:2 val/loss:2",
        "model_summary.txt",
    ]
