"""System metrics while a study runs: read by MLflow's monitors, and written by the tracker.

MLflow's own monitor thread would write them itself, and end with the first request that fails.
"""

import importlib.util
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tuner.errors import BadInputError, needs_extra

__all__ = ["SystemMetrics", "check_packages"]


def check_packages(devices: Iterable[str]) -> None:
    """Check that the packages are installed that read the metrics.

    Args:
        devices: The devices used for training, such as ``cuda:0``.

    Raises:
        BadInputError: If one is missing.
    """
    needed = {"psutil": "psutil"}
    if any(device.startswith("cuda") for device in devices):
        needed["pynvml"] = "nvidia-ml-py"
    missing = [package for module, package in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        text = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed"
        raise BadInputError([f"--system-metrics: {text}: {needs_extra('system-metrics')}, or omit the option."])


class SystemMetrics:
    """Context manager that reads metrics of CPU, memory, disk, network and GPUs at regular intervals.

    The interval is MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL in seconds, by default ten.

    Args:
        log: Called, from a thread, with the readings by their names in MLflow.
        note: Called with messages for the user.
    """

    def __init__(self, log: Callable[[Mapping[str, float]], None], note: Callable[[str], None]) -> None:
        from mlflow.system_metrics import system_metrics_monitor

        monitor: Any = system_metrics_monitor.SystemMetricsMonitor  # MLflow's class has no annotations
        self._log, self._note = log, note
        self._monitor = monitor(run_id="")  # the monitor is never started
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._read, name="system metrics", daemon=True)

    def __enter__(self) -> None:
        """Start reading."""
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        """Stop reading."""
        self._end.set()
        self._thread.join()

    def _read(self) -> None:
        try:
            self._monitor.collect_metrics()  # CPU usage is measured since the previous reading
            self._clear()
            while not self._end.wait(self._monitor.sampling_interval):
                self._monitor.collect_metrics()
                self._log({f"system/{name}": value for name, value in self._monitor.aggregate_metrics().items()})
                self._clear()
        except Exception as error:  # from a driver, for example: no reason to end a study
            self._note(f"system metrics are no longer recorded: {type(error).__name__}: {error}")

    def _clear(self) -> None:
        for monitor in self._monitor.monitors:
            monitor.clear_metrics()
