"""Tests. The environment is set here, before anything imports torch."""

import os

# Threads that wait for another one sleep instead of spinning, which would keep other processes from their cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
