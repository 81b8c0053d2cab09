"""A few steps of a trial, to find errors early."""

from collections.abc import Mapping

from pytorch_lightning.utilities.exceptions import SIGTERMException

from tuner.config.objectives import MEASURED
from tuner.config.trial import TrialConfig
from tuner.files import DiskFullError
from tuner.protocol import Assignment, Channel, Decision, EpochReport, RehearsalResult, StepReport
from tuner.text import join_names
from tuner.training.outcome import failed_result, lost_a_process
from tuner.training.saver import noted
from tuner.training.single_training import fit
from tuner.training.step_check import StepCheck

__all__ = ["REHEARSED_EPOCHS", "REHEARSED_STEPS", "rehearse"]

REHEARSED_STEPS, REHEARSED_EPOCHS = 3, 10


class _RehearsalChannel:
    """The channel of a rehearsal: it ends the training when all objectives were logged, after two epochs or more."""

    def __init__(self, channel: Channel, assignment: Assignment) -> None:
        self._channel = channel
        self._metric = assignment.objective.metric
        self._awaited = {self._metric, *(each.metric for each in assignment.further)} - MEASURED.keys()

    def report(self, reports: Mapping[int, EpochReport]) -> dict[int, Decision]:
        return {number: self._decide(report) for number, report in reports.items()}

    def _decide(self, report: EpochReport) -> Decision:
        if report.value is not None:  # the further objectives count in an epoch that logs the first one
            self._awaited -= {self._metric, *(key for key, _, _ in report.points)}
        return "prune" if not self._awaited and report.epoch > 1 else "forget" if report.is_last else "continue"

    def progress(self, number: int, report: StepReport) -> None:
        pass

    def fuse_at_most(self, count: int, reason: str) -> None:
        pass

    def note(self, text: str) -> None:
        self._channel.note(text)


def rehearse(assignment: Assignment, channel: Channel, device: str) -> RehearsalResult:
    """Train a few steps of a trial, validate one batch, and save and load a checkpoint, to find errors early."""
    config = assignment.training
    check = StepCheck()
    batches = min(REHEARSED_STEPS * config.trainer.accumulate_grad_batches, config.trainer.batches or 2**31)
    length = {
        "max_epochs": min(config.trainer.evaluations, REHEARSED_EPOCHS),
        "limit_train_batches": batches,
        "limit_val_batches": 1,
        "check_val_every_n_epoch": 1,
    }
    try:
        result = fit(assignment, _RehearsalChannel(channel, assignment), device, 0.0, [check], **length)
    except SIGTERMException:
        raise
    except BaseException as error:  # from user code
        if isinstance(error, DiskFullError) or lost_a_process(error):
            raise
        result = failed_result(error, config)
    has_failed = result.state == "failed"
    if has_failed and not result.traceback and config.trainer.evaluations > REHEARSED_EPOCHS:
        has_failed = False  # a later epoch may log the objective
        note = noted(assignment, channel)
        note(f"will fail if its later epochs are like the first {REHEARSED_EPOCHS}: {result.message}")
    if not check.is_finite:
        channel.note(f"{config.data.name} has NaN or infinite values in its first batches")
    if not has_failed and (missing := _missing(check, config)):
        channel.note(missing)
    return RehearsalResult(result.message if has_failed else "", check.parameters, check.seconds)


def _missing(check: StepCheck, config: TrialConfig) -> str:
    """Return that the best network will not be tested or registered, and why; empty if it will."""
    needed = {
        f"{config.data.name} has no test_dataloader": check.has_test_data,
        f"{config.model.name} has no test_step": check.has_test_step,
    }
    if missing := [text for text, is_there in needed.items() if not is_there]:
        text = "the best trial will not be tested, and its network not registered in MLflow"
        return f"{text}: {join_names(missing)}"
    if not check.has_forward:
        return f"the network of the best trial will not be registered in MLflow: {config.model.name} has no forward"
    return ""
