"""``python -m tuner.keeper COMMAND ...``: run a command that is not to outlive the process that asks for it.

That process holds the other end of the standard input, which is closed when it ends, however that happens; all that the
command has started then ends as well. The keeper has to lead a session of its own.
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
    ignore_interrupts()  # the command, of the same session, gets them as well and ends in order
    threading.Thread(target=_end_with_the_input, daemon=True).start()
    status = command.wait()
    return 128 - status if status < 0 else status


def _end_with_the_input() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
