"""Groups of trials trained as one model by the tuner: each trial reports, ends, stops and resumes as it does alone."""

import dataclasses
import math
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from tests.studies import DIGITS, StudyFolder
from tests.test_study import slots_of
from tuner.config.study import Objective
from tuner.config.trial import TrialConfig
from tuner.errors import BadInputError
from tuner.protocol import Assignment, Decision, EpochReport, Slot, StepReport, TrainingGroup, TrialResult
from tuner.runner.group_size import GroupSize, alike, group_size
from tuner.training.build import build_classifiers
from tuner.training.results import MODEL_FILE, RESULT_FILE, read_result
from tuner.training.run import run

STEPS = 5  # an epoch: 100 images in batches of 20
VALUES: dict[str, Any] = {
    "data": {"name": "mnist_5k", "batch_size": 20, "val_fraction": 0.02, "test_fraction": 0.96},
    "model": {"name": "mnist_cnn", "channels": [2, 3, 4], "hidden": [16, 8]},
    "optimizer": {"name": "adam", "initial_lr": 0.01},
    "schedule": {"name": "cosine_restarts", "restart_period": 7},
    "trainer": {"max_epochs": 3, "precision": "64-true"},
    "seed": 5,
}
PLATEAU = {"name": "plateau", "factor": 0.5, "patience": 0, "threshold": 1e9, "threshold_mode": "abs"}
TRIALS: Sequence[dict[str, Any]] = [
    VALUES,
    {**VALUES, "optimizer": {"name": "sgd", "initial_lr": 0.1, "momentum": 0.9}, "schedule": PLATEAU},
    {**VALUES, "schedule": {**PLATEAU, "monitor": "train/loss"}, "seed": 6},
    {**VALUES, "averaging": {"name": "ema", "decay": 0.8}},
    {**VALUES, "optimizer": {"name": "schedule_free_adamw", "initial_lr": 0.02}},
]
ENDLESS = {**VALUES, "optimizer": {"name": "sgd", "initial_lr": 0.1}}
DIVERGING = {
    **ENDLESS,
    "schedule": {"name": "piecewise_constant", "boundaries": [STEPS + 1], "factors": [1.0, 1e200]},
}

BRANCHING = """
import torch


class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(784, 10)

    def forward(self, images):
        logits = super().forward(images.flatten(1))
        return logits * 2 if logits.sum() > 0 else logits
"""


class Noted(torch.nn.Linear):
    """Keeps the seeds with which networks of this class are initialized."""

    seeds: ClassVar[list[int]] = []

    def __init__(self) -> None:
        self.seeds.append(torch.initial_seed())
        super().__init__(784, 10)


class Answers:
    """A channel that records the reports and gives predefined answers, by trial and epoch."""

    def __init__(self, decisions: dict[tuple[int, int], Decision] | None = None) -> None:
        self.decisions = decisions or {}
        self.reports: dict[int, list[EpochReport]] = {}
        self.steps: dict[int, list[StepReport]] = {}
        self.limits: list[tuple[int, str]] = []
        self.notes: list[str] = []

    def report(self, reports: Mapping[int, EpochReport]) -> dict[int, Decision]:
        for number, report in reports.items():
            self.reports.setdefault(number, []).append(report)
        return {number: self.decisions.get((number, report.epoch), "continue") for number, report in reports.items()}

    def progress(self, number: int, report: StepReport) -> None:
        self.steps.setdefault(number, []).append(report)

    def fuse_at_most(self, count: int, reason: str) -> None:
        self.limits.append((count, reason))

    def note(self, text: str) -> None:
        self.notes.append(text)


def assignments(folder: Path, trials: Sequence[dict[str, Any]]) -> tuple[Assignment, ...]:
    configs = [TrialConfig.from_values(values) for values in trials]
    return tuple(Assignment(number, each, Objective(), folder / str(number)) for number, each in enumerate(configs))


def train(
    folder: Path, trials: Sequence[dict[str, Any]], channel: Answers | None = None, fused: bool = True
) -> list[TrialResult]:
    """Train trials together or one after the other, each in its directory within the folder."""
    channel = channel or Answers()
    if fused:
        results = run(TrainingGroup(assignments(folder, trials)), channel)
        assert channel.limits == [], "they were trained one after another"
        return results
    return [
        result for assignment in assignments(folder, trials) for result in run(TrainingGroup((assignment,)), channel)
    ]


def assert_same(one: TrialResult, other: TrialResult) -> None:
    """Compare two results in everything except conditions and time."""
    series = [{(key, step): value for key, step, value in result.points} for result in (one, other)]
    assert len(series[0]) == len(one.points), "one point a metric and step"
    assert series[0] == pytest.approx(series[1], rel=1e-10, abs=1e-10)
    assert one.value == pytest.approx(other.value, rel=1e-10)
    plain = [dataclasses.replace(result, points=[], seconds=0.0, value=None, setup={}) for result in (one, other)]
    assert plain[0] == plain[1]


def assert_same_weights(one: Path, other: Path) -> None:
    states = [torch.load(folder / MODEL_FILE, weights_only=True)["state_dict"] for folder in (one, other)]
    assert states[0].keys() == states[1].keys()
    for key in states[0]:
        torch.testing.assert_close(states[0][key], states[1][key], rtol=1e-10, atol=1e-10)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[TrialResult], Answers]:
    """Return the files and reports of the trials when each is trained alone."""
    folder, channel = tmp_path_factory.mktemp("alone"), Answers()
    return folder, train(folder, TRIALS, channel, fused=False), channel


def test_each_trial_of_a_group_has_the_same_reports_and_files_as_alone(tmp_path: Path, alone: Any):
    folder, expected, answers = alone
    channel = Answers()
    results = train(tmp_path, TRIALS, channel)
    for number, result in enumerate(results):
        assert result.state == "complete"
        assert_same(result, expected[number])
        assert_same_weights(tmp_path / str(number), folder / str(number))
        assert sorted(path.name for path in (tmp_path / str(number)).iterdir()) == [MODEL_FILE, RESULT_FILE]
        stored = read_result(tmp_path / str(number), TrialConfig.from_values(TRIALS[number]))
        assert stored.points == [tuple(point) for point in result.points]
        for mine, theirs in zip(channel.reports[number], answers.reports[number], strict=True):
            assert (mine.epoch, mine.lr_rose, mine.step) == (theirs.epoch, theirs.lr_rose, theirs.step)
            assert mine.value == pytest.approx(theirs.value, rel=1e-10)
        assert channel.steps[number][0] == answers.steps[number][0]


def test_trials_of_one_seed_share_a_network_that_is_initialized_once():
    seeds = [5, 6, 5, 7, 6, 5]
    values = {**VALUES, "model": {"name": "tests.test_fusing:Noted"}}
    configs = [TrialConfig.from_values({**values, "seed": seed}) for seed in seeds]
    Noted.seeds.clear()
    networks = [classifier.model for classifier in build_classifiers(configs)]
    assert Noted.seeds == [5, 6, 7]
    assert [networks.index(network) for network in networks] == [seeds.index(seed) for seed in seeds]
    torch.manual_seed(7)
    assert torch.equal(networks[3].weight, torch.nn.Linear(784, 10).weight)


def test_a_group_that_is_not_due_for_checkpoints_is_saved_only_when_it_is_stopped(tmp_path: Path, alone: Any):
    trials = TRIALS[:3]
    (stopped, goes_on) = (Answers({(1, epoch): "stop"}) for epoch in (2, 99))
    group = dataclasses.replace(TrainingGroup(assignments(tmp_path, trials)), checkpoint_every=math.inf)
    assert [result.state for result in run(group, stopped)] == ["interrupted"] * len(trials)
    assert {path.name for path in tmp_path.glob("*/epoch-*")} == {"epoch-000002.ckpt"}
    for number, result in enumerate(run(group, goes_on)):
        assert_same(result, alone[1][number])
    assert [report.epoch for report in goes_on.reports[0]] == [3]


def test_of_a_group_only_the_wanted_weights_are_written(tmp_path: Path):
    trials = TRIALS[:3]
    train(tmp_path, trials, Answers({(0, 3): "forget", (2, 3): "forget"}))
    assert [(tmp_path / str(number) / MODEL_FILE).exists() for number in range(3)] == [False, True, False]


def test_pruned_and_diverged_trials_leave_their_group_and_the_others_end_as_alone(tmp_path: Path, alone: Any):
    decisions: dict[tuple[int, int], Decision] = {(3, 2): "prune"}
    trials = [*TRIALS[:3], ENDLESS, DIVERGING]
    results = train(tmp_path / "fused", trials, Answers(decisions))
    assert [result.state for result in results] == ["complete"] * 3 + ["pruned", "diverged"]
    expected = train(tmp_path / "alone", trials, Answers(decisions), fused=False)
    for result, single in zip(results, expected, strict=True):
        assert_same(result, single)
    assert results[4].diverged_at == STEPS + 3
    assert results[4].epochs == 2
    for number in (3, 4):
        assert [path.name for path in (tmp_path / "fused" / str(number)).iterdir()] == [RESULT_FILE]


def test_a_group_of_which_all_diverge_ends_at_once(tmp_path: Path):
    channel = Answers()
    results = train(tmp_path, [DIVERGING, DIVERGING], channel)
    assert [result.state for result in results] == ["diverged"] * 2
    assert [report.epoch for reports in channel.reports.values() for report in reports] == [1, 1]


@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param(True, True, id="together, then together"),
        pytest.param(True, False, id="together, then alone"),
        pytest.param(False, True, id="alone, then together"),
        pytest.param(False, False, id="alone, then alone", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_group_continues_to_the_same_result_together_or_alone(
    tmp_path: Path, alone: Any, first: bool, then: bool
):
    folder, expected, _ = alone
    stop: dict[tuple[int, int], Decision] = {(number, 1): "stop" for number in range(len(TRIALS))}
    results = train(tmp_path, TRIALS, Answers(stop), fused=first)
    assert [result.state for result in results] == ["interrupted"] * len(TRIALS)
    for number, result in enumerate(train(tmp_path, TRIALS, fused=then)):
        assert_same(result, expected[number])
        assert_same_weights(tmp_path / str(number), folder / str(number))


DRAWING = """
import random

import numpy
import torch
from torch.nn import functional


class Net(torch.nn.Linear):
    def __init__(self, library):
        super().__init__(784, 10)
        self.library = library

    def forward(self, images):
        drawn = numpy.random.rand() if self.library == "numpy" else random.random()
        return super().forward(images.flatten(1)) * (drawn < 0.7)


def loss(outputs, labels, kind):
    if kind == "noise":
        return functional.cross_entropy(outputs + torch.rand_like(outputs), labels)
    if kind == "dropout":
        return functional.cross_entropy(functional.dropout(outputs), labels)
    drawn = kind == "factor" or not outputs.requires_grad
    return functional.cross_entropy(outputs, labels) * (random.random() if drawn else 1)


class Kept:
    def __init__(self):
        self.random = random.Random(0)

    def __call__(self, outputs, labels):
        return functional.cross_entropy(outputs, labels) * self.random.random()


class Counting(Net):
    calls = [0]

    def forward(self, images):
        self.calls[0] += 1
        return torch.nn.Linear.forward(self, images.flatten(1)) * (1 + self.calls[0] % 2)
"""


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"model": {"name": "drawing:Net", "library": "numpy"}}, "the networks draw random numbers from NumPy in"),
        ({"model": {"name": "drawing:Net", "library": "python"}}, "the networks draw random numbers from Python's"),
        ({"loss": {"name": "drawing:loss", "kind": "noise"}}, "the loss draws random numbers from torch"),
        ({"loss": {"name": "drawing:loss", "kind": "dropout"}}, "the loss draws random numbers from torch"),
        ({"loss": {"name": "drawing:loss", "kind": "factor"}}, "the loss draws random numbers from Python's random"),
        (
            {"loss": {"name": "drawing:loss", "kind": "validation"}},
            "the loss draws random numbers from Python's random",
        ),
        ({"loss": {"name": "drawing:Kept"}}, "the loss changes random.state when it is called"),
        ({"model": {"name": "drawing:Counting", "library": ""}}, "the networks share calls.0, which changes when they"),
    ],
    ids=lambda each: str(next(iter(each.values()))) if isinstance(each, dict) else "",
)
def test_what_draws_random_numbers_is_trained_alone_with_the_same_numbers(
    values: dict[str, Any], reason: str, tmp_path: Path, monkeypatch: Any
):
    (tmp_path / "drawing.py").write_text(DRAWING)
    monkeypatch.syspath_prepend(tmp_path)
    for second in (5, 6):
        trials, channel = [{**VALUES, **values, "seed": seed} for seed in (5, second)], Answers()
        results = run(TrainingGroup(assignments(tmp_path / f"fused{second}", trials)), channel)
        ((count, told),) = channel.limits
        assert (count, told[: len(reason)]) == (1, reason)
        for result, alone in zip(results, train(tmp_path / f"alone{second}", trials, fused=False), strict=True):
            assert_same(result, alone)


def test_one_stop_stops_the_group_and_each_trial_has_its_checkpoint(tmp_path: Path, alone: Any):
    results = train(tmp_path, TRIALS, Answers({(1, 2): "stop"}))
    assert [result.state for result in results] == ["interrupted"] * len(TRIALS)
    for number, result in enumerate(train(tmp_path, TRIALS)):
        assert_same(result, alone[1][number])


def test_trials_at_different_epochs_continue_from_the_newest_common_checkpoint(tmp_path: Path, alone: Any):
    train(tmp_path, TRIALS, Answers({(1, 2): "stop"}))
    newest = tmp_path / "1" / "epoch-000002.ckpt"
    newest.write_bytes(newest.read_bytes()[:-100])
    channel = Answers()
    for number, result in enumerate(train(tmp_path, TRIALS, channel)):
        assert_same(result, alone[1][number])
        assert [report.epoch for report in channel.reports[number]] == [2, 3]


def test_trials_that_have_begun_and_new_ones_are_trained_apart(tmp_path: Path, alone: Any):
    train(tmp_path, TRIALS[:2], Answers({(0, 1): "stop"}))
    channel = Answers()
    for number, result in enumerate(train(tmp_path, TRIALS, channel)):
        assert_same(result, alone[1][number])
    assert [len(channel.reports[number]) for number in range(3)] == [2, 2, 3]


def test_a_network_that_cannot_be_fused_is_trained_alone_and_the_reason_is_reported(tmp_path: Path, monkeypatch: Any):
    (tmp_path / "branching.py").write_text(BRANCHING)
    monkeypatch.syspath_prepend(tmp_path)
    trials = [{**values, "model": {"name": "branching:Net"}} for values in TRIALS]
    channel = Answers()
    results = run(TrainingGroup(assignments(tmp_path, trials)), channel)
    assert [result.state for result in results] == ["complete"] * len(TRIALS)
    ((count, reason),) = channel.limits
    assert count == 1
    assert "data-dependent control flow" in reason


@pytest.mark.parametrize(
    "model", [{"name": "torch.nn:Linear", "in_features": 2, "out_features": 3}, {"name": "sys:exit"}], ids=str
)
def test_an_error_in_the_network_fails_each_trial_with_its_traceback(model: dict[str, Any], tmp_path: Path):
    channel = Answers()
    trials = [{**values, "model": model} for values in TRIALS]
    results = run(TrainingGroup(assignments(tmp_path, trials)), channel)
    assert [result.state for result in results] == ["failed"] * len(TRIALS)
    assert [count for count, _ in channel.limits] == [1]
    assert all("Traceback" in result.traceback for result in results)


# Which trials, and how many


def test_trials_are_alike_if_they_differ_in_optimizer_schedule_and_seed_only():
    one = TrialConfig.from_values(VALUES)
    for values in TRIALS:
        assert alike(one, TrialConfig.from_values(values))
    for key, part in (("data", "batch_size"), ("model", "hidden"), ("trainer", "max_epochs")):
        assert not alike(one, TrialConfig.from_values({**VALUES, key: {**VALUES[key], part: 7}}))


def test_the_group_size_follows_the_option():
    cpu, gpu = Slot(0, (), 1), Slot(0, (0,), 4)
    assert group_size("off", [gpu], 100) == GroupSize(1, as_group=False)
    assert group_size("8", [cpu], 100) == GroupSize(8)
    assert group_size("auto", [cpu, cpu], 1000) == GroupSize(1, as_group=False), "slower on a CPU"
    assert group_size("auto", [gpu], 1000) == GroupSize(128, is_measured=True)
    assert group_size("auto", [gpu, gpu], 64) == GroupSize(8, is_measured=True), "four rounds"
    assert group_size("auto", [gpu], 7) == GroupSize(1), "nothing to find out"
    several = Slot(0, (0, 1), 4, ranks=2)
    assert group_size("auto", [several], 1000) == GroupSize(1, as_group=False)
    with pytest.raises(BadInputError, match="cannot be divided among devices"):
        group_size("2", [several], 1000)
    for wrong in ("0", "-1", "many", "1.5", ""):
        with pytest.raises(
            BadInputError, match=f'--fuse: must be auto, off, or a number of trials such as 8 .got "{wrong}"'
        ):
            group_size(wrong, [cpu], 100)


# In a study

SMALL = (
    "trial.data={name: mnist_5k, batch_size: 20, val_fraction: 0.02, test_fraction: 0.02, train_size: 100}",
    "trial.model={name: mnist_cnn, channels: [4, 4, 4], hidden: [16, 16]}",
    "trial.trainer={max_epochs: 3, precision: 64-true}",
)
OPTIONS = (*(part for each in SMALL for part in ("--set", each)), "--trials", "5")


@pytest.fixture(scope="module")
def unfused(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """Return a folder in which a study was run one trial at a time."""
    folder = StudyFolder(tmp_path_factory.mktemp("unfused"))
    folder.call(*OPTIONS, "--fuse", "off", study=DIGITS)
    folder.check(trials=5, epochs=3, steps=3 * STEPS)
    return folder


def assert_same_study(one: StudyFolder, other: StudyFolder) -> None:
    one.check(trials=5, epochs=3, steps=3 * STEPS)
    for mine, theirs in ((one.values(), other.values()), (one.curves(), other.curves())):
        assert [row[:-1] for row in mine] == [row[:-1] for row in theirs]
        assert [row[-1] for row in mine] == pytest.approx([row[-1] for row in theirs], rel=1e-9, abs=1e-9)


def test_fused_or_not_a_study_ends_with_the_same_trials_values_and_curves(folder: StudyFolder, unfused: StudyFolder):
    output = folder.call(*OPTIONS, "--fuse", "3", study=DIGITS)
    assert "each training up to 3 trials as one model" in output
    assert_same_study(folder, unfused)


def test_killed_groups_continue_to_the_same_result_together_and_alone(folder: StudyFolder, unfused: StudyFolder):
    process = folder.start(*OPTIONS, "--per-device", "1", "--fuse", "3", study=DIGITS)
    folder.wait_for(folder.has_checkpoint, process, seconds=120)
    os.kill(slots_of(process.pid)[0], signal.SIGKILL)
    crashed = "select number from trials join trial_user_attributes using (trial_id) where key = 'crashes' order by 1"
    folder.wait_for(lambda: folder.optuna(crashed) == [(0,), (1,), (2,)], process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=120)
    folder.call(*OPTIONS, "--fuse", "off", study=DIGITS)
    assert_same_study(folder, unfused)


def test_trials_that_cannot_be_one_model_are_trained_in_groups_of_those_that_can(folder: StudyFolder):
    space = "search_space={model.dropout: {choices: [0.1, 0.5]}, optimizer.initial_lr: {low: 1e-3, high: 1e-2}}"
    output = folder.call(*OPTIONS, "--fuse", "4", "--set", space, study=DIGITS)
    assert "cannot be fused" not in output
    folder.check(trials=5, epochs=3, steps=3 * STEPS)


def test_a_network_that_cannot_be_fused_is_reported_once_and_the_study_continues(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
):
    (folder.path / "branching.py").write_text(BRANCHING)
    monkeypatch.syspath_prepend(folder.path)
    net = ("--set", "trial.model={name: 'branching:Net'}")
    output = folder.call(*OPTIONS, "--fuse", "2", *net, study=DIGITS)
    assert output.count("trials are trained one at a time from now on, because they cannot be fused") == 1
    folder.check(trials=5, epochs=3, steps=3 * STEPS)


def test_a_wrong_number_to_fuse_is_refused_before_anything_is_created(folder: StudyFolder):
    assert 'got "many"' in folder.call("--fuse", "many", expect=2)
    assert list(folder.path.iterdir()) == []
