"""Behavior on a GPU: the part that can be tested without one, and the rest where there is one."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from lightning_modules import (
    MLP,
    MNISTCNN,
    SGD,
    Adam,
    AdamEpsilonHat,
    Classifier,
    CosineDecay,
    FusedClassifier,
    Optimization,
    Optimizer,
    RMSprop,
)
from lightning_modules.data.base import TensorLoader
from lightning_modules.dropout import step_number
from lightning_modules.fused.optimizer import FusedOptimizer
from lightning_modules.philox import are_below
from tests.studies import DIGITS, DIGITS_STEPS, EPOCHS, StudyFolder
from tests.test_fused import Everything, Trial, assert_as_alone, named
from tests.test_fused import assert_close as assert_near
from tests.test_recorded_step import CASES, REFUSED, Waiting
from tests.test_stacked_updates import assert_close, updated
from tests.test_study import slots_of

GPU = torch.device("cuda", 0)

# -- without one -------------------------------------------------------------------------------------------------------

FORK = "pid = os.fork() or os._exit(torch.cuda._is_in_bad_fork()); sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))"


@pytest.mark.parametrize(
    ("touch", "is_bad"), [("import tuner.training.run", False), ("torch.cuda.device_count()", True)]
)
@pytest.mark.slow
def test_a_process_with_all_imports_can_be_forked_for_a_gpu(touch: str, is_bad: bool):
    code = f"import os, sys, torch; {touch}\n{FORK}"
    if is_bad and torch.cuda.is_available():
        pytest.skip("with a driver, counting GPUs does not touch them")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == is_bad


class PretendedGPU(FakeTensorMode):
    """Puts tensors on a GPU that does not exist, without content; reading their content raises an error.

    So does an operation on tensors of different devices. Autograd's engine needs a real one.
    """

    def tensor(self, like: Tensor) -> Tensor:
        return FakeTensor(self, like.detach().to("meta"), GPU)

    def move(self, module: FusedClassifier) -> None:
        module._device = GPU
        for each in module.modules():
            for name, param in each._parameters.items():
                each._parameters[name] = None if param is None else nn.Parameter(self.tensor(param))
            for name, buffer in each._buffers.items():
                each._buffers[name] = None if buffer is None else self.tensor(buffer)


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 5, stride=3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(256, 10))

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.layers(images)
        return result


@pytest.mark.parametrize("network", [MNISTCNN, lambda: MLP(dropout=0.1), Normed], ids=["CNN", "MLP", "batch norm"])
@pytest.mark.parametrize("seeds", [0, (1, 2, 3)], ids=["one batch", "a batch each"])
@pytest.mark.parametrize(
    "optimizer",
    [
        Adam(initial_lr=1e-3),
        AdamEpsilonHat(initial_lr=1e-3),
        RMSprop(initial_lr=1e-3, momentum=0.9),
    ],
    ids=lambda optimizer: type(optimizer).__name__,
)
def test_no_step_waits_for_the_gpu_or_takes_anything_from_the_cpu(
    network: Callable[[], nn.Module], seeds: int | tuple[int, ...], optimizer: Optimizer
):
    module = FusedClassifier([Classifier(network(), optimizer) for _ in range(3)])
    gpu = PretendedGPU()
    gpu.move(module)
    images, labels = gpu.tensor(torch.zeros(100, 1, 28, 28)), gpu.tensor(torch.zeros(100).long())
    with gpu:
        params = list(module.model.parameters())
        settings = Optimization(optimizer=optimizer, schedule=CosineDecay(decay_steps=9))
        update = FusedOptimizer(module.model.named_parameters(), dict.fromkeys(module.names, settings))
        for batch in TensorLoader(images, labels, 25, shuffle=True, seed=seeds):
            losses = module.training_step(batch, 0)["losses"]
            for param in params:
                param.grad = torch.empty_like(param)
            update.step()
        module.eval()
        for batch in TensorLoader(images, labels, 50):
            module.validation_step(batch, 0)
        states = [each for state in update.state.values() for key, each in state.items() if key != "step"]
    results = [losses, *map(module._sums.tensor, ("train", "val")), *params, *module.model.buffers(), *states]
    assert {result.device for result in results} == {GPU}


# -- with one ----------------------------------------------------------------------------------------------------------

needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
IN_DOUBLE = ("--set", "trial.trainer.precision=64-true")


@needs_a_gpu
def test_on_a_gpu_the_same_elements_are_dropped_as_on_the_cpu():
    seeds, step = torch.tensor([3, -5, 2**63 - 1]), torch.tensor(step_number(4, 9))
    for share, shape in ((0.2, (50, 5000)), (2**-16, (3,)), (0.75, (7, 3, 5))):
        expected = are_below(share, seeds, step, 6, shape)
        assert torch.equal(are_below(share, seeds.to(GPU), step.to(GPU), 6, shape).cpu(), expected)


@needs_a_gpu
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_on_a_gpu_the_kernels_update_as_the_optimizers_of_torch_do_on_the_cpu(dtype: torch.dtype, tmp_path: Path):
    found = updated(dtype, "cuda")
    assert found.pop("launched")
    torch.save(found, tmp_path / "found.pt")
    expected = updated(dtype)
    expected.pop("launched")
    on_cpu = torch.load(tmp_path / "found.pt", map_location="cpu", weights_only=True)
    assert_close(on_cpu, expected, 1e-12 if dtype == torch.float64 else 2e-5)


@needs_a_gpu
def test_on_a_gpu_trials_of_a_group_end_as_they_end_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    schedule = CosineDecay(decay_steps=8)
    optimizers = (Adam(initial_lr=0.01), SGD(initial_lr=0.1, momentum=0.9), RMSprop(initial_lr=0.002))
    for seeds in ((1, 1, 1), (1, 2, 3)):
        trials = [Trial(schedule, each, seed) for each, seed in zip(optimizers, seeds, strict=True)]
        assert_as_alone(named(*trials), accelerator="gpu")
        assert_as_alone(named(*(Trial(schedule, optimizers[1], seed, Everything) for seed in seeds)), accelerator="gpu")


@needs_a_gpu
@pytest.mark.parametrize("case", ["four kinds", "resumed", "trials leave", "clipped", "one", "weights"])
def test_on_a_gpu_a_cuda_graph_gives_what_plain_steps_give(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    graph = CASES[case](None, accelerator="gpu")
    plain = CASES[case](Waiting, accelerator="gpu")
    assert (graph["notes"], len(plain["notes"])) == ([], 1)
    assert_near(graph["result"], plain["result"])


@needs_a_gpu
@pytest.mark.parametrize("case", ["NAdam", "watched", "counting", "weighing"])
def test_on_a_gpu_what_cannot_be_a_cuda_graph_is_trained_all_the_same(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    train, _, reason = REFUSED[case]
    (note,) = train(None, accelerator="gpu")["notes"]
    assert reason in note


@needs_a_gpu
def test_on_a_gpu_a_killed_study_continues_to_the_same_result_in_a_group(
    folder: StudyFolder, tmp_path_factory: pytest.TempPathFactory
):
    process = folder.start("--devices", "0", "--per-device", "2", *IN_DOUBLE, study=DIGITS)
    folder.wait_for(folder.has_checkpoint, process)
    os.kill(slots_of(process.pid)[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    folder.check(trials=4, epochs=EPOCHS, steps=DIGITS_STEPS)
    setups = folder.optuna("select value_json from trial_user_attributes where key = 'setup'")
    assert {json.loads(setup)["device"] for (setup,) in setups} == {torch.cuda.get_device_name()}

    with closing(StudyFolder(tmp_path_factory.mktemp("fused"))) as fused:
        fused.run("--devices", "0", "--fuse", "4", *IN_DOUBLE, study=DIGITS)
        fused.check(trials=4, epochs=EPOCHS, steps=DIGITS_STEPS)
        values = "select number, value from trials join trial_values using (trial_id)"
        assert dict(fused.optuna(values)) == pytest.approx(dict(folder.optuna(values)), rel=1e-6)


@needs_a_gpu
def test_on_a_gpu_the_group_size_is_measured(folder: StudyFolder):
    output = folder.run("--devices", "0", "--trials", "16", study=DIGITS)
    assert "4 trials at a time are trained as one model, " in output, "of so small a network"
    folder.check(trials=16, epochs=EPOCHS, steps=DIGITS_STEPS)
