"""Measuring how many trials to train as one model: by the time of whole groups, and by what fits into memory."""

import dataclasses
import io
import json
import sys
import time
from pathlib import Path
from typing import Any, Literal

import pytest
from rich.console import Console

from tests.launcher import output_of
from tests.studies import DIGITS, StudyFolder
from tests.test_fusing import BRANCHING, STEPS, VALUES, assignments
from tuner.config.loader import load_study
from tuner.protocol import MeasurementGroup, MeasurementResult
from tuner.runner.group_size import GroupSize
from tuner.runner.open_study import checked, opened, opened_engine
from tuner.runner.options import StudyOptions
from tuner.storage.study_store import StudyStore
from tuner.training.build import build_classifiers, build_data, build_trainer
from tuner.training.run import run
from tuner.training.throughput import StopWatch, fastest


@pytest.mark.parametrize(
    ("times", "most", "chosen", "tried"),
    [
        ([1, 2, 4, 8, 16, 32], 32, 1, [1, 2, 4]),
        ([1, 1, 1, 1, 1, 1], 32, 32, [1, 2, 4, 8, 16, 32]),
        ([1, 1, 1, 1, 2, 4], 32, 8, [1, 2, 4, 8, 16, 32]),
        ([1, 2.1, 2.2, 2.3, 4.5, 8.8, 17], 64, 8, [1, 2, 4, 8, 16, 32]),
        ([1, 1.05, 1.1, 1.1, 1.2], 12, 12, [1, 2, 4, 8, 12]),
        ([1, 1, 1, None], 32, 4, [1, 2, 4, 8]),
        ([None], 32, 1, [1]),
    ],
    ids=[
        "no gain",
        "full gain",
        "until the device is busy",
        "a dear beginning",
        "no power of two",
        "memory",
        "none fits",
    ],
)
def test_the_smallest_number_that_comes_near_the_highest_throughput_is_chosen(
    times: list[float | None], most: int, chosen: int, tried: list[int]
):
    asked = []

    def seconds(count: int) -> float | None:
        asked.append(count)
        return times[len(asked) - 1]

    count, gain = fastest(most, seconds)
    assert (count, asked) == (chosen, tried)
    if times[0] is not None:
        taken = times[tried.index(chosen)]
        assert taken is not None
        assert gain == pytest.approx(chosen * times[0] / taken)


@pytest.mark.parametrize(
    ("setup", "setup_each", "step", "step_each", "steps", "chosen"),
    [
        (0.0, 0.0, 1.0, 1.0, 400, 8),
        (0.0, 0.0, 0.0, 1.0, 400, 1),
        (500.0, 0.0, 0.0, 1.0, 1, 64),
        (500.0, 0.0, 0.0, 1.0, 10_000, 1),
        (0.0, 500.0, 1.0, 1.0, 1, 1),
        (0.0, 500.0, 1.0, 1.0, 10_000, 8),
        (500.0, 100.0, 9.0, 1.0, 100, 32),
    ],
    ids=[
        "steps shared in part",
        "nothing shared",
        "short trials share the setup",
        "long trials need not",
        "short trials with a setup each",
        "long trials share their steps",
        "both",
    ],
)
def test_the_setup_of_a_group_counts_as_much_as_its_share_of_the_time(
    setup: float, setup_each: float, step: float, step_each: float, steps: int, chosen: int
):
    def seconds(count: int) -> float:
        return setup + count * setup_each + steps * (step + count * step_each)

    assert fastest(64, seconds)[0] == chosen


def test_the_time_of_a_whole_run_is_its_setup_and_all_its_steps(tmp_path: Path):
    (assignment,) = assignments(tmp_path, [{**SMALL, "trainer": {"max_epochs": 1000}}])
    watch = StopWatch()
    time.sleep(1)
    trainer = build_trainer(assignment.training, "cpu", tmp_path, [watch], None, limit_val_batches=0)
    trainer.fit(build_classifiers([assignment.training])[0], datamodule=build_data(assignment.training))
    assert watch.delay > 1, "the second before the training"
    left = trainer.estimated_stepping_batches - StopWatch.WARM_UP
    assert trainer.global_step < left
    assert watch.whole == pytest.approx(watch.delay + left * watch.seconds)


def measured(folder: Path, values: dict[str, Any], most: int) -> MeasurementResult:
    (assignment,) = assignments(folder, [values])
    (result,) = run(MeasurementGroup((assignment,), most), channel=None)
    assert not (folder / "0").exists(), "nothing of it is kept"
    return result


SMALL = {**VALUES, "model": {"name": "mlp", "layers": 1, "neurons": 4, "dropout": 0.5}}


def test_of_a_small_network_several_trials_take_little_longer_than_one(tmp_path: Path):
    values = {**SMALL, "trainer": {"max_epochs": 1000}}
    measurements = (measured(tmp_path, values, 16) for _ in range(3))  # other programs may disturb one of them
    assert any(result.count > 1 and result.speedup > 1 for result in measurements)


def test_a_training_of_few_steps_is_enough(tmp_path: Path):
    result = measured(
        tmp_path, {**SMALL, "data": {**VALUES["data"], "batch_size": 100}, "trainer": {"max_epochs": 1}}, 2
    )
    assert result.count in (1, 2)
    assert result.message == ""


def test_trials_that_cannot_be_one_model_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "branching.py").write_text(BRANCHING)
    monkeypatch.syspath_prepend(tmp_path)
    result = measured(tmp_path, {**VALUES, "model": {"name": "branching:Net"}}, 8)
    assert result.count == 1
    assert "data-dependent control flow" in result.message


IN_LITTLE_MEMORY = """
import ctypes, gc, json, resource, sys
from pathlib import Path
import torch
from tuner.config.study import Objective
from tuner.config.trial import TrialConfig
from tuner.protocol import Assignment, MeasurementGroup, TrainingGroup
from tuner.training.run import run


class Answers:
    limits = []

    def report(self, reports):
        return dict.fromkeys(reports, "forget")

    def progress(self, number, report):
        pass

    def fuse_at_most(self, count, reason):
        self.limits.append((count, reason))

    def note(self, text):
        pass


torch.set_num_threads(1)
M_ARENA_MAX, M_MMAP_THRESHOLD = -8, -3
libc = ctypes.CDLL(None)
libc.mallopt(M_ARENA_MAX, 1)  # a further thread would reserve 64 MB of address space
libc.mallopt(M_MMAP_THRESHOLD, 2**20)  # a freed tensor leaves no gap in the heap
config, channel = TrialConfig.from_values(json.loads(sys.argv[1])), Answers()
trials = tuple(Assignment(number, config, Objective(), Path(str(number))) for number in range(11))
run(TrainingGroup(trials[:1]), channel)  # with all that comes with a first training
run(TrainingGroup(trials[1:3]), channel)
gc.collect()
size = 1024 * int(next(line.split()[1] for line in Path("/proc/self/status").open() if line.startswith("VmSize")))
resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv[2]), resource.RLIM_INFINITY))
measured = run(MeasurementGroup(trials[3:4], 8), channel)[0].count
results = run(TrainingGroup(trials[4:]), channel)
print(json.dumps([[result.state for result in results], [result.setup["fused"] for result in results], channel.limits]))
print(measured)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does")
def test_a_group_that_does_not_fit_into_memory_is_halved_until_it_does(tmp_path: Path):
    neurons = 6_000
    values = {
        **VALUES,
        "model": {"name": "mlp", "layers": 1, "neurons": neurons},
        "optimizer": {"name": "sgd", "initial_lr": 0.1},
        "trainer": {"max_epochs": 1, "precision": "32-true"},
    }
    room = 10 * 4 * (784 + 10) * neurons  # less than the weights and gradients of seven, more than those of three
    *_, described, measured = output_of(IN_LITTLE_MEMORY, tmp_path, json.dumps(values), str(room)).splitlines()
    states, fused, limits = json.loads(described)
    assert states == ["complete"] * 7
    assert fused == [3, 3, 3, 3, 3, 3, 1]
    ((count, reason),) = limits
    assert count == 3
    assert "out of memory with mlp, batch_size=20" in reason
    assert int(measured) < 8


TOUCHY = """
import os, signal, torch


class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(784, 10)

    def forward(self, images):
        if torch._C._functorch.is_batchedtensor(self.weight):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images.flatten(1))
"""


def study(folder: StudyFolder, engine_name: Literal["local", "inline"], *assignments: str) -> str:
    """Run a study of five trials that measures its group size, as on a GPU, and return its output."""
    text = io.StringIO()
    options = StudyOptions(
        study=str(DIGITS), devices="cpu", per_device=1, engine=engine_name, checkpoint_every="0s", review=False
    )
    with opened_engine(options) as engine:
        config = load_study(str(DIGITS), ["budget.trials=5", *assignments])
        plan = dataclasses.replace(checked(config, engine, options), fuse=GroupSize(4, is_measured=True))
        with opened(plan, Console(file=text, width=200), StudyStore) as opened_study:
            opened_study.train(engine)
    folder.check(trials=5, epochs=3, steps=3 * STEPS)
    return text.getvalue()


DATA = "trial.data={name: mnist_5k, batch_size: 20, val_fraction: 0.02, test_fraction: 0.02, train_size: 100}"


def test_a_study_says_how_many_trials_it_trains_as_one_model_and_has_all_of_them(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(folder.path)
    output = study(folder, "inline", DATA)
    assert "trials at a time are trained as one model, " in output or "fusing gave no speed-up" in output


def test_trials_are_trained_one_by_one_if_the_measuring_process_is_killed(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
):
    (folder.path / "touchy.py").write_text(TOUCHY)
    monkeypatch.chdir(folder.path)
    monkeypatch.syspath_prepend(folder.path)
    output = study(folder, "local", DATA, "trial.model={name: 'touchy:Net'}")
    assert "trials are trained one at a time: a process that tried more was killed by SIGKILL" in output
