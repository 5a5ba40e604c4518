"""Data-parallel training: torchrun starts several processes, and each takes its part of every batch.

A step equals that of one process with the joint batch. The rule that makes it so: each process descends a *share* of
every loss, the shares add up to the loss of the joint batch, and gradients are summed. The share of a mean over rows is
the sum over one's own rows, divided by the rows of all. A loss that all processes compute alike, from gathered rows, is
divided by the number of processes (:func:`even_share`). Randomness differs between processes in dropout only.

In a single process every function here does nothing and costs nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from model_store.errors import ConfigError

T = TypeVar("T")
Rows = TypeVar("Rows", bound=Sequence[Any] | np.ndarray | Tensor)

TIMEOUT = timedelta(hours=12)
"""Maximum wait of processes for the first one, which prepares data and validates while they idle."""


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """Join the processes that torchrun started, for a ``with`` block; without torchrun do nothing.

    Yields:
        The device of this process: with ``cuda`` each process of a machine gets its own GPU.

    Raises:
        ConfigError: A certain GPU was asked for, or this build of torch has no communication between processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return

    if not dist.is_available():
        raise ConfigError("this build of torch has no torch.distributed", "start one process, without torchrun")
    if device.startswith("cuda:"):
        raise ConfigError(f"--device {device}: under torchrun each process has its own GPU", "give --device cuda")
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)

    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=TIMEOUT)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def world_size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if _is_distributed() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if _is_distributed() else 0


def is_first() -> bool:
    """Return whether this process is the one that writes, prints and validates."""
    return rank() == 0


def seed_dropout(seed: int) -> None:
    """Seed torch's global randomness, with another number in every process."""
    torch.manual_seed((seed + rank()) % 2**63)


def compute_on_first(compute: Callable[[], T]) -> T:
    """Compute a plain value (JSON) in the first process, and return it in all; the others wait for it."""
    if not _is_distributed():
        return compute()

    # The others have to know the size of the message before they can receive it.
    text = json.dumps(compute()).encode() if is_first() else b""
    size = torch.tensor([len(text)], device=_message_device())
    dist.broadcast(size, 0)

    data = torch.empty(int(size.item()), dtype=torch.uint8, device=_message_device())
    if is_first():
        data.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
    dist.broadcast(data, 0)
    return cast(T, json.loads(bytes(data.cpu().tolist())))


@contextmanager
def first_then_others() -> Iterator[None]:
    """Let the first process run a ``with`` block alone; the others enter when it has left, and find what it wrote."""
    if not is_first():
        barrier()
    yield
    if is_first():
        barrier()


def barrier() -> None:
    """Wait until all processes have come here."""
    if _is_distributed():
        dist.all_reduce(torch.zeros(1, device=_message_device()))


def shard_slices(size: int) -> list[slice]:
    """Return the slice of a batch's rows that each process takes; in order, they make up the batch."""
    count = world_size()
    return [slice(size * part // count, size * (part + 1) // count) for part in range(count)]


def take_shard(rows: Rows) -> tuple[Rows, bool]:
    """Return this process's part of a batch, see :func:`shard_slices`.

    Returns:
        The part, and whether its rows count. A batch with fewer rows than processes leaves some processes without any;
        they get a row that must not count, so that they take part in the step.
    """
    mine = shard_slices(len(rows))[rank()]
    if mine.start == mine.stop:
        return cast(Rows, rows[:1]), False
    return cast(Rows, rows[mine]), True


def even_share(loss: Tensor) -> Tensor:
    """Return this process's share of a loss that all processes compute alike."""
    return loss / world_size() if _is_distributed() else loss


def gather(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Gather the rows ``[n, …]`` of all processes in their order, ``[sum of n, …]``; differentiable.

    All processes must do the same computation with the result: each takes its own gradient for that of the others, too.

    Args:
        rows: Rows of this process.
        counts: Number of rows n of every process.
    """
    return cast(Tensor, _Gather.apply(rows, counts)) if _is_distributed() else rows


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Add up the gradients of all processes, in place. The same parameters must have gradients in every process."""
    if not _is_distributed():
        return

    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, total in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))


def sum_over_processes(scalars: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add up scalars by name over all processes; every process must have the same names."""
    if not _is_distributed() or not scalars:
        return dict(scalars)
    stacked = torch.stack(list(scalars.values()))
    dist.all_reduce(stacked)
    return dict(zip(scalars, stacked.unbind(), strict=True))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: Sequence[int]) -> Tensor:
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        ctx.start = sum(counts[: rank()])
        ctx.count = len(rows)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        # All hold an even share of the same loss: the sum of their gradients is this one times their number.
        return grad_outputs[0][ctx.start : ctx.start + ctx.count] * world_size(), None


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _message_device() -> torch.device:
    """Return the device that small messages must be on to be sent."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
