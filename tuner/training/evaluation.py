"""The metrics of a trained network on the test data."""

import torch
import torch.utils.data
from pytorch_lightning.utilities.exceptions import SIGTERMException
from pytorch_lightning.utilities.model_helpers import is_overridden

from tuner.files import write_atomically
from tuner.protocol import Assignment, EvaluationResult
from tuner.training.build import build_data, build_module, build_trainer, network_of
from tuner.training.checkpoints import DamagedCheckpointError, load_tensors
from tuner.training.outcome import failed_result, lost_a_process
from tuner.training.predictions import Predictions
from tuner.training.results import MODEL_FILE, PREDICTIONS_FILE

__all__ = ["evaluate"]


def evaluate(assignment: Assignment, device: str) -> EvaluationResult:
    """Return the metrics of a trained network on the test data, or the error of their computation."""
    try:
        return EvaluationResult(_test_metrics(assignment, device))
    except SIGTERMException:
        raise
    except BaseException as error:  # damaged weights, a full disk, user code
        if lost_a_process(error):
            raise
        return EvaluationResult(message=failed_result(error, assignment.config).message)


def _test_metrics(assignment: Assignment, device: str) -> dict[str, float]:
    config = assignment.training
    module, data = build_module(config), build_data(config)
    if not is_overridden("test_step", module) or not is_overridden("test_dataloader", data):
        return {}
    weights = load_tensors(assignment.directory / MODEL_FILE)
    if weights.get("trial", config.digest) != config.digest:
        raise DamagedCheckpointError(f"{MODEL_FILE} belongs to other values of the trial")
    network_of(module).load_state_dict(weights["state_dict"])
    predictions = Predictions()
    trainer = build_trainer(config, device, assignment.directory, [predictions], None)
    (metrics,) = trainer.test(module, datamodule=data, verbose=False)
    write_atomically(assignment.directory / PREDICTIONS_FILE, lambda file: torch.save(predictions.tensors(), file))
    return dict(metrics)
