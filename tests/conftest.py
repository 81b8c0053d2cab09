"""Setup of every process of pytest; the fixtures are in `tests/studies.py`."""

import gc
import importlib
import os
import signal
import warnings

import pytest
from hypothesis import settings

settings.register_profile("ci", max_examples=50, deadline=None, derandomize=True)
settings.register_profile("all", max_examples=1000, deadline=None)
settings.load_profile("ci")

for _signal in (signal.SIGINT, signal.SIGHUP):  # ignored where pytest was started by nohup, or in the background
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, signal.default_int_handler if _signal == signal.SIGINT else signal.SIG_DFL)


def pytest_configure(config: pytest.Config) -> None:
    """Prepare a process that runs tests; its first fork servers have the imports of the tests.

    The process that only hands out the tests of pytest-xdist imports none of this, which takes seconds.
    """
    if config.getoption("dist", "no") != "no":
        return
    gc.disable()  # until the tests are collected
    pytest.register_assert_rewrite("tests.studies")
    config.pluginmanager.import_plugin("tests.studies")
    from tests.launcher import command_server, fork_servers, save_time
    from tuner.reporting.review import PRELOAD

    save_time()
    for name in ("tuner.training.run", PRELOAD):
        importlib.import_module(name)
    with warnings.catch_warnings():  # as in a new process
        warnings.resetwarnings()
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        fork_servers(2)  # of which a test kills one
    if "PYTEST_XDIST_WORKER" in os.environ:
        command_server()  # so that it does its imports now


def pytest_collection_finish() -> None:
    """Exclude everything that was imported and collected from garbage collections.

    A study in this process would undo that at its end, and the next collection would take half a second. Short-lived
    objects are so many in the tests that a collection after each 700 of them, Python's default, takes a tenth of the
    time.
    """
    gc.freeze()
    gc.freeze = gc.unfreeze = lambda: None
    gc.set_threshold(20_000, 10, 10)
    gc.enable()
