"""An optimizer with its schedules, and parameter groups with their own settings."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import nn

from lightning_modules._validation import require_to
from lightning_modules.lr_scheduler import OptimizerCallable, ScheduleLR, build_optimizer
from lightning_modules.optimizers import Optimizer
from lightning_modules.schedules import Constant, Plateau, Schedule

__all__ = ["Optimization", "ParameterGroup", "group_names"]

MOST_NAMES = 12
"""Names of parameters in a message."""


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Parameters of a network with their own optimizer settings or schedules.

    Args:
        parameters: Names of parameters, or of modules for all of their parameters, as ``named_parameters`` has them.
            ``*`` stands for any text: ``backbone``, ``*.bias``.
        optimizer: Settings of their optimizer, of the same class as the main one; None for the main settings.
        schedule: Schedule of their lr; None for the main one.
        momentum_schedule: Schedule of their momentum or beta1; None for the main one.
        weight_decay_schedule: Schedule of their weight decay; None for the main one.
    """

    parameters: Sequence[str] | str
    optimizer: Optimizer | OptimizerCallable | None = None
    schedule: Schedule | None = None
    momentum_schedule: Schedule | None = None
    weight_decay_schedule: Schedule | None = None

    def __post_init__(self) -> None:
        given = (self.parameters,) if isinstance(self.parameters, str) else tuple(self.parameters)
        object.__setattr__(self, "parameters", given)
        is_text = bool(given) and all(isinstance(each, str) and each for each in given)
        require_to(self, "parameters", is_text, "be names of parameters or modules")
        for field_name in ("schedule", "momentum_schedule", "weight_decay_schedule"):
            value = getattr(self, field_name)
            require_to(self, field_name, value is None or isinstance(value, Schedule), "be a schedule")


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """An optimizer and the schedules of its lr, momentum and weight decay.

    `Classifier` has one. In your own module::

        def configure_optimizers(self):
            optimizer, scheduler = self.optimization.build(self.named_parameters())
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    Args:
        optimizer: Called with parameters, returns their optimizer.
        schedule: Schedule of the factor on the initial lr, or a `Plateau` on top of one. A plateau scales the lr of all
            groups, which then cannot have their own schedules.
        momentum_schedule: Schedule of the factor on the momentum (or beta1); None to keep it constant.
        weight_decay_schedule: Schedule of the factor on the weight decay; None to keep it constant.
        groups: Groups of parameters with their own settings, by name.
    """

    optimizer: Optimizer | OptimizerCallable
    schedule: Schedule | Plateau = field(default_factory=Constant)
    momentum_schedule: Schedule | None = None
    weight_decay_schedule: Schedule | None = None
    groups: Mapping[str, ParameterGroup] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settings = "be settings of an optimizer, such as Adam(initial_lr=0.001)"
        require_to(self, "optimizer", callable(self.optimizer), settings)
        is_schedule = isinstance(self.schedule, Schedule | Plateau)
        require_to(self, "schedule", is_schedule, "be a schedule, such as CosineDecay(decay_steps=1000), or a plateau")
        for name in ("momentum_schedule", "weight_decay_schedule"):
            value = getattr(self, name)
            require_to(self, name, value is None or isinstance(value, Schedule), "be a schedule")
        for name, group in self.groups.items():
            if isinstance(self.schedule, Plateau) and group.schedule is not None:
                raise ValueError(
                    f"a plateau scales the lr of every group, so group {name} cannot have its own schedule, but got "
                    f"{group.schedule}"
                )

    def build(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> tuple[torch.optim.Optimizer, ScheduleLR]:
        """Return the optimizer of parameters and the scheduler that sets its lr, momentum and weight decay.

        Args:
            parameters: Names and parameters, as ``named_parameters`` of a network yields them.

        Raises:
            ValueError: If a group matches no parameter, if a parameter is in two groups, or if all are in groups.
        """
        pairs = list(parameters)
        optimizer = build_optimizer(self.optimizer, [parameter for _, parameter in pairs])
        names = group_names(self.groups, [name for name, _ in pairs])
        if self.groups:
            _keep(optimizer, _chosen(pairs, names[""]))
        owners: list[ParameterGroup | None] = [None] * len(optimizer.param_groups)
        for name, group in self.groups.items():
            made = build_optimizer(group.optimizer or self.optimizer, [parameter for _, parameter in pairs])
            _keep(made, _chosen(pairs, names[name]))
            if type(made) is not type(optimizer):
                raise ValueError(
                    f"group {name} must use {type(optimizer).__name__} like the other parameters, but uses "
                    f"{type(made).__name__}"
                )
            for index, param_group in enumerate(made.param_groups):
                # Complete and checked by its own optimizer: `add_param_group` would add the options of the others.
                optimizer.param_groups.append({**param_group, **({} if index else {"group": name})})
                owners.append(group)
            optimizer.state.update(made.state)
        return optimizer, self._scheduler(optimizer, owners)

    def _scheduler(self, optimizer: torch.optim.Optimizer, owners: Sequence[ParameterGroup | None]) -> ScheduleLR:
        """Return the scheduler of an optimizer, each of whose parameter groups belongs to a group or to the others."""
        if not self.groups:
            return ScheduleLR(optimizer, self.schedule, self.momentum_schedule, self.weight_decay_schedule)
        own = [(owner.momentum_schedule, owner.weight_decay_schedule) if owner else (None, None) for owner in owners]
        momentum = [each or self.momentum_schedule for each, _ in own]
        weight_decay = [each or self.weight_decay_schedule for _, each in own]
        base = self.schedule
        if isinstance(base, Plateau):
            schedules: Plateau | list[Schedule] = base
        else:
            schedules = [owner.schedule or base if owner else base for owner in owners]
        return ScheduleLR(
            optimizer,
            schedules,
            momentum if any(momentum) else None,
            weight_decay if any(weight_decay) else None,
        )


def group_names(groups: Mapping[str, ParameterGroup], names: Sequence[str]) -> dict[str, list[str]]:
    """Return the names of the parameters of each group and, under "", of all other parameters.

    Args:
        groups: The groups by name.
        names: Names of all parameters.

    Raises:
        ValueError: If a group matches no parameter, if a parameter is in two groups, or if all are in groups.

    >>> group_names({"head": ParameterGroup(parameters="fc")}, ["conv.weight", "fc.weight", "fc.bias"])
    {'': ['conv.weight'], 'head': ['fc.weight', 'fc.bias']}
    """
    members: dict[str, list[str]] = {"": []}
    for name, group in groups.items():
        for pattern in group.parameters:
            if not any(_matches(each, pattern) for each in names):
                more = f", ... ({len(names)} in total)" if len(names) > MOST_NAMES else ""
                known = ", ".join(names[:MOST_NAMES]) + more
                raise ValueError(f"{name}: {pattern!r} matches no parameter; the network has {known}")
        members[name] = [each for each in names if any(_matches(each, pattern) for pattern in group.parameters)]
    for each in names:
        owners = [name for name in groups if each in members[name]]
        if len(owners) > 1:
            raise ValueError(f"{each} is in the groups {' and '.join(owners)}: a parameter can be in only one")
        if not owners:
            members[""].append(each)
    if groups and not members[""]:
        raise ValueError(
            f"all parameters are in groups ({', '.join(groups)}), so the optimizer has none: leave "
            "out one group, whose settings are then those of the optimizer"
        )
    return members


def _keep(optimizer: torch.optim.Optimizer, params: Sequence[nn.Parameter]) -> None:
    """Remove all but some parameters from an optimizer.

    It was built with all of them, since some divide them by their shapes, and need parameters of each kind.
    """
    kept = set(params)
    groups = [
        {**group, "params": [param for param in group["params"] if param in kept]} for group in optimizer.param_groups
    ]
    optimizer.param_groups = [group for group in groups if group["params"]]
    for param in [param for param in optimizer.state if param not in kept]:
        del optimizer.state[param]


def _chosen(pairs: Iterable[tuple[str, nn.Parameter]], names: Collection[str]) -> list[nn.Parameter]:
    chosen = set(names)
    return [parameter for name, parameter in pairs if name in chosen]


def _matches(name: str, pattern: str) -> bool:
    """Return whether a pattern matches a parameter, or a module that contains it."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
