"""Trials that are calls of an objective function, as values.

::

    trial:
      objective_function: my_module:objective
      layers: 2
    search_space:
      lr: {low: 1e-4, high: 1, log: true}
"""

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from tuner.config.component import Component
from tuner.config.dataset_probe import DatasetProbe
from tuner.config.kind import Kind
from tuner.config.registry import FUNCTION
from tuner.config.search_space import Template, component_names
from tuner.config.trial import AnyTrial
from tuner.text import format_value

__all__ = ["FUNCTIONS", "FunctionTrial", "Functions", "is_of_function"]

SEED = "seed"
MOST_SHOWN = 40


def is_of_function(trial: Any) -> bool:
    """Return whether the section ``trial`` of a study has an objective function."""
    return isinstance(trial, Mapping) and FUNCTION in trial


@dataclass(frozen=True)
class FunctionTrial(AnyTrial):
    """A call of an objective function.

    Args:
        function: The function, and its arguments other than the trial.
        params: The values that the trial gives it, by name.
        seed: The seed of the trial.
        relative: No lengths.
    """

    function: Component
    params: Mapping[str, Any]
    seed: int = 0
    relative: Mapping[str, str] = field(default_factory=dict, compare=False)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "FunctionTrial":
        """Read the ``trial`` of a study that contains values only."""
        params = {name: value for name, value in values.items() if name not in (FUNCTION, SEED)}
        return cls(Component.from_values(values[FUNCTION]), params, values[SEED])

    def values(self) -> dict[str, Any]:
        """Return the nested values, as in a study file."""
        return {FUNCTION: self.function.values(), **self.params, SEED: self.seed}

    def with_seed(self, seed: int) -> Self:
        """Return the same call with another seed."""
        return replace(self, seed=seed)

    @property
    def family(self) -> str:
        """Return an empty text: it has no schedule."""
        return ""

    @property
    def brief(self) -> str:
        """Return its values, except for what does not fit into a line."""
        text = ", ".join(f"{name} {_brief(value)}" for name, value in self.params.items())
        return textwrap.shorten(text, MOST_SHOWN, placeholder=" ...")

    @property
    def epochs(self) -> int:
        """Return 0: the number of its reports is unknown."""
        return 0

    @property
    def epoch_steps(self) -> int:
        """Return 0."""
        return 0

    @property
    def sizes(self) -> str:
        """Return its values."""
        return self.brief or self.function.name

    @property
    def dataset(self) -> None:
        """Return None: its data are the function's own."""


class Functions(Kind):
    """Trials that are calls of an objective function."""

    trains: ClassVar[bool] = False
    noun: ClassVar[str] = "call"

    def trial_of(self, values: Mapping[str, Any], probe: DatasetProbe) -> FunctionTrial:
        """Return a call."""
        return FunctionTrial.from_values(values)

    def comparable(
        self, values: Mapping[str, Any], probe: DatasetProbe, with_length: bool
    ) -> tuple[Mapping[str, Any], Mapping[str, float]]:
        """Return the values; there is no length."""
        return values, {}

    def measure_data(self, template: Template, probe: DatasetProbe) -> tuple[list[tuple[str, str]], int | None]:
        """Return no data sets."""
        return [], None

    def trainings(self, template: Template) -> list[dict[str, Any]]:
        """Return no lengths."""
        return []

    def families(self, template: Template) -> list[str]:
        """Return no schedules."""
        return []

    def names(self, values: Mapping[str, Any]) -> Iterator[str]:
        """Yield the names of the functions; a name among the values is a value."""
        return component_names(values[FUNCTION])

    def why_alone(self, template: Template) -> Mapping[str, bool]:
        """Return the reason: a function gets one trial."""
        return {"an objective function is called for one trial at a time": True}

    def longest(self, template: Template, pruner: Component) -> int:
        """Return the last step that the options of the pruner name."""
        return int(pruner.arguments.get("max_resource", 0))

    def why_not_divided(self, template: Template, ranks: int) -> str:
        """Return the reason: a function is called in one process."""
        return f"an objective function is called in one process, not in {ranks}"


FUNCTIONS = Functions()


def _brief(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(_brief(each) if key == "name" else f"{key} {_brief(each)}" for key, each in value.items())
    return format_value(value)
