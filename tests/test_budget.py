"""A budget in epochs or steps: never exceeded, used as far as whole trainings fit, whatever happens to the trials."""

import io
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from optuna.trial import TrialState
from rich.console import Console

from tests.studies import STEPS, TINY, StudyFolder
from tuner.config.loader import load_study
from tuner.errors import BadInputError
from tuner.protocol import Assignment, EpochReport, EvaluationResult, Handler, Slot, StepReport, TrainingGroup
from tuner.protocol import TrialResult as Result
from tuner.runner.coordinator import Coordinator
from tuner.runner.display import Display, Part
from tuner.runner.group_size import GroupSize
from tuner.storage.inventory import listed_studies
from tuner.storage.study_store import StudyStore
from tuner.tracking.tracker import Tracker

EPOCHS, LONGEST, SLOTS = 40, 5, 3
PRUNING = (
    f"budget={{epochs: {EPOCHS}}}",
    f"trial.trainer.max_epochs={LONGEST}",
    "pruner={name: median, n_startup_trials: 1, n_warmup_steps: 0}",
)


class Rough:
    """An engine without trainings, whose trials are pruned, diverge, die and are interrupted at random.

    Args:
        seed: Seed of the values and of the accidents.
        patience: Number of epochs after which the study is ended.
    """

    def __init__(self, seed: int, patience: int) -> None:
        self.slots: Sequence[Slot] = [Slot(index, (), 1) for index in range(SLOTS)]
        self.random, self.patience = random.Random(seed), patience
        self.reached: dict[int, int] = {}  # the last checkpoint of each trial

    def run(self, handler: Handler) -> None:
        busy: dict[int, tuple[TrainingGroup, Iterator[list[Result] | None]]] = {}
        while True:
            for slot in self.slots:
                if slot.index not in busy and (group := handler.next_group(slot)) is not None:
                    if isinstance(group, TrainingGroup):
                        busy[slot.index] = group, self.train(handler, group)
                    else:
                        handler.done(group, [EvaluationResult()])
            if not busy:
                return
            index = self.random.choice(sorted(busy))
            group, training = busy[index]
            self.patience -= 1
            if self.patience == 0:
                handler.stop()  # type: ignore[attr-defined]
            if self.random.random() < 0.05:
                handler.died(group, "killed by SIGKILL")
                del busy[index]
            elif (results := next(training)) is not None:
                handler.done(group, results)
                del busy[index]

    def train(self, handler: Handler, group: TrainingGroup) -> Iterator[list[Result] | None]:
        """Yield after each epoch; the results in the end."""
        results: dict[int, Result] = {}
        while running := [each for each in group.trials if each.number not in results]:
            for trial in running:
                if result := self.epoch(handler, trial):
                    results[trial.number] = result
            yield None if len(results) < len(group.trials) else [results[each.number] for each in group.trials]

    def epoch(self, handler: Handler, trial: Assignment) -> Result | None:
        before = self.reached.get(trial.number, 0)
        if self.random.random() < 0.05:
            return Result("diverged", epochs=before)
        epoch, value = before + 1, self.random.random()
        step = StepReport(epoch, epoch * 18, LONGEST * 18, 0.01)
        report = EpochReport(epoch, value, (), False, step, epoch == LONGEST)
        decision = handler.report({trial.number: report})[trial.number]
        if decision == "prune":
            return Result("pruned", value, epoch)
        if decision == "stop":
            return Result("interrupted", value, epoch)
        if self.random.random() < 0.8:  # else no checkpoint: the epoch is repeated if the trial dies
            self.reached[trial.number] = epoch
        return Result("complete", value, LONGEST) if epoch == LONGEST else None

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("fuse", "seeds"),
    [(1, [0]), pytest.param(1, [1, 2], marks=pytest.mark.slow), pytest.param(3, [0, 1, 2], marks=pytest.mark.slow)],
)
def test_a_budget_of_epochs_is_used_to_the_last_whole_training_whatever_happens(
    folder: StudyFolder, fuse: int, seeds: list[int]
):
    folder.prepare()
    url, tracking = f"sqlite:///{folder.path}/optuna.db", f"sqlite:///{folder.path}/mlflow.db"
    for seed in seeds:
        config = load_study(str(TINY), [*PRUNING, f"name=s{seed}"])
        assert config.budget == "40 epochs"
        engine = Rough(seed, patience=9)
        for _ in range(50):
            display = Display(config, Console(file=io.StringIO(), force_terminal=True, width=200, color_system=None))
            with StudyStore.open(config, url, dict(config.identity), lambda text: None) as store:
                tracker = Tracker(config, tracking, store.identifier, lambda text: None)
                coordinator = Coordinator(config, store, tracker, display, fuse=GroupSize(fuse))
                engine.reached = dict(engine.reached)
                coordinator.run(engine)
                tracker.close("FINISHED")
                trials = store.trials()
                spent = sum(max(1, trial.user_attrs.get("epochs", 0)) for trial in trials)
                reported = sum(len(trial.intermediate_values) for trial in trials)
                assert reported <= EPOCHS, "no epoch beyond the budget, those of unfinished trials included"
                if coordinator.is_done:
                    break
                engine.patience = 9
                assert any(trial.state is TrialState.WAITING for trial in trials) or spent <= EPOCHS - LONGEST
        assert coordinator.is_done, "it comes to an end"
        assert all(trial.state.is_finished() for trial in trials)
        assert store.spent == spent
        assert EPOCHS - LONGEST < spent <= EPOCHS, "no further training fits"
        assert len({trial.state for trial in trials}) > 1, "some were pruned, which made room for others"
        assert len(trials) > EPOCHS // LONGEST


def test_the_epochs_of_a_failed_trial_count(folder: StudyFolder):
    callbacks = "trial.trainer.callbacks=[{name: tests.toys:FailsInTheThirdEpoch}]"
    output = folder.call("--set", "budget={epochs: 5}", "--set", callbacks, expect=1)
    assert "failed" in output
    assert "tiny has used 4 of 5 epochs in 2 trials (2 failed)\n" in output, "more trials would fail as well"


def test_a_study_says_how_much_of_its_budget_is_used_and_continues_with_a_larger_one(folder: StudyFolder):
    output = folder.call("--set", "budget={epochs: 8}")
    assert "tiny: 8 epochs for the best val/acc" in output
    assert "tiny has used 6 of 8 epochs in 2 trials (2 complete); raise budget.epochs to add more" in output
    url = f"sqlite:///{folder.path}/optuna.db"
    (listed,) = listed_studies(url)
    assert (listed.state, listed.asked) == ("finished", None)
    assert replace(listed, ended=0).state == "can be continued", "interrupted with a larger budget"
    assert replace(listed, ended=-1).state == "not running", "of an earlier version"
    output = folder.call("--set", "budget={epochs: 20, trials: 3}")
    assert "tiny: 20 epochs and at most 3 trials for the best val/acc" in output
    assert "tiny has used 9 of 20 epochs in 3 trials (3 complete); raise --trials to add more" in output
    output = folder.call("--set", "budget={epochs: 11, trials: 3}")
    assert "tiny has used 9 of 11 epochs in 3 trials (3 complete); raise --trials and budget.epochs to add" in output
    output = folder.call("--set", "budget={epochs: 12}")
    assert "tiny has used 12 of 12 epochs in 4 trials (4 complete)" in output
    folder.check(trials=4, epochs=3, steps=STEPS)
    ((note,),) = folder.mlflow("select value from tags where key = 'mlflow.note.content' and value like '%epochs%'")
    assert "\n4 trials within 12 epochs · " in note


def test_a_budget_of_steps_counts_the_steps_between_validations(folder: StudyFolder):
    length = "trial.trainer={max_steps: 27, val_check_interval: 9}"
    output = folder.call("--set", "budget={steps: 60}", "--set", length)
    assert "tiny has used 54 of 60 steps in 2 trials" in output


def test_the_terminal_shows_the_epochs_that_are_used():
    output = io.StringIO()
    config = load_study(str(TINY), ["budget={epochs: 12}"])
    trial = config.trial_of({**config.trial, "optimizer": {"name": "adam", "initial_lr": 0.01}, "schedule": CONSTANT})
    with Display(config, Console(file=output, force_terminal=True, width=120, color_system=None)) as display:
        display.standing(1, 3, None)
        display.start(1, trial, Slot(0, (), 1))
        display.tick()
        assert "3/12 epochs, 1 trial done" in output.getvalue()
        display.epoch(1, EpochReport(2, 0.75, [], False, StepReport(2, 36, 54, 0.00123)))
        display.tick()
        display.suspend(1)  # at a rung
        display.standing(1, 5, None)
        display.start(1, trial, Slot(0, (), 1))
        display.standing(1, 3, None)  # it reserves a whole training again, and has not reported yet
        output.truncate(0)
        display.tick()
    assert "5/12 epochs, 1 trial done" in output.getvalue()


def test_the_time_left_is_that_of_the_epochs_and_of_the_last_trainings(monkeypatch: pytest.MonkeyPatch):
    output, now = io.StringIO(), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    config = load_study(str(TINY), ["budget={epochs: 60}", "final={trials: 1, seeds: 3}"])
    display = Display(config, Console(file=output))
    display.standing(4, 10, None)  # an earlier run
    now[0] = 60.0
    display.standing(7, 16, None)  # three trials that were stopped after two epochs: two whole trainings
    display.tick()
    # 17 epochs of the search and 27 of the final runs, at 10 s each
    assert output.getvalue() == "16/60 epochs, 7 trials done, 1:00 so far, about 7:20 left\n"
    last = load_study(str(TINY), ["budget={trials: 9}", "final={trials: 0}"])
    display = Display(last, Console(file=output), part=Part(33, 60, 3, "epochs"))
    display.standing(2, 0, None)
    now[0] = 120.0
    display.tick()
    assert "39/60 epochs, 2 final runs done, " in output.getvalue(), "the final runs go on from there"


CONSTANT = {"name": "constant"}


@pytest.mark.parametrize(
    ("trials", "progress"),
    [
        (8, "2/8 trials, 3 epochs done, 1:00 so far, about 3:00 left"),  # however long they are
        (99, "2/99 trials, 3 epochs done, 1:00 so far, about 48:30 left"),  # 97 trials of 30 s
        (250, "3/280 epochs, 2 trials done, 1:00 so far, about 1:32:20 left"),  # 277 epochs of 20 s
        (280, "3/280 epochs, 2 trials done, 1:00 so far, about 1:32:20 left"),  # as many as without a limit
    ],
)
def test_the_progress_and_the_time_left_follow_the_limit_that_binds_first(
    trials: int, progress: str, monkeypatch: pytest.MonkeyPatch
):
    output, now = io.StringIO(), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    config = load_study(str(TINY), [f"budget={{epochs: 280, trials: {trials}}}", "final={trials: 0}"])
    trial = config.trial_of({**config.trial, "optimizer": {"name": "adam", "initial_lr": 0.01}, "schedule": CONSTANT})
    display = Display(config, Console(file=output, width=120))
    display.standing(0, 0, None)
    now[0] = 60.0
    for number, epochs in enumerate((2, 1)):
        display.start(number, trial, Slot(0, (), 1))
        display.finish(number, trial, Result("pruned", 0.5, epochs))
    display.standing(2, 3, None)
    display.tick()
    assert output.getvalue().splitlines()[-1] == progress


@pytest.mark.parametrize(
    ("budget", "wrong"),
    [
        ("{epochs: 2}", "budget.epochs: must be at least the 3 epochs of one full run (got 2)."),
        ("{epochs: 0}", "budget.epochs: must be a whole number from 1 to 1000000 (got 0)."),
        ("{until: 0.01}", "budget.until: needs trials, epochs or steps as well, as an upper limit."),
        ("{until: 0, trials: 5}", "budget.until: must be a number above 0 (got 0)."),
        ("{steps: 100}", "budget.steps: write epochs: the length of a run is in epochs (max_epochs)."),
        ("{epochs: 9, steps: 9}", "budget.steps: remove it or epochs: the total training has a single limit."),
    ],
)
def test_a_budget_that_no_training_fits_into_is_refused(budget: str, wrong: str):
    with pytest.raises(BadInputError) as caught:
        load_study(str(TINY), [f"budget={budget}", "sampler={name: curve}"])
    assert list(caught.value.faults) == [f"--set: {wrong}"]


def test_an_end_by_the_expected_gain_needs_a_sampler_that_expects_something():
    with pytest.raises(BadInputError, match=r"budget\.until: needs the sampler curve, .* \(random cannot\)"):
        load_study(str(TINY), ["budget={trials: 9, until: 0.1}"])


def test_the_longest_training_of_the_search_space_has_to_fit():
    lengths = "search_space.trainer.max_epochs={low: 2, high: 6}"
    with pytest.raises(BadInputError, match="at least the 6 epochs of one full run"):
        load_study(str(TINY), [lengths, "budget={epochs: 5}"])
    assert load_study(str(TINY), [lengths, "budget={epochs: 20}"]).fewest_trials == 3


class Smooth(Rough):
    """An engine of one slot, whose values depend on the lr alone, and are best at 0.01."""

    def __init__(self) -> None:
        super().__init__(0, patience=-1)
        self.slots = self.slots[:1]

    def run(self, handler: Handler) -> None:
        while (group := handler.next_group(self.slots[0])) is not None:
            if isinstance(group, TrainingGroup):
                trial = group.trials[0]
                value = 0.9 - (math.log10(trial.config.optimizer.arguments["initial_lr"]) + 2) ** 2
                for epoch in range(1, 4):
                    step = StepReport(epoch, epoch * 18, 54, 0.01)
                    handler.report({trial.number: EpochReport(epoch, value, [], False, step, is_last=epoch == 3)})
                handler.done(group, [Result("complete", value, 3)])
            else:
                handler.done(group, [EvaluationResult()])


def test_a_study_ends_when_little_can_be_gained_and_goes_on_for_less(folder: StudyFolder):
    folder.prepare()
    url, tracking = f"sqlite:///{folder.path}/optuna.db", f"sqlite:///{folder.path}/mlflow.db"

    def run(until: float) -> tuple[int, float]:
        options = ["search_space.schedule=null", "sampler={name: curve}"]
        config = load_study(str(TINY), [f"budget={{trials: 60, until: {until}}}", *options])
        assert config.budget == f"60 trials, or until the expected gain is below {until:g},"
        display = Display(config, Console(file=io.StringIO()))
        with StudyStore.open(config, url, dict(config.identity), lambda text: None) as store:
            tracker = Tracker(config, tracking, store.identifier, lambda text: None)
            coordinator = Coordinator(config, store, tracker, display)
            coordinator.run(Smooth())
            tracker.close("FINISHED")
            assert coordinator.is_done
            return store.count, store.possible_gain()

    count, gain = run(0.01)
    assert 10 <= count < 60
    assert gain < 0.01
    assert run(0.01) == (count, gain), "it has ended, and stays so"
    more, less = run(gain / 2)
    assert more > count
    assert more == 60 or less < gain / 2
