"""Modules preloaded into the fork server, so that training processes start without import cost."""

import os

from tuner.engines.fork_server import PARENT
from tuner.interrupts import die_with_parent, ignore_interrupts
from tuner.process import gc_paused

ignore_interrupts()
if parent := os.environ.pop(PARENT, ""):
    die_with_parent(int(parent))

with gc_paused():
    import torch._dynamo  # noqa: F401 -- the first optimizer would import it, in each process

    import lightning_modules  # noqa: F401 -- before Lightning, which it imports in less time
    import tuner.training.run  # noqa: F401
