"""Training rows cut out of users' sequences, and batches of rows of similar length, which need little padding.

A row is a stretch of one user's sequence plus the targets that it predicts. With causal encoder attention a row carries
many targets, one per position, and the encoder's work is shared; with bidirectional attention a row carries one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.loop import distributed
from training.loop.device import to_device

Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]

PADDING = -1
"""Number in a target slot that holds no target."""


class TrainingRows(NamedTuple):
    """All rows of an epoch over one flat array of items. A row predicts the items after its longest prefixes."""

    items: Int64Array  # [interactions], all sequences one after the other
    start: Int64Array  # [rows], first history item
    length: Int64Array  # [rows], history items; the target of the longest prefix follows them
    predicted: Int64Array  # [rows], number of prefixes, and so of targets
    device_items: Tensor  # the same items on the device, where batches are made
    device_weights: Tensor | None = None  # [interactions], weight of each item as a target; None: all weigh 1


class HostPlan(NamedTuple):
    """Facts of a batch that the host knows from planning it, so that it never has to wait for the device."""

    items: Int64Array  # [n] targets of the joint batch, row by row
    shares: tuple[int, ...]  # number of them in each process, in order
    prefix: Int64Array  # [N] history items before each target of this process, row by row


class Batch(NamedTuple):
    """One step's rows, padded to the longest among them: this process's share, if several train together."""

    history: Tensor  # [B, T] item rows, int64
    lengths: Tensor  # [B]
    targets: Tensor  # [B, P] item rows, PADDING where a row has fewer
    prefix: Tensor  # [B, P] history items before each target, at least 1
    real: Tensor  # [N] indices into [B · P] of the targets that are not padding, ascending
    host: HostPlan
    weights: Tensor | None = None  # [N] of the real targets, 1 on average over all rows; None: all weigh 1

    @property
    def all_targets(self) -> int:
        """Number of targets in the joint batch of all processes."""
        return len(self.host.items)

    @property
    def items(self) -> Tensor:
        """Real targets, ``[N]``."""
        return self.select_targets(self.targets)

    def select_targets(self, values: Tensor) -> Tensor:
        """Return the rows ``[N, …]`` of ``[B, P, …]`` that belong to real targets.

        Indices, not a boolean mask: to size the result of a mask, the host would have to wait for the device.
        """
        return values.flatten(0, 1).index_select(0, self.real)


def training_rows(
    sequences: Sequence[npt.NDArray[np.integer]],
    max_history: int,
    packed: bool,
    device: torch.device | str = "cpu",
    weights: Sequence[Float32Array] | None = None,
) -> TrainingRows:
    """Cut sequences into rows so that every item but the first of a sequence is a target exactly once.

    Args:
        sequences: Item rows, oldest first. Those with fewer than two items give no row.
        max_history: Maximum history items of a row.
        packed: Give a row many targets. A long sequence is then cut into windows that overlap by half: a target away
            from the sequence's start sees at least ``max_history / 2`` items.
        device: Device where batches are made.
        weights: Weight of each item of the sequences as a target; None: all weigh 1.
    """
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    stride = max(1, max_history // 2) if packed else 1

    # A row is (first item, history items, targets); ``done`` items of a sequence need no further row.
    rows: list[tuple[int, int, int]] = []
    for offset, size in zip(offsets[:-1].tolist(), lengths.tolist(), strict=True):
        done = 1
        end = min(max_history, size - 1) if packed else 1
        while done < size:
            start = max(0, end - max_history)
            rows.append((offset + start, end - start, end - done + 1))
            done = end + 1
            end = min(end + stride, size - 1)

    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    flat = np.concatenate([np.empty(0, dtype=np.int64), *sequences]).astype(np.int64)
    device_weights = flat_weights(weights, device)
    return TrainingRows(flat, table[:, 0], table[:, 1], table[:, 2], torch.from_numpy(flat).to(device), device_weights)


def flat_weights(weights: Sequence[Float32Array] | None, device: torch.device | str) -> Tensor | None:
    """Return the weights of all sequences one after the other on a device, ``[interactions]``."""
    return None if weights is None else torch.from_numpy(np.concatenate(weights).astype(np.float32)).to(device)


def batches(rows: TrainingRows, targets_per_batch: int, rng: np.random.Generator) -> list[Int64Array]:
    """Shuffle rows into batches of similar length and about ``targets_per_batch`` targets, in random order."""
    shuffled = rng.permutation(len(rows.start))
    # Neighbours in length share a batch; the shuffle before decides among equals.
    by_length = shuffled[np.argsort(rows.length[shuffled], kind="stable")]
    total = np.cumsum(rows.predicted[by_length])
    groups = np.split(by_length, np.flatnonzero(np.diff((total - 1) // targets_per_batch)) + 1)
    return [groups[index] for index in rng.permutation(len(groups)) if len(groups[index])]


def collate(rows: TrainingRows, chosen: Int64Array) -> Batch:
    """Pad this process's rows of a joint batch (in a single process all of them) into one batch on the device."""
    mine, counts = distributed.take_shard(chosen)
    plan = _plan_on_host(rows, chosen)
    length = rows.length[mine]
    slots = int(rows.predicted[mine].max())
    # A row that must not count gets no target.
    predicted = rows.predicted[mine] if counts else np.zeros_like(mine)

    # Three numbers a row travel to the device; everything else is computed there.
    flat = rows.device_items
    device = flat.device
    start, lengths, count = to_device(torch.from_numpy(np.stack([rows.start[mine], length, predicted])), device)
    step = torch.arange(int(length.max()), device=device)
    slot = torch.arange(slots, device=device)
    last = lengths[:, None]
    history = flat[start[:, None] + torch.minimum(step, last - 1)].masked_fill(step >= last, 0)
    prefix = torch.minimum(last - count[:, None] + 1 + slot, last)
    place = start[:, None] + prefix
    targets = flat[place].masked_fill(slot >= count[:, None], PADDING)

    row, column = ragged_indices(count, len(plan.prefix))
    batch = Batch(history, lengths, targets, prefix, row * slots + column, plan)
    if rows.device_weights is None:
        return batch
    return batch._replace(weights=rows.device_weights[batch.select_targets(place)])


def ragged_indices(count: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Return row and column of every entry of rows with ``count`` entries each, ``total`` of them together."""
    row = torch.arange(len(count), device=count.device).repeat_interleave(count, output_size=total)
    entry = torch.arange(total, device=count.device)
    return row, entry - (count.cumsum(0) - count)[row]


def _plan_on_host(rows: TrainingRows, chosen: Int64Array) -> HostPlan:
    count = rows.predicted[chosen]
    column = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    prefix = np.repeat(rows.length[chosen] - count + 1, count) + column
    items = rows.items[np.repeat(rows.start[chosen], count) + prefix]
    shares = tuple(int(count[part].sum()) for part in distributed.shard_slices(len(chosen)))
    before = sum(shares[: distributed.rank()])
    return HostPlan(items, shares, prefix[before : before + shares[distributed.rank()]])


def history_items(rows: TrainingRows, chosen: Int64Array) -> Int64Array:
    """Return the distinct items in the histories of some rows, those of a joint batch, ascending."""
    length = rows.length[chosen]
    place = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    return np.unique(rows.items[np.repeat(rows.start[chosen], length) + place])


def epoch(rows: TrainingRows, targets_per_batch: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Yield all rows once, in random batches."""
    for chosen in batches(rows, targets_per_batch, rng):
        yield collate(rows, chosen)
