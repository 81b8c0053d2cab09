"""Tests. The environment is set here, before anything imports torch and before pytest makes its temporary folder."""

import os
import shutil
from pathlib import Path

# Threads that wait for another one sleep instead of spinning, which would keep other processes from their cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A study waits for the disk some hundred times, at each commit of its databases. Its folder is in memory if that has
# room.
_MEMORY = Path("/dev/shm")
if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 2 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))
