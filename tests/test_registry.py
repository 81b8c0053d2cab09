"""Names of components, their signatures, and building them."""

import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from lightning_modules import MODELS, OPTIMIZERS, SCHEDULES, Plateau, Schedule
from tests.rules import refused, shortened
from tuner.config import registry
from tuner.config.annotations import check_value, converted, did_you_mean
from tuner.config.component import Component, rehearse
from tuner.config.optimization import settings_fault
from tuner.config.registry import Argument, arguments_of, resolve, sample_optimizer, signature_of
from tuner.config.synonyms import SYNONYMS
from tuner.direction import Direction
from tuner.interrupts import exit_at_once, on_interrupt

KERNELS = """\
import torch

class Kernels(torch.optim.SGD):
    def __init__(self, params, lr=0.1, momentum=0.9):
        params = list(params)
        for group in params if isinstance(params[0], dict) else [{"params": params}]:
            for each in group["params"]:
                if each.ndim != 4:
                    raise ValueError(f"only kernels, but got {tuple(each.shape)}")
        if momentum < 0:
            raise ValueError("momentum must be positive")
        super().__init__(params, lr=lr, momentum=momentum)
"""
SOURCE = """\
from pathlib import Path
import pytorch_lightning as pl
import torch
from dataclasses import dataclass
from lightning_modules import Plateau, Schedule

NUMBER = 3

class Net(torch.nn.Module):
    def __init__(self, width: int = 4, *, folder: Path = Path("."), **others):
        super().__init__()
        self.width, self.folder, self.others = width, folder, others

class Eager(torch.nn.Module):
    '''Computes with numbers as it is built, as networks with a stochastic depth do.'''
    def __init__(self, rate: float):
        super().__init__()
        self.rates = [each.item() for each in torch.linspace(0, rate, 3)]

def make_net(width):
    return Net(width)

def make_nothing():
    return None

class Odd(torch.nn.Module):
    def __init__(self, width: "Unknown", depth: int = 1, /, height: "Unknown" = 2):
        super().__init__()

class Data(pl.LightningDataModule):
    def __init__(self, *, batch_size: int, seed: int):
        super().__init__()
        self.batch_size, self.seed = batch_size, seed

@dataclass(frozen=True, kw_only=True)
class Both(Schedule):
    first: Schedule
    others: tuple[Schedule, ...] = ()
    top: Schedule | None = None

    def _factor(self, step):
        return self.first(step)

@dataclass(frozen=True, kw_only=True)
class Broken(Schedule):
    def _factor(self, step):
        return 1 / step

@dataclass(frozen=True, kw_only=True)
class Settings:
    initial_lr: float
    def __call__(self, params):
        return torch.optim.SGD(params, lr=self.initial_lr)

class NoOptimizer:
    def __init__(self, initial_lr):
        pass
    def __call__(self, params):
        return "sgd"

class NoLr:
    def __call__(self, params):
        return None
"""


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Write a user's module that can be imported."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "users_own.py").write_text(textwrap.dedent(SOURCE))
    (folder / "users_broken.py").write_text("import nothing_like_this\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder


# -- did you mean ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("cosin", ["constant", "cosine"], " <near> cosine?"),
        ("MNIST_CNN", ["mnist_cnn"], " <near> mnist_cnn?"),
        ("lr", ["initial_lr", "eps"], " <near> initial_lr?"),
        ("decay", ["decay_rate", "decay_steps"], " <near> decay_rate?"),
        ("e", ["eps"], ""),
        ("", ["a", "b"], ""),
        ("x" * 100_000, ["a"], ""),
        ("in", ["min_factor", "initial_variance"], ""),
        ("cosine", [], ""),
    ],
)
def test_a_name_is_proposed_if_one_is_near(name: str, known: list[str], hint: str) -> None:
    assert shortened(did_you_mean(name, known)) == hint


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["model", "optimizer", "schedule"])
def test_every_short_name_stands_for_its_class(kind: str) -> None:
    known = {"model": MODELS, "optimizer": OPTIMIZERS, "schedule": {**SCHEDULES, "plateau": Plateau}}[kind]
    assert {name: resolve(kind, name) for name in known} == known


def test_a_full_name_resolves_to_the_object_that_python_imports(user: Path) -> None:
    assert resolve("optimizer", "torch.optim:NAdam") is torch.optim.NAdam
    assert resolve("schedule", "lightning_modules:CosineRestarts") is SCHEDULES["cosine_restarts"]
    assert resolve("model", "users_own:make_net").__name__ == "make_net"


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("model", "users_broken:Net", "<no import> \"users_broken:Net\": No module named 'nothing_like_this'."),
        ("model", ":Net", '<no import> ":Net": ValueError: Empty module name.'),
        (
            "model",
            "..x:Net",
            "<no import> \"..x:Net\": TypeError: the 'package' argument is required to perform a relative import for "
            "'..x'.",
        ),
        ("model", "users_own:Nett", 'users_own has no class or function "Nett". <near> Net?'),
        ("model", "users_own:", 'users_own has no class or function "".'),
        ("model", "users_own:NUMBER", 'users_own has no class or function "NUMBER".'),
        ("model", "users_own:Net:Net", 'users_own has no class or function "Net:Net". <near> Net?'),
        ("model", "users_own:Data", '"users_own:Data" is not a torch.nn.Module.'),
        ("data", "users_own:Net", '"users_own:Net" is not a LightningDataModule.'),
        ("schedule", "users_own:Net", '"users_own:Net" is not a lightning_modules.Schedule.'),
        ("schedule", "torch.optim:NAdam", '"torch.optim:NAdam" is not a lightning_modules.Schedule.'),
        ("optimizer", "users_own:Data", '"users_own:Data" is not a factory of optimizers.'),
        ("optimizer", "users_own:NoLr", '"users_own:NoLr" <no argument> initial_lr for a schedule to multiply.'),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(user: Path, kind: str, name: str, message: str) -> None:
    with refused(message):
        arguments_of(kind, name)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit('called as a script')", "SystemExit: called as a script"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("next(iter([]))", "StopIteration"),
        ("os._exit(0)", "SystemExit: 0"),
        ("os.abort()", "SystemExit: 134"),
    ],
)
def test_a_module_that_would_end_the_command_is_refused_with_its_line(user: Path, line: str, error: str) -> None:
    module = "users_" + re.sub(r"\W", "_", error)
    (user / f"{module}.py").write_text(f"import os\n{line}\n")
    message = f'cannot import "{module}:Net": {error} ({user}/{module}.py, line 2, in <module>: {line}).'
    with on_interrupt(exit_at_once), pytest.raises(ValueError, match=re.escape(message)):
        resolve("model", f"{module}:Net")


def test_a_module_that_does_not_exist_is_refused_with_where_it_was_looked_for(user: Path) -> None:
    with pytest.raises(ValueError, match=r"\"nowhere\.x:Net\": No module named 'nowhere'\.") as caught:
        resolve("model", "nowhere.x:Net")
    assert re.search(f" Looked in .*{user}.* and among the installed packages\\.$", str(caught.value))


@pytest.mark.parametrize(
    ("name", "meant"), [("users_ow:Net", "users_own"), ("lightning_modules.lossses:X", "lightning_modules.losses")]
)
def test_a_module_whose_name_is_near_is_proposed(user: Path, name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"installed packages\. Did you mean {re.escape(meant)}\?$"):
        resolve("model", name)


def test_a_class_of_the_running_script_is_refused_with_advice() -> None:
    with pytest.raises(
        ValueError,
        match=r"do not import: put Mine into a module, and write module:Mine, or pass the class itself",
    ):
        resolve("model", "__main__:Mine")


@pytest.mark.parametrize(
    ("kind", "name", "ours"),
    [
        ("schedule", "torch.optim.lr_scheduler:OneCycleLR", "one_cycle"),
        ("schedule", "torch.optim.lr_scheduler.ReduceLROnPlateau", "plateau"),
        ("schedule", "CosineAnnealingWarmRestarts", "cosine_restarts"),
        ("schedule", "keras.optimizers.schedules:PiecewiseConstantDecay", "piecewise_constant"),
        ("optimizer", "tensorflow.keras.optimizers:SGD", "sgd"),
        ("optimizer", "keras.optimizers:Adam", "adam_epsilon_hat"),
        ("optimizer", "keras.optimizers.Nadam", "torch.optim:NAdam"),
        ("optimizer", "tf.keras.optimizers.Adam", "adam_epsilon_hat"),
        ("schedule", "get_cosine_schedule_with_warmup", "warmup"),
        ("loss", "keras.losses.BinaryCrossentropy", "binary_cross_entropy"),
        ("loss", "MSELoss", "squared_error"),
        ("callback", "EarlyStopping", "early_stopping"),
        ("optimizer", "NAdam", "torch.optim:NAdam"),
        ("optimizer", "Adam", "adam"),
        ("model", "mymodels.Net", "mymodels:Net"),
    ],
)
def test_a_class_of_another_library_is_refused_with_its_name_here(kind: str, name: str, ours: str) -> None:
    with pytest.raises(ValueError, match=rf" Did you mean {ours}\?$"):
        resolve(kind, name)


def test_every_class_that_is_known_by_another_name_here_has_one() -> None:
    assert all(ours in registry.KINDS[kind] for kind, names in SYNONYMS.items() for ours in names.values())
    schedulers = [name for name in vars(torch.optim.lr_scheduler) if name.endswith("LR") and name != "ChainedScheduler"]
    missing = [name for name in schedulers if name.lower() not in SYNONYMS["schedule"]]
    assert missing == ["SWALR"] or missing == []


@pytest.mark.parametrize(
    ("kind", "name", "hint"),
    [
        ("schedule", "cosin_restarts", " <near> cosine_restarts?"),
        ("schedule", "Exponential", " <near> exponential?"),
        ("optimizer", "qqqq", ""),
        ("model", "", ""),
        ("data", "mnist5k", " <near> mnist_5k?"),
    ],
)
def test_an_unknown_short_name_is_refused_with_those_there_are(kind: str, name: str, hint: str) -> None:
    known = ", ".join(sorted(registry.KINDS[kind]))
    message = f'unknown {kind} "{name}". Known: {known}, or package.module:Name.{hint}'
    with refused(message):
        resolve(kind, name)


# -- signatures --------------------------------------------------------------------------------------------------------


def test_the_arguments_of_a_class_are_known_with_their_types(user: Path) -> None:
    signature = arguments_of("model", "users_own:Net")
    assert signature.arguments == {"width": Argument(int, required=False), "folder": Argument(Path, required=False)}
    assert signature.open


def test_arguments_whose_types_cannot_be_read_are_known_all_the_same(user: Path) -> None:
    signature = arguments_of("model", "users_own:Odd")
    assert signature.arguments == {"height": Argument(Any, required=False)}
    assert not signature.open


def test_a_class_without_a_signature_takes_any_argument() -> None:
    assert signature_of(dict) == registry.Signature({}, open=True)


def test_the_seed_of_the_data_is_not_for_the_study_file(user: Path) -> None:
    assert "seed" not in arguments_of("data", "mnist_5k").arguments
    assert arguments_of("data", "users_own:Data").arguments == {"batch_size": Argument(int, required=True)}


def test_the_lr_of_a_torch_optimizer_is_its_initial_lr() -> None:
    arguments = arguments_of("optimizer", "torch.optim:NAdam").arguments
    assert arguments["initial_lr"] == Argument(float, required=True)
    assert arguments["eps"] == Argument(float, required=False)
    assert arguments.keys().isdisjoint({"lr", "params"})


# -- values ------------------------------------------------------------------------------------------------------------

STEPS = int | float


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (int, 3), (float, 3), (float, 3.5), (STEPS, 3), (STEPS, 3.5), (str, ""), (bool, False), (type(None), None),
        (int | None, None), (Literal["rel", "abs"], "abs"), (tuple[int, int], [1, 2]), (tuple[float, ...], []),
        (list[str], ["a"]), (Sequence[int], [1]), (Path, "a/b"), (dict[str, int], {"a": 1}), (Any, {"a": [None]}),
        (Annotated[int, Field(ge=1)], 1), (torch.nn.Module, "anything"), (Annotated[int, []], 1), ("garbage", 1),
    ],
)  # fmt: skip
def test_a_value_of_the_type_is_taken(hint: Any, value: Any) -> None:
    assert check_value(hint, value) is None


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (int, 1.5, "<whole number> (got 1.5)."),
        (int, 2.0, "<whole number> (got 2.0)."),
        (int, True, "<whole number> (got true)."),
        (int, "1", '<whole number> (got "1"). In quotes it is text: write 1.'),
        (int, None, "<whole number> (got null)."),
        (float, "abc", '<number> (got "abc").'),
        (float, False, "<number> (got false)."),
        (STEPS, [1], "<number> (got [1])."),
        (str, 5, "<text> (got 5)."),
        (bool, "yes", '<boolean> (got "yes").'),
        (bool, 1, "<boolean> (got 1)."),
        (float | None, "x", '<number> or null (got "x").'),
        (str | int | float | None, [], "<text>, a number or null (got [])."),
        (Literal["rel", "abs"], "res", 'must be rel or abs (got "res"). <near> rel?'),
        (Literal["max", "min"] | None, "mix", 'must be max, min or null (got "mix"). <near> min?'),
        (Literal[1, 2, 4], 3, "must be 1, 2 or 4 (got 3)."),
        (tuple[int, int, int], [1, 2], "<list> of 3 whole numbers (got [1, 2])."),
        (tuple[float, ...], "1, 2", '<list> of numbers (got "1, 2").'),
        (list[str], 3, "<list> of texts (got 3)."),
        (Annotated[int, Field(ge=1, le=10)], 11, "<whole number> from 1 to 10 (got 11)."),
        (Annotated[int, Field(ge=0)], -1, "<whole number> of at least 0 (got -1)."),
        (Annotated[float, Field(gt=0)] | None, 0, "<number> above 0 or null (got 0)."),
        (dict[str, int], [], "<mapping> (got [])."),
        (tuple[int, str], [1], "field required in 1 (got [1])."),
        (int, "x" * 1000, f'<whole number> (got "{"x" * 59}...).'),
        (Annotated[int, []], "a", '<whole number> (got "a").'),
    ],
)
def test_a_value_of_another_type_is_refused_in_plain_words(hint: Any, value: Any, message: str) -> None:
    assert shortened(check_value(hint, value) or "") == message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
hints = st.recursive(
    st.sampled_from([int, float, str, bool, Path, Any, Schedule, torch.dtype, Literal["a", 1], Callable[[int], int]]),
    lambda inner: (
        inner.map(lambda hint: hint | None if hint is not Any else hint)
        | inner.map(lambda hint: list[hint])
        | inner.map(lambda hint: tuple[hint, ...])
        | st.tuples(inner, inner).map(lambda pair: tuple[pair])
        | inner.map(lambda hint: dict[str, hint])
    ),
    max_leaves=3,
)


@given(hints, json_values)
def test_any_value_for_any_type_is_taken_or_refused_in_words(hint: Any, value: Any) -> None:
    wrong = check_value(hint, value)
    if wrong is None:
        converted(hint, value)
    else:
        assert "(got " in wrong


# -- building ----------------------------------------------------------------------------------------------------------


def test_values_are_converted_to_the_annotated_types(user: Path) -> None:
    net = Component("users_own:Net", {"width": 3, "folder": "a/b", "other": [1]}).build("model")
    assert (net.width, net.folder, net.others) == (3, Path("a/b"), {"other": [1]})
    schedule = Component("piecewise_constant", {"boundaries": [5], "factors": [1, 0.5]}).build("schedule")
    assert (schedule.boundaries, schedule.factors) == ((5.0,), (1.0, 0.5))


def test_a_whole_number_stays_one_where_any_number_would_do() -> None:
    assert repr(Component("exponential", {"decay_rate": 1, "decay_steps": 50}).build("schedule").decay_rate) == "1"


def test_an_enumeration_is_given_by_value_and_checked() -> None:
    assert converted(Direction, "minimize") is Direction.MINIMIZE
    assert check_value(Direction, "max") == 'must be maximize or minimize (got "max"). Did you mean maximize?'


def test_schedules_inside_schedules_are_built(user: Path) -> None:
    exponential = {"name": "exponential", "decay_rate": 0.5, "decay_steps": 9}
    built = Component("users_own:Both", {"first": {"name": "constant"}, "others": [exponential]}).build("schedule")
    assert built.first == SCHEDULES["constant"]()
    assert built.others == (SCHEDULES["exponential"](decay_rate=0.5, decay_steps=9),)
    assert built.top is None


def test_a_torch_optimizer_is_built_with_its_parameters_later() -> None:
    optimizer = Component("torch.optim:NAdam", {"initial_lr": 0.5, "eps": 0.1}).build("optimizer")([torch.zeros(1)])
    assert isinstance(optimizer, torch.optim.NAdam)
    assert (optimizer.defaults["lr"], optimizer.defaults["eps"]) == (0.5, 0.1)


def test_the_seed_of_a_trial_is_given_to_the_data_that_takes_it(user: Path) -> None:
    assert Component("users_own:Data", {"batch_size": 2}).build("data", seed=7).seed == 7
    assert Component("users_own:make_net", {"width": 2}).build("model", seed=7).width == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "users_own:make_nothing"}, "users_own:make_nothing builds a NoneType, not a torch.nn.Module"),
        ({"name": "users_own:Net", "width": "x"}, 'width <whole number> (got "x")'),
        ({"name": "users_own:Odd"}, "missing 1 required positional argument: 'width'"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused(user: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        rehearse("model", values)
    assert message in shortened(str(caught.value))


def test_a_model_is_tried_without_memory_if_it_can_be() -> None:
    built = rehearse("model", {"name": "mnist_cnn", "hidden": [10**9, 10**6]})
    assert all(parameter.is_meta for parameter in built.parameters())


def test_a_model_that_computes_as_it_is_built_is_tried_for_real(user: Path) -> None:
    assert rehearse("model", {"name": "users_own:Eager", "rate": 1.0}).rates == [0.0, 0.5, 1.0]


def test_a_schedule_is_tried_at_its_first_step(user: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        rehearse("schedule", {"name": "users_own:Broken"})


def test_an_optimizer_is_tried_on_a_parameter(user: Path) -> None:
    assert rehearse("optimizer", {"name": "users_own:Settings", "initial_lr": 0.1}).initial_lr == 0.1
    with pytest.raises(ValueError, match="Invalid epsilon value: -1"):
        rehearse("optimizer", {"name": "torch.optim:NAdam", "initial_lr": 0.1, "eps": -1.0})
    with pytest.raises(ValueError, match="builds a str from parameters, not a torch"):
        rehearse("optimizer", {"name": "users_own:NoOptimizer", "initial_lr": 0.1})


def test_an_optimizer_of_matrices_is_tried_on_one() -> None:
    muon = {"name": "torch.optim:Muon", "initial_lr": 0.1}
    assert isinstance(sample_optimizer(rehearse("optimizer", muon)), torch.optim.Muon)
    with pytest.raises(ValueError, match="momentum should be >= 0 but is: -1"):
        rehearse("optimizer", {**muon, "momentum": -1.0})


def test_an_optimizer_of_kernels_is_tried_on_one_also_in_groups(user: Path) -> None:
    (user / "kernels.py").write_text(KERNELS)
    optimizer = {"name": "kernels:Kernels", "initial_lr": 0.1}
    assert sample_optimizer(rehearse("optimizer", optimizer)).param_groups[0]["params"][0].ndim == 4
    values = {"optimizer": optimizer, "groups": {"first": {"parameters": "0", "optimizer": {"initial_lr": 1.0}}}}
    assert settings_fault(values, (0,)) is None
    with pytest.raises(ValueError, match=r"^momentum must be positive$"):
        rehearse("optimizer", {**optimizer, "momentum": -1.0})


def test_a_data_module_is_tried_with_a_seed(user: Path) -> None:
    assert isinstance(rehearse("data", {"name": "users_own:Data", "batch_size": 2}), pl.LightningDataModule)
