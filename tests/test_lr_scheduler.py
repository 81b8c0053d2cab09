"""The object that writes the lr, alone and beside torch's own."""

import io
import random

import pytest
import torch
from torch import nn

from lightning_modules import Constant, CosineRestarts, ExponentialDecay, Plateau, ScheduleLR


def optimizer(*lrs: float) -> torch.optim.Optimizer:
    groups = [{"params": [nn.Parameter(torch.ones(3))], "lr": lr} for lr in lrs]
    return torch.optim.SGD(groups, lr=1.0)


def lrs(scheduler: ScheduleLR, steps: int) -> list[float]:
    seen = []
    for _ in range(steps):
        seen.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return seen


def test_every_step_uses_the_initial_lr_times_the_factor_of_that_step():
    schedule = CosineRestarts(restart_period=7, period_growth=1.5, peak_decay=0.8)
    assert lrs(ScheduleLR(optimizer(0.3), schedule), 50) == [0.3 * schedule(step) for step in range(50)]


def test_each_parameter_group_keeps_its_own_initial_lr():
    scheduler = ScheduleLR(optimizer(0.1, 0.01), ExponentialDecay(decay_rate=0.5, decay_steps=1))
    lrs(scheduler, 2)
    assert scheduler.get_last_lr() == [0.025, 0.0025]


def test_it_equals_torchs_exponential_lr():
    ours = ScheduleLR(optimizer(0.1), ExponentialDecay(decay_rate=0.9, decay_steps=1))
    theirs = torch.optim.lr_scheduler.ExponentialLR(optimizer(0.1), gamma=0.9)
    for _ in range(100):
        assert ours.get_last_lr() == pytest.approx(theirs.get_last_lr(), rel=1e-12)
        for scheduler in (ours, theirs):
            scheduler.optimizer.step()
            scheduler.step()


def test_a_plateau_on_a_constant_equals_torchs_reduce_lr_on_plateau():
    rng = random.Random(3)
    ours = ScheduleLR(optimizer(0.1), Plateau(factor=0.3, patience=2, cooldown=1, min_factor=0.01, mode="max"))
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer(0.1), factor=0.3, patience=2, cooldown=1, min_lr=0.001, mode="max", eps=0
    )
    for _ in range(300):
        value = rng.random()
        ours.update_plateau(value)
        theirs.step(value)
        assert ours.get_last_lr() == pytest.approx(theirs.get_last_lr(), rel=1e-12)
    assert ours.get_last_lr() == pytest.approx([0.001])


def test_a_plateau_multiplies_its_schedule_and_the_schedule_does_not_undo_it():
    inner = ExponentialDecay(decay_rate=0.5, decay_steps=10)
    scheduler = ScheduleLR(optimizer(1.0), Plateau(factor=0.1, patience=0, schedule=inner))
    lrs(scheduler, 5)
    scheduler.update_plateau(1.0)
    assert scheduler.get_last_lr() == [inner(5)]
    scheduler.update_plateau(1.0)
    assert scheduler.get_last_lr() == [inner(5) * 0.1]
    lrs(scheduler, 3)
    assert scheduler.get_last_lr() == [inner(8) * 0.1]


@pytest.mark.parametrize("stop", [0, 3, 10])
def test_a_resumed_scheduler_goes_on_bit_for_bit(stop: int):
    def build() -> ScheduleLR:
        schedule = CosineRestarts(restart_period=4, period_growth=1.3)
        return ScheduleLR(optimizer(0.1), Plateau(factor=0.5, patience=2, schedule=schedule))

    def run(scheduler: ScheduleLR, steps: range) -> list[float]:
        seen = []
        for step in steps:
            seen += lrs(scheduler, 1)
            scheduler.update_plateau(1.0 if step % 5 else 0.9)
        return seen

    straight = run(build(), range(20))
    first = build()
    begun = run(first, range(stop))
    file = io.BytesIO()
    torch.save({"scheduler": first.state_dict(), "optimizer": first.optimizer.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    second = build()
    second.optimizer.load_state_dict(state["optimizer"])
    second.load_state_dict(state["scheduler"])
    assert begun + run(second, range(stop, 20)) == straight


def test_a_schedule_that_is_no_plateau_takes_no_metric():
    with pytest.raises(ValueError, match="is not a Plateau"):
        ScheduleLR(optimizer(0.1), Constant()).update_plateau(1.0)


def test_the_state_of_a_plateau_fits_a_plateau_only():
    plateau = ScheduleLR(optimizer(0.1), Plateau())
    with pytest.raises(ValueError, match="the state is not one of"):
        ScheduleLR(optimizer(0.1), Constant()).load_state_dict(plateau.state_dict())


def test_an_lr_that_is_a_tensor_stays_the_same_tensor():
    lr = torch.tensor(0.5)
    adam = torch.optim.Adam([nn.Parameter(torch.ones(2))], lr=lr)
    scheduler = ScheduleLR(adam, ExponentialDecay(decay_rate=0.5, decay_steps=1))
    adam.step()
    scheduler.step()
    assert adam.param_groups[0]["lr"] is lr
    assert lr.item() == 0.25
