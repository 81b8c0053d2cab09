import copy
import io
import json
import math
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lightning_modules import optimizers as module
from lightning_modules.evaluation import has_switch
from lightning_modules.lr_scheduler import ScheduleLR
from lightning_modules.optimizers import (
    OPTIMIZERS,
    SGD,
    SOAP,
    Adadelta,
    Adagrad,
    Adam,
    AdamEpsilonHat,
    AdamW,
    Adan,
    AdEMAMix,
    Lion,
    Muon,
    Optimizer,
    Prodigy,
    RMSprop,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
)
from lightning_modules.optimizers.muon import Scale, TorchMuon
from lightning_modules.schedules import (
    SCHEDULES,
    Constant,
    CosineDecay,
    CosineRestarts,
    ExponentialDecay,
    FivePointSpline,
    HoldThenDecay,
    InverseSqrt,
    InverseTimeDecay,
    Lambda,
    LinearCosineDecay,
    NaturalExponentialDecay,
    NoisyLinearCosineDecay,
    OneCycle,
    PiecewiseConstant,
    Plateau,
    PolynomialDecay,
    Rex,
    Spline,
    SqrtDecay,
    StepDecay,
    TriangularCyclic,
    TwoPointSpline,
    WarmupStableDecay,
    join,
    scaled,
    warmup,
)

KERAS = json.loads((Path(__file__).parent / "reference" / "tensorflow.json").read_text())["adam"]
SETTINGS = [
    Adadelta(initial_lr=1.0),
    Adagrad(initial_lr=0.1),
    Adam(initial_lr=0.01),
    AdamEpsilonHat(initial_lr=0.1, eps=0.01, weight_decay=0.1),
    AdamW(initial_lr=0.01),
    RMSprop(initial_lr=0.01, momentum=0.9, centered=True),
    SGD(initial_lr=0.1, momentum=0.9, nesterov=True),
]
OF_LIBRARIES = [
    AdEMAMix(initial_lr=0.01, beta3=0.99, warmup_steps=5, weight_decay=0.1),
    Adan(initial_lr=0.01, weight_decay=0.1),
    Lion(initial_lr=1e-4),
    Prodigy(initial_lr=1.0, d0=1e-3, weight_decay=0.1),
    SOAP(initial_lr=0.01, precondition_frequency=2),
    ScheduleFreeAdamW(initial_lr=0.01, weight_decay=0.1),
    ScheduleFreeSGD(initial_lr=0.5),
]
EVERY = [*SETTINGS, *OF_LIBRARIES, Muon(initial_lr=0.01, adamw_lr=0.02, weight_decay=0.1)]


WITH_EPS, WITH_BETAS = (
    [each for each in OPTIMIZERS.values() if hasattr(each, argument)] for argument in ("eps", "beta2")
)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 6 * 6, 4))


def train(net, optimizer, steps, scheduler=None):
    if has_switch(optimizer):
        optimizer.train()
    for step in steps:
        inputs = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(step))
        loss = net(inputs).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def weights(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def saved_and_loaded(*parts):
    """Return the states of objects after they were written to a file and read back, like a checkpoint."""
    file = io.BytesIO()
    torch.save([part.state_dict() for part in parts], file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def path(settings, gradient, count, start=(0.0,)):
    """Return the path of weights in double precision whose gradient is a given function of them."""
    weight = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = settings([weight])
    if has_switch(optimizer):
        optimizer.train()
    result = []
    for _ in range(count):
        weight.grad = gradient(weight.detach())
        optimizer.step()
        result.append(weight.detach().numpy().copy())
    return np.array(result)


# Updates, by hand


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (SGD(initial_lr=0.1), [0.8, 0.6]),
        (SGD(initial_lr=0.1, momentum=0.5), [0.8, 0.5]),
        (SGD(initial_lr=0.1, momentum=0.5, nesterov=True), [0.7, 0.35]),
        (SGD(initial_lr=0.1, weight_decay=0.5), [0.75, 0.5125]),
        (Adam(initial_lr=0.1, eps=0), [0.9, 0.8]),
        (Adam(initial_lr=0.1, eps=2), [0.95, 0.9]),
        (AdamW(initial_lr=0.1, eps=0, weight_decay=0.5), [0.85, 0.7075]),
        (
            AdamEpsilonHat(initial_lr=0.1, beta1=0.5, beta2=0.75, eps=1),
            [0.95, 0.95 - 0.1 * math.sqrt(1 - 0.75**2) / 0.75 * 1.5 / (math.sqrt(1.75) + 1)],
        ),
        (AdamEpsilonHat(initial_lr=0.1, beta1=0.5, beta2=0.75, eps=0), [0.9, 0.8]),
        (Adagrad(initial_lr=0.1), [0.9, 0.9 - 0.2 / math.sqrt(8)]),
        (Adagrad(initial_lr=0.1, initial_accumulator=5, eps=1), [0.95, 0.95 - 0.2 / (math.sqrt(13) + 1)]),
        (RMSprop(initial_lr=0.1, rho=0.75, eps=1), [0.9, 0.9 - 0.2 / (math.sqrt(1.75) + 1)]),
        (RMSprop(initial_lr=0.1, rho=0.75, eps=1, momentum=0.5), [0.9, 0.9 - 0.05 - 0.2 / (math.sqrt(1.75) + 1)]),
        (
            RMSprop(initial_lr=0.1, rho=0.75, eps=1, centered=True),
            [
                1 - 0.2 / (math.sqrt(1 - 0.5**2) + 1),
                1 - 0.2 / (math.sqrt(1 - 0.5**2) + 1) - 0.2 / (math.sqrt(1.75 - 0.875**2) + 1),
            ],
        ),
        (Adadelta(initial_lr=1, rho=0.75, eps=1), [1 - math.sqrt(2), 1 - math.sqrt(2) - 2 * math.sqrt(1.5 / 2.75)]),
    ],
    ids=repr,
)
def test_update_is_the_one_worked_out_by_hand_for_a_gradient_of_two(settings, expected):
    result = path(settings, lambda weight: torch.full_like(weight, 2), 2, start=(1.0,))[:, 0]
    assert result == pytest.approx(expected, abs=1e-7)


# AdamEpsilonHat


@pytest.mark.parametrize("row", KERAS, ids=lambda row: str(row["settings"]))
def test_path_of_forty_steps_is_that_of_keras(row):
    scale, target = (torch.tensor(row[name], dtype=torch.float64) for name in ("scale", "target"))
    result = path(AdamEpsilonHat(**row["settings"]), lambda weight: scale * (weight - target), 40, start=(0.0,) * 3)
    # Keras rounds the betas 0.9 and 0.999 to single precision in the bias correction.
    exact = row["settings"]["beta1"] == 0.875
    assert np.abs(result - np.array(row["path"])).max() < (1e-12 if exact else 1e-6)


@pytest.mark.parametrize("eps", [1e-3, 0.1, 1])
def test_path_of_torchs_adam_is_another_with_a_large_eps(eps):
    row = next(row for row in KERAS if row["settings"]["eps"] == eps)
    scale, target = (torch.tensor(row[name], dtype=torch.float64) for name in ("scale", "target"))
    result = path(Adam(**row["settings"]), lambda weight: scale * (weight - target), 40, start=(0.0,) * 3)
    assert np.abs(result - np.array(row["path"])).max() > 0.1


def test_epsilon_hat_acts_like_a_larger_eps_of_adam_at_first():
    for count in (1, 10, 100):
        eps = 0.1 / math.sqrt(1 - 0.999**count)
        constant = [path(AdamEpsilonHat(initial_lr=1.0, eps=0.1), torch.ones_like, count)]
        constant.append(path(Adam(initial_lr=1.0, eps=eps), torch.ones_like, count))
        last = [np.diff(positions[:, 0], prepend=0.0)[-1] for positions in constant]
        assert last[0] == pytest.approx(last[1], rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_update_of_many_parameters_is_that_of_the_formula(dtype, weight_decay):
    generator = torch.Generator().manual_seed(0)
    params = [
        nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in ((), (3,), (2, 3), (2, 1, 3, 3))
    ]
    expected = [param.detach().clone() for param in params]
    means = [torch.zeros_like(param) for param in expected]
    squares = [torch.zeros_like(param) for param in expected]
    counts = [0] * len(params)
    optimizer = AdamEpsilonHat(initial_lr=0.1, beta1=0.8, beta2=0.9, eps=0.3, weight_decay=weight_decay)(params)
    for step in range(10):
        for index, param in enumerate(params):
            # One has no gradient at first, another now and then: its own count of updates is what matters.
            if (index == 1 and step < 4) or (index == 2 and step % 3 == 0):
                param.grad = None
                continue
            param.grad = torch.randn(param.shape, generator=generator, dtype=dtype)
            grad = param.grad + weight_decay * expected[index]
            counts[index] += 1
            means[index] = 0.8 * means[index] + 0.2 * grad
            squares[index] = 0.9 * squares[index] + 0.1 * grad**2
            lr = 0.1 * math.sqrt(1 - 0.9 ** counts[index]) / (1 - 0.8 ** counts[index])
            expected[index] = expected[index] - lr * means[index] / (squares[index].sqrt() + 0.3)
        optimizer.step()
    for param, value in zip(params, expected, strict=True):
        torch.testing.assert_close(param.detach(), value)


def test_every_parameter_group_has_its_own_eps_and_lr():
    params = [nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(3)]
    optimizer = module.TorchAdamEpsilonHat(
        [{"params": [params[0]]}, {"params": [params[1]], "eps": 1.0}, {"params": [params[2]], "lr": 0.2}],
        lr=0.1,
        eps=0.0,
    )
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    hat = math.sqrt(1 - 0.999)
    assert [param.item() for param in params] == pytest.approx([-0.1, -0.1 * hat / (hat + 1), -0.2], rel=1e-12)


def test_step_without_any_gradient_changes_nothing():
    weight = nn.Parameter(torch.ones(2))
    optimizer = AdamEpsilonHat(initial_lr=0.1)([weight])
    assert optimizer.step() is None
    assert weight.tolist() == [1, 1]
    assert not optimizer.state


def test_step_with_a_closure_returns_its_loss():
    weight = nn.Parameter(torch.ones(1))
    optimizer = AdamEpsilonHat(initial_lr=0.1)([weight])

    def closure():
        optimizer.zero_grad()
        loss = (weight**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 1
    assert weight.item() == pytest.approx(0.9, abs=1e-6)


@pytest.mark.parametrize("with_closure", [False, True])
@pytest.mark.parametrize("further", [{}, {"nesterov": True, "weight_decay": 0.1}], ids=["plain", "nesterov"])
def test_sgd_updates_parameters_with_late_gradients_like_torchs_without_fused_kernels(further, with_closure):
    twins = [[nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64)) for _ in range(3)] for _ in range(2)]
    optimizers = [
        SGD(initial_lr=0.1, momentum=0.9, **further)(twins[0]),
        torch.optim.SGD(twins[1], lr=0.1, momentum=0.9, **further),
    ]
    for step in range(6):
        for params, optimizer in zip(twins, optimizers, strict=True):

            def closure(params=params, optimizer=optimizer, step=step):
                optimizer.zero_grad()
                loss = sum((param**2).sum() for index, param in enumerate(params) if step >= 2 * index)
                loss.backward()
                return loss

            if with_closure:
                assert optimizer.step(closure).item() > 0
            else:
                closure()
                optimizer.step()
            assert len(optimizer.state) == min(3, 1 + step // 2), "no state before the first gradient"
    for one, other in zip(*twins, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-14, atol=0)


# Every optimizer


def test_registry_lists_every_optimizer_that_can_be_imported():
    public = {getattr(module, name) for name in module.__all__ if name != "OPTIMIZERS"}
    assert set(OPTIMIZERS.values()) == public - {Optimizer}
    assert {type(settings) for settings in EVERY} == set(OPTIMIZERS.values())


@pytest.mark.parametrize("settings", EVERY, ids=repr)
def test_training_resumed_in_the_middle_ends_with_the_same_bits(settings):
    net = network()
    optimizer = settings(net.parameters())
    train(net, optimizer, range(4))
    before = weights(net)
    net_state, optimizer_state = saved_and_loaded(net, optimizer)
    train(net, optimizer, range(4, 9))

    again = network()
    again.load_state_dict(net_state)
    second = settings(again.parameters())
    second.load_state_dict(optimizer_state)
    assert equal(weights(again), before)
    train(again, second, range(4, 9))
    assert equal(weights(again), weights(net))
    assert not equal(weights(again), before)
    assert all(value.isfinite().all() for value in weights(net).values())


SCHEDULE_OF = {
    "constant": Constant(),
    "cosine": CosineDecay(decay_steps=9),
    "cosine_restarts": CosineRestarts(restart_period=2.5, period_growth=1.3, peak_decay=0.9),
    "exponential": ExponentialDecay(decay_rate=0.5, decay_steps=3),
    "five_point_spline": FivePointSpline(total_steps=9, x_peak=0.3, delta_x1=0.5, y1=0.6, delta_x2=0.5, y2=0.2),
    "hold_then_decay": HoldThenDecay(hold_steps=3, decay=StepDecay(decay_rate=0.5, decay_steps=2)),
    "inverse_sqrt": InverseSqrt(warmup_steps=3),
    "inverse_time": InverseTimeDecay(decay_rate=0.5, decay_steps=3),
    "join": join([Constant(), CosineDecay(decay_steps=3)], [3]),
    "lambda": Lambda(function="1 / (1 + rate * step)", rate=0.5),
    "linear_cosine": LinearCosineDecay(decay_steps=9),
    "natural_exponential": NaturalExponentialDecay(decay_rate=0.5, decay_steps=3),
    "noisy_linear_cosine": NoisyLinearCosineDecay(decay_steps=9, seed=1),
    "one_cycle": OneCycle(total_steps=9),
    "piecewise_constant": PiecewiseConstant(boundaries=(2, 5), factors=(1.0, 0.5, 0.25)),
    "polynomial": PolynomialDecay(decay_steps=3, end_factor=0.1, cycle=True),
    "rex": Rex(decay_steps=9),
    "scaled": scaled(CosineDecay(decay_steps=9), 0.5),
    "spline": Spline(steps=(0, 5, 9), factors=(1.0, 0.4, 0.1)),
    "sqrt": SqrtDecay(decay_steps=10),
    "step": StepDecay(decay_rate=0.5, decay_steps=2),
    "triangular": TriangularCyclic(half_period=2, min_factor=0.1, peak_decay=0.8),
    "two_point_spline": TwoPointSpline(decay_steps=9, delta_x1=0.3, y1=0.8, delta_x2=0.5, delta_y2=0.5),
    "warmup": warmup(CosineDecay(decay_steps=5), 4),
    "warmup_stable_decay": WarmupStableDecay(warmup_steps=2, hold_steps=2, decay_steps=4),
}


def test_resume_is_checked_for_every_family():
    assert sorted(SCHEDULE_OF) == sorted(SCHEDULES)


@pytest.mark.parametrize("schedule", SCHEDULE_OF.values(), ids=SCHEDULE_OF)
def test_training_resumed_in_the_middle_of_a_schedule_ends_with_the_same_bits(schedule):
    net = network()
    optimizer = AdamEpsilonHat(initial_lr=0.1, eps=0.1)(net.parameters())
    scheduler = ScheduleLR(optimizer, schedule)
    train(net, optimizer, range(4), scheduler)
    states = saved_and_loaded(net, optimizer, scheduler)
    train(net, optimizer, range(4, 9), scheduler)

    again = network()
    second = AdamEpsilonHat(initial_lr=0.1, eps=0.1)(again.parameters())
    continued = ScheduleLR(second, schedule)
    for part, state in zip((again, second, continued), states, strict=True):
        part.load_state_dict(state)
    assert second.param_groups[0]["lr"] == 0.1 * schedule(4)
    train(again, second, range(4, 9), continued)
    assert equal(weights(again), weights(net))


def test_a_training_resumed_within_a_plateaus_patience_continues_with_the_same_lr():
    plateau = Plateau(factor=0.5, patience=2, cooldown=1, schedule=CosineDecay(decay_steps=50))
    optimizers = [SGD(initial_lr=0.1)([nn.Parameter(torch.zeros(1))]) for _ in range(2)]
    straight, resumed = (ScheduleLR(optimizer, plateau) for optimizer in optimizers)

    def lrs(scheduler, metrics):
        result = []
        for metric in metrics:
            scheduler.optimizer.step()
            scheduler.step()
            scheduler.update_plateau(metric)
            result.append(scheduler.get_last_lr())
        return result

    metrics = [1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
    expected = lrs(straight, metrics)
    for cut in range(1, len(metrics)):
        begun = ScheduleLR(SGD(initial_lr=0.1)([nn.Parameter(torch.zeros(1))]), plateau)
        assert lrs(begun, metrics[:cut]) == expected[:cut]
        (state,) = saved_and_loaded(begun)
        resumed.load_state_dict(state)
        assert lrs(resumed, metrics[cut:]) == expected[cut:]


@pytest.mark.parametrize("settings", SETTINGS, ids=repr)
@pytest.mark.parametrize("name", ["one_cycle", "triangular", "cosine_restarts"])
def test_schedule_changes_the_lr_and_nothing_else(settings, name):
    weight = nn.Parameter(torch.ones(2))
    optimizer = settings([weight])

    def others():
        group = optimizer.param_groups[0]
        return {key: value for key, value in group.items() if key not in ("lr", "initial_lr", "params")}

    before = others()
    scheduler = ScheduleLR(optimizer, SCHEDULE_OF[name])
    lrs = set()
    for _ in range(9):
        weight.grad = torch.ones(2)
        optimizer.step()
        scheduler.step()
        lrs.add(optimizer.param_groups[0]["lr"])
        assert others() == before
    assert len(lrs) > 3


@pytest.mark.parametrize("kind", [Adagrad, Adam, AdamW, SGD])
def test_fused_kernels_are_asked_for(kind):
    assert kind(initial_lr=0.1)([nn.Parameter(torch.zeros(1))]).param_groups[0]["fused"] is True


@pytest.mark.parametrize("kind", [Adadelta, RMSprop])
def test_batched_kernels_are_asked_for_where_torch_has_no_fused_ones(kind):
    group = kind(initial_lr=0.1)([nn.Parameter(torch.zeros(1))]).param_groups[0]
    assert "fused" not in group
    assert group["foreach"] is True


@pytest.mark.parametrize("settings", [*SETTINGS, *OF_LIBRARIES], ids=repr)
def test_eps_reaches_the_optimizer(settings):
    if not hasattr(settings, "eps"):
        with pytest.raises(TypeError, match="eps"):
            type(settings)(initial_lr=0.5, eps=0.125)
        return
    changed = type(settings)(initial_lr=0.5, eps=0.125)
    group = changed([nn.Parameter(torch.zeros(1))]).param_groups[0]
    assert (group["lr"], group["eps"]) == (0.5, 0.125)


@pytest.mark.parametrize("settings", EVERY, ids=repr)
def test_settings_survive_pickle_and_repr_and_are_equal_and_hashable(settings):
    for twin in (pickle.loads(pickle.dumps(settings)), eval(repr(settings), vars(module))):
        assert twin == settings
        assert hash(twin) == hash(settings)


@pytest.mark.parametrize("number", [np.float32, np.array, torch.tensor])
@pytest.mark.parametrize("kind", OPTIMIZERS.values())
def test_numbers_of_numpy_and_torch_become_those_of_python(kind, number):
    assert kind(initial_lr=number(0.5), weight_decay=number(0.25)) == kind(initial_lr=0.5, weight_decay=0.25)
    assert isinstance(kind(initial_lr=number(0.5)).initial_lr, float)


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        *(
            (each, {"initial_lr": bad}, "initial_lr > 0")
            for each in OPTIMIZERS.values()
            for bad in (0, -1, math.nan, math.inf)
        ),
        *(
            (each, {"weight_decay": bad}, "weight_decay >= 0")
            for each in OPTIMIZERS.values()
            for bad in (-0.1, math.nan)
        ),
        *((each, {"eps": -1e-8}, "eps >= 0") for each in WITH_EPS if each is not Adadelta),
        (Adadelta, {"eps": 0}, "eps > 0"),
        *((each, {"beta1": 1}, "0 <= beta1 < 1") for each in WITH_BETAS if each is not ScheduleFreeAdamW),
        *((each, {"beta2": -0.1}, "0 <= beta2 < 1") for each in WITH_BETAS),
        *((each, {"beta3": 1}, "0 <= beta3 < 1") for each in (AdEMAMix, Adan)),
        *((ScheduleFreeAdamW, {"beta1": bad}, "0 < beta1 < 1") for bad in (0, 1)),
        *((ScheduleFreeSGD, {"momentum": bad}, "0 < momentum < 1") for bad in (0, 1)),
        (AdEMAMix, {"alpha": -1}, "alpha >= 0"),
        (AdEMAMix, {"warmup_steps": -1}, "warmup_steps >= 0"),
        *((Prodigy, {field: 0}, f"{field} > 0") for field in ("d0", "d_coef")),
        *((SOAP, {field: 0}, f"{field} >= 1") for field in ("precondition_frequency", "max_precondition_dim")),
        *((Muon, {"adamw_lr": bad}, "adamw_lr > 0") for bad in (0, math.nan)),
        *((Muon, {"adamw_lr": bad}, "adamw_lr must be a number") for bad in (True, "0.1")),
        (Muon, {"scale": "other"}, "scale must be one of match_rms_adamw, original"),
        *((each, {"rho": 1}, "0 <= rho < 1") for each in (RMSprop, Adadelta)),
        *((each, {"momentum": 1}, "0 <= momentum < 1") for each in (SGD, RMSprop, Muon)),
        (SGD, {"nesterov": True}, "momentum > 0 with nesterov"),
        (SGD, {"nesterov": math.nan}, "nesterov must be True or False"),
        (Adagrad, {"initial_accumulator": -1}, "initial_accumulator >= 0"),
        *((each, {"initial_lr": "0.1"}, "initial_lr must be a number") for each in OPTIMIZERS.values()),
    ],
    ids=str,
)
def test_argument_that_breaks_a_rule_is_refused_with_the_rule_and_the_value(settings, arguments, message):
    ((field, value),) = arguments.items()
    with pytest.raises(
        ValueError, match=re.escape(message) + f"( must hold)?, but got {field}={re.escape(repr(value))}"
    ):
        settings(**{"initial_lr": 0.1, **arguments})


# Optimizers of libraries that need not be there


@pytest.mark.parametrize("settings", OF_LIBRARIES, ids=lambda settings: type(settings).__name__)
def test_an_optimizer_without_its_library_says_what_to_install(settings, monkeypatch):
    package = "schedulefree" if isinstance(settings, ScheduleFreeAdamW | ScheduleFreeSGD) else "pytorch_optimizer"
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f'^{type(settings).__name__} needs {package}: pip install "lr-tuner'):
        settings([nn.Parameter(torch.zeros(1))])


def test_lion_moves_by_the_sign_and_decays_by_the_lr():
    result = path(Lion(initial_lr=0.1, weight_decay=0.5), lambda weight: torch.full_like(weight, 2), 2, start=(1.0,))
    assert result[:, 0] == pytest.approx([0.95 - 0.1, 0.85 * 0.95 - 0.1], abs=1e-12)


@pytest.mark.parametrize("settings", [AdEMAMix, Adan, SOAP, ScheduleFreeAdamW], ids=repr)
def test_weight_decay_shrinks_a_weight_without_gradient_by_the_lr(settings):
    result = path(settings(initial_lr=0.1, weight_decay=0.5), torch.zeros_like, 2, start=(1.0,))[:, 0]
    if settings is SOAP:  # whose first step only measures
        result = [result[1], 0.95 * result[1]]
    expected = [1 / 1.05, 1 / 1.05**2] if settings is Adan else [0.95, 0.95**2]
    if settings is ScheduleFreeAdamW:  # a tenth of the step, and nine tenths of that of the average
        expected = [0.95, 0.95 - 0.05 * 0.95 * (1 - 0.9 / 2)]
    assert result == pytest.approx(expected, abs=1e-9)


def test_schedule_free_sgd_evaluates_the_mean_of_the_points_of_plain_sgd():
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = ScheduleFreeSGD(initial_lr=0.1, momentum=0.5)([weight])
    z, mean = 1.0, 1.0
    for step in range(1, 6):
        optimizer.train()
        assert weight.item() == pytest.approx(0.5 * z + 0.5 * mean)  # where the gradient is taken
        weight.grad = 2 * weight.detach()
        z -= 0.1 * 2 * weight.item()
        optimizer.step()
        mean += (z - mean) / step
        optimizer.eval()
        assert weight.item() == pytest.approx(mean)


def test_prodigy_finds_a_sensible_lr_from_a_tiny_first_estimate():
    result = path(Prodigy(initial_lr=1.0), lambda weight: 2 * (weight - 3), 200)[:, 0]
    assert abs(result[4]) < 1e-3
    assert result[-1] == pytest.approx(3, abs=0.3)


# Muon


def test_muon_orthogonalizes_matrices_and_leaves_the_rest_to_adamw():
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(shape, generator=generator) for shape in ((6, 4), (6,), (2, 1, 3, 3))]
    params = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    twins = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients[1:]]
    optimizer, twin = Muon(initial_lr=0.5, adamw_lr=0.1)(params), AdamW(initial_lr=0.1)(twins)
    for _ in range(3):
        for param, gradient in zip([*params, *twins], [*gradients, *gradients[1:]], strict=True):
            param.grad = gradient.clone()
        optimizer.step()
        twin.step()
    for param, other in zip(params[1:], twins, strict=True):
        assert torch.equal(param, other)
    sizes = torch.linalg.svdvals(params[0]) / (3 * 0.5 * 0.2 * math.sqrt(6))
    assert sizes.min() > 0.6
    assert sizes.max() < 1.3


@pytest.mark.parametrize("scale", ["match_rms_adamw", "original"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_on_a_cpu_is_the_one_of_torch_but_for_the_precision_of_bfloat16(scale: Scale, nesterov: bool):
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(shape, generator=generator) for shape in ((6, 4), (4, 6), (5, 5))]
    settings = {"lr": 0.1, "weight_decay": 0.2, "momentum": 0.9, "nesterov": nesterov}
    kinds = (torch.float32, torch.float32, torch.float64)
    params, twins, exact = ([nn.Parameter(start.to(kind, copy=True)) for start in starts] for kind in kinds)
    ours = [TorchMuon(each, scale=scale, **settings) for each in (params, exact)]
    torchs = torch.optim.Muon(twins, adjust_lr_fn=scale, **settings)
    for _ in range(3):
        for matrices in zip(params, twins, exact, strict=True):
            gradient = torch.randn(matrices[0].shape, generator=generator)
            for matrix in matrices:
                matrix.grad = gradient.to(matrix.dtype)
        for optimizer in (*ours, torchs):
            optimizer.step()
    for param, twin, start, precise in zip(params, twins, starts, exact, strict=True):
        torch.testing.assert_close(param, precise.float(), atol=1e-5, rtol=1e-5)
        assert (param - twin).norm() < 0.03 * (twin - start).norm()


def test_muon_without_a_matrix_is_refused():
    with pytest.raises(ValueError, match="Muon needs a parameter of two dimensions, but there is none: use AdamW"):
        Muon(initial_lr=0.1)([nn.Parameter(torch.zeros(3))])


def test_muon_survives_a_copy_and_takes_parameter_groups():
    params = [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, 2))]
    optimizer = copy.deepcopy(TorchMuon([{"params": params[:2]}, {"params": params[2:], "lr": 0.0}], lr=0.1))
    groups = [[param.ndim for param in group["params"]] for group in optimizer.param_groups]
    assert groups == [[2], [2], [1]]
    for group in optimizer.param_groups:
        for param in group["params"]:
            param.grad = torch.ones_like(param)
    optimizer.step()
    moved = [
        not torch.equal(group["params"][0], torch.ones_like(group["params"][0])) for group in optimizer.param_groups
    ]
    assert moved == [True, False, True]
