"""Commands started as `python -m` starts them, from a process that has imported their libraries.

Those imports take longer than all else that the commands of the tests do.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

LIBRARIES = ["tuner.runner.coordinator", "tuner.analysis.comparison"]


class Command:
    """A command that runs in a new session, with the interface of a `subprocess.Popen`.

    Args:
        module: Its module.
        arguments: What follows the module.
        folder: Where it runs.
        environment: Its environment variables.
    """

    def __init__(self, module: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(LIBRARIES)
        with tempfile.TemporaryDirectory() as temporary:
            pipe = Path(temporary) / "output"
            os.mkfifo(pipe)
            arguments = (module, [str(each) for each in arguments], folder, dict(environment), pipe)
            self._process = context.Process(target=_run, args=arguments)
            self._process.start()
            self.stdout: TextIO = pipe.open()
        self.pid: int = self._process.pid or 0

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Wait for its end and return the output that was not read yet."""
        read: list[str] = []
        reader = threading.Thread(target=lambda: read.append(self.stdout.read()), daemon=True)
        reader.start()
        reader.join(timeout)
        if reader.is_alive():
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        self.wait(timeout)
        return read[0], None

    def kill(self) -> None:
        self._process.kill()


Started = subprocess.Popen[str] | Command


def _run(module: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], pipe: Path) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    with pipe.open("w") as output:
        for number in (1, 2):
            os.dup2(output.fileno(), number)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    sys.path.insert(0, str(folder))
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)
