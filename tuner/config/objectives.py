"""The objectives of a study: one or several.

The values of all objectives of a trial come from the same epoch, which the first objective chooses.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from lightning_modules.tasks import RISING
from tuner.config.annotations import check_value
from tuner.config.checker import Checker, listed
from tuner.config.document import Keys, Node
from tuner.config.registry import signature_of
from tuner.config.study import Objective

__all__ = ["MEASURED", "TIME", "check_metrics", "check_several", "read_objectives"]

TIME = "train/seconds"

MEASURED = {
    "parameters": "parameters of the network",
    "steps": "optimizer steps of the run",
    TIME: "seconds that the epochs took, without validation",
}
"""Measurements of a run that can be objectives after the first one; the time differs in each repetition."""

SAMPLERS_OF_SEVERAL = ("gp", "grid", "nsga2", "qmc", "random", "tpe")
"""The samplers that support several objectives."""

Fault = Callable[[Keys, str], None]


def read_objectives(checker: Checker, node: Node, fault: Fault) -> list[dict[str, Any]]:
    """Return the given settings of each objective; there is at least one.

    Args:
        checker: Checks them.
        node: The section, a mapping or a list of mappings.
        fault: Called with the place and the message of an error.
    """
    nodes: Sequence[Node] = node.value if isinstance(node.value, list) else [node]
    if isinstance(node.value, list) and len(nodes) < 2:
        fault(
            node.path, f"a list needs two or more objectives; write {{metric: ..., direction: ...}} (got {len(nodes)})."
        )
    goals = [checker.settings(signature_of(Objective), each) for each in nodes] or [{}]
    names = [goal.get("metric", Objective.metric) for goal in goals]
    for index, goal in enumerate(goals[1:], start=1):
        if names[index] in names[:index]:
            fault((*node.path, index, "metric"), f"{names[index]} is already an objective.")
        if "epoch" in goal:
            message = "remove it: the values of all objectives come from the same epoch, which the first one chooses."
            fault((*node.path, index, "epoch"), message)
    return goals


def check_metrics(goals: Sequence[Mapping[str, Any]], known: Sequence[str] | None, is_past: bool, fault: Fault) -> None:
    """Reject a metric that trials do not log, and one with the wrong direction.

    Args:
        goals: The given settings of each objective.
        known: The metrics that trials log; None for a LightningModule, whose metrics are unknown before training.
        is_past: Whether the study was run before and is only read.
        fault: Called with the place and the message of an error.
    """
    for index, goal in enumerate(goals):
        place: Keys = ("objective", index) if len(goals) > 1 else ("objective",)
        metric = goal.get("metric", Objective.metric)
        if not isinstance(metric, str):
            continue
        measured = MEASURED if index else {}
        allowed = known and (*known, *measured)
        if metric in MEASURED and not index and known is None and len(goals) > 1:
            fault((*place, "metric"), f"{metric} is not a metric of an epoch: it cannot be the first objective.")
        elif allowed and (wrong := check_value(Literal[*allowed], metric)):
            fault((*place, "metric"), wrong)
        elif not is_past and metric in measured:
            if "direction" not in goal:
                fault((*place, "direction"), f"required: lower values of {metric} are better; write minimize.")
        elif not is_past and known is not None:
            ways, rises = ("maximize", "minimize"), metric.rpartition("/")[2] in RISING
            write, wrong_way = ways if rises else ways[::-1]
            if goal.get("direction", Objective.direction.value) == wrong_way:
                better = "higher" if rises else "lower"
                required = "" if "direction" in goal else "required: "
                fault((*place, "direction"), f"{required}{better} values of {metric} are better; write {write}.")


def check_several(
    goals: Sequence[Mapping[str, Any]], sampler: str, pruner: str, budget: Mapping[str, Any], final: Any, fault: Fault
) -> None:
    """Reject features that compare trials by a single objective in a study of several.

    Args:
        goals: The given settings of each objective.
        sampler: The name of the sampler.
        pruner: The name of the pruner.
        budget: The given settings of the budget.
        final: The section of the final runs, as given.
        fault: Called with the place and the message of an error.
    """
    if len(goals) == 1:
        return
    one = "compares trials by one objective"
    if sampler not in SAMPLERS_OF_SEVERAL:
        fault(("sampler", "name"), f"{sampler} {one}; with several, use {listed(SAMPLERS_OF_SEVERAL)}.")
    if pruner != "none":
        fault(("pruner", "name"), f"{pruner} {one}; there is no pruner for several: remove it.")
    if "until" in budget:
        fault(("budget", "until"), "the expected gain needs a single objective; remove it.")
    if final is not None and not (isinstance(final, Mapping) and final.get("trials") == 0):
        fault(("final",), "retraining the best trial needs a single objective; remove it.")
