"""Train one trial on several devices: one process (rank) per device, and each training batch is split between them.

The study file's batch size and number of steps apply. So one device and eight give the same trial, except
for the order in which floating-point numbers are added, for dropout (each rank draws its own masks) and for batch norm
(which sees one rank's rows). Only rank 0 reports and writes.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.distributed
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning.strategies import DDPStrategy

from tuner.protocol import Channel, Decision, EpochReport, StepReport

__all__ = [
    "RankZeroChannel",
    "SplitBatchDDPStrategy",
    "is_rank_zero",
    "join",
    "lost_a_rank",
    "on_rank_zero",
    "share_of",
    "world_size",
]

Value = TypeVar("Value")


def join(rendezvous_file: Path, rank: int, ranks: int, kind: Literal["cpu", "cuda"]) -> None:
    """Make this process one rank of a run, together with the processes that pass the same rendezvous file.

    Args:
        rendezvous_file: A file that all ranks can reach and nothing else uses; it need not exist.
        rank: Number of this rank, from 0.
        ranks: Number of ranks.
        kind: The devices that they train on.
    """
    os.environ["LOCAL_RANK"] = str(rank)  # Lightning picks its device by this, and starts no processes itself
    for library in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")  # all of them are on this machine
    if kind == "cuda":
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo", f"file://{rendezvous_file}", rank=rank, world_size=ranks
    )


def world_size() -> int:
    """Return the number of processes that train this trial; 1 without `join`."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def is_rank_zero() -> bool:
    """Return whether this process is the one that reports and writes."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def on_rank_zero(function: Callable[[], Value]) -> Value:
    """Call a function on rank 0, and return its result on every rank."""
    if world_size() == 1:
        return function()
    results: list[Any] = [function() if is_rank_zero() else None]
    torch.distributed.broadcast_object_list(results)
    result: Value = results[0]
    return result


def lost_a_rank(error: Exception) -> bool:
    """Return whether an error means that another rank is gone."""
    # For gloo, torch raises no specific class: only the message tells.
    return isinstance(error, torch.distributed.DistError) or any(
        text in str(error) for text in ("Connection closed by peer", "Connection reset by peer", "gloo/transport")
    )


class RankZeroChannel:
    """A channel that only rank 0 sends on; every rank gets the answer.

    Args:
        channel: Channel to the coordinator; used on rank 0 only.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def report(self, reports: Mapping[int, EpochReport]) -> Mapping[int, Decision]:
        """Report an epoch of each trial, and return the decisions on every rank."""
        return on_rank_zero(lambda: self._channel.report(reports))

    def progress(self, number: int, report: StepReport) -> None:
        """Report the progress of a trial."""
        if is_rank_zero():
            self._channel.progress(number, report)

    def fuse_at_most(self, count: int, reason: str) -> None:
        """Report how many trials can be trained as one model, and why not more."""
        if is_rank_zero():
            self._channel.fuse_at_most(count, reason)

    def note(self, text: str) -> None:
        """Show a note in the terminal."""
        if is_rank_zero():
            self._channel.note(text)


class SplitBatchDDPStrategy(DDPStrategy):
    """Distributed data-parallel training in which the ranks split each batch, instead of each loading its own.

    In a batch with labels, tensors as long as the labels are split between the ranks; other tensors, such as an
    adjacency matrix or class weights, go to every rank whole. A batch without recognizable labels, or whose length is
    not divisible by the number of ranks (often the last of an epoch), is trained whole on every rank: the mean of the
    gradients is then still the batch's. Validation is never split, so its metrics are the same on every rank.
    """

    def batch_to_device(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        """Return this rank's rows of a training batch, on its device."""
        if self.lightning_module is not None and self.lightning_module.trainer.training:
            batch = share_of(batch, self.global_rank, self.world_size)
        return super().batch_to_device(batch, device, dataloader_idx)


def share_of(batch: Any, rank: int, ranks: int) -> Any:
    """Return a rank's share of a batch, as views; the whole batch if it cannot be divided equally.

    Args:
        batch: The labels [batch, ...] are the second element of a sequence, or the entry "labels", "label", "targets",
            "target" or "y" of a mapping.
        rank: Number of the rank, from 0.
        ranks: Number of ranks.
    """
    labels = None
    if isinstance(batch, Mapping):
        labels = next((batch[key] for key in _LABELS if key in batch), None)
    elif isinstance(batch, Sequence) and len(batch) > 1:
        labels = batch[1]
    if not isinstance(labels, torch.Tensor) or labels.ndim == 0 or len(labels) % ranks:
        return batch
    length = len(labels)

    def cut(tensor: torch.Tensor) -> torch.Tensor:
        return tensor[rank::ranks] if tensor.ndim > 0 and len(tensor) == length else tensor

    return apply_to_collection(batch, torch.Tensor, cut)


_LABELS = ("labels", "label", "targets", "target", "y")
