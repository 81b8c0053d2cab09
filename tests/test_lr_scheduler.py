"""`ScheduleLR`, alone and compared with torch's schedulers."""

import copy
import gc
import io
import json
import math
import pickle
import random
import re
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lightning_modules import Constant, CosineDecay, CosineRestarts, ExponentialDecay, Plateau, ScheduleLR, warmup


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


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (lambda step: 0.5, "make a function the method _factor(step) of a subclass of Schedule, or use Lambda"),
        (CosineDecay, "call CosineDecay with its arguments"),
        ([Constant(), CosineDecay], "call CosineDecay with its arguments"),
        (0.5, "but got 0.5"),
        (None, "but got None"),
        ("cosine", "but got 'cosine'"),
    ],
)
def test_anything_but_schedules_is_refused_with_what_to_pass(given: Any, advice: str):
    with pytest.raises(TypeError, match=rf"^schedule must be a Schedule, such as .*{re.escape(advice)}$"):
        ScheduleLR(optimizer(0.1, 0.1), given)
    if given is not None:
        with pytest.raises(TypeError, match=rf"^weight_decay_schedule must be .*{re.escape(advice)}$"):
            ScheduleLR(optimizer(0.1, 0.1), Constant(), weight_decay_schedule=given)


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
def test_a_resumed_scheduler_continues_bit_for_bit(stop: int):
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


def test_a_schedule_that_is_not_a_plateau_takes_no_metric():
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


@pytest.mark.parametrize("value", [0.7, 2.5, math.nan, -1, torch.tensor(0.7)], ids=repr)
def test_a_step_that_is_not_a_whole_number_is_refused_and_changes_nothing(value: float | torch.Tensor):
    scheduler = ScheduleLR(optimizer(0.1), ExponentialDecay(decay_rate=0.5, decay_steps=1))
    with pytest.raises(ValueError, match=r"a step must be a whole number of 0 or more, .* only a Plateau does"):
        scheduler.step(value)
    assert (scheduler.last_epoch, scheduler.get_last_lr()) == (0, [0.1])


def test_with_a_plateau_a_step_with_a_value_is_a_step_of_torchs_reduce_lr_on_plateau():
    ours = ScheduleLR(optimizer(0.1), Plateau(factor=0.3, patience=0, threshold=0.0))
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer(0.1), factor=0.3, patience=0, threshold=0.0, eps=0)
    for value in (3, 2.0, torch.tensor(2.0), math.nan, torch.tensor(1), 1):
        for scheduler in (ours, theirs):
            scheduler.optimizer.step()
            scheduler.step(value)
        assert ours.get_last_lr() == pytest.approx(theirs.get_last_lr(), rel=1e-12)
    assert ours.last_epoch == 0
    assert ours.state_dict()["plateau"]["best"] == 1.0


def test_a_metric_for_a_plateau_whose_schedule_stands_still_is_refused():
    scheduler = ScheduleLR(optimizer(0.1), Plateau(schedule=ExponentialDecay(decay_rate=0.5, decay_steps=1)))
    scheduler.step(1.0)  # before the first update
    scheduler.optimizer.step()
    with pytest.raises(ValueError, match=r"ExponentialDecay\(.* is still at step 0"):
        scheduler.step(1.0)
    scheduler.step()
    scheduler.step(1.0)
    assert scheduler.get_last_lr() == [0.05]


Change = Callable[[torch.optim.Optimizer], None]


def add(**options: Any) -> Change:
    return lambda target: target.add_param_group({"params": [nn.Parameter(torch.ones(2))], **options})


def halve(target: torch.optim.Optimizer) -> None:
    target.param_groups[-1]["lr"] /= 2


@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.parametrize("change", [add(lr=0.05), add(), halve], ids=["with an lr", "with the default", "another lr"])
def test_groups_and_lrs_that_come_later_count_as_with_torchs_exponential_lr(change: Change, start: int):
    def run(build: Callable[[torch.optim.Optimizer], Any]) -> list[list[float]]:
        target, seen = optimizer(0.1), []
        scheduler = build(target)
        for step in range(12):
            if step in (start, start + 3):
                change(target)
            seen.append([group["lr"] for group in target.param_groups])
            target.step()
            scheduler.step()
        return seen

    ours = run(lambda target: ScheduleLR(target, ExponentialDecay(decay_rate=0.9, decay_steps=1)))
    theirs = run(lambda target: torch.optim.lr_scheduler.ExponentialLR(target, gamma=0.9))
    for lrs_, expected in zip(ours, theirs, strict=True):
        assert lrs_ == pytest.approx(expected, rel=1e-12)


def test_a_later_group_counts_for_plateaus_states_and_steps_that_are_not_reminded():
    def build(*lrs: float) -> ScheduleLR:
        return ScheduleLR(optimizer(*lrs), Plateau(factor=0.5, patience=0, schedule=Constant()))

    for go_on in (ScheduleLR.advance, lambda scheduler: scheduler.update_plateau(0.5)):
        scheduler = build(0.1)
        for value in (1.0, 1.0):
            scheduler.update_plateau(value)
        add(lr=0.03)(scheduler.optimizer)
        go_on(scheduler)
        assert scheduler.get_last_lr() == [0.05, 0.03]
        assert scheduler.state_dict()["initial_lrs"] == [0.1, 0.06]
        again = build(0.2, 0.2)
        again.load_state_dict(scheduler.state_dict())
        assert again.get_last_lr() == [0.05, 0.03]


def test_a_later_group_may_say_its_initial_lr_and_has_its_lr_where_the_factor_is_0():
    scheduler = ScheduleLR(optimizer(0.1), warmup(Constant(), 2))
    add(lr=0.04)(scheduler.optimizer)
    add(lr=0.0, initial_lr=0.02)(scheduler.optimizer)
    lrs(scheduler, 2)
    assert scheduler.get_last_lr() == [0.1, 0.04, 0.02]


def test_an_optimizer_that_has_lost_a_group_is_refused():
    scheduler = ScheduleLR(optimizer(0.1, 0.2), Constant())
    del scheduler.optimizer.param_groups[1]
    scheduler.optimizer.step()
    with pytest.raises(ValueError, match="had 2 parameter groups and has 1: make a new ScheduleLR"):
        scheduler.step()


@pytest.mark.parametrize("plateau", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"initial_lrs": [0.3]}, "has 1 parameter groups, but the optimizer has 2"),
        ({"initial_lrs": [0.3, 0.2, 0.1]}, "has 3 parameter groups, but the optimizer has 2"),
        ({"initial_lrs": None}, "has no initial_lrs"),
        ({"plateau": "the other"}, "the state is not one of"),
    ],
    ids=["fewer groups", "more groups", "another scheduler", "plateau or none"],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(change: dict[str, Any], message: str, plateau: bool):
    inner = ExponentialDecay(decay_rate=0.5, decay_steps=1)
    scheduler = ScheduleLR(optimizer(0.1, 0.2), Plateau(schedule=inner) if plateau else inner)
    lrs(scheduler, 2)
    before = scheduler.state_dict()
    state = {**before, "step": 7, **change}
    if change.get("plateau"):
        state["plateau"] = None if plateau else {"scale": 0.5}
    if not state["initial_lrs"]:
        del state["initial_lrs"]
    with pytest.raises(ValueError, match=message):
        scheduler.load_state_dict(state)
    assert scheduler.state_dict() == before
    lrs(scheduler, 1)
    assert scheduler.get_last_lr() == [0.0125, 0.025]


def test_a_state_of_tensor_lrs_is_of_plain_numbers_and_the_last_lrs_are_copies():
    def build() -> ScheduleLR:
        adam = torch.optim.Adam([nn.Parameter(torch.ones(2))], lr=torch.tensor(0.5))
        return ScheduleLR(
            adam, Plateau(factor=0.5, patience=0, schedule=ExponentialDecay(decay_rate=0.5, decay_steps=1))
        )

    scheduler, other = build(), build()
    scheduler.optimizer.step()
    for go_on, expected in (
        (scheduler.step, 0.25),
        (scheduler.advance, 0.125),
        (lambda: scheduler.update_plateau(torch.tensor(1.0)), 0.125),
        (lambda: scheduler.update_plateau(1.0), 0.0625),
        (lambda: scheduler.load_state_dict(scheduler.state_dict()), 0.0625),
    ):
        go_on()
        (last,), (group,) = scheduler.get_last_lr(), scheduler.optimizer.param_groups
        assert last == group["lr"] == torch.tensor(expected)
        last.fill_(9.0)
        assert group["lr"] == torch.tensor(expected)
    state = scheduler.state_dict()
    assert state == json.loads(json.dumps(state))
    other.load_state_dict(state)
    assert other.get_last_lr() == [torch.tensor(0.0625)]


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))], ids=["deep", "pickled"]
)
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_copy_is_independent(copied: Callable[[ScheduleLR], ScheduleLR], steps: int):
    inner = CosineRestarts(restart_period=4)
    scheduler = ScheduleLR(optimizer(0.1, 0.2), Plateau(factor=0.5, patience=0, schedule=inner))
    lrs(scheduler, steps)
    for value in (1.0, 1.0):
        scheduler.update_plateau(value)
    other = copied(scheduler)
    assert other.optimizer is not scheduler.optimizer
    assert other.get_last_lr() == scheduler.get_last_lr()
    assert lrs(other, 3) == [0.05 * inner(step) for step in range(steps, steps + 3)]
    assert scheduler.last_epoch == steps
    assert lrs(scheduler, 3) == [0.05 * inner(step) for step in range(steps, steps + 3)]


@pytest.mark.parametrize("ours_first", [False, True])
@pytest.mark.parametrize(
    "compose",
    [
        lambda target, parts: torch.optim.lr_scheduler.SequentialLR(target, parts, [4]),
        lambda target, parts: torch.optim.lr_scheduler.ChainedScheduler(parts, target),
    ],
    ids=["in a sequence", "in a chain"],
)
def test_torchs_composed_schedulers_can_have_it_as_a_part(compose: Callable[..., Any], ours_first: bool):
    def run(build: Callable[[torch.optim.Optimizer], Any]) -> list[float]:
        target = optimizer(0.1)
        parts = [build(target), torch.optim.lr_scheduler.ExponentialLR(target, 0.5)]
        scheduler = compose(target, parts if ours_first else parts[::-1])
        return lrs(scheduler, 10)

    ours = run(lambda target: ScheduleLR(target, ExponentialDecay(decay_rate=0.9, decay_steps=1)))
    assert ours == pytest.approx(run(lambda target: torch.optim.lr_scheduler.ExponentialLR(target, 0.9)), rel=1e-12)


def test_a_part_of_torchs_sequence_may_begin_at_0():
    target = optimizer(0.1)
    parts = [ScheduleLR(target, Constant()), ScheduleLR(target, warmup(Constant(), 4))]
    scheduler = torch.optim.lr_scheduler.SequentialLR(target, parts, [2])
    assert lrs(scheduler, 8) == pytest.approx([0.1, 0.1, 0.0, 0.025, 0.05, 0.075, 0.1, 0.1], rel=1e-12)


class OfABaseClass(torch.optim.SGD):
    """Calls the step of its base class, so torch calls the hooks of a step twice."""

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        return super().step(closure)


class Wrapping(torch.optim.Optimizer):
    """Has no hooks, as it does not initialize its base class."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner, self.param_groups = inner, inner.param_groups

    def step(self, closure: Any = None) -> None:
        self.inner.step()


def test_several_updates_between_two_steps_give_one_warning_for_each_scheduler():
    target = optimizer(0.1)
    schedulers = [ScheduleLR(target, CosineDecay(decay_steps=steps)) for steps in (8, 9)]
    for updates in (1, 2, 3):
        for _ in range(updates):
            target.step()
        for scheduler in schedulers:
            if updates == 2:
                with pytest.warns(UserWarning, match=rf"2 updates since .* {re.escape(str(scheduler.schedule))} are"):
                    scheduler.step()
            else:
                scheduler.step()


@pytest.mark.parametrize(
    "build",
    [
        lambda: OfABaseClass([nn.Parameter(torch.ones(1))], lr=0.1),
        lambda: Wrapping(optimizer(0.1)),
        lambda: torch.optim.LBFGS([nn.Parameter(torch.ones(1))], lr=0.1),
    ],
    ids=["of a base class", "wrapping", "with a closure"],
)
@pytest.mark.parametrize("failing", [False, True])
def test_an_update_counts_once_whatever_its_optimizer_calls(build: Callable[[], Any], failing: bool):
    target = build()
    scheduler = ScheduleLR(target, CosineDecay(decay_steps=8))

    def closure() -> torch.Tensor:
        target.zero_grad()
        loss = sum(parameter.square().sum() for group in target.param_groups for parameter in group["params"])
        loss.backward()
        return loss

    def fail() -> None:
        raise KeyError

    for _ in range(3):
        if failing and not isinstance(target, Wrapping):
            with pytest.raises(KeyError):
                target.step(fail)
        target.step(closure)
        scheduler.step()


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
def test_steps_that_are_skipped_or_restored_give_no_warning():
    schedule = CosineDecay(decay_steps=8)
    scheduler = ScheduleLR(optimizer(0.1), schedule)
    lrs(scheduler, 1)
    state = scheduler.state_dict()
    for go_on in (lambda: scheduler.load_state_dict(state), lambda: scheduler.step(4), scheduler.advance):
        for _ in range(3):
            scheduler.optimizer.step()
        go_on()
        lrs(scheduler, 1)
    scheduler.step()  # an update that a GradScaler skipped
    later = ScheduleLR(scheduler.optimizer, schedule)
    lrs(later, 1)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_a_copy_counts_the_updates_of_its_own_optimizer(copied: Callable[[ScheduleLR], ScheduleLR]):
    scheduler = ScheduleLR(optimizer(0.1), CosineDecay(decay_steps=8))
    other = copied(scheduler)
    for _ in range(2):
        scheduler.optimizer.step()
    lrs(other, 2)
    with pytest.warns(UserWarning, match="made 2 updates"):
        scheduler.step()
    for _ in range(3):
        other.optimizer.step()
    with pytest.warns(UserWarning, match="made 3 updates"):
        other.step()
    reference = weakref.ref(other.optimizer)
    del other
    gc.collect()
    assert reference() is None
