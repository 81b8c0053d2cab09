"""Kill a real study at random, again and again, and check whether anything was lost or done twice.

    python benchmarks/kill_storm.py --kills 200 --seed 0                  # SQLite
    python benchmarks/kill_storm.py --kills 200 --seed 0 --on postgresql  # Optuna and MLflow in a temporary PostgreSQL
    python benchmarks/kill_storm.py --kills 200 --seed 0 --on ray         # a Ray cluster of two machines (raylets)

The victim is a training process, its parent (the fork server, or a Ray worker), the coordinator, all of them at once,
or a machine of the cluster, which is then replaced by another. If the coordinator
was killed, the same command is run again. If the study completes before all kills are done, it is continued with more
trials. At the end, an undisturbed study of the same size is run, and four invariants are checked:

1. exactly the requested trials, each finished once;
2. nothing left running, in Optuna or in MLflow;
3. one point for each run, metric and step, without gaps;
4. values, curves and the winner's weights equal to the undisturbed study's, bit for bit.

A trial that has died four times in one epoch fails; it is left out of the third and fourth invariants.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.processes import children, command_of, servers_of, slots_of
from tests.studies import DIGITS, DIGITS_STEPS, EPOCHS, StudyFolder

Strike = Callable[[int], bool]
"""Kills a process, given the coordinator; returns whether there was one to kill."""

MOST_SECONDS = 120  # without a process to kill


def main() -> int:
    """Run the storm, and return 0 if all invariants hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=5.0, help="longest pause before a kill, in seconds")
    parser.add_argument("--on", choices=("sqlite", "postgresql", "ray"), default="sqlite")
    options = parser.parse_args()
    path = Path(tempfile.mkdtemp(prefix="kill-storm-"))
    for name in ("storm", "calm"):
        (path / name).mkdir()
    storm, calm = StudyFolder(path / "storm"), StudyFolder(path / "calm")
    rng = random.Random(options.seed)
    with contextlib.ExitStack() as stack:
        arguments, strikes = stack.enter_context(PLACES[options.on](storm, rng))
        started = time.monotonic()
        trials = rage(storm, arguments, strikes, options.kills, rng, options.pause)
        print(f"{time.monotonic() - started:.0f} s on {options.on}, seed {options.seed}")
        calm.start("--per-device", "2", "--trials", str(trials), study=DIGITS).communicate()
        failures = report(storm, calm, trials)
        storm.close()
        calm.close()
    if not failures:
        shutil.rmtree(path)
    return 1 if failures else 0


def rage(
    folder: StudyFolder, arguments: list[str], strikes: dict[str, Strike], kills: int, rng: random.Random, pause: float
) -> int:
    """Kill until all kills are done and the study has completed; return its number of trials."""
    at_once = max(4, kills // 4)
    trials, done, runs = at_once, Counter[str](), 0
    while True:
        process = folder.start(*arguments, "--trials", str(trials), study=DIGITS)
        runs += 1
        while process.poll() is None and done.total() < kills:
            victim = rng.choices(list(strikes), weights=[6, 2, 1, 1, 1][: len(strikes)])[0]
            at = time.monotonic() + rng.uniform(0, pause)
            while process.poll() is None:
                time.sleep(0.05)
                if time.monotonic() >= at and strikes[victim](process.pid):
                    done[victim] += 1
                    break
                if time.monotonic() > at + MOST_SECONDS:
                    break
        output, _ = process.communicate()
        print(f"run {runs}: {done.total()} kills, {trials} trials requested", file=sys.stderr, flush=True)
        if process.returncode not in (0, -signal.SIGKILL):
            raise SystemExit(f"{output}\nthe study ended with status {process.returncode}")
        if process.returncode == 0:
            if done.total() >= kills:
                victims = ", ".join(f"{victim} {n}" for victim, n in sorted(done.items()))
                print(f"{done.total()} kills ({victims}) in {runs} runs of the command")
                return trials
            trials += at_once


def kill(*pids: int) -> bool:
    """Kill processes; return whether all of them were alive."""
    lived = bool(pids)
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            lived = False
    return lived


@contextlib.contextmanager
def sqlite(folder: StudyFolder, rng: random.Random) -> Iterator[tuple[list[str], dict[str, Strike]]]:
    """Set up the storm on one machine, with SQLite databases."""

    def one_of(pids: list[int]) -> bool:
        return bool(pids) and kill(rng.choice(pids))

    yield (
        ["--per-device", "2"],
        {
            "training": lambda coordinator: one_of(slots_of(coordinator)),
            "server": lambda coordinator: one_of(servers_of(coordinator)),
            "coordinator": kill,
            "everything": lambda coordinator: kill(coordinator, *children(coordinator)),
        },
    )


@contextlib.contextmanager
def postgresql(folder: StudyFolder, rng: random.Random) -> Iterator[tuple[list[str], dict[str, Strike]]]:
    """Set up the storm on one machine, with databases in PostgreSQL."""
    from tests.servers import PostgreSQLServer

    server = PostgreSQLServer()
    folder.storage, folder.tracking = server.new_database(), server.new_database()
    with contextlib.closing(server), sqlite(folder, rng) as place:
        yield place


@contextlib.contextmanager
def on_ray(folder: StudyFolder, rng: random.Random) -> Iterator[tuple[list[str], dict[str, Strike]]]:
    """Set up the storm on a Ray cluster of two machines, simulated by two raylets on this one."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    machines = [cluster.add_node(num_cpus=1)]

    def trainings() -> list[int]:
        return [pid for pid in slots_of(os.getpid()) if b"forkserver" in command_of(pid)]

    def workers() -> list[int]:
        return [pid for pid in children(os.getpid()) if command_of(pid).startswith(b"ray::_host")]

    def lose_machine(coordinator: int) -> bool:
        if not trainings():
            return False
        cluster.remove_node(machines.pop(), allow_graceful=False)
        machines.append(cluster.add_node(num_cpus=1))
        return True

    def one_of(pids: list[int]) -> bool:
        return bool(pids) and kill(rng.choice(pids))

    try:
        yield (
            ["--engine", "ray", "--address", cluster.address],
            {
                "training": lambda coordinator: one_of(trainings()),
                "worker": lambda coordinator: one_of(workers()),
                "coordinator": kill,
                "coordinator and trainings": lambda coordinator: bool(trainings()) and kill(coordinator, *trainings()),
                "machine": lose_machine,
            },
        )
    finally:
        cluster.shutdown()


PLACES = {"sqlite": sqlite, "postgresql": postgresql, "ray": on_ray}


def report(storm: StudyFolder, calm: StudyFolder, trials: int) -> int:
    """Print the invariants; return the number of those that do not hold."""
    states = Counter(state for (state,) in storm.optuna("select state from trials"))
    numbers = [number for (number,) in storm.optuna("select number from trials order by number")]
    open_runs = storm.mlflow("select count(*) from runs where status in ('RUNNING', 'SCHEDULED')")[0][0]
    given_up = {number for (number,) in storm.optuna("select number from trials where state = 'FAIL'")}
    trained = [number for number in numbers if number not in given_up]

    def of_trained(rows: list[tuple]) -> list[tuple]:
        return [row for row in rows if int(row[0]) in trained and not str(row[1]).startswith("test/")]

    points = of_trained(storm.curves())
    counts = Counter((trial, key) for trial, key, _, _ in points)
    whole = {"lr": DIGITS_STEPS, "train/acc": EPOCHS, "train/loss": EPOCHS, "val/acc": EPOCHS, "val/loss": EPOCHS}
    equal = (
        points == of_trained(calm.curves())
        and of_trained(storm.values()) == of_trained(calm.values())
        and of_trained(storm.described()) == of_trained(calm.described())
    )
    results = {
        "exactly the requested trials, each finished once": numbers == list(range(trials))
        and not states.keys() & {"RUNNING", "WAITING"},
        "nothing left running": "RUNNING" not in states and open_runs == 0,
        "one point a run, metric and step, without gaps": len(points) == len({point[:3] for point in points})
        and counts == {(str(number), key): count for number in trained for key, count in whole.items()},
        "equal to the undisturbed study": equal and (bool(given_up) or storm.weights() == calm.weights()),
    }
    for invariant, holds in results.items():
        print(f"{'holds ' if holds else 'BROKEN'}  {invariant}")
    print(f"{trials} trials: {dict(states)}; given up after four deaths in one epoch: {len(given_up)}")
    return sum(not holds for holds in results.values())


if __name__ == "__main__":
    sys.exit(main())
