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

AHEAD = 64  # number of steps whose numbers are sent to the device together


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


def kind_of(optimizer: torch.optim.Optimizer, group: Mapping[str, Any], device: torch.device) -> Kind | None:
    """Return the kernel for a parameter group, if `kernels_run_on` the device; None if none runs."""
    from lightning_modules.kernels import stacked_updates

    kind = stacked_updates.kind_of(optimizer, group)
    return kind if kind is not None and stacked_updates.runs(kind, device) else None


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

    def has_states(self, kinds: Sequence[Kind]) -> bool:
        """Return whether the states have the tensors that kernels need, one kernel for each parameter group."""
        pairs = zip(self.groups, self.states, strict=True)
        return all(state.keys() >= set(kinds[group].states) for group, state in pairs)


class StackedUpdate:
    """Updates trials of one kind of optimizer, with one launch of a kernel for each parameter.

    The tensors of the optimizers' states become rows of stacks. The numbers of the next steps (lrs, bias corrections
    ...) lie in a table on the device, and a counter on the device says which are next. All of these tensors keep their
    addresses, so `launch` can be part of a CUDA graph. An update is `prepare` and then `launch`.

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
            made = {name: _stacked(name, index, trials, stack) for name in dict.fromkeys(kind.states)}
            self._states.append([made[name] for name in kind.states])
        self._expected: list[list[list[tuple[float, ...]]]] = []  # content of the table from the counter on
        like, rows = stacks[0], [[trial.row, slot] for slot, trial in enumerate(trials)]
        self._rows = torch.tensor(rows, dtype=torch.int32, device=like.device)
        self._step = torch.zeros((), dtype=torch.int64, device=like.device)
        widths = [len(of_trials[0]) for of_trials in self._now()]
        self._table = [like.new_zeros((AHEAD, len(trials), width)) for width in widths]

    @property
    def rows(self) -> list[int]:
        """Rows of the trials that it still updates."""
        return [self._trials[slot].row for slot in self._slots]

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors that `launch` changes, except for the weights."""
        return [self._step, *(tensor for states in self._states for tensor in states)]

    def remove(self, row: int) -> None:
        """Stop updating a trial."""
        for slot in self._slots:
            if self._trials[slot].row == row:
                self._rows[slot, 0].fill_(-1)
        self._slots = [slot for slot in self._slots if self._trials[slot].row != row]
        self._expected = []

    def prepare(self) -> None:
        """Count an update, and make sure that the device has its numbers."""
        for slot in self._slots:
            self._updates[slot] += 1
        if not self._slots:
            self._step.zero_()  # the kernels then change nothing, but still read the numbers of a step
        elif not self._expected or self._expected[0] != self._now():
            self._look_ahead()
        self._expected = self._expected[1:]

    def launch(self, gradients: Sequence[Tensor], rounded: Sequence[Tensor | None]) -> None:
        """Update the trials, using only the device.

        Args:
            gradients: The gradient of each stack, with its strides.
            rounded: Stacks in a lower precision that get the rounded weights; None for none.
        """
        from lightning_modules.kernels.stacked_updates import update

        for index, stack in enumerate(self._stacks):
            group = self._trials[0].groups[index]
            numbers = self._table[group], self._step
            update(
                self._kinds[group], stack, gradients[index], rounded[index], self._states[index], self._rows, *numbers
            )
        self._step += 1

    def write_counts(self) -> None:
        """Write the numbers of updates into the optimizers' states."""
        for slot, trial in enumerate(self._trials):
            for state in trial.states:
                if isinstance(state.get("step"), Tensor):
                    state["step"].fill_(self._updates[slot])
                elif "step" in state:
                    state["step"] = self._updates[slot]

    def _now(self, ahead: int = 0) -> list[list[tuple[float, ...]]]:
        """Return the numbers [groups][trials] of an update for the current values of the parameter groups."""
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
        except Exception:  # the schedule is undefined at a step that may never be reached
            pass
        finally:
            for slot, state in zip(self._slots, before, strict=True):
                self._trials[slot].scheduler.load_state_dict(state)
        for group, table in enumerate(self._table):
            numbers = torch.tensor([step[group] for step in self._expected], dtype=torch.float64).to(table.dtype)
            if table.device.type == "cuda":
                numbers = numbers.pin_memory()
            table[: len(numbers)].copy_(numbers, non_blocking=True)
        self._step.zero_()


def _stacked(name: str, index: int, trials: Sequence[StackedTrial], like: Tensor) -> Tensor:
    """Move a tensor of the trials' states into a stack, and give each trial its row."""
    shape, strides = like.shape[1:], like.stride()
    stacked = torch.empty_strided((len(trials), *shape), strides, dtype=like.dtype, device=like.device)
    for row, trial in zip(stacked, trials, strict=True):
        row.copy_(trial.states[index][name])
        trial.states[index][name] = row
    return stacked
