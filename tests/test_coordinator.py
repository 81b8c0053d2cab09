"""The coordinator with an engine that trains nothing: which groups it starts, and how it handles their ends."""

import io
from collections.abc import Callable, Sequence

import optuna
import pytest
from rich.console import Console

from tests.studies import TINY, StudyFolder
from tuner.config.loader import load_study
from tuner.config.trial import TrialConfig
from tuner.errors import StudyFailedError
from tuner.protocol import EvaluationResult, Group, Handler, Slot, TrainingGroup, TrialResult
from tuner.runner.coordinator import Coordinator
from tuner.runner.display import Display
from tuner.runner.group_size import ONE_BY_ONE, GroupSize
from tuner.storage.study_store import StudyStore
from tuner.tracking.tracker import Tracker

End = Callable[[Handler, Group], None]


class Script:
    """An engine of one slot, in which each group ends as the script says for its number; the last line repeats."""

    def __init__(self, *ends: End) -> None:
        self.slots: Sequence[Slot] = (Slot(0, (), 1),)
        self.ends = list(ends)
        self.groups: list[Group] = []

    def run(self, handler: Handler) -> None:
        while (group := handler.next_group(self.slots[0])) is not None:
            if not isinstance(group, TrainingGroup):
                handler.done(group, [EvaluationResult()] * len(group.trials))
                continue
            self.groups.append(group)
            assert len(self.groups) < 30, "it goes round and round"
            end = self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]
            end(handler, group)
            handler.tick()

    def close(self) -> None:
        pass


def ends(state: str, value: float | None = None, message: str = "") -> End:
    def end(handler: Handler, group: Group) -> None:
        handler.done(group, [TrialResult(state, value, message=message)] * len(group.trials))  # type: ignore[arg-type]

    return end


def dies(handler: Handler, group: Group) -> None:
    handler.died(group, "killed by SIGKILL")


@pytest.fixture
def run(folder: StudyFolder) -> Callable[..., tuple[list[tuple[str, str]], str]]:
    """Return a function that runs a study with an engine and returns each trial's state and message, and the output."""

    def call(engine: Script, trials: int = 2, fuse: GroupSize = ONE_BY_ONE) -> tuple[list[tuple[str, str]], str]:
        folder.prepare()
        config = load_study(str(TINY), [f"budget.trials={trials}"])
        shown = io.StringIO()
        display = Display(config, Console(file=shown, width=1000))
        url = f"sqlite:///{folder.path}/optuna.db"
        with StudyStore.open(config, url, dict(config.identity), display.note) as store:
            tracker = Tracker(config, f"sqlite:///{folder.path}/mlflow.db", store.identifier, display.note)
            try:
                Coordinator(config, store, tracker, display, fuse=fuse).run(engine)
            finally:
                tracker.close("FINISHED")
            trials_ = store.trials()
        states = [(each.state.name.lower(), each.user_attrs.get("message", "")) for each in trials_]
        return states, shown.getvalue()

    return call


def test_an_unrequested_interruption_fails_the_trial_the_second_time(run: Callable):
    engine = Script(ends("interrupted"), ends("interrupted"), ends("complete", 0.5))
    states, _ = run(engine)
    assert states == [
        ("fail", "stopped before its last epoch without being asked to, 2 times: given up"),
        ("complete", ""),
    ]
    assert [group.trials[0].number for group in engine.groups] == [0, 0, 1]


def test_a_trial_that_dies_again_and_again_is_given_up(run: Callable):
    engine = Script(*[dies] * 4, ends("complete", 0.5))
    states, shown = run(engine)
    assert states == [("fail", "killed by SIGKILL, 4 times: given up"), ("complete", "")]
    assert shown.count("it resumes from its last checkpoint") == 3


def test_each_trial_that_is_given_up_is_noted(run: Callable):
    _, shown = run(Script(*[dies] * 8))
    assert shown.count("failed: killed by SIGKILL, 4 times: given up") == 2


def stops_and_dies(handler: Coordinator, group: Group) -> None:
    """End like a Slurm job, in which all processes are signaled."""
    handler.stop()
    handler.died(group, "killed by SIGTERM")


def test_a_death_while_the_study_ends_does_not_count_as_a_crash(run: Callable):
    for _ in range(5):
        states, _ = run(Script(stops_and_dies), trials=1)
        assert states == [("waiting", "")]
    states, _ = run(Script(ends("complete", 0.5)), trials=1)
    assert states == [("complete", "")]


def test_a_call_to_end_shows_nothing_before_the_next_tick(run: Callable):
    """The call comes from a signal handler, perhaps while a line is being printed."""
    ticks: list[bool] = []

    def stop_twice(handler: Coordinator, group: Group) -> None:
        ending = "stopping after the current epochs; press Ctrl-C again to stop now"
        for told in (ending, "stopping now"):
            before = shown_by(handler)
            handler.stop()
            assert shown_by(handler) == before
            ticks.append(handler.tick())
            assert shown_by(handler) == f"{before}note: {told}\n"
            handler.tick()
            assert shown_by(handler) == f"{before}note: {told}\n", "once"
        handler.died(group, "was ended")

    run(Script(stop_twice), trials=1)
    assert ticks == [True, False], "the second call has everything killed"


def shown_by(handler: Coordinator) -> str:
    return handler._display._console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "messages",
    [
        ["ValueError: at step 12"] * 3,
        [f"ValueError: at step {step}, object at 0x7f{step}a" for step in (1, 20, 333)],
    ],
    ids=["equal", "but for numbers"],
)
def test_the_same_error_ends_the_study_the_third_time_in_a_row_with_any_numbers_in_it(
    run: Callable, messages: list[str]
):
    engine = Script(*[ends("failed", message=message) for message in messages])
    with pytest.raises(StudyFailedError, match="3 trials in a row failed in the same way"):
        run(engine, trials=8)
    assert len(engine.groups) == 3


@pytest.mark.parametrize(
    "messages",
    [
        ["ValueError: of one kind", "ValueError: of another"],
        ["out of memory with Net, width=100: no room", "out of memory with Net, width=200: no room"],
    ],
    ids=["errors", "sizes"],
)
def test_other_errors_do_not_end_the_study(run: Callable, messages: list[str]):
    states, shown = run(Script(*[ends("failed", message=messages[number % 2]) for number in range(6)]), trials=6)
    assert [state for state, _ in states] == ["fail"] * 6
    for message in messages:
        assert shown.count(message) == 1, "each is reported once"


def test_a_trial_that_stopped_by_itself_is_reported_once_a_study(run: Callable):
    told = "stopped on its own after epoch 2 of 3"
    states, shown = run(Script(ends("complete", 0.5, told)), trials=3)
    assert states == [("complete", told)] * 3
    assert shown.count(told) == 1


@pytest.mark.parametrize(("fuse", "expected"), [(ONE_BY_ONE, False), (GroupSize(1), True)], ids=["off", "one"])
def test_the_option_decides_if_a_single_trial_may_be_a_group_of_one(run: Callable, fuse: GroupSize, expected: bool):
    engine = Script(ends("complete", 0.5))
    run(engine, trials=1, fuse=fuse)
    assert [group.as_group for group in engine.groups if isinstance(group, TrainingGroup)] == [expected]


def test_a_group_is_smaller_if_another_program_has_added_trials_while_it_was_asked_for(
    run: Callable, folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
):
    ask, asked = StudyStore.ask, []

    def ask_late(store: StudyStore) -> tuple[int, TrialConfig]:
        if not asked:
            other = optuna.load_study(study_name="tiny", storage=f"sqlite:///{folder.path}/optuna.db")
            for _ in range(3):
                other.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))
        asked.append(1)
        return ask(store)

    monkeypatch.setattr(StudyStore, "ask", ask_late)
    engine = Script(ends("complete", 0.5))
    states, _ = run(engine, trials=4, fuse=GroupSize(4))
    assert [state for state, _ in states] == ["fail"] * 3 + ["complete"]
    assert [[each.number for each in group.trials] for group in engine.groups] == [[3]]


def test_while_a_slot_waits_for_an_answer_mlflow_is_not_written(run: Callable):
    waits = []

    def end(handler: Coordinator, group: Group) -> None:
        precedence = handler._tracker._recorder.precedence
        handler._finished = lambda number: waits.append(not precedence._is_free.is_set())
        handler.done(group, [TrialResult("complete", 0.5)])
        assert precedence._is_free.is_set()

    run(Script(end))
    assert waits == [True, True]
