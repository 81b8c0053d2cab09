"""The scheduler that writes the lr of a torch optimizer, and its momentum and weight decay."""

import dataclasses
import functools
import operator
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from lightning_modules.schedules import Constant, Plateau, PlateauState, Schedule

__all__ = [
    "OPTIONS",
    "OptimizerCallable",
    "ScheduleLR",
    "build_optimizer",
    "initial_lr_of",
    "scheduled_values",
    "with_initial_lr",
]

OptimizerCallable = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

Scheduled = TypeVar("Scheduled", bound=Schedule | None)

OPTIONS = ("momentum", "weight_decay")
"""The options that a `ScheduleLR` can schedule in addition to the lr."""


class ScheduleLR(LRScheduler):
    """Sets ``lr = initial_lr * schedule(step) * plateau scale`` in every parameter group, before every step.

    One object owns the lr, because two would conflict: a ``LambdaLR`` recomputes the lr from the initial one and would
    undo the reductions of a ``ReduceLROnPlateau``. Call `step` after every optimizer update (in Lightning
    ``"interval": "step"``) and, if `schedule` is a `Plateau`, `update_plateau` after every evaluation. A warning says
    once if there were several updates between two calls of `step`, because lengths are in updates.

    Each parameter group keeps its own initial lr. A group may be added later, as Lightning's ``BackboneFinetuning``
    does, and other code may write a group's lr: as in most of torch's schedulers, the schedule then multiplies the new
    lr. The initial lr of such a group is its lr divided by the current factor (the lr itself while the factor is 0), or
    its ``initial_lr`` if it was added with one.

    The momentum (beta1, in optimizers that have betas) and the weight decay can have schedules as well, which multiply
    their initial values. These are kept in the parameter groups, as ``initial_momentum`` and ``initial_weight_decay``.

    The state contains plain numbers, so checkpoints load with ``weights_only=True``.

    Args:
        optimizer: Optimizer whose current lr becomes the initial lr.
        schedule: Schedule of the factor, or a `Plateau` on top of one; or a list of schedules, one for each parameter
            group.
        momentum_schedule: Schedule of the factor on the initial momentum, or a list with a schedule or None for each
            parameter group; None to keep the momentum constant.
        weight_decay_schedule: The same for the weight decay.

    Raises:
        TypeError: If something else than a schedule is given, such as a class or a function.
        ValueError: If the optimizer has no momentum or weight decay to schedule, or if a list does not have one item
            for each parameter group.

    >>> from lightning_modules import ExponentialDecay
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    >>> scheduler = ScheduleLR(optimizer, ExponentialDecay(decay_rate=0.5, decay_steps=1))
    >>> optimizer.step()
    >>> scheduler.step()
    >>> scheduler.get_last_lr()
    [0.05]
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule | Plateau | Sequence[Schedule],
        momentum_schedule: Schedule | Sequence[Schedule | None] | None = None,
        weight_decay_schedule: Schedule | Sequence[Schedule | None] | None = None,
    ) -> None:
        self.plateau = schedule if isinstance(schedule, Plateau) else None
        self.plateau_state = PlateauState()
        self._given = (schedule, momentum_schedule, weight_decay_schedule)
        inner = schedule.schedule if isinstance(schedule, Plateau) else schedule
        self._schedules: tuple[Schedule, ...] = _as_tuple("schedule", inner)
        given = zip(OPTIONS, (momentum_schedule, weight_decay_schedule), strict=True)
        self._options: dict[str, tuple[Schedule | None, ...]] = {
            name: _as_tuple(f"{name}_schedule", each, may_be_none=True) for name, each in given if each is not None
        }
        for schedules in (self._schedules, *self._options.values()):
            _check_count(schedules, optimizer)
        for name, schedules in self._options.items():
            groups = [group for index, group in enumerate(optimizer.param_groups) if _at(schedules, index) is not None]
            _check_option(name, groups, optimizer)
        self._has_warned = False
        self._updates: _Updates | None = None  # until the optimizer is prepared
        super().__init__(optimizer)
        self.base_lrs = [float(lr) for lr in self.base_lrs]
        self._updates = _Updates.of(optimizer)
        self._updates_seen = self._updates.count

    @property
    def schedule(self) -> Schedule:
        """The schedule of the lr; of the first parameter group, if each has its own."""
        return self._schedules[0]

    def get_lr(self) -> list[float | Tensor]:
        """Return the lr of each parameter group at the current step."""
        if len(self._schedules) == 1:
            factor = self._factor(0)
            return [initial_lr * factor for initial_lr in self.base_lrs]
        return [initial_lr * self._factor(index) for index, initial_lr in enumerate(self.base_lrs)]

    def step(self, epoch: float | Tensor | None = None) -> None:
        """Advance to the next step, or pass the plateau a metric.

        Args:
            epoch: None for the next step. With a `Plateau`, a metric, which leaves the step as it is; Lightning calls a
                scheduler with ``"reduce_on_plateau": True`` like this, as it calls torch's ``ReduceLROnPlateau``.
                Without a plateau, the step to go to, a whole number; torch calls it an epoch.

        Raises:
            ValueError: If a schedule without a plateau gets something that is not a step; or if a plateau gets a metric
                while its schedule is still at step 0 although the optimizer has made updates.

        Warns:
            UserWarning: Once, if the optimizer has made several updates since the step before, and the schedule
                depends on the step, or a plateau has had no metric.
        """
        if epoch is not None and self.plateau is not None:
            self._check_schedule_moves()
            self.update_plateau(float(epoch))
            return
        step = None if epoch is None else self._whole_step(epoch)
        updates = self._new_updates()
        if step is None and updates > 1:
            self._warn_of_updates(updates)
        self._take_over()
        super().step(step)
        self._write_options()

    def _update_lr(self, epoch: int | None = None) -> None:
        """Advance; torch's ``SequentialLR`` begins a part with ``_update_lr(0)``, after any number of updates."""
        super()._update_lr(epoch)
        self._new_updates()

    def advance(self) -> None:
        """Advance to the next step, like `step`, but without torch's check of the order of calls."""
        self._new_updates()
        self._take_over()
        self._step_count += 1
        self.last_epoch += 1
        self._write()

    def update_plateau(self, value: float) -> None:
        """Pass the plateau the metric of an evaluation; the lr changes at once.

        Raises:
            ValueError: If the schedule is not a `Plateau`.
        """
        if self.plateau is None:
            raise ValueError(f"{self.schedule} is not a Plateau: it takes no metric")
        self._take_over()
        self.plateau_state = self.plateau.update(self.plateau_state, value)
        self._write()

    def state_dict(self) -> dict[str, Any]:
        """Return the step, the initial lrs and the state of the plateau, as plain numbers."""
        self._take_over()
        return {
            "step": self.last_epoch,
            "initial_lrs": list(self.base_lrs),
            "plateau": asdict(self.plateau_state) if self.plateau else None,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state, including the lr.

        Raises:
            ValueError: If the state is of another kind of scheduler, if only one of state and schedule has a plateau,
                or if the numbers of parameter groups differ. In these cases, nothing changes.
        """
        if missing := {"step", "initial_lrs", "plateau"} - state_dict.keys():
            raise ValueError(f"the state is not one of ScheduleLR: it has no {', '.join(sorted(missing))}")
        if (state_dict["plateau"] is None) != (self.plateau is None):
            raise ValueError(f"the state is not one of {self.plateau or self.schedule}: {state_dict}")
        if (saved := len(state_dict["initial_lrs"])) != (present := len(self.optimizer.param_groups)):
            raise ValueError(
                f"the state has {saved} parameter groups, but the optimizer has {present}: "
                "add the same groups before you load the state"
            )
        self.plateau_state = PlateauState(**(state_dict["plateau"] or {}))
        self.last_epoch = state_dict["step"]
        self._step_count = self.last_epoch + 1
        self.base_lrs = [float(lr) for lr in state_dict["initial_lrs"]]
        self._new_updates()
        self._write()

    def __reduce__(self) -> tuple[Any, ...]:
        # Construct the copy as the original was: torch prepares the optimizer for its scheduler.
        return type(self), (self.optimizer, *self._given), self.state_dict()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.load_state_dict(state)

    def _factor(self, index: int) -> float:
        """Return the factor on the initial lr of a parameter group at the current step."""
        return _at(self._schedules, index)(self.last_epoch) * self.plateau_state.scale

    def _take_over(self) -> None:
        """Derive the initial lrs of new groups, and of groups whose lr other code has set.

        Changes within an lr tensor are not detected: comparing them would wait for the GPU at every step.
        """
        if self.last_epoch < 0:  # torch makes the first step
            return
        groups, known = self.optimizer.param_groups, len(self.base_lrs)
        if len(groups) < known:
            raise ValueError(f"the optimizer had {known} parameter groups and has {len(groups)}: make a new ScheduleLR")
        for schedules in (self._schedules, *self._options.values()):
            _check_count(schedules, self.optimizer)
        for index, group in enumerate(groups):
            if index < known and _is_same(group["lr"], self._last_lr[index]):
                continue
            initial_lr = float(group["lr"]) / (self._factor(index) or 1.0)
            if index >= known:
                initial_lr = float(group.get("initial_lr", initial_lr))
            group["initial_lr"] = initial_lr
            self.base_lrs[index : index + 1] = [initial_lr]
            self._last_lr[index : index + 1] = [_copied(group["lr"])]

    def _write(self) -> None:
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        self._last_lr = [_copied(group["lr"]) for group in self.optimizer.param_groups]
        self._write_options()

    def _write_options(self) -> None:
        """Set the momentum and the weight decay of each parameter group that has a schedule of them."""
        for name, schedules in self._options.items():
            for index, group in enumerate(self.optimizer.param_groups):
                if (schedule := _at(schedules, index)) is None:
                    continue
                value = group.setdefault(f"initial_{name}", _option(group, name)) * schedule(self.last_epoch)
                if name == "momentum" and not value < 1:
                    raise ValueError(
                        f"momentum < 1 must hold, but got momentum={value!r} at step {self.last_epoch} from {schedule}"
                    )
                if name in group:
                    group[name] = value
                else:
                    group["betas"] = (value, *group["betas"][1:])

    def _whole_step(self, value: float | Tensor) -> int:
        try:
            step = operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            step = -1
        if step < 0:
            raise ValueError(
                f"a step must be a whole number of 0 or more, but got {value!r}; {self.schedule} takes no metric: "
                "only a Plateau does"
            )
        return step

    def _new_updates(self) -> int:
        """Return the number of updates that the optimizer has made since the last call."""
        if self._updates is None:
            return 0
        before, self._updates_seen = self._updates_seen, self._updates.count
        return self._updates_seen - before

    def _warn_of_updates(self, updates: int) -> None:
        """Warn once that there were several updates since the last step, if a schedule or a plateau suffers."""
        given = [*self._schedules, *(each for schedules in self._options.values() for each in schedules)]
        moving = [schedule for schedule in given if schedule not in (None, Constant())]
        # The first evaluation may follow the first step.
        has_no_metric = self.plateau is not None and self.plateau_state == PlateauState() and self.last_epoch > 0
        if self._has_warned or not (moving or has_no_metric):
            return
        self._has_warned = True
        if moving:
            message = (
                f"the optimizer has made {updates} updates since the last step of its ScheduleLR, but the lengths of "
                f"{moving[0]} are in updates: call step() after every update. In Lightning, return "
                '{"scheduler": scheduler, "interval": "step"} as "lr_scheduler" from configure_optimizers: without '
                '"interval", Lightning calls step() once per epoch'
            )
        else:
            message = (
                f"{self.plateau} has had no metric, but {self.last_epoch + 1} steps: call update_plateau(value) after "
                "every evaluation, as step() passes no metric. Lightning does so if configure_optimizers returns "
                '{"scheduler": scheduler, "monitor": ..., "reduce_on_plateau": True} as "lr_scheduler"'
            )
        warnings.warn(message, stacklevel=1)  # in this module: studies, and many users, ignore Lightning's

    def _check_schedule_moves(self) -> None:
        """Raise ValueError if a plateau gets metrics while the schedule that it multiplies is never stepped."""
        has_begun = getattr(self.optimizer, "_opt_called", False)  # set by torch, for its check of the order of calls
        if has_begun and self.last_epoch == 0 and self.schedule != Constant():
            raise ValueError(
                f"the Plateau's schedule, {self.schedule}, is still at step 0 though the optimizer has made updates: "
                "call step() after every update, and update_plateau(value) after every evaluation. Lightning does "
                'both if configure_optimizers returns [optimizer], [{"scheduler": scheduler, "interval": "step"}, '
                '{"scheduler": scheduler, "monitor": ..., "reduce_on_plateau": True}]'
            )


class _Updates:
    """Counts the updates of an optimizer, for all its schedulers.

    It refers to no optimizer, so it keeps none alive; a copy of an optimizer has its own. The step of a subclass may
    call the hooks again, by calling the step of its base class: that is one update. The updates of an optimizer that
    lacks torch's hooks, because it wraps another one, are not counted.
    """

    _of: ClassVar[WeakKeyDictionary[torch.optim.Optimizer, "_Updates"]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self.count = 0
        self._is_open = False

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer) -> "_Updates":
        """Return the counter of an optimizer, a new one if it has none yet."""
        if (counter := cls._of.get(optimizer)) is None:
            counter = cls._of[optimizer] = cls()
            if hasattr(optimizer, "_optimizer_step_post_hooks"):
                optimizer.register_step_pre_hook(counter._begin)
                optimizer.register_step_post_hook(counter._end)
        return counter

    def _begin(self, *_: Any) -> None:
        self._is_open = True

    def _end(self, *_: Any) -> None:
        self.count += self._is_open
        self._is_open = False


def scheduled_values(groups: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the lr of an optimizer's next update, and its momentum and weight decay if they are scheduled.

    Args:
        groups: Its parameter groups. Values of the first have the names "lr", "momentum" and "weight_decay", those of
            a `ParameterGroup` also its name: "lr/head".
    """
    values = {}
    for index, group in enumerate(groups):
        if index == 0 or "group" in group:
            suffix = f"/{group['group']}" if "group" in group else ""
            values[f"lr{suffix}"] = float(group["lr"])
            values |= {f"{name}{suffix}": _option(group, name) for name in OPTIONS if f"initial_{name}" in group}
    return values


def build_optimizer(make: OptimizerCallable, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer that a factory, such as the settings in `optimizers`, builds for parameters.

    If its lr is a tensor, each parameter group gets a copy: a scheduler writes into the copy, and the original keeps
    the initial lr.
    """
    optimizer = make(params)
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"] = group["lr"].clone()
    return optimizer


def initial_lr_of(make: OptimizerCallable) -> float:
    """Return the initial lr of the optimizers that a factory builds.

    >>> initial_lr_of(functools.partial(torch.optim.SGD, lr=0.5))
    0.5
    """
    return float(build_optimizer(make, [nn.Parameter(torch.zeros(1))]).param_groups[0]["lr"])


def with_initial_lr(make: OptimizerCallable, lr: float) -> OptimizerCallable:
    """Return a factory of the same optimizers with another initial lr.

    Raises:
        TypeError: If the factory is a function that takes no lr.

    >>> initial_lr_of(with_initial_lr(functools.partial(torch.optim.SGD, lr=0.5), 0.1))
    0.1
    """
    if dataclasses.is_dataclass(make) and not isinstance(make, type):
        return cast(OptimizerCallable, dataclasses.replace(make, initial_lr=lr))
    if isinstance(make, functools.partial) or (isinstance(make, type) and issubclass(make, torch.optim.Optimizer)):
        return cast(OptimizerCallable, functools.partial(cast(Any, make), lr=lr))
    raise TypeError(
        f"the lr of {make!r} cannot be changed: pass settings of lightning_modules.optimizers, or "
        "functools.partial(torch.optim.NAdam, lr=1e-3)"
    )


def _as_tuple(argument: str, given: Any, may_be_none: bool = False) -> tuple[Any, ...]:
    """Return the schedules that an argument gives.

    Raises:
        TypeError: If it is neither a schedule nor a list of schedules.
    """
    schedules = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else (given,)
    for each in schedules:
        if isinstance(each, Schedule) or (each is None and may_be_none and isinstance(given, Sequence)):
            continue
        advice = ""
        if isinstance(each, type):
            advice = f": call {each.__name__} with its arguments"
        elif callable(each):
            advice = ": make a function the method _factor(step) of a subclass of Schedule, or use Lambda"
        known = "a Schedule, such as CosineDecay(decay_steps=1000), or a list of them, one for each parameter group"
        raise TypeError(f"{argument} must be {known}, but got {each!r}{advice}")
    return schedules


def _at(schedules: tuple[Scheduled, ...], index: int) -> Scheduled:
    """Return the schedule of a parameter group: its own, or the one of all."""
    return schedules[index if len(schedules) > 1 else 0]


def _check_count(schedules: tuple[Any, ...], optimizer: torch.optim.Optimizer) -> None:
    if len(schedules) != 1 and len(schedules) != (count := len(optimizer.param_groups)):
        raise ValueError(
            f"one schedule, or one for each of {count} parameter groups, must be given, but got {schedules}"
        )


def _check_option(name: str, groups: Sequence[Mapping[str, Any]], optimizer: torch.optim.Optimizer) -> None:
    """Reject a schedule of a momentum or a weight decay that does not exist, or that is 0 whatever the factor is.

    The momentum of a schedule-free optimizer is also refused: with another value, its average could not be recovered.
    """
    kind = type(optimizer).__name__
    if name == "momentum" and groups and callable(getattr(optimizer, "eval", None)):
        raise ValueError(f"the momentum of a schedule-free optimizer cannot be scheduled (got {kind})")
    for group in groups:
        if name not in group and not (name == "momentum" and group.get("betas")):
            raise ValueError(f"{name} cannot be scheduled: {kind} has no {name}")
    if groups and not any(_option(group, name) > 0 for group in groups):
        raise ValueError(f"{name} > 0 must hold if it is scheduled, but got {name}=0 of {kind}")


def _option(group: Mapping[str, Any], name: str) -> float:
    """Return the momentum (or beta1) or the weight decay of a parameter group."""
    return float(group[name] if name in group else group["betas"][0])


def _is_same(lr: float | Tensor, last: float | Tensor) -> bool:
    """Return whether an lr is the one that was last written; a tensor always counts as the same."""
    return lr is last or (isinstance(lr, Tensor) and isinstance(last, Tensor)) or bool(lr == last)


def _copied(lr: float | Tensor) -> float | Tensor:
    return lr.clone() if isinstance(lr, Tensor) else lr
