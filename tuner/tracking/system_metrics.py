"""How busy the machine is while a study runs: MLflow's own readings, handed to the tracker, which alone writes.

MLflow's monitor would write them itself, and end with the first answer that its server does not give.
"""

import importlib.util
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tuner.errors import BadInputError

__all__ = ["SystemMetrics", "check_packages"]


def check_packages(devices: Iterable[str]) -> None:
    """Find out whether the packages are installed that the readings need.

    Args:
        devices: The devices that trainings run on, such as ``cuda:0``.

    Raises:
        BadInputError: If one is not.
    """
    needed = {"psutil": "psutil"}
    if any(device.startswith("cuda") for device in devices):
        needed["pynvml"] = "nvidia-ml-py"
    missing = [package for module, package in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise BadInputError([f"--system-metrics: install {' and '.join(missing)}, or leave the option away."])


class SystemMetrics:
    """Reads CPU, memory, disk, network and GPUs now and then, while it is entered.

    How often, MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL says, in seconds; else ten.

    Args:
        log: Called, from a thread, with the readings by their names in MLflow.
        note: Called with what a person should know.
    """

    def __init__(self, log: Callable[[Mapping[str, float]], None], note: Callable[[str], None]) -> None:
        from mlflow.system_metrics import system_metrics_monitor

        monitor: Any = system_metrics_monitor.SystemMetricsMonitor  # without annotations
        self._log, self._note = log, note
        self._monitor = monitor(run_id="")  # it is never started
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._read, name="system metrics", daemon=True)

    def __enter__(self) -> None:
        """Begin to read."""
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        """End it."""
        self._end.set()
        self._thread.join()

    def _read(self) -> None:
        try:
            self._monitor.collect_metrics()  # how busy the processors are is told since the reading before
            self._clear()
            while not self._end.wait(self._monitor.sampling_interval):
                self._monitor.collect_metrics()
                self._log({f"system/{name}": value for name, value in self._monitor.aggregate_metrics().items()})
                self._clear()
        except Exception as error:  # a driver's, say: no reason to end a study
            self._note(f"no more system metrics: {type(error).__name__}: {error}")

    def _clear(self) -> None:
        for monitor in self._monitor.monitors:
            monitor.clear_metrics()
