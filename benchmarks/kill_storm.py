"""Kills a real study again and again, at random, and looks whether anything was lost or done twice.

    python benchmarks/kill_storm.py --kills 200 --seed 0

The victim is a training, the server that trainings are forked from, the coordinator, or all of them at once; after a
coordinator the same command is run again. When the study has its trials before the kills are used up, it is continued
with more. In the end an undisturbed study of the same size is run, and the four invariants are printed:

1. exactly the asked trials, each finished once;
2. nothing left running, in Optuna or in MLflow;
3. one point for each run, metric and step, without gaps;
4. values, curves and the winner's weights equal to those of the undisturbed study, bit for bit.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.conftest import STEPS, StudyFolder
from tests.processes import children, servers_of, slots_of

VICTIMS = ("training", "training", "training", "server", "coordinator", "coordinator", "everything")


def main() -> int:
    """Run the storm, and return 0 if all invariants hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=6.0, help="seconds between two kills, at most")
    parser.add_argument("--storage", default="", help="Optuna's database, if not SQLite")
    parser.add_argument("--tracking-uri", default="", help="MLflow's store, if not SQLite")
    options = parser.parse_args()
    path = Path(tempfile.mkdtemp(prefix="kill-storm-"))
    for name in ("storm", "calm"):
        (path / name).mkdir()
    storm = StudyFolder(path / "storm", options.storage, options.tracking_uri)
    calm = StudyFolder(path / "calm")
    trials = rage(storm, options.kills, random.Random(options.seed), options.pause)
    calm.run("--per-device", "2", "--trials", str(trials))
    failures = report(storm, calm, trials)
    storm.close()
    calm.close()
    if not failures:
        shutil.rmtree(path)
    return 1 if failures else 0


def rage(folder: StudyFolder, kills: int, rng: random.Random, pause: float) -> int:
    """Kill until the kills are used up and the study has ended by itself; return how many trials it has."""
    trials, done = 4, Counter[str]()
    while True:
        process = folder.start("--per-device", "2", "--trials", str(trials))
        while process.poll() is None and done.total() < kills:
            deadline = time.monotonic() + rng.uniform(0, pause)
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            victim = rng.choice(VICTIMS)
            if process.poll() is None and strike(process.pid, victim):
                done[victim] += 1
        output, _ = process.communicate()
        if process.returncode not in (0, -signal.SIGKILL):
            print(output)
            raise SystemExit(f"the study ended with status {process.returncode}")
        if process.returncode == 0:
            if done.total() >= kills:
                print(f"{done.total()} kills ({', '.join(f'{n} {victim}' for victim, n in sorted(done.items()))})")
                return trials
            trials += 4


def strike(coordinator: int, victim: str) -> bool:
    """Kill somebody; return whether there was anybody."""
    match victim:
        case "training":
            pids = slots_of(coordinator)[:1]
        case "server":
            pids = servers_of(coordinator)
        case "coordinator":
            pids = [coordinator]
        case _:
            pids = [coordinator, *children(coordinator)]
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
    return bool(pids)


def report(storm: StudyFolder, calm: StudyFolder, trials: int) -> int:
    """Print the invariants; return how many do not hold."""
    states = Counter(state for (state,) in storm.optuna("select state from trials"))
    numbers = [number for (number,) in storm.optuna("select number from trials order by number")]
    open_runs = storm.mlflow("select count(*) from runs where status in ('RUNNING', 'SCHEDULED')")[0][0]
    points = storm.curves()
    lrs = Counter(trial for trial, key, _, _ in points if key == "lr")
    given_up = {str(n) for (n,) in storm.optuna("select number from trials where state = 'FAIL'")}
    told = {
        "exactly the asked trials, each finished once": numbers == list(range(trials))
        and not states.keys() & {"RUNNING", "WAITING"},
        "nothing left running": "RUNNING" not in states and open_runs == 0,
        "one point a run, metric and step, without gaps": len(points) == len({point[:3] for point in points})
        and all(lrs[str(number)] == STEPS for number in numbers if str(number) not in given_up),
        "equal to the undisturbed study": given_up != set()
        or (storm.values() == calm.values() and points == calm.curves() and storm.weights() == calm.weights()),
    }
    for invariant, holds in told.items():
        print(f"{'holds ' if holds else 'BROKEN'}  {invariant}")
    print(f"{trials} trials: {dict(states)}; trials given up after repeated crashes: {len(given_up)}")
    return sum(not holds for holds in told.values())


if __name__ == "__main__":
    sys.exit(main())
