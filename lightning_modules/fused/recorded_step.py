"""The training step of K networks, recorded once and replayed: on a GPU as a CUDA graph.

The CPU starts a recorded step by one call, however many kernels it launches. Whether a step can be recorded is
determined by trying, and the recording is compared with an eager step before it is used.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_modules.fused.optimizer import FusedOptimizer
from lightning_modules.tasks import METRICS

__all__ = ["CudaGraph", "RecordedStep", "Recorder", "Recording", "Repetition", "not_recorded"]

Work = Callable[[], None]

SHARE = 0.01  # largest difference of a replay, as a share of the step's change; two eager steps on a GPU differ, too
EXAMPLES = 2.0  # number of examples in a batch whose classification may differ
OF_DECISIONS = frozenset(f"train/{metric}" for metric in (*METRICS["classification"], *METRICS["multi_label"]))


class Recording(Protocol):
    """The work of a function, which can be replayed."""

    def replay(self) -> None:
        """Do the work again, with the current contents of the tensors that the function used."""

    def close(self) -> None:
        """Free the memory of the recording."""


class Recorder(Protocol):
    """A way to record the work of a function."""

    def warm_up(self, work: Work) -> None:
        """Do the work once, and raise an error if it cannot be recorded."""

    def record(self, work: Work) -> Recording:
        """Return the recorded work, without doing it."""


class Repetition:
    """Replays a function by calling it: the behaviour of a CUDA graph on any device, without the speedup."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def replay(self) -> None:
        """Do the work again."""
        self._work()

    def close(self) -> None:
        """Do nothing: there is nothing to free."""

    @staticmethod
    def warm_up(work: Work) -> None:
        """Do the work once."""
        work()

    @classmethod
    def record(cls, work: Work) -> Repetition:
        """Return the function as a recording."""
        return cls(work)


class CudaGraph:
    """Replays a function as a CUDA graph: a single launch for all of its kernels."""

    def __init__(self, graph: torch.cuda.CUDAGraph) -> None:
        self._graph = graph

    def replay(self) -> None:
        """Launch the graph."""
        self._graph.replay()

    def close(self) -> None:
        """Free the graph and its memory, once the GPU has finished it."""
        torch.cuda.synchronize()
        self._graph.reset()

    @staticmethod
    def warm_up(work: Work) -> None:
        """Do the work once on another stream, as the capture will, and refuse operations that wait for the GPU."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        mode = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings():  # torch warns that it cannot detect every case
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode("error")
        try:
            with torch.cuda.stream(stream):
                work()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
            torch.cuda.current_stream().wait_stream(stream)

    @classmethod
    def record(cls, work: Work) -> CudaGraph:
        """Capture the kernels that the function launches."""
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # Other threads may use the GPU meanwhile, such as the one that pins the batches of a DataLoader.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                work()
        finally:
            torch.cuda.set_stream(stream)  # a failed capture leaves its own stream current
        return cls(graph)


class RecordedStep:
    """Replays a recorded training step, once the recording has been verified.

    Otherwise the caller makes the step eagerly: the first steps, in which the optimizers create their states; batches
    of a shape other than the recorded one; and all steps, if the step cannot be recorded. The first recording is
    verified: from a copy of the state, it makes the same step as the caller, and both must give the same weights,
    optimizer states and metrics. On a GPU, kernels may round differently from one run to the next, so a difference of a
    hundredth of the step's change is allowed there. Training always continues from the state of the eager step.

    Args:
        recorder: How to record.
        work: Makes a step with inputs and labels, using only the device, and returns the losses [K]. It must not
            replace any of the tensors that it changes.
        changed: Returns the tensors that `work` changes, except those of the optimizer, by name.
        optimizer: The optimizer; the CPU's share of its update is done here.
        note: Called with a sentence if the step cannot be recorded.

    Attributes:
        reason: Why the step cannot be recorded; empty if it can, or if that is not known yet.
    """

    def __init__(
        self,
        recorder: Recorder,
        work: Callable[[Tensor, Tensor], Tensor],
        changed: Callable[[], Mapping[str, Tensor]],
        optimizer: FusedOptimizer,
        note: Callable[[str], None] = warnings.warn,
    ) -> None:
        self.reason = ""
        self._note = note
        self._recorder, self._step, self._changed, self._optimizer = recorder, work, changed, optimizer
        self._recording: Recording | None = None
        self._is_verified = False
        self._before: list[Tensor] = []  # the state before the step to verify
        self._repeated: list[Tensor] = []  # the state after its replay
        self.forget()

    @property
    def is_recorded(self) -> bool:
        """Whether steps are replayed from a recording."""
        return self._recording is not None and self._is_verified

    @property
    def is_settled(self) -> bool:
        """Whether it is decided how steps are made."""
        return self.is_recorded or bool(self.reason)

    def forget(self) -> None:
        """Drop the recording, since tensors have been replaced. A later step is recorded again."""
        if self._recording is not None:
            self._recording.close()
            self._recording = None
        self._used: list[Tensor] = []
        self._places: list[int] = []
        self._batch: list[Tensor] = []
        self._losses = torch.empty(0)

    def refuse(self, reason: str) -> None:
        """Replay no steps."""
        self.forget()
        self._before, self._repeated = [], []
        self.reason = reason
        self._note(not_recorded(reason))

    def run(self, inputs: Any, labels: Any) -> Tensor | None:
        """Replay a step, and return the losses [K]; or return None if the caller must make it.

        Args:
            inputs: The inputs of the batch, in the form that `work` takes.
            labels: The labels.
        """
        if not self.reason and (why := self._optimizer.why_not_stacked):
            self.refuse(why)
        if not self.reason and not all(isinstance(each, Tensor) for each in (inputs, labels)):
            self.refuse("the inputs or labels of a batch are not tensors")
        if not self._optimizer.is_stacked or self._places != _places(self._used):
            self.forget()  # the next recording will use the new tensors
        if self.reason or not self._optimizer.is_stacked or not self._fits(inputs, labels):
            return None
        for static, given in zip(self._batch, (inputs, labels), strict=True):
            static.copy_(given)
        self._optimizer.prepare()
        self._optimizer.rounded()  # in case other code has changed the weights
        if self._recording is not None and self._is_verified:
            return self._replay(self._recording)
        try:
            recording = self._try()
        except Exception as error:  # torch, its libraries and the driver raise many kinds
            self.refuse(f"{type(error).__name__}: {' '.join(str(error).split())}")
            return None
        return self._replay(recording) if self._is_verified else None

    def verify(self) -> None:
        """Compare the recording with the step that the caller has made; without a step to verify, do nothing."""
        if not self._repeated:
            return
        difference = self._difference()
        self._before, self._repeated = [], []
        if difference:
            self.refuse(difference)
        else:
            self._is_verified = True

    # -- the work ----------------------------------------------------------------------------------------------------

    def _try(self) -> Recording:
        """Record this step; or, to verify a recording of an earlier step with other numbers, replay it."""
        if self._recording is not None:
            with self._undone() as self._before:
                self._recording.replay()
                self._repeated = _copies(self._state())
            return self._recording
        if not self._is_verified:
            with self._undone():
                self._recorder.warm_up(self._work)
        self._recording = self._recorder.record(self._work)
        self._used = list(self._state().values())
        self._places = _places(self._used)
        return self._recording

    @contextmanager
    def _undone(self) -> Iterator[list[Tensor]]:
        """Substitute copies of the tensors that a step changes, and write them back at the end of the block."""
        before = _copies(self._state())
        try:
            yield before
        finally:
            _restore(self._state(), before)

    def _replay(self, recording: Recording) -> Tensor:
        recording.replay()
        self._optimizer.is_launched = True
        return self._losses.clone()  # the caller may keep them

    def _work(self) -> None:
        losses = self._step(*self._batch)
        if self._losses.shape != losses.shape:
            self._losses = torch.empty_like(losses)
        self._losses.copy_(losses)

    def _fits(self, inputs: Any, labels: Any) -> bool:
        """Return whether a batch has the recorded shapes and types: the ones of the first batch."""
        given = inputs, labels
        self._batch = self._batch or [each.clone() for each in given]
        pairs = zip(given, self._batch, strict=True)
        return all((one.shape, one.dtype, one.device) == (two.shape, two.dtype, two.device) for one, two in pairs)

    def _state(self) -> dict[str, Tensor]:
        """Return the tensors that a step changes, by name."""
        own = enumerate(self._optimizer.tensors)
        return {**self._changed(), **{f"state {index} of the optimizers": tensor for index, tensor in own}}

    def _difference(self) -> str:
        """Return how the replayed step differs from the eager one, other than by rounding; empty if it does not."""
        for (name, plain), found, before in zip(self._state().items(), self._repeated, self._before, strict=True):
            if not plain.is_floating_point():
                if not torch.equal(plain, found):
                    return f"a replayed step gives different values of {name}"
                continue
            rows = plain.detach().reshape(len(plain), -1), found.reshape(len(plain), -1), before.reshape(len(plain), -1)
            one, other, old = (torch.where(rows[0].isfinite(), row, 0) for row in rows)
            apart, change, size = (
                torch.linalg.vector_norm(each, dim=1, dtype=torch.float64) for each in (other - one, one - old, one)
            )
            allowed = SHARE * change + 4 * torch.finfo(plain.dtype).eps * size
            allowed += EXAMPLES if name in OF_DECISIONS else 0.0
            if not bool((apart <= allowed).all()):
                return f"a replayed step gives different values of {name}"
        return ""


def not_recorded(reason: str) -> str:
    """Return the sentence that says why steps are not recorded."""
    return f"the steps are not recorded as a CUDA graph: {reason}"


def _places(tensors: Sequence[Tensor]) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def _copies(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors.values()]


def _restore(tensors: Mapping[str, Tensor], copies: list[Tensor]) -> None:
    """Write back copies; tensors count as unchanged, as they do after a kernel's update."""
    for tensor, copy in zip(tensors.values(), copies, strict=True):
        tensor.data.copy_(copy)
