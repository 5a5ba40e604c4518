"""Several processes that train one model: torchrun starts them, and each takes its share of every batch.

A step equals that of one process with the joint batch. The rule that makes it so: each process descends a *share* of
every loss, the shares add up to the loss of the joint batch, and gradients are summed. The share of a mean over rows is
the sum over one's own rows, divided by the rows of all. What all compute alike, from gathered rows, is divided by the
number of processes (:func:`even_share`). Randomness differs between processes in dropout only.

In a single process every function here is the identity, and costs nothing.
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

PATIENCE = timedelta(hours=12)
"""How long processes wait for the first one, which prepares data and validates while they idle."""


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the processes that torchrun started, for a ``with`` block; without torchrun nothing happens.

    Yields:
        The device of this process: with ``cuda`` each on a machine gets its own.

    Raises:
        ConfigError: A device of its own was asked for by name, or this torch cannot talk between processes.
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
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=PATIENCE)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def processes() -> int:
    """How many train together."""
    return dist.get_world_size() if _together() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if _together() else 0


def is_first() -> bool:
    """Whether this process is the one that writes, prints and validates."""
    return rank() == 0


def seed_dropout(seed: int) -> None:
    """Seed torch's global randomness, otherwise in every process."""
    torch.manual_seed((seed + rank()) % 2**63)


def on_first(compute: Callable[[], T]) -> T:
    """A plain value (JSON) that the first process computes and all learn; the others wait for it."""
    if not _together():
        return compute()
    text = json.dumps(compute()).encode() if is_first() else b""
    size = torch.tensor([len(text)], device=_wire())
    dist.broadcast(size, 0)
    data = torch.empty(int(size.item()), dtype=torch.uint8, device=_wire())
    if is_first():
        data.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
    dist.broadcast(data, 0)
    return cast(T, json.loads(bytes(data.cpu().tolist())))


@contextmanager
def first_then_others() -> Iterator[None]:
    """A ``with`` block that the others enter once the first process has left it, to find what it wrote."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()


def wait() -> None:
    """Go on when all processes have come here."""
    if _together():
        dist.all_reduce(torch.zeros(1, device=_wire()))


def stretches(size: int) -> list[slice]:
    """Which rows of a batch each process takes: all parts in order are the batch."""
    count = processes()
    return [slice(size * part // count, size * (part + 1) // count) for part in range(count)]


def share(rows: Rows) -> tuple[Rows, bool]:
    """This process's part of a batch, see :func:`stretches`.

    Returns:
        The part, and whether its rows count. A batch with fewer rows than processes leaves some with nothing of their
        own; they get a row that must not count, so that they take part in the step.
    """
    mine = stretches(len(rows))[rank()]
    if mine.start == mine.stop:
        return cast(Rows, rows[:1]), False
    return cast(Rows, rows[mine]), True


def even_share(loss: Tensor) -> Tensor:
    """The share of a loss that all processes compute alike."""
    return loss / processes() if _together() else loss


def gather(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Rows ``[n, …]`` of all processes in their order, ``[sum of n, …]``; differentiable.

    What follows must be the same computation in all processes: the gradient that comes back stands for theirs, too.

    Args:
        rows: Of this process.
        counts: n of every process.
    """
    return cast(Tensor, _Gather.apply(rows, counts)) if _together() else rows


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Add up the gradients of all processes, in place. Which parameters have one must be the same everywhere."""
    if not _together():
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, total in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))


def total(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scalars by name, added up over all processes; the names must be the same everywhere."""
    if not _together() or not sums:
        return dict(sums)
    stacked = torch.stack(list(sums.values()))
    dist.all_reduce(stacked)
    return dict(zip(sums, stacked.unbind(), strict=True))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: Sequence[int]) -> Tensor:
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        ctx.start, ctx.count = sum(counts[: rank()]), len(rows)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        # All hold an even share of the same loss: the sum of their gradients is this one's times their number.
        return grad_outputs[0][ctx.start : ctx.start + ctx.count] * processes(), None


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


def _wire() -> torch.device:
    """Where small messages must lie to be sent."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
