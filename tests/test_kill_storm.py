"""A short storm of kills; benchmarks/kill_storm.py is the long one."""

import subprocess
import sys
from pathlib import Path

import pytest

STORM = Path(__file__).parent.parent / "benchmarks" / "kill_storm.py"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_after_random_kills_all_four_invariants_hold():
    done = subprocess.run(
        [sys.executable, str(STORM), "--kills", "6", "--seed", "3", "--pause", "3"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("holds  ") == 4
    assert "6 kills" in done.stdout
