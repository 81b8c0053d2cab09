"""What trainings are forked from: it has all imported that they need."""

import os

from tuner.engines.local import PARENT
from tuner.interrupts import end_with_parent, ignore_interrupts
from tuner.process import importing

ignore_interrupts()
if parent := os.environ.pop(PARENT, ""):
    end_with_parent(int(parent))

with importing():
    import tuner.training.run  # noqa: F401
