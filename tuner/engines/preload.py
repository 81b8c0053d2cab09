"""What trainings are forked from: it has all imported that they need."""

import os

from tuner.engines.local import PARENT
from tuner.importing import importing
from tuner.interrupts import end_with_parent, ignore_interrupts

ignore_interrupts()
if parent := os.environ.pop(PARENT, ""):
    end_with_parent(int(parent))

with importing():
    import tuner.training  # noqa: F401
