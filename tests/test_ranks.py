"""Trials that several processes train together, by distributed data-parallel training over gloo."""

import os
import signal
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from tests.networks import OWN_NETWORK, holding, release
from tests.processes import slots_of
from tests.studies import TINY, StudyFolder
from tuner.config.loader import load_study
from tuner.engines.slots import _divide, make_slots
from tuner.errors import BadInputError
from tuner.protocol import Slot
from tuner.runner.group_size import check_divisible
from tuner.training.distributed import share_of

TWO = ("--per-device", "1", "--devices-per-trial", "2")
EVEN = ["trial.data.batch_size=10", "trial.data.train_size=80"]  # batches that two can divide
# In double precision, without dropout, which each rank draws for its own images, and with trials that are pruned.
EXACT = [*EVEN, "trial.trainer.precision=64-true", "trial.model.dropout=0"]
PRUNED = [*EXACT, "pruner={name: successive_halving, min_resource: 1, reduction_factor: 4}"]


def put(values: Sequence[str]) -> list[str]:
    return [option for value in values for option in ("--set", value)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyFolder]:
    """Return a folder in which one process trained each trial."""
    folder = StudyFolder(tmp_path_factory.mktemp("alone"))
    folder.call("--trials", "4", *put(PRUNED))
    yield folder
    folder.close()


def assert_equal_but_for_the_order_of_sums(one: StudyFolder, other: StudyFolder) -> None:
    assert [point[:3] for point in one.curves()] == [point[:3] for point in other.curves()]
    first, second = ([point[3] for point in folder.curves()] for folder in (one, other))
    np.testing.assert_allclose(first, second, rtol=1e-6)
    first, second = (np.frombuffer(folder.weights()) for folder in (one, other))
    np.testing.assert_allclose(first, second, rtol=1e-8, atol=1e-8)


def test_two_ranks_give_the_same_as_one_process_even_if_one_is_killed(folder: StudyFolder, alone: StudyFolder):
    process = folder.start("--trials", "4", *TWO, *put(PRUNED), *holding(folder))
    folder.wait_for(folder.has_checkpoint, process)
    ranks = slots_of(process.pid)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    release(folder)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "was killed by SIGKILL (often out of memory: see dmesg); it resumes from its last checkpoint" in output
    states = folder.optuna("select number, state from trials order by number")
    assert states == alone.optuna("select number, state from trials order by number")
    assert {state for _, state in states} == {"COMPLETE", "PRUNED"}
    assert_equal_but_for_the_order_of_sums(folder, alone)


def test_ranks_that_diverge_end_together(folder: StudyFolder):
    lr = "search_space.optimizer.initial_lr={low: 1e12, high: 1e13}"
    folder.run("--trials", "1", *TWO, *put([*EVEN, lr]), expect=1)
    assert folder.mlflow("select value from tags where key = 'tuner.state'") == [("diverged",)]


def test_an_error_in_one_rank_fails_the_trial_with_its_traceback(folder: StudyFolder):
    (folder.path / "own.py").write_text(
        "import os\n\nfrom lightning_modules import MLP\n\n\nclass Net(MLP):\n"
        "    def forward(self, rows):\n        if os.environ['LOCAL_RANK'] == '1':\n"
        "            raise RuntimeError('rank 1 cannot')\n        return super().forward(rows)\n"
    )
    output = folder.run("--trials", "1", *TWO, *put([*EVEN, OWN_NETWORK]), expect=1)
    assert "trial #0 failed: RuntimeError: rank 1 cannot" in output


def test_gpus_are_divided_among_trials():
    assert _divide([0, 1, 2, 3], 1, 2) == [(0, 1), (2, 3)]
    assert _divide([0, 1], 2, 1) == [(0,), (0,), (1,), (1,)]
    with pytest.raises(BadInputError, match="3 GPUs cannot be divided into parts of 2"):
        _divide([0, 1, 2], 1, 2)
    with pytest.raises(BadInputError, match="omit --per-device"):
        _divide([0, 1], 2, 2)
    with pytest.raises(BadInputError, match="--devices-per-trial: must be 1 or more"):
        make_slots("cpu", None, 0)


def test_a_batch_that_cannot_be_divided_is_refused():
    slots = [Slot(0, (0, 1), 1, ranks=2)]
    searched = "search_space={data.batch_size: [100, %d]}"
    check_divisible(load_study(str(TINY), [searched % 64]), slots)
    with pytest.raises(BadInputError, match="a batch of 75 cannot be divided equally among 2"):
        check_divisible(load_study(str(TINY), [searched % 75]), slots)


def test_the_ranks_of_a_slot_share_its_cores():
    cores = sorted(os.sched_getaffinity(0))
    (slot,) = make_slots("cpu", 1, len(cores))
    assert (slot.threads, slot.cores, slot.ranks) == (1, tuple(cores), len(cores))
    assert slot.device == ("cpu" if len(cores) == 1 else f"{len(cores)} x cpu")


def test_a_batch_is_divided_along_its_labels_and_nothing_else():
    inputs, labels, weights, edges = torch.arange(24).reshape(12, 2), torch.arange(12), torch.ones(4), torch.ones(2, 12)
    whole = (inputs, labels, weights, edges)
    shares = [share_of(whole, rank, 4) for rank in range(4)]
    assert sorted(int(label) for share in shares for label in share[1]) == list(range(12))
    for share in shares:
        assert share[0].tolist() == [inputs[label].tolist() for label in share[1]]
        assert share[2] is weights
        assert share[3] is edges
    named = share_of({"edge_index": edges, "x": inputs, "y": labels}, 1, 4)
    assert [len(named[key]) for key in ("edge_index", "x", "y")] == [2, 3, 3]


@pytest.mark.parametrize(
    "batch",
    [
        torch.ones(8, 2),
        (torch.ones(8, 2),),
        (torch.ones(8, 2), torch.ones(())),
        {"x": torch.ones(8)},
        (torch.ones(9), torch.ones(9)),
    ],
    ids=["a tensor", "no labels", "one label", "other names", "an odd number"],
)
def test_a_batch_that_cannot_be_divided_is_trained_whole(batch: object):
    assert share_of(batch, 1, 2) is batch
