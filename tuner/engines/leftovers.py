"""Programs that user code has started in a session of their own, and that are still running when their trial ends.

They are not in the process group of the trial's process, and the kernel does not say which process started them. But
they have inherited its environment, which contains a mark. Linux only: elsewhere, such programs live on.
"""

import contextlib
import os
import signal
from pathlib import Path

__all__ = ["kill_marked", "mark_programs"]

VARIABLE = "TUNER_TRIAL_PROCESS"


def mark_programs(mark: str) -> None:
    """Mark the programs that this process will start."""
    os.environ[VARIABLE] = mark


def kill_marked(mark: str) -> None:
    """Kill the programs with a mark."""
    text = f"{VARIABLE}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it belongs to another user, or has just ended
            if text in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)
