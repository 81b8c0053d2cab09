"""Schedules of momentum and weight decay, and groups of parameters: `Optimization` and `ScheduleLR`."""

import copy
import io
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from lightning_modules import (
    SGD,
    Adagrad,
    Adam,
    AdamEpsilonHat,
    AdamW,
    Constant,
    CosineDecay,
    ExponentialDecay,
    Lambda,
    Lion,
    Muon,
    OneCycle,
    Optimization,
    Optimizer,
    ParameterGroup,
    Plateau,
    PolynomialDecay,
    Rex,
    RMSprop,
    ScheduleFreeSGD,
    ScheduleLR,
)
from lightning_modules.lr_scheduler import scheduled_values

Built = tuple[nn.Module, torch.optim.Optimizer, ScheduleLR]

SCHEDULE, MOMENTUM, DECAY = (
    CosineDecay(decay_steps=20),
    Rex(decay_steps=30),
    PolynomialDecay(decay_steps=9, end_factor=2),
)
WITH_MOMENTUM: list[Optimizer] = [
    SGD(initial_lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    Adam(initial_lr=0.01, weight_decay=0.01),
    AdamW(initial_lr=0.01, weight_decay=0.1),
    AdamEpsilonHat(initial_lr=0.01, eps=1e-3, weight_decay=0.01),
    RMSprop(initial_lr=0.01, momentum=0.9, weight_decay=0.01),
    Lion(initial_lr=0.001, weight_decay=0.1),
]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential()
    net.add_module("body", nn.Sequential(nn.Linear(4, 5), nn.Tanh()))
    net.add_module("fc", nn.Linear(5, 3))
    return net.double()


def built(optimization: Optimization) -> Built:
    net = network()
    return net, *optimization.build(net.named_parameters())


def train(parts: Built, steps: range) -> list[dict[str, float]]:
    """Return what each step used."""
    net, optimizer, scheduler = parts
    seen = []
    for step in steps:
        inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        seen.append(scheduled_values(optimizer.param_groups))
        optimizer.zero_grad()
        net(inputs).square().sum().backward()
        optimizer.step()
        scheduler.step()
    return seen


def weights(net: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach() for parameter in net.parameters()]


@pytest.mark.parametrize("optimizer", WITH_MOMENTUM, ids=lambda optimizer: type(optimizer).__name__)
def test_momentum_and_weight_decay_follow_their_schedules_as_if_written_by_hand(optimizer: Optimizer):
    ours = built(
        Optimization(optimizer=optimizer, schedule=SCHEDULE, momentum_schedule=MOMENTUM, weight_decay_schedule=DECAY)
    )
    seen = train(ours, range(12))
    net = network()
    by_hand = optimizer(net.parameters())
    initial = by_hand.param_groups[0].get("momentum") or by_hand.param_groups[0]["betas"][0]
    expected = [
        {
            "lr": optimizer.initial_lr * SCHEDULE(step),
            "momentum": initial * MOMENTUM(step),
            "weight_decay": optimizer.weight_decay * DECAY(step),
        }
        for step in range(12)
    ]
    assert seen == expected
    for step, values in enumerate(expected):
        for group in by_hand.param_groups:
            group["lr"], group["weight_decay"] = values["lr"], values["weight_decay"]
            if "betas" in group:
                group["betas"] = (values["momentum"], group["betas"][1])
            else:
                group["momentum"] = values["momentum"]
        inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        by_hand.zero_grad()
        net(inputs).square().sum().backward()
        by_hand.step()
    assert all(map(torch.equal, weights(ours[0]), weights(net)))


def mirrored(step: float) -> float:
    """The momentum of torch's one-cycle policy: 0.95 at its ends, and 0.85 where the lr has its peak."""
    rise = OneCycle(total_steps=30, rise_share=0.3, start_factor=0, end_factor=0)
    return 1 - (1 - 0.85 / 0.95) * rise(step)


@pytest.mark.parametrize("optimizer", [SGD(initial_lr=1.0, momentum=0.95), AdamW(initial_lr=1.0, beta1=0.95)])
def test_a_cycled_momentum_equals_that_of_torchs_one_cycle(optimizer: Optimizer):
    cycle = OneCycle(total_steps=30, rise_share=0.3, start_factor=0.04, end_factor=4e-6)
    momentum = Lambda(function=f"{__name__}:mirrored")
    seen = train(built(Optimization(optimizer=optimizer, schedule=cycle, momentum_schedule=momentum)), range(30))
    theirs = optimizer([nn.Parameter(torch.zeros(1))])
    torchs = lr_scheduler.OneCycleLR(theirs, 1.0, 30, pct_start=0.3, max_momentum=0.95, base_momentum=0.85)
    for step, values in enumerate(seen):
        (group,) = theirs.param_groups
        assert values["lr"] == pytest.approx(group["lr"], abs=1e-12)
        assert values["momentum"] == pytest.approx(group.get("momentum") or group["betas"][0], abs=1e-12)
        theirs.step()
        if step < 29:
            torchs.step()


HEAD = ParameterGroup(parameters="fc", optimizer=SGD(initial_lr=0.5, momentum=0.5), schedule=Constant())
GROUPED = Optimization(
    optimizer=SGD(initial_lr=0.1, momentum=0.9, weight_decay=0.01),
    schedule=SCHEDULE,
    momentum_schedule=MOMENTUM,
    weight_decay_schedule=DECAY,
    groups={"head": HEAD, "biases": ParameterGroup(parameters=["body.*.bias"], momentum_schedule=Constant())},
)


def test_each_group_has_its_settings_and_schedules_and_otherwise_those_of_the_rest():
    net, optimizer, scheduler = built(GROUPED)
    sizes = [[parameter.numel() for parameter in group["params"]] for group in optimizer.param_groups]
    assert sizes == [[20], [15, 3], [5]]
    seen = train((net, optimizer, scheduler), range(5))
    for step, values in enumerate(seen):
        assert values == {
            "lr": 0.1 * SCHEDULE(step),
            "momentum": 0.9 * MOMENTUM(step),
            "weight_decay": 0.01 * DECAY(step),
            "lr/head": 0.5,
            "momentum/head": 0.5 * MOMENTUM(step),
            "weight_decay/head": 0.0,
            "lr/biases": 0.1 * SCHEDULE(step),
            "momentum/biases": 0.9,
            "weight_decay/biases": 0.01 * DECAY(step),
        }


@pytest.mark.parametrize("optimizer", [*WITH_MOMENTUM, Adagrad(initial_lr=0.1, initial_accumulator=0.1)])
def test_groups_that_differ_in_nothing_change_nothing(optimizer: Optimizer):
    groups = {"head": ParameterGroup(parameters="fc"), "bias": ParameterGroup(parameters="body.0.bias")}
    plain, grouped = (built(Optimization(optimizer=optimizer, schedule=SCHEDULE, groups=each)) for each in ({}, groups))
    for parts in (plain, grouped):
        train(parts, range(6))
    assert all(map(torch.equal, weights(plain[0]), weights(grouped[0])))


def test_the_state_of_one_that_adagrad_makes_at_once_is_that_of_the_group():
    groups = {"head": ParameterGroup(parameters="fc", optimizer=Adagrad(initial_lr=0.1, initial_accumulator=0.5))}
    net, optimizer, _ = built(Optimization(optimizer=Adagrad(initial_lr=0.1, initial_accumulator=0.25), groups=groups))
    assert {optimizer.state[parameter]["sum"].mean().item() for parameter in net.fc.parameters()} == {0.5}
    assert {optimizer.state[parameter]["sum"].mean().item() for parameter in net.body.parameters()} == {0.25}


def test_the_matrices_of_muon_and_the_rest_can_have_cool_downs_of_their_own():
    late = CosineDecay(decay_steps=9)
    groups = {
        "rest": ParameterGroup(parameters="*.bias", schedule=late, optimizer=Muon(initial_lr=0.02, adamw_lr=0.01))
    }
    parts = built(Optimization(optimizer=Muon(initial_lr=0.02), schedule=SCHEDULE, groups=groups))
    assert [len(group["params"]) for group in parts[1].param_groups] == [2, 2]
    for step, values in enumerate(train(parts, range(6))):
        assert values == {"lr": 0.02 * SCHEDULE(step), "lr/rest": 0.01 * late(step)}


def test_a_training_resumed_in_the_middle_ends_with_the_same_bits():
    whole = built(GROUPED)
    train(whole, range(4))
    file = io.BytesIO()
    torch.save([part.state_dict() for part in whole], file)
    seen = train(whole, range(4, 9))
    file.seek(0)
    resumed = built(GROUPED)
    for part, state in zip(resumed, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    assert train(resumed, range(4, 9)) == seen
    assert all(map(torch.equal, weights(resumed[0]), weights(whole[0])))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda parts: pickle.loads(pickle.dumps(parts))])
def test_a_copy_is_independent(copied: Callable[[Built], Built]):
    parts = built(GROUPED)
    train(parts, range(9))  # the momentum is then lower than in the beginning
    twin = copied(parts)
    assert train(twin, range(9, 12)) == train(parts, range(9, 12))
    assert twin[1].param_groups[0]["initial_momentum"] == 0.9


def test_a_plateau_scales_the_lr_of_every_group():
    plateau = Plateau(factor=0.5, patience=0, threshold=1e9, threshold_mode="abs", schedule=SCHEDULE)
    groups = {"head": ParameterGroup(parameters="fc", optimizer=SGD(initial_lr=1.0))}
    parts = built(Optimization(optimizer=SGD(initial_lr=0.1), schedule=plateau, groups=groups))
    for _ in range(3):
        parts[2].update_plateau(1.0)
    (values,) = train(parts, range(1))
    assert values == {"lr": 0.1 * 0.25, "lr/head": 0.25}


def test_a_group_without_weight_decay_keeps_none():
    groups = {"biases": ParameterGroup(parameters="*.bias", optimizer=AdamW(initial_lr=0.1, weight_decay=0))}
    parts = built(Optimization(optimizer=AdamW(initial_lr=0.1), weight_decay_schedule=DECAY, groups=groups))
    assert [values["weight_decay/biases"] for values in train(parts, range(3))] == [0, 0, 0]


def test_schedules_can_be_given_for_each_parameter_group_of_an_optimizer():
    net = network()
    optimizer = torch.optim.SGD([{"params": net.body.parameters()}, {"params": net.fc.parameters(), "lr": 0.5}], 0.1)
    scheduler = ScheduleLR(optimizer, [Constant(), ExponentialDecay(decay_rate=0.5, decay_steps=1)])
    train((net, optimizer, scheduler), range(2))
    assert scheduler.get_last_lr() == [0.1, 0.125]
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    with pytest.raises(ValueError, match="one schedule, or one for each of 3 parameter groups, must be given"):
        scheduler.step()


SOME = SGD(initial_lr=0.1, momentum=0.9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": {"head": ParameterGroup(parameters="fx")}}, "head: 'fx' matches no parameter; the network"),
        ({"groups": {"head": ParameterGroup(parameters=["fc", "body.1"])}}, "head: 'body.1' matches no parameter"),
        ({"groups": {"head": HEAD, "bias": ParameterGroup(parameters="*.bias")}}, "fc.bias is in the groups"),
        ({"groups": {"all": ParameterGroup(parameters="*")}}, "all parameters are in groups (all), so the optimizer"),
        ({"groups": {"head": replace(HEAD, optimizer=Adam(initial_lr=1))}}, "group head must use SGD like"),
        ({"groups": {"head": HEAD}, "schedule": Plateau()}, "a plateau scales the lr of every group, so group head"),
        ({"optimizer": Adagrad(initial_lr=0.1), "momentum_schedule": Rex(decay_steps=9)}, "momentum cannot be"),
        ({"optimizer": SGD(initial_lr=0.1), "momentum_schedule": Rex(decay_steps=9)}, "momentum > 0 must hold"),
        ({"optimizer": ScheduleFreeSGD(initial_lr=1), "momentum_schedule": Rex(decay_steps=9)}, "of a schedule-free"),
        ({"weight_decay_schedule": Rex(decay_steps=9)}, "weight_decay > 0 must hold if it is scheduled, but got"),
        ({"momentum_schedule": Lambda(function="2 - step / 9")}, "momentum < 1 must hold, but got momentum=1.8 at"),
        ({"momentum_schedule": Plateau()}, "momentum_schedule must be a schedule"),
        ({"optimizer": "adam"}, "optimizer must be settings of an optimizer, such as Adam("),
        ({"schedule": "cosine"}, "schedule must be a schedule, such as CosineDecay("),
        ({"weight_decay_schedule": 0.5}, "weight_decay_schedule must be a schedule"),
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused_with_the_rule(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        built(Optimization(**{"optimizer": SOME, **arguments}))


@pytest.mark.parametrize("parameters", ["", [], [""], [1]])
def test_a_group_needs_names(parameters: Any):
    with pytest.raises(ValueError, match="parameters must be names of parameters or modules"):
        ParameterGroup(parameters=parameters)
