"""Write a trial of a study as a folder."""

import contextlib
from pathlib import Path

from tuner.errors import BadInputError, StudyFailedError, in_a_line, place_of
from tuner.followup.model_card import write_model
from tuner.interrupts import temporary_folder
from tuner.storage.inventory import comparisons
from tuner.storage.reader import open_study
from tuner.storage.stored_study import StoredStudy
from tuner.storage.trial_ends import state_of, value_of
from tuner.text import join_names
from tuner.tracking.reader import MlflowStudy

__all__ = ["export"]


def export(
    study: str, storage: str, uri: str, number: int | None = None, output: Path | None = None
) -> tuple[Path, list[str]]:
    """Write a trial as a folder: configuration, weights, lr table, training script, own modules, model card.

    Args:
        study: Name of a study that was run, or its study file.
        storage: URL of Optuna's database.
        uri: MLflow's store.
        number: The trial; by default the best.
        output: The folder to create; by default ``<study>-<number>``.

    Returns:
        The folder, and notes: the winners of confirmations, if they are others than the best trial; the study's own
        modules that have changed since the trial; and how the values of a trial that had to be trained again differ
        from those in the study.

    Raises:
        BadInputError: If there is no such study or trial, or the folder exists or cannot be created.
        StudyFailedError: If the trial cannot be exported.
    """
    past = StoredStudy.load(study, storage)
    past.config.check_trains("export writes a trained network")
    trial = past.trial(number)
    if value_of(trial) is None:
        raise BadInputError([f"--trial: #{trial.number} is {state_of(trial)}: it did not run to completion."])
    if held := [name.partition(":")[2] for name in past.config.held]:
        it = "it" if len(held) == 1 else "them"
        reason = f"a training script can import only from modules; put {it} into one, and run the study again"
        verb = "was" if len(held) == 1 else "were"
        raise BadInputError([f"{study}: {join_names(held)} {verb} sent to the training processes by value: {reason}."])
    to = output or Path(f"{past.config.name}-{trial.number}")
    try:
        is_there = to.exists()
    except OSError as error:  # such as a name that is too long
        raise BadInputError([f"--output: {to}: cannot be written ({error.strerror})."]) from error
    if is_there:
        raise BadInputError([f"--output: {to} already exists; name another folder."])
    rates = MlflowStudy(uri, past.identifier).points(trial.number).get("lr", ())
    with contextlib.ExitStack() as stack:
        try:
            temporary = stack.enter_context(temporary_folder(to.absolute().parent, ".tuner-"))
        except OSError as error:
            raise BadInputError([f"--output: {to}: cannot be written ({error.strerror})."]) from error
        try:
            folder = temporary / "export"
            folder.mkdir()
            notes = write_model(folder, past, trial, rates)
            folder.rename(to)
        except OSError as error:  # from the disk, the stores, or the trial's own data
            reason = f"{in_a_line(error)}{place_of(error)}"
            raise StudyFailedError(f"trial #{trial.number} cannot be exported: {reason}") from error
    return to, [*(_other_winners(past, trial.number) if number is None else ()), *notes]


def _other_winners(past: StoredStudy, best: int) -> list[str]:
    """Return a note for every confirmation in which another configuration than the study's best has the best mean."""
    with open_study(past.storage, past.config.name) as study:
        found = comparisons(study)
    numbers = {trial.name: trial.number for trial in past.record.ranking}
    notes = []
    for name, comparison in found.items():
        winner = comparison.ranking[0].name if comparison.ranking else ""
        other = numbers.get(winner)
        if not winner or other == best:
            continue
        how = "which is no trial of this study" if other is None else f"which --trial {other} exports"
        notes.append(f"#{best}, the best of the search, is exported; in {name}, {winner} has the best mean, {how}")
    return notes
