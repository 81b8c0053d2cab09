"""The optimizers of K trials whose parameters are stacked [K, ...]."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.fused.stacked_update import StackedTrial, StackedUpdate, kernels_run_on, kind_of
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
        """The key of the trials that it can share an optimizer with: all trials of its class, or only itself."""
        return type(self.optimizer), id(self) if self.is_alone else 0


class FusedOptimizer:
    """Plain torch optimizers on views of the stacked parameters of K trials, and the K schedulers.

    Nothing is copied: parameter ``p`` of trial ``k`` is ``stacks[p][k]``, and so is its gradient. Each trial has its
    own parameter groups with its own lr, eps, schedules and other options. States have the same form as in a trial
    trained alone. The class has the interface that Lightning requires of an optimizer.

    One optimizer of each class updates all trials of that class, if no parameter group is known to affect another: this
    holds for torch's optimizers, and for optimizers of `lightning_modules` that declare it. Any other optimizer updates
    only its own trial.

    At every step, torch's optimizers look up the states of all parameters, which can take longer than the GPU needs to
    update them. So where there is a fused kernel (for Adam, AdamW and SGD), only a trial's first step uses the
    optimizer; later steps call the kernel directly with the same tensors. On a GPU with Triton, a kernel of
    `kernels.stacked_updates` updates a parameter of all these trials at once.

    Args:
        stacks: Names and parameters [K, ...], as the network's ``named_parameters`` yields them.
        settings: Optimizer and schedules of each trial, by name.
    """

    def __init__(self, stacks: Iterable[tuple[str, nn.Parameter]], settings: Mapping[str, Optimization]) -> None:
        named = dict(stacks)
        self._names, self._stacks = list(named), list(named.values())
        self._trials: dict[str, _Trial] = {}
        for row, (name, optimization) in enumerate(settings.items()):
            params = [nn.Parameter(stack.data[row], requires_grad=stack.requires_grad) for stack in self._stacks]
            optimizer, scheduler = optimization.build(zip(named, params, strict=True))
            self._trials[name] = _Trial(optimization.optimizer, params, optimizer, scheduler)
        self._rounded: dict[int, Tensor] = {}
        self._versions: list[int] = []
        self._updates: list[StackedUpdate] = []
        self._can_stack = all(map(_is_dense, self._stacks)) and kernels_run_on(self._stacks[0].device)
        self._present: list[int] = []
        self._is_prepared = False
        self.is_launched = False  # whether the device has already made the next step
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
        self._write_counts()
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

    def round(self, names: Iterable[str], dtype: torch.dtype) -> dict[str, Tensor]:
        """Return rounded copies of stacks, for a forward pass whose gradients then belong to the copies.

        Every step updates them, and uses their gradients.

        Args:
            names: Names of the stacks. The forward pass uses none of these stacks itself.
            dtype: Type of the copies.
        """
        for name in names:
            index = self._names.index(name)
            self._rounded[index] = self._stacks[index].detach().to(dtype).requires_grad_()
        return self.rounded()

    def rounded(self) -> dict[str, Tensor]:
        """Return the rounded copies by the names of their stacks, even after other code has changed the weights.

        Changes to a parameter's ``data`` cannot be detected.
        """
        versions = [self._stacks[index]._version for index in self._rounded]
        if versions != self._versions:
            self._round_again()
            self._versions = versions
        return {self._names[index]: copy for index, copy in self._rounded.items()}

    @torch.no_grad()
    def _round_again(self) -> None:
        for index, copy in self._rounded.items():
            copy.copy_(self._stacks[index])

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients."""
        for each in [*self._stacks, *self._rounded.values()]:
            each.grad = None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every trial that has not been stopped, set its next lr, and return what `closure` returns."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        if not self.is_launched:
            sources = self.sources
            found = {index: source.grad for index, source in enumerate(sources) if source.grad is not None}
            self._stack_updates(list(found))
            self.prepare()
            self.launch(found)
            if left := self._left:
                gradients = {index: gradient.to(self._stacks[index].dtype) for index, gradient in found.items()}
                self._step_each(left, gradients)
                self._round_again()
        self._is_prepared = self.is_launched = False
        for trial in self._trials.values():
            if not trial.stopped:
                trial.scheduler.advance()
        return result

    @property
    def sources(self) -> list[Tensor]:
        """For each stack, the tensor of which the gradient is used: the stack or its rounded copy."""
        return [self._rounded.get(index, stack) for index, stack in enumerate(self._stacks)]

    @property
    def is_stacked(self) -> bool:
        """Whether `prepare` and `launch` are the whole update of all trials."""
        return bool(self._updates) and not self._left

    @property
    def why_not_stacked(self) -> str:
        """Why `is_stacked` will not become true; empty if it may."""
        if not self._can_stack:
            return "there is no kernel that updates these weights at all steps"
        if self._are_sorted and (left := self._left):
            trials = list(self._trials.values())
            return f"there is no kernel for {type(trials[left[0]].optimizer).__name__}"
        return ""

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors that `launch` changes, except for the stacks."""
        return [*self._rounded.values(), *(tensor for update in self._updates for tensor in update.tensors)]

    def prepare(self) -> None:
        """Do the CPU's share of the next update; only the first call before it has an effect."""
        if not self._is_prepared:
            for update in self._updates:
                update.prepare()
        self._is_prepared = True

    def launch(self, gradients: Mapping[int, Tensor]) -> None:
        """Do the device's share of an update.

        Args:
            gradients: The gradients of `sources` by index, where there is one.
        """
        if self._updates:
            given = [_like(self._stacks[index], gradient) for index, gradient in gradients.items()]
            for update in self._updates:
                update.launch(given, [self._rounded.get(index) for index in gradients])

    @property
    def _left(self) -> list[int]:
        """Rows of the trials that no kernel of stacks updates."""
        stacked = {row for update in self._updates for row in update.rows}
        return [row for row, trial in enumerate(self._trials.values()) if not trial.stopped and row not in stacked]

    def _stack_updates(self, present: list[int]) -> None:
        """Combine the updates of trials that have made their first step, where a kernel exists."""
        if self._present and self._present != present:  # the network trains its parts in turn
            self._write_counts()
            self._updates, self._can_stack = [], False
        if self._updates or not self._can_stack:
            return
        has_begun, self._present = self._present == present, present
        if not has_begun:
            return
        self._are_sorted = True
        alike: dict[Any, list[StackedTrial]] = {}
        for row, trial in enumerate(self._trials.values()):
            states = self._joined[trial.kind].state
            params = [trial.params[index] for index in present]
            if trial.stopped:
                continue
            groups = trial.optimizer.param_groups
            places = {param: index for index, group in enumerate(groups) for param in group["params"]}
            found = [kind_of(trial.optimizer, group, self._stacks[0].device) for group in groups]
            kinds = tuple(kind for kind in found if kind is not None)
            stacked = StackedTrial(
                row,
                params,
                trial.optimizer,
                trial.scheduler,
                [states.get(param, {}) for param in params],  # SGD has no state without momentum
                tuple(places[param] for param in params),
            )
            if len(kinds) == len(groups) and stacked.has_states(kinds) and len(stacked.updates) == 1:
                alike.setdefault((kinds, stacked.groups), []).append(stacked)
                trial.update = None  # the update holds the tensors that become rows of stacks
        stacks = [self._stacks[index].detach() for index in present]
        self._updates = [StackedUpdate(kinds, trials, stacks) for (kinds, _), trials in alike.items()]

    def _write_counts(self) -> None:
        for update in self._updates:
            update.write_counts()

    def _step_each(self, rows: Sequence[int], found: Mapping[int, Tensor]) -> None:
        """Update trials by torch's optimizers and kernels.

        Args:
            rows: Rows of the trials.
            found: Gradients of the stacks, by their indices.
        """
        present = list(found)
        by_param = [gradient.unbind() for gradient in found.values()]
        known, others = [], []
        for index, trial in enumerate(self._trials.values()):
            if index not in rows:
                continue
            gradients = [of_param[index] for of_param in by_param]
            if trial.update is not None and trial.update.present == present:
                known.append((trial.update, gradients))
            else:
                others.append((trial, gradients))
        _update(known)
        self._step(others, present)

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
        for update in self._updates:
            update.remove(list(self._trials).index(name))

    def keep(self, names: Sequence[str]) -> None:
        """Keep only these trials, in this order; the stacks must already have only their rows."""
        self._split()
        self._trials = {name: self._trials[name] for name in names}
        for index, stack in enumerate(self._stacks):
            for trial, row in zip(self._trials.values(), stack.data.unbind(), strict=True):
                trial.params[index].data = row
        for index, copy in self._rounded.items():
            copy.grad = None
            copy.data = self._stacks[index].detach().to(copy.dtype)
        self._join()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of each trial's optimizer and scheduler, in the form that a trial trained alone has."""
        self._split()
        return {
            name: {
                "optimizer": _without_stacks(trial.optimizer.state_dict()),
                "scheduler": trial.scheduler.state_dict(),
            }
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
        self._updates, self._present = [], []
        self._are_sorted = False  # whether the trials are sorted by whether they have a kernel
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
        self._write_counts()
        for trial in self._trials.values():
            state = self._joined[trial.kind].state
            trial.optimizer.state.update({param: state[param] for param in trial.params if param in state})


def _is_dense(stack: Tensor) -> bool:
    """Return whether a stack is a plain float32 or float64 tensor whose rows follow each other without gaps."""
    is_plain = type(stack.detach()) is Tensor and stack.dtype in (torch.float32, torch.float64)
    return is_plain and stack.stride(0) == stack[0].numel() and torch._debug_has_internal_overlap(stack) == 0


def _like(stack: Tensor, gradient: Tensor) -> Tensor:
    """Return a gradient in the memory layout of its stack."""
    if gradient.stride() == stack.stride():
        return gradient
    return torch.empty_like(stack, dtype=gradient.dtype).copy_(gradient)


def _without_stacks(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Copy tensors that are rows of stacks: saving one would save the whole stack."""
    states = {
        index: {
            key: value.clone() if isinstance(value, Tensor) and value._base is not None else value
            for key, value in state.items()
        }
        for index, state in state_dict["state"].items()
    }
    return {**state_dict, "state": states}


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
