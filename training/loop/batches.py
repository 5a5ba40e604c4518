"""Which part of which sequence each training row reads, and how rows become batches without padding waste.

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
from training.loop.device import upload

Int64Array = npt.NDArray[np.int64]

PADDING = -1
"""Target of a slot that holds none."""


class TrainingRows(NamedTuple):
    """All rows of an epoch over one flat array of items. A row predicts what follows its last prefixes."""

    items: Int64Array  # [interactions], all sequences one after the other
    start: Int64Array  # [rows], first history item
    length: Int64Array  # [rows], history items; the target of the longest prefix follows them
    predicted: Int64Array  # [rows], number of prefixes, and so of targets
    resident: Tensor  # the items again, on the device where batches are made


class OnHost(NamedTuple):
    """What the host knows of a batch, which it planned, and so never has to ask the device for."""

    items: Int64Array  # [n] targets of the joint batch, row by row
    shares: tuple[int, ...]  # how many of them each process has, in order
    prefix: Int64Array  # [N] history items before each target of this process, row by row


class Batch(NamedTuple):
    """One step's rows, padded to the longest among them: this process's share, if several train together."""

    history: Tensor  # [B, T] item rows, int64
    lengths: Tensor  # [B]
    targets: Tensor  # [B, P] item rows, PADDING where a row has fewer
    prefix: Tensor  # [B, P] history items before each target, at least 1
    real: Tensor  # [N] places of the targets that are none of the padding, in [B · P], ascending
    host: OnHost

    @property
    def all_targets(self) -> int:
        """Targets of the joint batch."""
        return len(self.host.items)

    @property
    def items(self) -> Tensor:
        """The real targets, ``[N]``."""
        return self.of_targets(self.targets)

    def of_targets(self, values: Tensor) -> Tensor:
        """The real targets' rows ``[N, …]`` of ``[B, P, …]``; a boolean mask would make the host count."""
        return values.flatten(0, 1).index_select(0, self.real)


def training_rows(
    sequences: Sequence[npt.NDArray[np.integer]],
    max_history: int,
    packed: bool,
    device: torch.device | str = "cpu",
) -> TrainingRows:
    """Cut sequences into rows so that every item but the first of a sequence is a target exactly once.

    Args:
        sequences: Item rows, oldest first. Those with fewer than two items give no row.
        max_history: History items a row may have.
        packed: Many targets a row. A long sequence is then cut into windows that overlap by half: a target
            away from the sequence's start sees at least ``max_history / 2`` items.
        device: Where batches are made.
    """
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    stride = max(1, max_history // 2) if packed else 1
    rows: list[tuple[int, int, int]] = []
    for offset, size in zip(offsets[:-1].tolist(), lengths.tolist(), strict=True):
        done, end = 1, min(max_history, size - 1) if packed else 1
        while done < size:
            start = max(0, end - max_history)
            rows.append((offset + start, end - start, end - done + 1))
            done, end = end + 1, min(end + stride, size - 1)
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    flat = np.concatenate([np.empty(0, dtype=np.int64), *sequences]).astype(np.int64)
    return TrainingRows(flat, table[:, 0], table[:, 1], table[:, 2], torch.from_numpy(flat).to(device))


def batches(rows: TrainingRows, targets_per_batch: int, rng: np.random.Generator) -> list[Int64Array]:
    """Shuffle rows into batches of similar length and about ``targets_per_batch`` targets, in random order."""
    shuffled = rng.permutation(len(rows.start))
    # Neighbours in length share a batch; the shuffle before decides among equals.
    by_length = shuffled[np.argsort(rows.length[shuffled], kind="stable")]
    total = np.cumsum(rows.predicted[by_length])
    groups = np.split(by_length, np.flatnonzero(np.diff((total - 1) // targets_per_batch)) + 1)
    return [groups[index] for index in rng.permutation(len(groups)) if len(groups[index])]


def collate(rows: TrainingRows, chosen: Int64Array) -> Batch:
    """This process's rows of a joint batch, in a single process all of them, padded into one batch on the device."""
    mine, counts = distributed.share(chosen)
    known = _known(rows, chosen)
    length, slots = rows.length[mine], int(rows.predicted[mine].max())
    # A row that must not count has no target.
    predicted = rows.predicted[mine] if counts else np.zeros_like(mine)
    flat, device = rows.resident, rows.resident.device
    start, lengths, count = upload(torch.from_numpy(np.stack([rows.start[mine], length, predicted])), device)
    step, slot = (torch.arange(most, device=device) for most in (int(length.max()), slots))
    last = lengths[:, None]
    history = flat[start[:, None] + torch.minimum(step, last - 1)].masked_fill(step >= last, 0)
    prefix = torch.minimum(last - count[:, None] + 1 + slot, last)
    targets = flat[start[:, None] + prefix].masked_fill(slot >= count[:, None], PADDING)
    row, place = ragged(count, len(known.prefix))
    return Batch(history, lengths, targets, prefix, row * slots + place, known)


def ragged(count: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Row and place in it of every entry of rows with ``count`` entries each, ``total`` of them together."""
    row = torch.arange(len(count), device=count.device).repeat_interleave(count, output_size=total)
    place = torch.arange(total, device=count.device)
    return row, place - (count.cumsum(0) - count)[row]


def _known(rows: TrainingRows, chosen: Int64Array) -> OnHost:
    count = rows.predicted[chosen]
    place = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    prefix = np.repeat(rows.length[chosen] - count + 1, count) + place
    items = rows.items[np.repeat(rows.start[chosen], count) + prefix]
    shares = tuple(int(count[part].sum()) for part in distributed.stretches(len(chosen)))
    before = sum(shares[: distributed.rank()])
    return OnHost(items, shares, prefix[before : before + shares[distributed.rank()]])


def epoch(rows: TrainingRows, targets_per_batch: int, rng: np.random.Generator) -> Iterator[Batch]:
    """All rows once, in random batches."""
    for chosen in batches(rows, targets_per_batch, rng):
        yield collate(rows, chosen)
