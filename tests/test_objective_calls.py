"""Calls of an objective function: its values, reports and errors, and what is refused before the first call."""

import json
import math
import os
import pickle
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import optuna
import pytest
import torch

from tests.test_training import Answers
from tuner import Study, Trial, TrialPruned
from tuner.config.study import Objective
from tuner.direction import Direction
from tuner.errors import BadInputError
from tuner.protocol import Assignment, TrainingGroup, TrialResult
from tuner.training.results import RESULT_FILE
from tuner.training.run import run

# -- one call ----------------------------------------------------------------------------------------------------------


def called(
    function: Callable[[Trial], Any],
    tmp_path: Path,
    *answers: Any,
    metrics: Sequence[str] = ("value",),
    params: Mapping[str, Any] = {"x": 0.5},
    seed: int = 0,
) -> TrialResult:
    """Call a function as a slot does, and return the result."""
    study = Study(objective_function=function, params=params, direction="minimize", seed=seed)
    config = study._load(())
    first, *further = (Objective(metric, Direction.MINIMIZE) for metric in metrics)
    assignment = Assignment(7, config.trial_of(config.trial), first, tmp_path / "7", further)
    (result,) = run(TrainingGroup((assignment,)), Answers(*answers))
    assert isinstance(result, TrialResult)
    assert (result.state == "interrupted") != (tmp_path / "7" / "result.json").exists()
    return result


@pytest.mark.parametrize(
    "returned", [2, 2.0, np.float32(2), np.int64(2), torch.tensor(2.0), np.array(2.0), Fraction(2), {"value": 2}]
)
def test_numbers_of_every_library_are_values(tmp_path: Path, returned: Any):
    result = called(lambda trial: returned, tmp_path)
    assert (result.state, result.value, result.points) == ("complete", 2.0, [("value", 0, 2.0)])


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "the returned value: must be a number, but got None (tests/test_objective_calls.py"),
        ("0.5", "must be a number, but got '0.5'"),
        (True, "must be a number, but got True"),
        (np.bool_(True), "must be a number, but got"),
        (1j, "must be a number, but got 1j"),
        (np.array([1.0, 2.0]), "must be a number, but got array([1., 2.])"),
        ([1.0, 2.0], "must be a number, but got [1.0, 2.0]"),
        ({"loss": 1.0}, "the function must return value, but returned a mapping with the keys loss"),
    ],
)  # fmt: skip
def test_what_is_no_number_fails_with_the_place_of_the_function(tmp_path: Path, returned: Any, message: str):
    result = called(lambda trial: returned, tmp_path)
    assert (result.state, result.value) == ("failed", None)
    assert message.removesuffix(" (tests/test_objective_calls.py") in result.message
    assert re.search(r"test_objective_calls\.py, line \d+, <lambda>\)", result.message)


@pytest.mark.parametrize("returned", [math.nan, math.inf, -math.inf, 10**400])
def test_a_value_that_is_not_finite_has_diverged(tmp_path: Path, returned: float):
    result = called(lambda trial: returned, tmp_path)
    assert result.state == "diverged"
    assert result.message.startswith("value was not finite: the function returned ")
    assert result.diverged_at == 0
    reported = called(lambda trial: trial.report(returned, 3), tmp_path)
    assert (reported.state, reported.message) == ("diverged", "value was not finite at step 3")


def reports(*pairs: tuple[Any, Any], then: Any = 1.0) -> Callable[[Trial], Any]:
    def function(trial: Trial) -> Any:
        for value, step in pairs:
            trial.report(value, step)
        return then

    return function


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([(1, 1), (2, 1)], "ValueError: report: step must be above the last one (1), but got 1"),
        ([(1, 3), (2, 2)], "ValueError: report: step must be above the last one (3), but got 2"),
        ([(1, -1)], "ValueError: report: step must be a whole number from 0 to 2147483646, but got -1"),
        ([(1, 2**31)], "ValueError: report: step must be a whole number from 0 to 2147483646, but got 2147483648"),
        ([(1, 0.5)], "TypeError: report: step must be a whole number from 0 to 2147483646, but got 0.5"),
        ([("a", 1)], "TypeError: report: must be a number, but got 'a'"),
        ([(None, 1)], "TypeError: report: must be a number, but got None"),
    ],
)  # fmt: skip
def test_a_report_that_cannot_be_fails_where_it_is_made(tmp_path: Path, pairs: list[Any], message: str):
    result = called(reports(*pairs), tmp_path)
    assert result.state == "failed"
    assert message in result.message
    assert re.search(r"_calls\.py, line \d+, in function: trial\.report\(value, step\)", result.message)
    assert message in result.traceback


def test_the_final_value_follows_the_reports_unless_it_is_the_last_one(tmp_path: Path):
    same = called(reports((3, 1), (2, 4), then=2.0), tmp_path)
    assert same.points == [("value", 1, 3.0), ("value", 4, 2.0)]
    other = called(reports((3, 1), (2, 4), then=1.5), tmp_path)
    assert other.points[-1] == ("value", 5, 1.5)
    assert (other.value, other.epochs) == (1.5, 2)


@pytest.mark.parametrize("error", [TrialPruned, optuna.TrialPruned])
def test_a_function_ends_by_the_error_of_either_library(tmp_path: Path, error: type[Exception]):

    def function(trial: Trial) -> float:
        for step in range(1, 5):
            trial.report(step, step)
            if trial.should_prune():
                raise error
        return 0.0

    pruned = called(function, tmp_path, "continue", "prune")
    assert (pruned.state, pruned.value, pruned.epochs, pruned.message) == ("pruned", 2.0, 2, "")
    assert called(function, tmp_path).state == "complete"


def test_a_function_that_goes_on_is_complete(tmp_path: Path):
    result = called(reports((3, 1), (2, 2)), tmp_path, "prune", "prune")
    assert (result.state, result.value) == ("complete", 1.0)


def test_the_end_of_a_study_ends_the_function_at_its_next_report(tmp_path: Path):
    seen = []

    def function(trial: Trial) -> float:
        try:
            for step in range(9):
                seen.append(step)
                trial.report(step, step)
        except Exception:
            seen.append(-1)
        return 0.0

    assert called(function, tmp_path, "continue", "stop").state == "interrupted"
    assert seen == [0, 1]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ZeroDivisionError("mine"), "ZeroDivisionError: mine"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (torch.OutOfMemoryError("full"), "out of memory with x 0.5: OutOfMemoryError: full"),
    ],
)
def test_an_error_of_the_function_names_its_line(tmp_path: Path, error: BaseException, message: str):

    def function(trial: Trial) -> float:
        raise error

    result = called(function, tmp_path)
    assert (result.state, result.value) == ("failed", None)
    assert result.message.startswith(f"{message} (")
    assert "test_objective_calls.py, line" in result.message
    assert ", in function: raise error)" in result.message


def test_what_was_logged_before_an_error_is_kept(tmp_path: Path):

    def function(trial: Trial) -> float:
        trial.log({"before": 1.0})
        raise ValueError

    result = called(function, tmp_path)
    assert (result.state, list(result.points)) == ("failed", [("before", 0, 1.0)])


def test_a_forked_process_does_not_answer_for_the_trial(tmp_path: Path):

    def function(trial: Trial) -> float:
        if (child := os.fork()) == 0:
            return 5.0
        os.waitpid(child, 0)
        return 1.0

    assert called(function, tmp_path).value == 1.0
    assert json.loads((tmp_path / "7" / RESULT_FILE).read_text())["result"]["value"] == 1.0


def test_an_error_in_code_that_was_sent_by_value_names_its_line(tmp_path: Path):
    names: dict[str, Any] = {"__name__": "__main__"}
    exec("def helper(x):\n    return x / (x - x)\n\ndef function(trial):\n    return helper(trial['x'])\n", names)
    function = pickle.loads(cloudpickle.dumps(names["function"]))
    message = "ZeroDivisionError: float division by zero (your code, line 2, in helper)"
    assert called(function, tmp_path).message == message


def test_a_call_has_its_values_seed_and_folder(tmp_path: Path):
    seen: dict[str, Any] = {}

    def function(trial: Trial) -> float:
        seen.update(trial.params, number=trial.number, seed=trial.seed, device=trial.device, x2=trial["x"])
        (trial.folder / "a.txt").write_text("a")
        trial.log({"a": 1, "b": np.float32(2)})
        trial.log({"a": 3}, 5)
        with pytest.raises(KeyError, match="the trial has no value 'y'; it has hidden, x"):
            trial["y"]
        with pytest.raises(ValueError, match="log: value is an objective: report it, or return it"):
            trial.log({"value": 1})
        with pytest.raises(ValueError, match=r"log: a: step must be above the last one \(5\), but got 5"):
            trial.log({"a": 4}, 5)
        return float(np.random.default_rng(trial.seed).normal() + torch.rand(1).item() + np.random.rand())

    values = {"x": 0.5, "hidden": [4, 4]}
    first = called(function, tmp_path, params=values, seed=3)
    assert seen == {**values, "number": 7, "seed": 3, "device": "cpu", "x2": 0.5}
    assert first.points[:3] == [("a", 0, 1.0), ("b", 0, 2.0), ("a", 5, 3.0)]
    assert (tmp_path / "7" / "artifacts" / "a.txt").exists()
    assert called(function, tmp_path, params=values, seed=3).value == first.value
    assert called(function, tmp_path, params=values, seed=4).value != first.value


@pytest.mark.parametrize("returned", [[1.0, 2], (1, np.float64(2)), {"cost": 2, "speed": 1}])
def test_several_objectives_are_a_list_or_a_mapping(tmp_path: Path, returned: Any):
    result = called(lambda trial: returned, tmp_path, metrics=("speed", "cost"))
    assert (result.state, result.value, list(result.further)) == ("complete", 1.0, [2.0])
    assert result.points == [("speed", 0, 1.0), ("cost", 0, 2.0)]


@pytest.mark.parametrize(
    ("returned", "state", "message"),
    [
        (1.0, "failed", "must return 2 numbers (speed, cost), as a list or a mapping, but returned 1.0"),
        ([1.0], "failed", "must return 2 numbers (speed, cost), as a list or a mapping, but returned 1"),
        ({"speed": 1.0}, "failed", "must return speed, cost, but returned a mapping with the keys speed"),
        ([1.0, None], "failed", "the function returned cost: must be a number, but got None"),
        ([1.0, math.nan], "diverged", "cost was not finite: the function returned nan"),
    ],
)
def test_several_objectives_that_are_wrong(tmp_path: Path, returned: Any, state: str, message: str):
    result = called(lambda trial: returned, tmp_path, metrics=("speed", "cost"))
    assert (result.state, result.value) == (state, None)
    assert message in result.message


# -- bad input ---------------------------------------------------------------------------------------------------------


def needs_nothing() -> float:
    return 0.0


def only_by_name(*, trial: Trial) -> float:
    return 0.0


def needs_more(trial: Trial, folder: str) -> float:
    return 0.0


def fine(trial: Trial) -> float:
    return 0.0


class Callable_:
    def __call__(self, trial: Trial) -> float:
        return 0.0


async def waiting(trial: Trial) -> float:
    return 0.0


class Waiting:
    async def __call__(self, trial: Trial) -> float:
        return 0.0


def yielding(trial: Trial) -> Iterator[float]:
    yield 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": torch.nn.Linear, "trainer": {"max_epochs": 1}},
         "Study: model, trainer: remove what defines a training run: an objective function is the whole trial"),
        ({"objective_function": None}, "Study: params: only an objective function takes them; pass objective_function"),
        ({"objective_function": needs_nothing}, "the trial as its first argument, but is needs_nothing() -> float."),
        ({"objective_function": only_by_name}, "the trial as its first argument, but is only_by_name(*, trial: "),
        ({"objective_function": needs_more}, "trial.objective_function.folder: required by "),
        ({"objective_function": partial(fine, folder="a")}, "trial.objective_function.folder: "),
        ({"objective_function": Callable_}, "is a class: name a function, or pass an object that can be called."),
        ({"objective_function": waiting}, "is an async function: an objective function returns its value when"),
        ({"objective_function": Waiting()}, "is an async function: an objective function returns its value when"),
        ({"objective_function": partial(yielding)}, "is a generator: an objective function returns its value when"),
        ({"objective_function": 3}, "trial.objective_function: must be a class, a function, an object, or a name"),
        ({"objective_function": "nowhere"}, 'unknown objective_function "nowhere". Write module:name.'),
        ({"objective_function": "tests.test_objective_calls.fine"}, "mean tests.test_objective_calls:fine?"),
        ({"objective_function": "tests.test_objective_calls:fin"}, "Did you mean fine?"),
        ({"direction": None}, "objective.direction: required: minimize or maximize what the function returns."),
        ({"direction": "down"}, "objective.direction: "),
        ({"objective": {"direction": "minimize"}}, "Study: direction: remove it: with several objectives"),
        ({"direction": None, "objective": {"direction": "minimize", "epoch": "best"}},
         "objective.epoch: remove it: the value that counts is what the function returns."),
        ({"direction": None, "objective": [{"direction": "minimize"}, {"direction": "minimize"}]},
         "objective[1].metric: value is already an objective."),
        ({"params": {"a b": 1}}, 'a name has only letters, digits and _, and does not begin with a digit, such as lr'),
        ({"search_space": {"a.b": [1, 2]}}, '(got "a.b")'),
        ({"search_space": {"2": [1, 2]}}, '(got "2")'),
        ({"search_space": {"lr": 3}}, "search_space.lr: must be {low: ..., high: ...}, {choices: [...]} or {one_of"),
        ({"search_space": {"lr": {"low": 2, "high": 1}}}, "search_space.lr: low (2) must be below high (1)."),
        ({"search_space": {"lr": {"one_of": {"a": None}}}}, "search_space.lr.one_of: needs 2 to 1000 choices"),
        ({"params": {"x": {"low": 1, "high": 2}}}, "trial.x: a range belongs in search_space."),
        ({"params": {"model": {"name": "mlp"}}}, "trial.model: remove it: objective_function is the whole trial"),
        ({"params": {"x": object()}}, "Study: trial.x: must be a number, text, true"),
        ({"params": {"seed": 1}}, "Study: params: seed: pass it to Study, not among the values."),
        ({"seed": -1}, "trial.seed: "),
        ({"sampler": "curve"}, "sampler.name: curve reads the lr curves of training runs, which an objective function"),
        ({"pruner": "rungs"}, "pruner.name: rungs interrupts training runs and continues some of them"),
        ({"pruner": "predicted"}, "pruner.name: predicted reads the loss curves of training runs"),
        ({"pruner": "hyperband"}, "pruner.max_resource: required: the last step that the function reports."),
        ({"budget": {"epochs": 9}}, "budget.epochs: is the length of training runs, and a function has none."),
        ({"budget": {"until": 0.1}}, "budget.until: needs the sampler curve"),
        ({"sampler": "grid"}, "grid needs step or choices for every parameter; lr has neither."),
        ({"constraints": ["lr < steps"]}, "trial has no steps."),
        ({"enqueue": [{"lr": 7}]}, "enqueue[0]: lr is 7, not in 0.0001 to 1 (log)."),
        ({"start": {"studies": ["shipped"]}}, "start.studies: shipped is for schedules and optimizers"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_starts(changes: dict[str, Any], message: str):
    values: dict[str, Any] = {
        "objective_function": fine,
        "params": {"layers": 2},
        "search_space": {"lr": {"low": 1e-4, "high": 1, "log": True}},
        "direction": "minimize",
    }
    with pytest.raises(BadInputError) as caught:
        Study(**values | changes)
    assert [fault for fault in caught.value.faults if message in fault], caught.value.faults


def test_a_function_that_cannot_be_sent_is_refused():
    lock = time.get_clock_info, __import__("threading").Lock()

    def function(trial: Trial) -> float:
        return float(lock[1].locked())

    with pytest.raises(BadInputError, match=r"trial\.objective_function: .*function cannot be sent to a training"):
        Study(objective_function=function, direction="minimize")
