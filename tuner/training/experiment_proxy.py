"""``self.logger.experiment`` of a user's module: logs files, parameters and tags to the trial's run.

The process that trains does not use MLflow. It keeps files in the trial's folder and values in the history; the
coordinator sends both to the trial's run.
"""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

__all__ = ["FILES", "ExperimentProxy"]

FILES = "artifacts"
"""Name of the folder in a trial's folder that holds the files."""


class ExperimentProxy:
    """Proxy of the trial's run, with the methods of an ``mlflow.MlflowClient`` that write to a run.

    Their first argument is a run id; pass ``self.logger.run_id``. It is ignored: a trial writes to its own run only.

    Args:
        folder: The trial's folder.
        log_metric: Called with a metric, its value and its step.
    """

    def __init__(self, folder: Path, log_metric: Callable[[str, float, int], None]) -> None:
        self.params: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self._files = folder / FILES
        self._log_metric = log_metric

    def __getattr__(self, name: str) -> Any:
        known = ", ".join(sorted(each for each in vars(type(self)) if each.startswith(("log_", "set_"))))
        raise AttributeError(f"self.logger.experiment is the trial's run in MLflow, and has {known}, but not {name}")

    def log_metric(self, run_id: str, key: str, value: float, timestamp: int | None = None, step: int = 0) -> None:
        """Log a value of a metric at a step."""
        self._log_metric(key, value, step)

    def log_param(self, run_id: str, key: str, value: Any) -> None:
        """Log a parameter."""
        self.params[str(key)] = str(value)

    def set_tag(self, run_id: str, key: str, value: Any) -> None:
        """Set a tag.

        Raises:
            ValueError: If its name is reserved for the tuner.
        """
        if str(key).startswith("tuner."):
            raise ValueError(f"tags that begin with tuner. are the tuner's own, but got {key!r}")
        self.tags[str(key)] = str(value)

    def log_batch(
        self, run_id: str, metrics: Iterable[Any] = (), params: Iterable[Any] = (), tags: Iterable[Any] = ()
    ) -> None:
        """Log metrics, parameters and tags, given as MLflow's entities."""
        for metric in metrics:
            self.log_metric(run_id, metric.key, metric.value, step=metric.step)
        for param in params:
            self.log_param(run_id, param.key, param.value)
        for tag in tags:
            self.set_tag(run_id, tag.key, tag.value)

    def log_text(self, run_id: str, text: str, artifact_file: str) -> None:
        """Write a text to a file."""
        self._file(artifact_file).write_text(text, encoding="utf-8", errors="backslashreplace")

    def log_dict(self, run_id: str, dictionary: Any, artifact_file: str) -> None:
        """Write plain values to a file, as JSON."""
        self.log_text(run_id, json.dumps(dictionary, indent=2, default=str), artifact_file)

    def log_figure(self, run_id: str, figure: Any, artifact_file: str, **options: Any) -> None:
        """Write a figure of matplotlib or plotly to a file, in the format of its extension."""
        file = self._file(artifact_file)
        if hasattr(figure, "savefig"):
            figure.savefig(file, **options.get("save_kwargs") or {})
        elif file.suffix == ".html":
            figure.write_html(file)
        else:
            figure.write_image(file)

    def log_image(
        self,
        run_id: str,
        image: Any,
        artifact_file: str | None = None,
        key: str | None = None,
        step: int = 0,
        **options: Any,
    ) -> None:
        """Write an image to a file.

        Args:
            run_id: Ignored.
            image: A PIL image, or an array [height, width] or [height, width, channels], of bytes or from 0 to 1.
            artifact_file: Name of the file; or pass a key and a step.
            key: Name of the image series.
            step: Step of the image in the series.
            options: Ignored; accepted for compatibility with MLflow.

        Raises:
            ValueError: If there is neither a file name nor a key.
        """
        if artifact_file is None and key is None:
            raise ValueError("log_image needs an artifact_file or a key")
        if not hasattr(image, "save"):
            import numpy as np
            from PIL import Image

            pixels = np.asarray(image)
            if np.issubdtype(pixels.dtype, np.floating):
                pixels = (pixels.clip(0, 1) * 255).round().astype(np.uint8)
            if pixels.ndim == 3 and pixels.shape[2] == 1:
                pixels = pixels[:, :, 0]
            image = Image.fromarray(pixels)
        image.save(self._file(artifact_file or f"images/{key}/{step}.png"))

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str = "") -> None:
        """Copy a file, or a folder with its content."""
        source = Path(local_path)
        target = self._file(str(PurePosixPath(artifact_path or ".") / source.name))
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)

    def log_artifacts(self, run_id: str, local_dir: str, artifact_path: str = "") -> None:
        """Copy the content of a folder."""
        for each in Path(local_dir).iterdir():
            self.log_artifact(run_id, str(each), artifact_path)

    def forget(self) -> None:
        """Remove the files of an earlier attempt, when a run starts from the beginning."""
        shutil.rmtree(self._files, ignore_errors=True)

    def _file(self, name: str) -> Path:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.name:
            raise ValueError(f"an artifact must have a path within the run, but got {name!r}")
        file = self._files / path
        file.parent.mkdir(parents=True, exist_ok=True)
        return file
