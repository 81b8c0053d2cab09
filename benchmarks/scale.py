"""The coordinator's milliseconds per trial as a study grows, with trainings that take no time.

The study is the quickstart: three schedules, six parameters, three epochs, the lr of every step. Its trainings are
simulated; everything else is real: coordinator, Optuna's database, sampler and pruner, MLflow's store, files. The slots
are simulated too: a fixed number of trials is open, and a random one of them is the next to report an epoch or to end.

The study is measured at 10, 100, 1,000 and 5,000 trials. To get there quickly, finished trials are written directly to
Optuna's database, and the coordinator sends them to MLflow, as after an outage. Then the study is continued with each
number of slots in turn, and the time per trial is measured while all slots are busy:

- ask, report, tell: the coordinator's thread, from an event to its answer; means, with all reports of a trial together;
- Optuna's part of that: asking, reporting and telling; and its CPU time, without waiting;
- MLflow: the thread that writes to it, and its CPU time. The coordinator waits for it after each event, so that neither
  disturbs the other's measurement.

    python benchmarks/scale.py --storage sqlite --sampler tpe --trials 10 100 1000 5000 --slots 2 16 64
"""

import argparse
import contextlib
import dataclasses
import io
import math
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import optuna
from rich.console import Console

from tests.servers import PostgreSQLServer
from tuner.config.loader import load_study
from tuner.config.study import Objective, TrialConfig
from tuner.files import write_json
from tuner.protocol import (
    Assignment,
    EpochReport,
    EvaluationResult,
    Handler,
    Point,
    Slot,
    StepReport,
    TrainingGroup,
    TrialResult,
)
from tuner.runner.coordinator import Coordinator
from tuner.runner.display import Display
from tuner.storage.study_store import StudyStore
from tuner.tracking.record_writer import Record
from tuner.tracking.tracker import Tracker
from tuner.training.run import MODEL_FILE, RESULT_FILE

EPOCHS, STEPS = 3, 40  # steps of an epoch
METRICS = ("train/loss", "train/acc", "val/loss", "val/acc")


class Clock:
    """Measures the time of each kind of event."""

    def __init__(self) -> None:
        self._now: defaultdict[str, float] = defaultdict(float)
        self.events: defaultdict[str, list[defaultdict[str, float]]] = defaultdict(list)

    def timed(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began, worked = time.perf_counter(), time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self._now[what] += time.perf_counter() - began
                self._now[f"{what}, processor"] += time.thread_time() - worked

        return call

    def end(self, event: str | None) -> None:
        """Count the time since the last call as an event of this kind; None to ignore it."""
        if event:
            self.events[event].append(self._now.copy())
        self._now.clear()

    def mean(self, event: str, what: str) -> float:
        """Return the mean in milliseconds."""
        return 1000 * statistics.mean(each[what] for each in self.events[event])


class MadeUp:
    """A simulated training, which yields the reports of one epoch at a time."""

    def __init__(self, slot: Slot, assignment: Assignment) -> None:
        self.slot, self.assignment, self.epoch = slot, assignment, 0
        self._lrs = curve(assignment.config)
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

    def result(self, pruned: bool) -> TrialResult:
        value = accuracy(self.assignment, self.epoch)
        result = TrialResult("pruned" if pruned else "complete", value, self.epoch, 10.0, points=self._points)
        self.assignment.directory.mkdir(parents=True, exist_ok=True)
        if not pruned:
            (self.assignment.directory / MODEL_FILE).touch()
        write_json(self.assignment.directory / RESULT_FILE, dataclasses.asdict(result))
        return result


def curve(config: TrialConfig) -> list[float]:
    schedule = config.schedule.build("schedule")
    schedule = getattr(schedule, "schedule", schedule)  # below a plateau
    initial_lr = config.optimizer.arguments["initial_lr"]
    return [initial_lr * (schedule(step) if schedule else 1.0) for step in range(EPOCHS * STEPS)]


def accuracy(assignment: Assignment, epoch: int) -> float:
    """Return a value that depends on the parameters, with a little noise, so that samplers have something to learn."""
    lr = assignment.config.optimizer.arguments["initial_lr"]
    noise = random.Random(assignment.number).gauss(0, 0.003)
    return 0.98 - 0.1 * abs(math.log10(lr / 1.5e-3)) ** 2 - 0.1 / 2**epoch + noise


class TrivialEngine:
    """Simulates slots, in the coordinator's thread.

    Args:
        slots: Number of slots.
        clock: Measures each event while all slots are busy.
        settle: Waits for MLflow.
    """

    def __init__(self, slots: int, clock: Clock, settle: Callable[[], None]) -> None:
        self.slots: Sequence[Slot] = tuple(Slot(index, (), 1) for index in range(slots))
        self._clock, self._settle = clock, settle
        self._random = random.Random(0)
        self._free = list(self.slots)

    def run(self, handler: Handler) -> None:
        busy: list[MadeUp] = []
        self._end(None)
        while True:
            while self._free and (group := self._call(handler.next_group, self._free[-1])) is not None:
                if isinstance(group, TrainingGroup):
                    busy.append(MadeUp(self._free.pop(), group.trials[0]))
                    self._end("ask")
                else:
                    handler.done(group, [EvaluationResult({"test/acc": 0.98})])
            self._end(None)
            if not busy:
                return
            training = self._random.choice(busy)
            decision = self._call(handler.report, training.assignment.number, training.next_epoch())
            self._end("report")
            if decision == "prune" or training.epoch == EPOCHS:
                result = training.result(decision == "prune")
                self._call(handler.done, TrainingGroup((training.assignment,)), [result])
                self._end("tell")
                busy.remove(training)
                self._free.append(training.slot)

    def close(self) -> None:
        pass

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        return self._clock.timed("all", function)(*args)

    def _end(self, event: str | None) -> None:
        self._settle()
        self._clock.end(event if not self._free else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--sampler", choices=("tpe", "random"), default="tpe")
    parser.add_argument("--trials", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--slots", type=int, nargs="+", default=[2, 16, 64])
    parser.add_argument("--asked", type=int, default=20, help="trials asked for while all slots are busy")
    options = parser.parse_args()
    print(f"{options.storage}, {options.sampler}\n")
    print("| trials | slots | ask | report | tell | in all | of that Optuna | of that processor | MLflow | processor |")
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
            asked = trials
            for slots in options.slots:
                asked += slots + options.asked
                clock = go_on(asked, slots, sampler, *urls)
                print(
                    f"| {trials:,} | {slots} | {' | '.join(f'{column:.0f}' for column in columns(clock))} |", flush=True
                )


def columns(clock: Clock) -> list[float]:
    """Return milliseconds per trial, in the order of the table."""
    reports = len(clock.events["report"]) / len(clock.events["tell"])

    def a_trial(what: str) -> float:
        return clock.mean("ask", what) + reports * clock.mean("report", what) + clock.mean("tell", what)

    parts = [clock.mean("ask", "all"), reports * clock.mean("report", "all"), clock.mean("tell", "all")]
    return [*parts, *map(a_trial, ("all", "Optuna", "all, processor", "MLflow", "MLflow, processor"))]


def begin(trials: int, sampler: str, storage: str) -> None:
    """Create the study with finished trials."""
    config = load_study("quickstart", [sampler])
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
        store._study.add_trials(drawn.trials)


def go_on(trials: int, slots: int, sampler: str, storage: str, uri: str) -> Clock:
    """Continue the study up to a number of trials."""
    clock = Clock()
    config = load_study("quickstart", [sampler, f"budget.trials={trials}"])
    display = Display(config, Console(file=io.StringIO()))
    with StudyStore.open(config, storage, dict(config.identity), display.note) as store:
        tracker = Tracker(config, uri, store.identifier, display.note)
        for method in ("ask", "report", "finish"):
            setattr(store, method, clock.timed("Optuna", getattr(store, method)))
        put = tracker._recorder.runs.put

        def put_timed(lane: Hashable, record: Record) -> None:
            record.write = clock.timed("MLflow", record.write)
            put(lane, record)

        tracker._recorder.runs.put = put_timed  # type: ignore[method-assign]

        def settle() -> None:
            while tracker.backlog:
                time.sleep(0.001)

        Coordinator(config, store, tracker, display).run(TrivialEngine(slots, clock, settle))
        tracker.close("FINISHED", patience=math.inf)
    return clock


if __name__ == "__main__":
    main()
