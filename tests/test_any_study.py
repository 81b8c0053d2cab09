"""Any study is read, or refused with a place for every fault."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.study_texts import load_or_faults

pytestmark = pytest.mark.usefixtures("folder_of_studies")

BASE: dict[str, Any] = {
    "name": "x",
    "objective": {"metric": "val/acc", "direction": "maximize"},
    "budget": {"trials": 5, "timeout": "2h"},
    "sampler": {"name": "grid", "seed": 0},
    "pruner": {"name": "hyperband", "min_resource": 1, "max_resource": 3},
    "trial": {
        "data": {"name": "mnist_5k", "batch_size": 50},
        "model": {"name": "mnist_cnn", "channels": [4, 4, 4], "hidden": [16, 16]},
        "optimizer": {"name": "adam", "initial_lr": 1e-3},
        "schedule": {"name": "plateau", "schedule": {"name": "exponential", "decay_rate": 0.5, "decay_steps": 9}},
        "trainer": {"max_epochs": 5},
        "seed": 0,
    },
    "search_space": {
        "optimizer.initial_lr": {"low": 1, "high": 9, "step": 2},
        "trainer.max_epochs": {"choices": [1, 2]},
        "schedule": {
            "one_of": {
                "exponential": {"decay_rate": {"low": 0.5, "high": 0.9, "step": 0.1}, "decay_steps": 5},
                "plateau": {"factor": 0.5, "schedule": {"name": "cosine_restarts", "restart_period": 9}},
            }
        },
    },
}

names = st.sampled_from(
    ["", "name", "seed", "data", "schedule.schedule", "schedule.schedule.decay_rate", "optimizer.eps", "data.seed",
     "optimizer.eps.x", "model.channels.0", "model.channels.-1", "trainer", "one_of", "low", "choices", "step", "log",
     "..", "é"]
)  # fmt: skip
values = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from(
        [0, -1, 1.5, 10**12, 10**40, 1e300, 2**53, "x", "tpe", "constant", "plateau", "a:b", "torch.optim:NAdam"]
    )
    | st.text("a.:é\u2028", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | st.just("constant"), inner, max_size=3),
    max_leaves=5,
)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(place for key, each in entries for place in places(each, (*path, key)))]


@st.composite
def studies(draw: st.DrawFn) -> Any:
    """Return a good study with a few values replaced, removed or added."""
    study = json.loads(json.dumps(BASE))
    for _ in range(draw(st.integers(1, 3))):
        *outer, last = ("", *draw(st.sampled_from(places(study))))
        whole = {"": study}
        node: Any = whole
        for key in outer:
            node = node[key]
        change = draw(st.sampled_from(["replace", "remove", "add"]))
        if change == "add" and isinstance(node[last], dict):
            node[last][draw(names)] = draw(values)
        elif change == "remove" and isinstance(node, dict) and len(outer) > 0:
            del node[last]
        else:
            node[last] = draw(values)
        study = whole[""]
    return study


@given(studies())
def test_any_study_is_read_or_refused_with_a_place_for_every_fault(study: Any) -> None:
    found = load_or_faults(json.dumps(study, ensure_ascii=False))
    assert all(re.match(r"studies/x\.yaml(:\d+)?: ", message) for message in found)
    assert all(message.endswith((".", "?")) for message in found)
    assert len(set(found)) == len(found)
