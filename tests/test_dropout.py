"""Dropout as a function of seed, step, call and element: the same numbers wherever and however it is computed."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lightning_modules import MLP, Adam, Classifier, DropoutBySeed, IrisDataModule, SeededDropout
from lightning_modules.dropout import DROPOUTS, step_number
from lightning_modules.philox import are_below, philox

WORD = 2**32 - 1


def by_seed(seed: int = 0, step: int = 0) -> DropoutBySeed:
    return DropoutBySeed(torch.tensor(seed), torch.tensor(step))


def dropped(*args: int, shape: tuple[int, ...] = (4, 25)) -> Tensor:
    with by_seed(*args):
        return functional.dropout(torch.ones(shape), 0.5) == 0


# The "known answers" of the authors' library Random123, in its file kat_vectors.
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([WORD] * 4, [WORD] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
@pytest.mark.parametrize("make", [torch.tensor, np.array], ids=["torch", "NumPy"])
def test_the_generator_gives_the_known_answers(
    make: Callable[..., Any], counter: list[int], key: list[int], expected: str
):
    rounds = make([[round] for round in range(10)])
    words = philox([make([word]) for word in counter], [make([word]) for word in key], rounds)
    assert " ".join(f"{word.item():08x}" for word in words) == expected


def test_numbers_are_uniform_and_independent_of_seed_step_call_and_neighbours():
    shape = (1 << 16,)
    base = (5, step_number(3, 4), 2)
    others = [(6, base[1], 2), (5 + 2**32, base[1], 2), (5, base[1] + 1, 2), (5, step_number(4, 4), 2), (*base[:2], 3)]

    def draws(seed: int, step: int, call: int, share: float = 0.25) -> Tensor:
        return are_below(share, torch.tensor(seed), torch.tensor(step), call, shape)

    first = draws(*base)
    for share in (2**-7, 0.25, 0.75, 1 - 2**-7):
        sigma = (share * (1 - share) / shape[0]) ** 0.5
        assert draws(*base, share).double().mean().item() == pytest.approx(share, abs=4 * sigma)
    for other in [*(draws(*each) for each in others), *(first.roll(lag) for lag in (1, 2, 4, 8, 16))]:
        sigma = (0.25**2 * (1 - 0.25**2) / shape[0]) ** 0.5
        assert (first & other).double().mean().item() == pytest.approx(0.25**2, abs=4 * sigma)


def test_few_elements_of_several_steps_and_many_of_one_have_the_same_numbers():
    for step in (0, 1, 17, step_number(3, 5), step_number(2**20, 2**31)):
        numbers = torch.tensor(-7), torch.tensor(step), 2
        few, many = (are_below(0.3, *numbers, shape) for shape in ((3, 11), (4, 40000)))
        assert torch.equal(few.flatten(), many.flatten()[:33])
        assert are_below(0.3, *numbers, ()) == few[0, 0]
        seeds = torch.tensor([1, -7])
        assert torch.equal(are_below(0.3, seeds, *numbers[1:], (3, 11))[1], few)


def test_a_seed_step_and_call_give_the_same_noise_whatever_was_drawn_before():
    with by_seed(3, 7):
        first, second = (functional.dropout(torch.ones(100), 0.5) for _ in range(2))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with by_seed(3, 7):
        again = functional.dropout(torch.ones(100), 0.5)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before), "and torch's generator is left alone"
    different = {tuple(dropped(*each).flatten().tolist()) for each in itertools.product((-1, 0, 2**63 - 1), (0, 1, 9))}
    assert len(different) == 9


def test_noise_depends_on_the_index_of_an_element_and_not_on_layout_type_or_threads():
    images = torch.rand(3, 5, 4, 4) + 1
    results = []
    for form in (images, images.to(memory_format=torch.channels_last), images.double(), images.bfloat16()):
        with by_seed():
            results.append(functional.dropout(form, 0.3) == 0)
    assert all(torch.equal(result, results[0]) for result in results)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        assert torch.equal(dropped(1, 2, shape=(300, 1000)), dropped(1, 2, shape=(300, 1000)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(dropped(shape=(7, 13)).flatten(), dropped(shape=(91,)))


@pytest.mark.parametrize("func", sorted(DROPOUTS, key=lambda func: func.__name__), ids=lambda func: func.__name__)
@pytest.mark.parametrize("shape", [(40, 6), (40, 5, 6), (30, 8, 2, 3), (30, 8, 2, 2, 2)], ids=str)
@pytest.mark.filterwarnings("ignore:dropout[23]d. Received a")
def test_each_function_gives_values_and_places_like_those_of_torch(func: Any, shape: tuple[int, ...]):
    values = torch.full(shape, 2.0, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(0)
    try:
        expected = func(values, 0.25, training=True)
    except RuntimeError as error:  # dropout1d takes two or three dimensions
        with by_seed(), pytest.raises(RuntimeError, match=str(error)[:20]):
            func(values, 0.25, training=True)
        return
    with by_seed():
        found = func(values, 0.25, training=True)
    with by_seed():
        in_place = func(values.detach().clone(), 0.25, training=True, inplace=True)
    assert found.unique().tolist() == pytest.approx(expected.unique().tolist(), rel=1e-14)
    torch.testing.assert_close(in_place, found.detach())
    for dim in range(len(shape)):  # whether whole slices are dropped along the same dimensions
        wholes = [bool((each == each.select(dim, 0).unsqueeze(dim)).all()) for each in (found, expected)]
        assert wholes[0] == wholes[1], dim
    lost = found == found.min()
    assert lost.double().mean().item() == pytest.approx(0.25, abs=0.15)
    gradient, of_torch = (torch.autograd.grad(each.sum(), values)[0] for each in (found, expected))
    assert torch.equal(gradient == 0, lost)
    assert gradient.max().item() == pytest.approx(of_torch.max().item(), rel=1e-14)


@pytest.mark.parametrize("func", sorted(DROPOUTS, key=lambda func: func.__name__), ids=lambda func: func.__name__)
def test_nothing_all_and_wrong_shares_are_treated_as_by_torch(func: Any):
    values = torch.rand(3, 4, 5, 5) if func is not functional.dropout1d else torch.rand(3, 4, 5)
    with by_seed():
        assert torch.equal(func(values, 0.0, training=True), values)
        assert torch.equal(func(values, 0.5, training=False), values)
        assert torch.equal(func(values, 1.0, training=True), torch.zeros_like(values))
        with pytest.raises(ValueError, match=r"probability has to be between 0 and 1, but got 1\.5"):
            func(values, 1.5, training=True)
        assert func(values[:0], 0.5, training=True).shape == values[:0].shape


def test_in_vmap_each_example_drops_what_its_seed_drops_alone():
    seeds, step = torch.tensor([4, 9, 4]), torch.tensor(step_number(1, 2))
    weights, shared = torch.rand(3, 6, 5), torch.rand(8, 2, 6)

    def run(seed: Tensor, weight: Tensor) -> Tensor:
        with DropoutBySeed(seed, step):
            hidden = functional.dropout(shared, 0.3) @ weight
            hidden = functional.dropout1d(hidden, 0.4)
            return functional.dropout(hidden, 0.2, inplace=True)

    together = torch.func.vmap(run)(seeds, weights)
    for result, *each in zip(together, seeds, weights, strict=True):
        torch.testing.assert_close(result, run(*each))
        assert torch.equal(result == 0, run(*each) == 0)


@pytest.mark.parametrize("reentrant", [False, True])
def test_dropout_that_is_computed_again_in_backward_is_the_same_in_both_passes(reentrant: bool):
    inputs = torch.rand(1000) + 1

    def passes(mode: DropoutBySeed) -> Tensor:
        values = inputs.clone().requires_grad_()
        with mode:
            outputs = checkpoint(lambda each: functional.dropout(each, 0.5), values, use_reentrant=reentrant)
            outputs.sum().backward()
        assert values.grad is not None
        return torch.stack([outputs.detach(), values.grad])

    outputs, gradient = passes(by_seed())
    torch.testing.assert_close(gradient, outputs / inputs)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_network_drops_what_it_drops_without_compilation(backend: str):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 9), nn.Dropout(0.3), nn.ReLU(), nn.AlphaDropout(0.2)).double()
    compiled, inputs = torch.compile(network, backend=backend), torch.rand(8, 5, dtype=torch.float64)
    seen = []
    for seed, step in [(5, 0), (5, 1), (6, 1)]:
        passes = []
        for each in (network, compiled):
            network.zero_grad()
            with by_seed(seed, step):
                outputs = each(inputs)
                outputs.square().sum().backward()
            passes.append([outputs.detach(), *(parameter.grad for parameter in network.parameters())])
        torch.testing.assert_close(passes[1], passes[0], rtol=1e-12, atol=1e-12)
        seen.append(passes[0][0])
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(seen, 2))


class Failing(pl.Callback):
    """Raises an error within the third step."""

    def on_before_backward(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == 2:
            raise OSError("on purpose")


def train(*callbacks: pl.Callback, state: int = 0, **options: Any) -> dict[str, Tensor]:
    """Train a small network with dropout, after which torch draws its own noise again, and return the weights."""
    torch.manual_seed(1)
    module = Classifier(MLP(inputs=4, layers=2, neurons=8, dropout=0.3, num_classes=3), Adam(initial_lr=0.01))
    torch.manual_seed(state)
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    try:
        trainer.fit(module, datamodule=IrisDataModule(batch_size=30, seed=0))
    finally:
        torch.manual_seed(2)
        expected = functional.dropout(torch.ones(100), 0.5)
        torch.manual_seed(2)
        with torch.random.fork_rng():
            torch.manual_seed(2)
            assert torch.equal(functional.dropout(torch.ones(100), 0.5), expected)
        assert not torch.overrides._get_current_function_mode_stack()
    return module.model.state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


def test_the_callback_makes_a_training_depend_on_its_seed_alone():
    first = train(SeededDropout(5))
    assert same(first, train(SeededDropout(5), state=9))
    assert not same(first, train(SeededDropout(6)))
    assert not same(train(), train(state=9)), "which is not so without it"
    halves = train(SeededDropout(5), accumulate_grad_batches=2)
    assert not same(first, halves)


def test_after_an_error_in_a_step_torch_draws_its_own_noise_again():
    with pytest.raises(OSError, match="on purpose"):
        train(SeededDropout(5), Failing())


def test_attention_keeps_the_noise_of_torch():
    attention = nn.MultiheadAttention(8, 2, dropout=0.5)
    inputs = torch.rand(4, 1, 8)
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        with by_seed():
            results.append(attention(inputs, inputs, inputs, need_weights=False)[0])
    torch.manual_seed(3)
    assert torch.equal(results[0], attention(inputs, inputs, inputs, need_weights=False)[0])
    assert torch.equal(*results)
