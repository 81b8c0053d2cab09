"""The one torch object that writes the lr."""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from lightning_modules.plateau import Plateau, PlateauState
from lightning_modules.schedules import Schedule

__all__ = ["ScheduleLR"]


class ScheduleLR(LRScheduler):
    """Set ``lr = initial_lr * schedule(step) * plateau scale`` in every parameter group, before every step.

    One object owns the lr: a ``LambdaLR`` recomputes it from the initial one and would undo what a
    ``ReduceLROnPlateau`` beside it had done. Call `step` after every optimizer update (in Lightning ``"interval":
    "step"``) and, if `schedule` is a `Plateau`, `update_plateau` after every evaluation. Each parameter group keeps its
    own initial lr. Its state holds plain numbers, so a checkpoint loads with ``weights_only=True``.

    Args:
        optimizer: Optimizer whose current lr is taken as the initial lr.
        schedule: Schedule of the factor, or a `Plateau` on top of one.

    >>> from lightning_modules import ExponentialDecay
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    >>> scheduler = ScheduleLR(optimizer, ExponentialDecay(decay_rate=0.5, decay_steps=1))
    >>> optimizer.step()
    >>> scheduler.step()
    >>> scheduler.get_last_lr()
    [0.05]
    """

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: Schedule | Plateau) -> None:
        self.plateau = schedule if isinstance(schedule, Plateau) else None
        self.plateau_state = PlateauState()
        self.schedule = schedule.schedule if isinstance(schedule, Plateau) else schedule
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Return the lr of each parameter group at the current step."""
        factor = self.schedule(self.last_epoch) * self.plateau_state.scale
        return [initial_lr * factor for initial_lr in self.base_lrs]

    def advance(self) -> None:
        """Do what `step` does, for callers who need not be reminded to call the optimizer first."""
        self._step_count += 1
        self.last_epoch += 1
        self._write()

    def update_plateau(self, value: float) -> None:
        """Tell the plateau the outcome of an evaluation; the lr changes at once.

        Raises:
            ValueError: If the schedule is not a `Plateau`.
        """
        if self.plateau is None:
            raise ValueError(f"{self.schedule} is not a Plateau: it takes no metric")
        self.plateau_state = self.plateau.update(self.plateau_state, value)
        self._write()

    def state_dict(self) -> dict[str, Any]:
        """Return the step, the initial lrs and what the plateau has seen, as plain numbers."""
        return {
            "step": self.last_epoch,
            "initial_lrs": list(self.base_lrs),
            "plateau": asdict(self.plateau_state) if self.plateau else None,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state: the next lr is the one that would have followed it.

        Raises:
            ValueError: If the state is of a plateau and this schedule has none, or the other way round.
        """
        if (state_dict["plateau"] is None) != (self.plateau is None):
            raise ValueError(f"the state is not one of {self.plateau or self.schedule}: {state_dict}")
        self.last_epoch = state_dict["step"]
        self._step_count = self.last_epoch + 1
        self.base_lrs = list(state_dict["initial_lrs"])
        self.plateau_state = PlateauState(**(state_dict["plateau"] or {}))
        self._write()

    def _write(self) -> None:
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]
