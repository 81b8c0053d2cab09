"""The kernels that update stacked parameters give what torch's optimizers give, except for rounding.

Triton interprets them on the CPU in a process of their own, in which all trials have the same history.
"""

import cProfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_modules import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    AdamEpsilonHat,
    AdamW,
    CosineDecay,
    Lambda,
    Optimization,
    ParameterGroup,
    Plateau,
    RMSprop,
)
from lightning_modules.fused import stacked_update
from lightning_modules.fused.optimizer import FusedOptimizer
from lightning_modules.fused.stacking import stack as stacked
from tests.launcher import output_of

STEPS = 12
SHORT = Lambda(function="1 / (3 - step)")  # not defined at step 3
TRIALS = {
    "adam": Optimization(optimizer=Adam(initial_lr=0.01), schedule=CosineDecay(decay_steps=9)),
    "other adam": Optimization(
        optimizer=Adam(initial_lr=0.02, beta1=0.8, beta2=0.9, eps=0.1, weight_decay=0.01), schedule=Plateau(patience=0)
    ),
    "adamw": Optimization(optimizer=AdamW(initial_lr=0.01), weight_decay_schedule=CosineDecay(decay_steps=20)),
    "epsilon hat": Optimization(
        optimizer=AdamEpsilonHat(initial_lr=0.05, eps=1e-3, weight_decay=0.02),
        momentum_schedule=CosineDecay(decay_steps=30),
    ),
    "sgd": Optimization(optimizer=SGD(initial_lr=0.1, weight_decay=0.01), schedule=SHORT),
    "momentum": Optimization(optimizer=SGD(initial_lr=0.1, momentum=0.9)),
    "nesterov": Optimization(optimizer=SGD(initial_lr=0.1, momentum=0.8, nesterov=True)),
    "maximize": Optimization(
        optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.5, dampening=0.3, maximize=True, fused=True)
    ),
    "of its own": Optimization(optimizer=partial(torch.optim.NAdam, lr=0.01)),
    "groups": Optimization(
        optimizer=Adam(initial_lr=0.01),
        groups={"head": ParameterGroup(parameters="head", optimizer=Adam(initial_lr=0.1, eps=0.01))},
    ),
    "rmsprop": Optimization(optimizer=RMSprop(initial_lr=0.01, weight_decay=0.01), schedule=CosineDecay(decay_steps=9)),
    "rmsprop momentum": Optimization(optimizer=RMSprop(initial_lr=0.01, momentum=0.9, centered=True, rho=0.9)),
    "adagrad": Optimization(optimizer=Adagrad(initial_lr=0.1, initial_accumulator=0.1, weight_decay=0.01)),
    "adadelta": Optimization(optimizer=Adadelta(initial_lr=1.0, weight_decay=0.01)),
}


def updated(dtype: torch.dtype, device: str = "cpu") -> dict[str, Any]:
    """Update trials by given gradients, some in bfloat16, while a trial stops, one leaves and states are loaded."""
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(len(TRIALS), *shape, generator=draw, dtype=torch.float64).to(device, dtype) - 0.5

    images = random(2, 3, 3, 3).permute(0, 1, 4, 2, 3).contiguous().permute(0, 1, 3, 4, 2)
    stacks = {"weight": nn.Parameter(random(5, 7)), "conv": nn.Parameter(images), "head": nn.Parameter(random(1030))}

    def build() -> FusedOptimizer:
        return FusedOptimizer(stacks.items(), {name: TRIALS[name] for name in names})

    names = list(TRIALS)
    optimizer = build()
    copies = optimizer.round(["weight"], torch.bfloat16)
    launched = False
    for step in range(STEPS):
        if step == 2:
            optimizer.stop("sgd")
        if step == 5:
            names.remove("momentum")
            for stack in stacks.values():
                stack.data = stacked([*stack.data[:5], *stack.data[6:]])
            optimizer.keep(names)
        if step == 8:
            state = optimizer.state_dict()
            optimizer = build()
            optimizer.load_state_dict(state)
            optimizer.stop("sgd")
            copies = optimizer.round(["weight"], torch.bfloat16)
        if step in (4, 10):
            optimizer.update_plateau("other adam", 1.0)
        for name, stack in stacks.items():
            gradient = random(*stack.shape[1:])[: len(stack)]
            target = copies.get(name, stack)
            target.grad = torch.empty_like(target).copy_(gradient)
        optimizer.step()
        optimizer.zero_grad()
        rows = {row for update in optimizer._updates for row in update.rows}
        if optimizer._updates:
            assert [name for row, name in enumerate(names) if row not in rows] == ["sgd", "of its own"][step < 2 :]
        for update in optimizer._updates:
            assert int(update._step) <= stacked_update.AHEAD, "a kernel has read numbers beyond the table"
        launched = launched or bool(rows)
        assert torch.equal(copies["weight"], stacks["weight"].to(torch.bfloat16))
    tensors = {name: stack.detach().clone() for name, stack in stacks.items()}
    lrs = {name: optimizer.lr(name) for name in names}
    return {"weights": tensors, "state": optimizer.state_dict(), "lrs": lrs, "launched": launched}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_kernels_update_as_the_optimizers_of_torch_do(dtype: torch.dtype, tmp_path: Path):
    pytest.importorskip("triton")
    expected = updated(dtype)
    code = (
        "import sys, torch, tests.test_stacked_updates as t; t.stacked_update.AHEAD = 3; "
        f"torch.save(t.updated({dtype}), sys.argv[1])"
    )
    output_of(code, tmp_path, str(tmp_path / "found.pt"), TRITON_INTERPRET="1")
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    assert (found.pop("launched"), expected.pop("launched")) == (True, False)
    assert (tmp_path / "found.pt").stat().st_size < 1e6
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    assert_close(found, expected, tolerance)


def calls_of_a_step(count: int) -> int:
    """Return how many functions the CPU calls for a step of several trials, besides the kernels."""
    weight = nn.Parameter(torch.zeros(count, 2))
    optimizer = FusedOptimizer([("weight", weight)], {str(trial): TRIALS["adam"] for trial in range(count)})
    for _ in range(3):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    profile = cProfile.Profile()
    profile.enable()
    assert optimizer.is_stacked
    assert not optimizer.why_not_stacked
    optimizer.prepare()
    profile.disable()
    return sum(entry.callcount for entry in profile.getstats())


def test_the_calls_of_a_step_grow_with_the_number_of_trials_and_not_with_its_square(tmp_path: Path):
    pytest.importorskip("triton")
    code = "import tests.test_stacked_updates as t; print(*map(t.calls_of_a_step, (2, 4, 8)))"
    few, some, many = map(int, output_of(code, tmp_path, TRITON_INTERPRET="1").split())
    assert many - some == 2 * (some - few)


def test_where_triton_does_not_work_it_is_told_once_and_the_kernels_are_not_used():
    pytest.importorskip("triton")
    from lightning_modules.kernels import stacked_updates

    with pytest.warns(UserWarning, match="Triton does not work on cpu, so torch's optimizers update fused trials"):
        assert not stacked_updates.run_on(torch.device("cpu"))
    assert not stacked_updates.run_on(torch.device("cpu"))


def assert_close(one: Any, other: Any, tolerance: float) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_close(one[key], other[key], tolerance)
    elif isinstance(one, Tensor):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
        assert one.untyped_storage().nbytes() == other.untyped_storage().nbytes()
        assert one.stride() == other.stride()
    elif isinstance(one, list | tuple):
        for mine, theirs in zip(one, other, strict=True):
            assert_close(mine, theirs, tolerance)
    else:
        assert one == other
