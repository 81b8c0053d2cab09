"""The coordinator's milliseconds per trial as a study grows, with runs that take no time.

The study is `four_schedules.yaml`: eight parameters, three epochs, the lr of every step. Its training runs are
simulated; everything else is real: coordinator, Optuna's database, sampler and pruner, MLflow's store, files. The slots
are simulated too: a fixed number of groups is open, and a random one of them is the next to report an epoch or to end.

The study is measured at 10, 100, 1,000 and 5,000 trials. To get there quickly, finished trials are written directly to
Optuna's database, and the coordinator sends them to MLflow, as after an outage. Then the study is continued with each
number of slots and trials in a group, and the CPU time per trial is measured while all slots are busy:

- ask, report, tell: the coordinator's thread, from an event to its answer; means, with all reports of a trial together;
- total: their sum; Optuna: its share of asking, reporting and telling; elapsed: the time including all waiting;
- MLflow: the thread that writes to it. The coordinator waits for it after each event, so that neither disturbs the
  other's measurement. With `--backlog`, it does not wait: records pile up, and MLflow writes those of a trial together.

With `--seconds`, each group takes that long from its start to its end, if the coordinator answers at once: the rate at
which trials end shows whether the slots wait for it.

    python benchmarks/scale.py --storage sqlite --sampler tpe --trials 10 100 1000 5000 --slots 2 16 64
    python benchmarks/scale.py --trials 10 5000 --slots 1 8 --groups 1 32 128
    python benchmarks/scale.py --sampler curve --trials 10 --slots 8 --groups 32 --asked 512 --backlog
    python benchmarks/scale.py --sampler curve --trials 10 --slots 8 --groups 32 --asked 1024 --backlog --seconds 5
"""

import argparse
import contextlib
import io
import itertools
import json
import math
import random
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import optuna
from optuna.trial import TrialState
from rich.console import Console

from tests.servers import PostgreSQLServer
from tuner.config.loader import load_study
from tuner.config.study import Objective
from tuner.config.trial import TrialConfig
from tuner.protocol import (
    Assignment,
    Decision,
    EpochReport,
    Handler,
    Point,
    Slot,
    StepReport,
    TrainingGroup,
    TrialResult,
)
from tuner.runner.coordinator import Coordinator
from tuner.runner.display import Display
from tuner.runner.group_size import GroupSize
from tuner.storage.study_store import StudyStore
from tuner.tracking.record_writer import Record
from tuner.tracking.tracker import Tracker
from tuner.training.results import MODEL_FILE, RESULT_FILE

STUDY = str(Path(__file__).parent / "four_schedules.yaml")
EPOCHS, STEPS = 3, 40  # steps of an epoch
METRICS = ("train/loss", "train/acc", "val/loss", "val/acc")


class Clock:
    """Measures the time of each kind of event."""

    def __init__(self) -> None:
        self._now: defaultdict[str, float] = defaultdict(float)
        self._sums: defaultdict[tuple[str, str], float] = defaultdict(float)
        self.trials: Counter[str] = Counter()
        self.writer = 0.0  # CPU milliseconds per trial of MLflow's thread, records written together included

    def timed(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began, worked = time.perf_counter(), time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self._now[what] += time.perf_counter() - began
                self._now[f"{what}, processor"] += time.thread_time() - worked

        return call

    def end(self, event: str | None, trials: int) -> None:
        """Count the time since the last call as an event of this kind for a number of trials; None to ignore it."""
        if event:
            self.trials[event] += trials
            for what, seconds in self._now.items():
                self._sums[event, what] += seconds
        self._now.clear()

    def mean(self, event: str, what: str) -> float:
        """Return the mean per trial, in milliseconds."""
        return 1000 * self._sums[event, what] / self.trials[event]


class MadeUp:
    """A simulated run, which yields the reports of one epoch at a time."""

    def __init__(self, assignment: Assignment) -> None:
        self.assignment, self.epoch = assignment, 0
        self._lrs = curve(assignment.training)
        self._points: list[Point] = []

    def next_epoch(self) -> EpochReport:
        first = self.epoch * STEPS
        self.epoch += 1
        value = accuracy(self.assignment, self.epoch)
        points = [("lr", step, self._lrs[step]) for step in range(first, first + STEPS)]
        points += [(metric, first + STEPS, value if metric.endswith("acc") else 1 - value) for metric in METRICS]
        self._points += points
        step = StepReport(self.epoch, first + STEPS, EPOCHS * STEPS, self._lrs[first + STEPS - 1])
        return EpochReport(self.epoch, value, points, lr_rose=False, step=step, is_last=self.epoch == EPOCHS)

    def result(self, decision: Decision) -> TrialResult:
        value, pruned = accuracy(self.assignment, self.epoch), decision == "prune"
        result = TrialResult("pruned" if pruned else "complete", value, self.epoch, 10.0, points=self._points)
        self.assignment.directory.mkdir(parents=True, exist_ok=True)
        if decision == "continue":
            (self.assignment.directory / MODEL_FILE).touch()
        (self.assignment.directory / RESULT_FILE).write_text(json.dumps(vars(result)))
        return result


def curve(config: TrialConfig) -> list[float]:
    schedule = config.schedule.build("schedule")
    schedule = getattr(schedule, "schedule", schedule)  # below a plateau
    initial_lr = config.optimizer.arguments["initial_lr"]
    return [initial_lr * (schedule(step) if schedule else 1.0) for step in range(EPOCHS * STEPS)]


def accuracy(assignment: Assignment, epoch: int) -> float:
    """Return a value that depends on the parameters, with a little noise, so that samplers have something to learn."""
    lr = assignment.training.optimizer.arguments["initial_lr"]
    noise = random.Random(assignment.number).gauss(0, 0.003)
    return 0.98 - 0.1 * abs(math.log10(lr / 1.5e-3)) ** 2 - 0.1 / 2**epoch + noise


class MadeUpGroup:
    """Simulated runs as one model, which take so many seconds."""

    def __init__(self, slot: Slot, group: TrainingGroup, seconds: float) -> None:
        self.slot, self.group = slot, group
        self._epoch_seconds = seconds / EPOCHS
        self.due = time.monotonic() + self._epoch_seconds  # the end of the current epoch
        self._trainings = {each.number: MadeUp(each) for each in group.trials}
        self._decisions: dict[int, Decision] = dict.fromkeys(self._trainings, "continue")

    @property
    def is_over(self) -> bool:
        return not self._live

    @property
    def _live(self) -> list[MadeUp]:
        live = (each for number, each in self._trainings.items() if self._decisions[number] != "prune")
        return [each for each in live if each.epoch < EPOCHS]

    def next_epoch(self) -> dict[int, EpochReport]:
        time.sleep(max(0.0, self.due - time.monotonic()))
        return {each.assignment.number: each.next_epoch() for each in self._live}

    def take(self, decisions: Mapping[int, Decision]) -> None:
        self._decisions |= decisions
        self.due = time.monotonic() + self._epoch_seconds

    def results(self) -> list[TrialResult]:
        return [self._trainings[each.number].result(self._decisions[each.number]) for each in self.group.trials]


class TrivialEngine:
    """Simulates slots, in the coordinator's thread.

    Args:
        slots: Number of slots.
        clock: Measures each event while all slots are busy.
        settle: Waits for MLflow.
        groups: The number of groups that end while all slots are busy; then the others are interrupted.
        seconds: Time from the start of a group to its end.
    """

    def __init__(self, slots: int, clock: Clock, settle: Callable[[], None], groups: int, seconds: float) -> None:
        self.slots: Sequence[Slot] = tuple(Slot(index, (), 1) for index in range(slots))
        self._clock, self._settle, self._groups, self._seconds = clock, settle, groups, seconds
        self._random = random.Random(0)
        self._ends: list[tuple[float, int]] = []  # when a group ended, and its number of trials
        self._free = list(self.slots)

    def run(self, handler: Handler) -> None:
        busy: list[MadeUpGroup] = []
        self._end(None)
        while len(self._ends) <= self._groups:
            while self._free:
                group = self._call(handler.next_group, self._free[-1])
                busy.append(MadeUpGroup(self._free.pop(), group, self._seconds))
                self._end("ask", len(group.trials))
            training = min(busy, key=attrgetter("due")) if self._seconds else self._random.choice(busy)
            reports = training.next_epoch()
            training.take(self._call(handler.report, reports))
            self._end("report", len(reports))
            if training.is_over:
                self._ends.append((time.monotonic(), len(training.group.trials)))
                self._call(handler.done, training.group, training.results())
                self._end("tell", len(training.group.trials))
                busy.remove(training)
                self._free.append(training.slot)
        for training in busy:
            handler.done(training.group, [TrialResult("interrupted")] * len(training.group.trials))

    def close(self) -> None:
        pass

    @property
    def rate(self) -> float:
        """Trials that ended per second, from the first end to the last one."""
        (first, _), *others = self._ends
        return sum(count for _, count in others) / (self._ends[-1][0] - first)

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        return self._clock.timed("all", function)(*args)

    def _end(self, event: str | None, trials: int = 1) -> None:
        self._settle()
        self._clock.end(event if not self._free else None, trials)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--sampler", choices=("tpe", "curve", "random"), default="tpe")
    parser.add_argument("--trials", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--slots", type=int, nargs="+", default=[2, 16, 64])
    parser.add_argument("--groups", type=int, nargs="+", default=[1], help="trials of a slot, as one model")
    parser.add_argument("--asked", type=int, default=20, help="trials (or groups) asked for while all slots are busy")
    parser.add_argument(
        "--optuna", action="store_true", help="only Optuna's part, which needs no catching up by MLflow: CPU time"
    )
    parser.add_argument("--backlog", action="store_true", help="do not wait for MLflow")
    parser.add_argument("--seconds", type=float, default=0.0, help="time of a group from its start to its end")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if options.optuna:
        print("| trials | in a group | ask | report | tell | total |\n|---|---|---|---|---|---|")
        for trials in options.trials:
            with tempfile.TemporaryDirectory(prefix="scale-") as folder:
                storage = f"sqlite:///{folder}/optuna.db"
                sampler = f"sampler={{name: {options.sampler}, seed: 0}}"
                begin(trials, sampler, storage)
                for size in options.groups:
                    cells = " | ".join(f"{ms:.1f}" for ms in optuna_alone(options.asked, size, sampler, storage))
                    print(f"| {trials:,} | {size} | {cells} |", flush=True)
        return
    print(f"{options.storage}, {options.sampler}\n")
    print("| trials | slots | in a group | ask | report | tell | total | Optuna | elapsed | MLflow |")
    print("|" + "---|" * 10)
    for trials in options.trials:
        with tempfile.TemporaryDirectory(prefix="scale-") as folder, contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.chdir(folder))
            if options.storage == "sqlite":
                urls = f"sqlite:///{folder}/optuna.db", f"sqlite:///{folder}/mlflow.db"
            else:
                server = PostgreSQLServer()
                stack.callback(server.close)
                urls = server.new_database(), server.new_database()
            sampler = f"sampler={{name: {options.sampler}, seed: 0}}"
            begin(trials, sampler, urls[0])
            for slots, size in itertools.product(options.slots, options.groups):
                groups = max(1, -(-options.asked // size))
                clock = go_on(groups, slots, size, sampler, *urls, options.backlog, options.seconds)
                cells = " | ".join(f"{column:.1f}" for column in columns(clock))
                print(f"| {trials:,} | {slots} | {size} | {cells} |", flush=True)


def columns(clock: Clock) -> list[float]:
    """Return milliseconds per trial, in the order of the table."""
    reports = clock.trials["report"] / clock.trials["tell"]

    def parts(what: str) -> list[float]:
        return [clock.mean("ask", what), reports * clock.mean("report", what), clock.mean("tell", what)]

    sums = [sum(parts(what)) for what in ("all, processor", "Optuna, processor", "all")]
    return [*parts("all, processor"), *sums, clock.writer or sum(parts("MLflow, processor"))]


def begin(trials: int, sampler: str, storage: str) -> None:
    """Create the study with finished trials."""
    config = load_study(STUDY, [sampler])
    drawn = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(trials):
        trial = drawn.ask()
        assignment = Assignment(number, config.suggest(trial), Objective(), Path())
        for epoch in range(1, EPOCHS + 1):
            trial.report(accuracy(assignment, epoch), epoch)
        for key, value in {"state": "complete", "epochs": EPOCHS, "seconds": 10.0}.items():
            trial.set_user_attr(key, value)
        drawn.tell(trial, accuracy(assignment, EPOCHS))
    with StudyStore.open(config, storage, dict(config.identity), print) as store:
        store.together(lambda: store._study.add_trials(drawn.trials))


def optuna_alone(trials: int, size: int, sampler: str, storage: str) -> list[float]:
    """Ask, report and tell at least that many trials, in groups; return CPU milliseconds per trial, and their sum."""
    config, spent = load_study(STUDY, [sampler]), [0.0, 0.0, 0.0]
    attributes = {"state": "complete", "epochs": EPOCHS, "seconds": 10.0, "setup": {"device": "simulated"}}
    with StudyStore.open(config, storage, dict(config.identity), print) as store:

        def timed(part: int, action: Callable[[], list[Any]]) -> list[Any]:
            began = time.thread_time()
            try:
                return store.together(action)
            finally:
                spent[part] += time.thread_time() - began

        rounds = 1 - (-trials // size)
        for round_ in range(rounds):
            if round_ == 1:  # the first one reads the trials
                spent[:] = [0.0, 0.0, 0.0]
            asked = timed(0, lambda: [store.ask() for _ in range(size)])
            live = [Assignment(number, config, Objective(), Path()) for number, config in asked]
            for epoch in range(1, EPOCHS + 1):
                reports = [partial(store.report, each.number, epoch, accuracy(each, epoch), True) for each in live]
                timed(1, partial(call_all, reports))
            ends = [
                partial(store.finish, each.number, TrialState.COMPLETE, accuracy(each, EPOCHS), attributes)
                for each in live
            ]
            timed(2, partial(call_all, ends))
        found = [1000 * seconds / ((rounds - 1) * size) for seconds in spent]
        return [*found, sum(found)]


def processor_seconds(thread: threading.Thread) -> float:
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident)) if thread.ident else 0.0


def call_all(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    return [call() for call in calls]


def go_on(
    groups: int, slots: int, size: int, sampler: str, storage: str, uri: str, backlog: bool, seconds: float
) -> Clock:
    """Continue the study until a number of groups have ended."""
    clock = Clock()
    config = load_study(STUDY, [sampler, "budget.trials=100000"])  # the last ones would be asked for in smaller groups
    display = Display(config, Console(file=io.StringIO()))
    with StudyStore.open(config, storage, dict(config.identity), display.note) as store:
        tracker = Tracker(config, uri, store.identifier, display.note)
        together = store.together
        timed = clock.timed("Optuna", together)

        def timed_once(action: Callable[[], Any]) -> Any:
            return (together if store._trials.is_together else timed)(action)

        store.together = timed_once  # type: ignore[method-assign]
        put = tracker._recorder.runs.put

        def put_timed(lane: Hashable, record: Record) -> None:
            record.write = clock.timed("MLflow", record.write)
            put(lane, record)

        tracker._recorder.runs.put = put_timed  # type: ignore[method-assign]

        def settle() -> None:
            while tracker.backlog and not backlog:
                time.sleep(0.001)

        coordinator = Coordinator(config, store, tracker, display, fuse=GroupSize(size))
        writer, begun = tracker._recorder.runs, store.count
        while tracker.backlog:  # of the trials that were there
            time.sleep(0.01)
        worked, all_worked, began = processor_seconds(writer._thread), time.process_time(), time.monotonic()
        coordinator.run(engine := TrivialEngine(slots, clock, settle, groups, seconds))
        if backlog:
            lag = tracker.lag
            writer.drain(math.inf)
            ended, written = store.count - begun, time.monotonic() - began
            clock.writer = 1000 * (processor_seconds(writer._thread) - worked) / ended
            spent = 1000 * (time.process_time() - all_worked) / ended
            print(
                f"\n{engine.rate:.1f} trials per second, MLflow {lag:.0f} s behind at the end; "
                f"{ended / written:.1f} until MLflow had all; {spent:.1f} CPU ms per trial in all threads\n",
                file=sys.stderr,
            )
        tracker.close("FINISHED", patience=math.inf)
    return clock


if __name__ == "__main__":
    main()
