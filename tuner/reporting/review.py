"""Update plots, report and best model of a study in MLflow, in a process of the fork server.

The coordinator starts it at intervals and does not wait for it. While trials are training, it has the lowest priority,
so it uses only idle CPU time. It reads the stores, except for the best trial's configuration, which the coordinator
passes on from the study file: names of classes are never taken from a store.
"""

import contextlib
import copy
import hashlib
import multiprocessing
import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.analysis.record import MIN_FOR_IMPORTANCE
from tuner.engines.fork_server import ForkedCall, PreparedProcess, how_it_ended
from tuner.engines.machine import cores
from tuner.errors import BadInputError, StudyFailedError, TunerError, in_a_line
from tuner.interrupts import die_with_parent
from tuner.storage.folders import OBJECTS_FILE, open_own
from tuner.storage.reader import IMPORTANCES
from tuner.text import pluralize
from tuner.tracking.pages import REPORT

if TYPE_CHECKING:
    from multiprocessing.context import ForkProcess

    import torch
    from pytorch_lightning import LightningDataModule

    from tuner.analysis.comparison import Comparison
    from tuner.analysis.record import StudyRecord
    from tuner.tracking.reader import MlflowStudy
    from tuner.visualization.figure import Figure

__all__ = ["Review", "state_of", "state_of_trials", "update"]

LOG_FILE = "review.log"
PRELOAD = "tuner.reporting.preload"
MOST_PROCESSES = 4  # that draw plots
ENVIRONMENT = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # the coordinator sets 0, because its tracker retries itself
}


class Review:
    """Keeps plots and report in MLflow up to date while a study runs, and adds the best model at the end.

    Args:
        storage: URL of Optuna's database.
        study: Name of the study.
        uri: MLflow's tracking URI.
        directory: Folder for its log.
    """

    EVERY_SECONDS = 180.0
    SHARE = 0.04
    """Largest share of the time that it draws while trials are training."""

    seconds = 10.0
    """How long the last update took; before the first one, about as long as it takes on two cores."""

    def __init__(self, storage: str, study: str, uri: str, directory: Path) -> None:
        objects = str(directory / OBJECTS_FILE)
        self._request = {"storage": storage, "study": study, "uri": uri, "objects": objects}
        self._log = directory / LOG_FILE
        self._call: ForkedCall[tuple[list[str], float]] | None = None
        self._prepared: PreparedProcess | None = None
        self._began = 0.0
        self._next = time.monotonic() + self.EVERY_SECONDS

    def prepare(self, trials: int) -> None:
        """Start the process of the last update: its imports take longer than the update.

        Args:
            trials: Number of the study's trials.
        """
        importances = (IMPORTANCES,) if trials >= MIN_FOR_IMPORTANCE else ()
        with contextlib.suppress(TunerError):  # the last update works without it
            self._prepared = PreparedProcess(PRELOAD, *importances)

    def refresh(self) -> None:
        """Start an update, unless one is running or was done recently."""
        now = time.monotonic()
        if self._call is not None and not self._call.is_running:
            with contextlib.suppress(StudyFailedError):  # it may have ended long ago, so it has measured its time
                _, self.seconds = self._call.result()
            self._next = max(self._next, self._began + self.seconds / self.SHARE)
            self.end_update()
        if self._call is None and now >= self._next:
            self._began, self._next = now, now + self.EVERY_SECONDS
            with contextlib.suppress(OSError, TunerError):  # a later update may succeed
                self._start({})

    def finish(self, best: Mapping[str, Any] | None, state: str) -> list[str]:
        """Log and register the best model, and update plots and report a last time.

        Args:
            best: Number, configuration and directory of the best trial; None if there is none.
            state: The study's state, which is stored in MLflow when everything was written; see `state_of`.

        Returns:
            Messages for the user.
        """
        self.end_update()
        try:
            notes, _ = self._start({"best": best, "state": state}, self._prepared).result()
        except StudyFailedError as error:
            why = str(error).rstrip(".")
            return [f"the plots and the report in MLflow are incomplete: {why} (see {self._log})"]
        except (OSError, BadInputError) as error:
            return [f"the plots and the report in MLflow are incomplete: {error}"]
        else:
            return notes
        finally:
            self.close()

    def close(self) -> None:
        """Kill a running update, and the process that is prepared for the last one."""
        self.end_update()
        if self._prepared is not None:
            self._prepared.kill()
            self._prepared = None

    def end_update(self) -> None:
        """Kill a running update."""
        if self._call is not None:
            self._call.kill()
            self._call = None

    def _start(
        self, more: Mapping[str, Any], process: PreparedProcess | None = None
    ) -> ForkedCall[tuple[list[str], float]]:
        os.close(open_own(self._log))  # it can be written
        self._call = ForkedCall(_logged_update, {**self._request, **more}, self._log, process=process)
        return self._call


def state_of(record: "StudyRecord", comparisons: "Mapping[str, Comparison]") -> str:
    """Return a description of what plots, report and model show, to see later whether it has changed.

    It begins with `state_of_trials`.

    Args:
        record: The study.
        comparisons: The comparisons of its confirmations and final runs, by their names.
    """
    return f"{state_of_trials(record)}, {_digest([*record.answer, comparisons])}"


def state_of_trials(record: "StudyRecord") -> str:
    """Return the part of the state that the trials of the study determine, without further runs."""
    content = [
        (trial.number, trial.state, trial.value, trial.further, sorted(trial.params.items())) for trial in record.trials
    ]
    which = f"#{record.best.number} tested" if record.best and record.test else "none tested"
    return f"{pluralize(len(content), 'trial')}, {which}, {_digest(content)}"


def _digest(content: object) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()[:12]  # a restored database may have as many trials


def _logged_update(request: Mapping[str, Any], log: Path) -> tuple[list[str], float]:
    """Carry out a request with all output in a log, and with the lowest priority if it is not the last one.

    Returns:
        Messages for the user, and how many seconds it took.
    """
    began = time.monotonic()
    os.setsid()
    output = open_own(log)
    os.truncate(output, 0)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.close(output)
    os.environ.update(ENVIRONMENT)
    if "state" not in request:
        os.nice(19)
    try:
        return update(request), time.monotonic() - began
    except Exception:
        traceback.print_exc()
        raise


def update(request: Mapping[str, Any]) -> list[str]:
    """Update plots and report of a study in MLflow, and add its best model if there is one in the request.

    Args:
        request: Where the study is: `storage`, `study`, `uri`, and the file `objects`; for the last update `best` and
            `state`, as `Review.finish` gets them.

    Returns:
        Messages for the user.
    """
    from tuner.config import by_value
    from tuner.reporting.page import Chapter, render
    from tuner.storage.inventory import comparisons, with_fresh_seeds
    from tuner.storage.reader import identifier_of, open_study, record_of
    from tuner.tracking.reader import REVIEWED_TAG, MlflowStudy
    from tuner.visualization.charts import draw

    with open_study(request["storage"], request["study"]) as study:
        tracked = MlflowStudy(request["uri"], identifier_of(study))
        record = with_fresh_seeds(record_of(study, tracked.curves), study)
        found = comparisons(study)
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        figures = draw(record)
        with _drawn(figures, folder / "plots"):
            if best := request.get("best"):
                with contextlib.suppress(FileNotFoundError):  # nothing is sent by value
                    by_value.unpack(Path(request["objects"]).read_bytes())
                notes = _with_best_model(best, record.name, tracked)
            (folder / REPORT).write_text(render([Chapter.of(record, tracked, figures, found)]), encoding="utf-8")
        tracked.add(folder)
    if request.get("state") and not notes:
        tracked.set_tag(REVIEWED_TAG, request["state"])
    return notes


@contextlib.contextmanager
def _drawn(figures: "Sequence[Figure]", folder: Path) -> Iterator[None]:
    """Draw the plots of a study, those with panels, into a new folder, in processes of their own while the block runs.

    Raises:
        StudyFailedError: If they cannot be drawn; the log has the reason.
    """
    folder.mkdir()
    plots = [
        (folder / f"{index}_{figure.name}.png", figure)
        for index, figure in enumerate(figures, start=1)
        if figure.panels
    ]
    count = min(MOST_PROCESSES, len(cores()) or 1)
    fork = multiprocessing.get_context("fork")
    processes: list[ForkProcess] = []
    try:
        for index in range(count):
            process = fork.Process(target=_draw, args=(plots[index::count], os.getpid()))
            process.start()
            processes.append(process)
        yield
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.kill()
            process.join()  # it may still write
    for process in processes:
        if process.exitcode:
            raise StudyFailedError(f"a process that draws them {how_it_ended(process.exitcode)}")


def _draw(plots: "Sequence[tuple[Path, Figure]]", parent: int) -> None:
    from tuner.visualization.matplotlib_backend import png

    die_with_parent(parent)
    for path, figure in plots:
        path.write_bytes(png(figure))


def _with_best_model(best: Mapping[str, Any], study: str, tracked: "MlflowStudy") -> list[str]:
    """Add the best trial's model, or say why it cannot be added: its code is the user's. See `_add_best_model`."""
    try:
        return _add_best_model(best, study, tracked)
    except TunerError:
        raise
    except Exception as error:
        traceback.print_exc()
        return [f"the model of trial #{best['number']} is not in MLflow: {in_a_line(error)}"]


def _add_best_model(best: Mapping[str, Any], study: str, tracked: "MlflowStudy") -> list[str]:
    """Add the best trial's weights, mistakes and model to MLflow; return messages for the user."""
    from tuner.config.trial import TrialConfig
    from tuner.training.build import build_data, build_model
    from tuner.training.checkpoints import DamagedCheckpointError, load_tensors
    from tuner.training.results import MODEL_FILE, PREDICTIONS_FILE

    number, directory = best["number"], Path(best["directory"])
    if not (directory / MODEL_FILE).exists() or not (directory / PREDICTIONS_FILE).exists():
        return [f"trial #{number} was not tested, so its model is not in MLflow"]
    try:
        weights, predictions = (load_tensors(directory / name) for name in (MODEL_FILE, PREDICTIONS_FILE))
    except DamagedCheckpointError as error:
        return [f"the model is not in MLflow: {error}"]
    config = TrialConfig.from_values(best["config"])
    model = build_model(config, weights)
    has_example = len(predictions["example"]) > 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "best")
        folder.mkdir()
        shutil.copy(directory / MODEL_FILE, folder / "weights.ckpt")
        if has_example:
            (folder / "model_summary.txt").write_text(_summary(model, predictions["example"]))
        if len(predictions["labels"]):
            _draw_mistakes(predictions, _class_names(build_data(config), predictions), number, folder)
        tracked.add(Path(temporary))
    if not has_example:
        return [f"the batches of trial #{number} are not pairs of tensors, so MLflow has only its weights"]
    return tracked.add_model(number, model, predictions["example"].numpy(), study)


def _summary(model: "torch.nn.Module", example: "torch.Tensor") -> str:
    """Return a table of a network's layers, with their parameters and the shapes of their inputs and outputs.

    Without the shapes if the network cannot compute them.
    """
    import torch
    from pytorch_lightning.utilities.model_summary.model_summary import ModelSummary

    from lightning_modules import Classifier

    module = Classifier(copy.deepcopy(model).eval(), torch.optim.SGD)  # a copy: Classifier changes the memory format
    module.example_input_array = example
    try:
        return f"{ModelSummary(module, max_depth=-1)}\n"
    except Exception:  # the network's own code, such as no `forward`
        traceback.print_exc()
        module.example_input_array = None
        return f"{ModelSummary(module, max_depth=-1)}\n"


def _class_names(data: "LightningDataModule", predictions: Mapping[str, Any]) -> list[str]:
    """Return the names of the classes, which a data module has in `class_names`; otherwise their numbers."""
    count = predictions["logits"].shape[1]
    names = getattr(data, "class_names", ())
    if isinstance(names, list | tuple) and len(names) == count:
        return [str(name) for name in names]
    return [str(number) for number in range(count)]


def _draw_mistakes(predictions: Mapping[str, Any], names: Sequence[str], number: int, folder: Path) -> None:
    import torch

    from tuner.visualization.confusion import confusion_png, mistakes_png

    labels, logits, worst = predictions["labels"], predictions["logits"], predictions["worst"]
    predicted, classes = logits.argmax(dim=1), logits.shape[1]
    counts = torch.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)
    wrong = int((labels != predicted).sum())
    title = f"Confusion matrix of #{number} on the test data: {wrong} of {len(labels)} wrong"
    (folder / "confusion_matrix.png").write_bytes(confusion_png(counts.tolist(), title, names))
    images = predictions["worst_inputs"]
    if images.ndim == 4 and images.shape[1] in (1, 3) and len(images):
        shares = logits.softmax(dim=1)
        texts = [
            f"{names[labels[at]]},\nnot {names[predicted[at]]}\n({shares[at, predicted[at]]:.0%})"
            for at in worst.tolist()
        ]
        shown = images.permute(0, 2, 3, 1).squeeze(-1).clamp(0, 1).numpy()
        title = f"#{number} on the test data: the worst mistakes"
        (folder / "mistakes.png").write_bytes(mistakes_png(shown, texts, title))
