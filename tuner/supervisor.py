"""``python -m tuner.supervisor COMMAND ...``: run a command that ends when the process that started this one does.

The caller holds the other end of standard input. When the caller exits, even if it is killed, the pipe closes, and the
supervisor kills its process group: the command and all of its children. It must therefore be started in a new session.
"""

import os
import signal
import subprocess
import sys
import threading

from tuner.interrupts import ignore_interrupts

__all__ = ["main"]


def main() -> int:
    """Run the command and return its exit status."""
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    ignore_interrupts()  # the command is in the same session, so it receives them too and shuts down
    threading.Thread(target=_kill_at_end_of_input, daemon=True).start()
    status = command.wait()
    return 128 - status if status < 0 else status


def _kill_at_end_of_input() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
