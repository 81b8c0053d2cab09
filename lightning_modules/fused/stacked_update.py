"""The update of several trials by kernels over their stacked parameters."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_modules.lr_scheduler import ScheduleLR

if TYPE_CHECKING:
    from lightning_modules.kernels.stacked_updates import Kind

__all__ = ["StackedTrial", "StackedUpdate", "kernels_run_on", "kind_of"]

AHEAD = 64  # steps of which the numbers are sent to the device at once


def kernels_run_on(device: torch.device) -> bool:
    """Return whether Triton is installed, and its kernels run on a device."""
    is_possible = torch.cuda.is_available() if device.type == "cuda" else os.environ.get("TRITON_INTERPRET") == "1"
    if not is_possible:  # importing Triton takes a while
        return False
    try:
        from lightning_modules.kernels import stacked_updates
    except ImportError:
        return False
    return stacked_updates.run_on(device)


def kind_of(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> Kind | None:
    """Return the kernel for a parameter group, if `kernels_run_on` its device; None if there is none."""
    from lightning_modules.kernels import stacked_updates

    return stacked_updates.kind_of(optimizer, group)


@dataclass
class StackedTrial:
    """A trial whose optimizer has made its first update.

    Args:
        row: Its row of the stacks.
        params: Its parameters that have gradients, views of the rows.
        optimizer: Its optimizer, whose parameter groups have the numbers of the next update.
        scheduler: Its scheduler.
        states: The state of each parameter.
        groups: The parameter group of each parameter, as an index.
    """

    row: int
    params: Sequence[nn.Parameter]
    optimizer: torch.optim.Optimizer
    scheduler: ScheduleLR
    states: Sequence[dict[str, Any]]
    groups: tuple[int, ...]

    @property
    def updates(self) -> set[int]:
        """The numbers of updates that its parameters have had; it reads them from the device."""
        return {int(state.get("step", 0)) for state in self.states}


class StackedUpdate:
    """Updates trials of one kind of optimizer, with one launch of a kernel for each parameter.

    The tensors of the optimizers' states become rows of stacks. The numbers of the next steps (lrs, bias corrections
    ...) lie in a table on the device.

    Args:
        kinds: The kernel of each parameter group.
        trials: The trials, with the same parameters in the same groups.
        stacks: The stacked parameters that have gradients.
    """

    def __init__(self, kinds: Sequence[Kind], trials: Sequence[StackedTrial], stacks: Sequence[Tensor]) -> None:
        self._kinds, self._trials, self._stacks = kinds, list(trials), stacks
        self._slots = list(range(len(trials)))
        self._updates = [next(iter(trial.updates)) for trial in trials]
        self._states: list[list[Tensor]] = []
        for index, stack in enumerate(stacks):
            kind = kinds[trials[0].groups[index]]
            self._states.append([_stacked(name, index, trials, stack) for name in kind.states])
        self._expected: list[list[list[tuple[float, ...]]]] = []
        self._table: list[list[Tensor]] = []
        self._place_rows()

    def __contains__(self, row: int) -> bool:
        return any(self._trials[slot].row == row for slot in self._slots)

    def remove(self, row: int) -> None:
        """Stop updating a trial."""
        self._slots = [slot for slot in self._slots if self._trials[slot].row != row]
        self._expected, self._table = [], []
        self._place_rows()

    def step(self, gradients: Sequence[Tensor], rounded: Sequence[Tensor | None]) -> None:
        """Update the trials.

        Args:
            gradients: The gradient of each stack, with its strides.
            rounded: Stacks in a lower precision that get the rounded weights; None for none.
        """
        from lightning_modules.kernels.stacked_updates import update

        if not self._slots:
            return
        for slot in self._slots:
            self._updates[slot] += 1
        if not self._expected or self._expected[0] != self._now():
            self._look_ahead()
        self._expected.pop(0)
        numbers = self._table.pop(0)
        for index, stack in enumerate(self._stacks):
            group = self._trials[0].groups[index]
            update(
                self._kinds[group],
                stack,
                gradients[index],
                rounded[index],
                self._states[index],
                self._rows,
                numbers[group],
            )

    def write_counts(self) -> None:
        """Write the numbers of updates into the optimizers' states."""
        for slot, trial in enumerate(self._trials):
            for state in trial.states:
                if isinstance(state.get("step"), Tensor):
                    state["step"].fill_(self._updates[slot])
                elif "step" in state:
                    state["step"] = self._updates[slot]

    def _place_rows(self) -> None:
        rows = [[self._trials[slot].row, slot] for slot in self._slots]
        self._rows = torch.tensor(rows, dtype=torch.int32, device=self._stacks[0].device)

    def _now(self, ahead: int = 0) -> list[list[tuple[float, ...]]]:
        """Return the numbers [groups][trials] of an update by the present values of the parameter groups."""
        now = []
        for group, kind in enumerate(self._kinds):
            of_live = {
                slot: kind.numbers(self._trials[slot].optimizer.param_groups[group], self._updates[slot] + ahead)
                for slot in self._slots
            }
            unused = (0.0,) * len(of_live[self._slots[0]])
            now.append([of_live.get(slot, unused) for slot in range(len(self._trials))])
        return now

    def _look_ahead(self) -> None:
        """Compute the numbers of the next steps, and send them to the device."""
        before = [self._trials[slot].scheduler.state_dict() for slot in self._slots]
        self._expected = [self._now()]
        try:
            for ahead in range(1, AHEAD):
                for slot in self._slots:
                    self._trials[slot].scheduler.advance()
                self._expected.append(self._now(ahead))
        except Exception:  # a schedule that is not defined so late, which may not be reached
            pass
        finally:
            for slot, state in zip(self._slots, before, strict=True):
                self._trials[slot].scheduler.load_state_dict(state)
        stack = self._stacks[0]
        columns = []
        for group in range(len(self._kinds)):
            column = torch.tensor([numbers[group] for numbers in self._expected], dtype=torch.float64).to(stack.dtype)
            if stack.device.type == "cuda":
                column = column.pin_memory()
            columns.append(column.to(stack.device, non_blocking=True).unbind())
        self._table = [list(numbers) for numbers in zip(*columns, strict=True)]


def _stacked(name: str, index: int, trials: Sequence[StackedTrial], like: Tensor) -> Tensor:
    """Move a tensor of the trials' states into a stack, of which they get the rows."""
    shape, strides = like.shape[1:], like.stride()
    stacked = torch.empty_strided((len(trials), *shape), strides, dtype=like.dtype, device=like.device)
    for row, trial in zip(stacked, trials, strict=True):
        row.copy_(trial.states[index][name])
        trial.states[index][name] = row
    return stacked
