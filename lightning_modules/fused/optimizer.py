"""The optimizers of K trials whose parameters are stacked [K, ...]."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.kernels.fused_updates import FusedUpdate, fused_update, has_fused_update
from lightning_modules.lr_scheduler import OptimizerCallable, ScheduleLR, scheduled_values
from lightning_modules.optimizers import Optimizer
from lightning_modules.parameter_groups import Optimization

__all__ = ["FusedOptimizer"]


@dataclass(frozen=True)
class _Update:
    """The update of one trial by fused kernels, with their arguments collected in advance.

    Args:
        present: Indices of the parameters that have gradients.
        kernels: For each parameter group, the positions of its gradients among those, and the kernel's call.
        steps: Step counters to increment first.
    """

    present: Sequence[int]
    kernels: Sequence[tuple[Sequence[int], FusedUpdate]]
    steps: Sequence[Tensor]


@dataclass
class _Trial:
    make: OptimizerCallable
    params: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    scheduler: ScheduleLR
    stopped: bool = False
    update: _Update | None = None

    @property
    def is_alone(self) -> bool:
        """Whether its optimizer may not update other trials, since their parameter groups might affect each other."""
        of_torch = type(self.optimizer).__module__.startswith("torch.optim.")
        return not of_torch and not (isinstance(self.make, Optimizer) and self.make.INDEPENDENT_GROUPS)

    @property
    def kind(self) -> tuple[type, int]:
        """The trials with which it can share an optimizer: those of its class, or only itself."""
        return type(self.optimizer), id(self) if self.is_alone else 0


class FusedOptimizer:
    """Plain torch optimizers on views of the stacked parameters of K trials, and the K schedulers.

    Nothing is copied: parameter ``p`` of trial ``k`` is ``stacks[p][k]``, and so is its gradient. Each trial has its
    own parameter groups with its own lr, eps, schedules and other options. States have the same form as in a trial
    alone. The class has the interface that Lightning requires of an optimizer.

    One optimizer of each class updates all trials of that class, if it is known that no parameter group affects
    another: torch's, and those of `lightning_modules` that say so. Any other updates only its own trial.

    At every step, torch's optimizers look up the states of all parameters, which can take longer than the GPU needs to
    update them. So where there is a fused kernel (for Adam, AdamW and SGD), only a trial's first step uses the
    optimizer; later steps call the kernel directly with the same tensors.

    Args:
        stacks: Names and parameters [K, ...], as the network's ``named_parameters`` yields them.
        settings: Optimizer and schedules of each trial, by name.
    """

    def __init__(self, stacks: Iterable[tuple[str, nn.Parameter]], settings: Mapping[str, Optimization]) -> None:
        named = dict(stacks)
        self._stacks = list(named.values())
        self._trials: dict[str, _Trial] = {}
        for row, (name, optimization) in enumerate(settings.items()):
            params = [nn.Parameter(stack.data[row], requires_grad=stack.requires_grad) for stack in self._stacks]
            optimizer, scheduler = optimization.build(zip(named, params, strict=True))
            self._trials[name] = _Trial(optimization.optimizer, params, optimizer, scheduler)
        self._join()

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameter groups of all trials."""
        return [group for joined in self.joined for group in joined.param_groups]

    @property
    def defaults(self) -> dict[str, Any]:
        """An empty dict: each trial's optimizer has its own defaults."""
        return {}

    @property
    def state(self) -> dict[Any, Any]:
        """The states of the parameters of all trials."""
        return {param: state for joined in self.joined for param, state in joined.state.items()}

    @property
    def joined(self) -> Sequence[torch.optim.Optimizer]:
        """The optimizers that update the trials, each one or more of them."""
        return list(self._joined.values())

    def torch_optimizer(self, name: str) -> torch.optim.Optimizer:
        """Return the optimizer of a trial, whose state may be elsewhere."""
        return self._trials[name].optimizer

    def lr(self, name: str) -> float:
        """Return the lr of a trial's next update."""
        return self.scheduled(name)["lr"]

    def scheduled(self, name: str) -> dict[str, float]:
        """Return the lr of a trial's next update, and what else is scheduled, by the names of the metrics."""
        return scheduled_values(self._trials[name].optimizer.param_groups)

    def update_plateau(self, name: str, value: float) -> None:
        """Pass a trial's plateau the metric of an evaluation."""
        self._trials[name].scheduler.update_plateau(value)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients."""
        for stack in self._stacks:
            stack.grad = None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every trial that has not been stopped, set its next lr, and return what `closure` returns."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        present = [index for index, stack in enumerate(self._stacks) if stack.grad is not None]
        by_param = [stack.grad.unbind() for stack in self._stacks if stack.grad is not None]
        known, others = [], []
        for index, trial in enumerate(self._trials.values()):
            if trial.stopped:
                continue
            gradients = [of_param[index] for of_param in by_param]
            if trial.update is not None and trial.update.present == present:
                known.append((trial.update, gradients))
            else:
                others.append((trial, gradients))
        _update(known)
        self._step(others, present)
        for trial in self._trials.values():
            if not trial.stopped:
                trial.scheduler.advance()
        return result

    def _step(self, trials: Sequence[tuple[_Trial, Sequence[Tensor]]], present: Sequence[int]) -> None:
        """Update trials with their optimizers, and collect the arguments for later direct calls of the kernels."""
        for trial, gradients in trials:
            for index, gradient in zip(present, gradients, strict=True):
                trial.params[index].grad = gradient
        for kind in {trial.kind: None for trial, _ in trials}:
            self._joined[kind].step()  # skips parameters without gradients
        for trial, _ in trials:
            for index in present:
                trial.params[index].grad = None
            trial.update = _collected(trial, self._joined[trial.kind].state, present)

    def stop(self, name: str) -> None:
        """Stop updating a trial."""
        self._trials[name].stopped = True

    def keep(self, names: Sequence[str]) -> None:
        """Keep only these trials, in this order; the stacks must already have only their rows."""
        self._split()
        self._trials = {name: self._trials[name] for name in names}
        for index, stack in enumerate(self._stacks):
            for trial, row in zip(self._trials.values(), stack.data.unbind(), strict=True):
                trial.params[index].data = row
        self._join()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of each trial's optimizer and scheduler, in the form of a trial alone."""
        self._split()
        return {
            name: {"optimizer": trial.optimizer.state_dict(), "scheduler": trial.scheduler.state_dict()}
            for name, trial in self._trials.items()
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore a state of the same trials."""
        for name, trial in self._trials.items():
            trial.optimizer.load_state_dict(state_dict[name]["optimizer"])
            trial.scheduler.load_state_dict(state_dict[name]["scheduler"])
        self._join()

    def _join(self) -> None:
        """Create the optimizers that step several trials: one call costs much less than K calls."""
        self._joined: dict[tuple[type, int], torch.optim.Optimizer] = {}
        for trial in self._trials.values():
            trial.update = None
            if trial.kind not in self._joined:
                self._joined[trial.kind] = trial.optimizer if trial.is_alone else trial.make(trial.params)
                if trial.is_alone:
                    continue
                self._joined[trial.kind].param_groups = []
                self._joined[trial.kind].state.clear()
            self._joined[trial.kind].param_groups += trial.optimizer.param_groups
            self._joined[trial.kind].state.update(trial.optimizer.state)

    def _split(self) -> None:
        """Return the states to the trials' own optimizers."""
        for trial in self._trials.values():
            state = self._joined[trial.kind].state
            trial.optimizer.state.update({param: state[param] for param in trial.params if param in state})


def _update(updates: Sequence[tuple[_Update, Sequence[Tensor]]]) -> None:
    """Update trials by direct calls of the kernels, each with its gradients."""
    with torch.no_grad():
        if steps := [step for update, _ in updates for step in update.steps]:
            torch._foreach_add_(steps, 1)
        for update, gradients in updates:
            for places, kernel in update.kernels:
                kernel([gradients[place] for place in places])


def _collected(trial: _Trial, states: Mapping[Any, Mapping[str, Any]], present: Sequence[int]) -> _Update | None:
    """Return a trial's update from the second step on; None if its optimizer has no fused kernel."""
    places = {trial.params[index]: place for place, index in enumerate(present)}
    kernels: list[tuple[Sequence[int], FusedUpdate]] = []
    steps: list[Tensor] = []
    for group in trial.optimizer.param_groups:
        if not has_fused_update(trial.optimizer, group):
            return None
        if params := [param for param in group["params"] if param in places]:
            of_params = [states[param] for param in params]
            kernel = fused_update(trial.optimizer, group, params, of_params)
            kernels.append(([places[param] for param in params], kernel))
            steps += [state["step"] for state in of_params if "step" in state]
    return _Update(present, kernels, steps)
