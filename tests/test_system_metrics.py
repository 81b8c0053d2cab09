"""`--system-metrics`: readings of the machine while a study runs."""

import os
import signal
import sys
from collections import Counter

import pytest

from tests.networks import holding, release
from tests.studies import StudyFolder

PARENT = "(select run_uuid from tags where key = 'tuner.study_id')"
POINTS = f"select key, step, timestamp from metrics where key like 'system/%' and run_uuid in {PARENT}"


def test_a_study_records_system_metrics_and_continues_them_after_a_kill(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    own = ("--system-metrics", *holding(folder))
    process = folder.start("--per-device", "2", *own)
    folder.wait_for(lambda: folder.has_checkpoint() and len(folder.mlflow(POINTS)) > 30, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = folder.mlflow(POINTS)
    release(folder)
    folder.call(*own)
    after = folder.mlflow(POINTS)
    assert set(before) < set(after)
    keys = {key for key, _, _ in after}
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= keys
    assert set(Counter((key, step) for key, step, _ in after).values()) == {1}, "one point a metric and step"
    for key in keys:
        steps = [step for name, step, _ in sorted(after, key=lambda point: point[2]) if name == key]
        assert steps == sorted(steps)
    assert folder.mlflow(f"select count(*) from metrics where key like 'system/%' and run_uuid not in {PARENT}") == [
        (0,)
    ]
    folder.call(*own)
    assert folder.mlflow(POINTS) == after, "nothing was done in a study that is finished"


def test_a_missing_package_is_reported_before_anything_is_created(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "psutil", None)  # as if it were not installed
    message = folder.call("--system-metrics", expect=2)
    assert "--system-metrics: psutil is not installed: " in message
    assert "or omit the option." in message
    assert list(folder.path.iterdir()) == []
