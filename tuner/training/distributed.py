"""One trial on several devices: its processes, the ranks, divide every training batch among themselves.

The batch stays as large as the study file says and the steps as many, so a trial gives the same on one device or on
eight, but for the order in which floating-point numbers are added; and except for dropout, of which each rank draws its
own, and batch norm, which sees a rank's share only. Only the first rank reports and writes.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.distributed
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning.strategies import DDPStrategy

from tuner.protocol import Channel, EpochReport, StepReport, Verdict

__all__ = ["DividedBatches", "FirstRankChannel", "count", "first", "has_lost_a_rank", "is_first", "join", "share_of"]

Value = TypeVar("Value")


def join(meeting: Path, rank: int, ranks: int, kind: Literal["cpu", "cuda"]) -> None:
    """Make this process a rank of a training, together with the others that come to the same meeting.

    Args:
        meeting: A file of no other use that all of them can see; it need not exist.
        rank: Which one this is, from 0.
        ranks: How many there are.
        kind: What they train on.
    """
    os.environ["LOCAL_RANK"] = str(rank)  # Lightning takes its device by this, and starts no processes of its own
    for library in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")  # all of them are on this machine
    if kind == "cuda":
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo", f"file://{meeting}", rank=rank, world_size=ranks
    )


def count() -> int:
    """Return how many processes train a trial here."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def is_first() -> bool:
    """Tell whether this process is the one that reports and writes."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def first(do: Callable[[], Value]) -> Value:
    """Do something on the first rank, and return on every rank what came out."""
    if count() == 1:
        return do()
    results: list[Any] = [do() if is_first() else None]
    torch.distributed.broadcast_object_list(results)
    result: Value = results[0]
    return result


def has_lost_a_rank(error: Exception) -> bool:
    """Tell whether an error says that another rank is gone."""
    # Of gloo, torch tells it by the text alone.
    return isinstance(error, torch.distributed.DistError) or any(
        text in str(error) for text in ("Connection closed by peer", "Connection reset by peer", "gloo/transport")
    )


class FirstRankChannel:
    """Lets the first rank speak, and all of them hear the answer.

    Args:
        channel: Its way to the coordinator; the others' need not lead anywhere.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def report(self, number: int, report: EpochReport) -> Verdict:
        """Tell about an epoch, and return on every rank what to do."""
        return first(lambda: self._channel.report(number, report))

    def progress(self, number: int, report: StepReport) -> None:
        """Tell how far a trial is."""
        if is_first():
            self._channel.progress(number, report)

    def fuse_at_most(self, count: int, reason: str) -> None:
        """Tell how many trials can be trained as one model, and why not more."""
        if is_first():
            self._channel.fuse_at_most(count, reason)

    def note(self, text: str) -> None:
        """Show a remark in the terminal."""
        if is_first():
            self._channel.note(text)


class DividedBatches(DDPStrategy):
    """Distributed data-parallel training in which the ranks divide each batch, instead of each taking its own.

    Of a batch with labels, each rank takes its share of the tensors that are as long as these, and all of the others,
    as an adjacency or the weights of classes. A batch in which no labels can be told, or of which not all ranks can
    have an equal share, as the last of an epoch may be, is trained by each of them whole: the mean of their gradients
    is then the batch's as well. So is validation, whose metrics are the same everywhere.
    """

    def batch_to_device(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        """Return this rank's rows of a training batch, on its device."""
        if self.lightning_module is not None and self.lightning_module.trainer.training:
            batch = share_of(batch, self.global_rank, self.world_size)
        return super().batch_to_device(batch, device, dataloader_idx)


def share_of(batch: Any, rank: int, ranks: int) -> Any:
    """Return a rank's share of a batch, as views; the whole batch if it cannot be divided equally.

    Args:
        batch: The second of a sequence, or what a mapping calls "labels", "label", "targets", "target" or "y", are the
            labels [batch, ...].
        rank: Which rank, from 0.
        ranks: How many there are.
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
