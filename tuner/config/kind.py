"""The kinds of trials: training runs, and calls of an objective function."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from tuner.config.component import Component
from tuner.config.dataset_probe import DatasetProbe
from tuner.config.search_space import Template
from tuner.config.trial import AnyTrial

__all__ = ["Kind"]


class Kind(ABC):
    """A kind of trial, and what depends on it.

    Attributes:
        trains: Whether they are training runs, which are rehearsed, interrupted at an epoch, tested and exported.
        noun: What one of them is called.
    """

    trains: ClassVar[bool]
    noun: ClassVar[str]

    @abstractmethod
    def trial_of(self, values: Mapping[str, Any], probe: DatasetProbe) -> AnyTrial:
        """Return a trial with values from the search space.

        Raises:
            BadInputError: If they depend on its data, and these cannot be loaded.
        """

    @abstractmethod
    def comparable(
        self, values: Mapping[str, Any], probe: DatasetProbe, with_length: bool
    ) -> tuple[Mapping[str, Any], Mapping[str, float]]:
        """Return the values of a trial as constraints compare them, and the length of its run.

        Args:
            values: Values from the search space.
            probe: Measures the data.
            with_length: Whether the length is needed.

        Raises:
            BadInputError: If the data that are needed cannot be loaded.
        """

    @abstractmethod
    def measure_data(self, template: Template, probe: DatasetProbe) -> tuple[list[tuple[str, str]], int | None]:
        """Fetch and load the data, and return names and digests of the data sets, and the number of validation images.

        Raises:
            BadInputError: If they cannot be fetched, loaded or used.
        """

    @abstractmethod
    def trainings(self, template: Template) -> list[dict[str, Any]]:
        """Return ``data`` and ``trainer`` of the shortest and longest runs; none if trials are not training runs."""

    @abstractmethod
    def families(self, template: Template) -> list[str]:
        """Return the names of the schedules that trials can have."""

    @abstractmethod
    def names(self, values: Mapping[str, Any]) -> Iterator[str]:
        """Yield the names of all classes and functions in a trial or a template."""

    @abstractmethod
    def why_alone(self, template: Template) -> Mapping[str, bool]:
        """Return possible reasons for training trials one by one, and whether each applies."""

    @abstractmethod
    def longest(self, template: Template, pruner: Component) -> int:
        """Return after how many epochs the longest trial ends; 0 if that is not known."""

    @abstractmethod
    def why_not_divided(self, template: Template, ranks: int) -> str:
        """Return why several processes cannot train a trial together, as a clause; empty if they can.

        Args:
            template: The template of a trial.
            ranks: The number of processes, two or more.
        """
