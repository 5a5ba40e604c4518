"""Which part of which sequence each training row reads, and how rows become batches without padding waste.

A row is a stretch of one user's sequence plus the targets that it predicts. With causal encoder attention a row carries
many targets, one per position, and the encoder's work is shared; with bidirectional attention a row carries one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training import distributed

Int64Array = npt.NDArray[np.int64]

PADDING = -1
"""Target of a slot that holds none."""


class TrainingRows(NamedTuple):
    """All rows of an epoch over one flat array of items. A row predicts what follows its last prefixes."""

    items: Int64Array  # [interactions], all sequences one after the other
    start: Int64Array  # [rows], first history item
    length: Int64Array  # [rows], history items; the target of the longest prefix follows them
    predicted: Int64Array  # [rows], number of prefixes, and so of targets


class Batch(NamedTuple):
    """One step's rows, padded to the longest among them."""

    history: Tensor  # [B, T] item rows, int64
    lengths: Tensor  # [B]
    targets: Tensor  # [B, P] item rows, PADDING where a row has fewer
    prefix: Tensor  # [B, P] history items before each target, at least 1
    all_targets: int | None = None  # targets of the joint batch, where these rows are one process's share of it

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        history, lengths, targets, prefix = (tensor.to(device) for tensor in self[:4])
        return self._replace(history=history, lengths=lengths, targets=targets, prefix=prefix)


def training_rows(sequences: Sequence[npt.NDArray[np.integer]], max_history: int, packed: bool) -> TrainingRows:
    """Cut sequences into rows so that every item but the first of a sequence is a target exactly once.

    Args:
        sequences: Item rows, oldest first. Those with fewer than two items give no row.
        max_history: History items a row may have.
        packed: Many targets a row. A long sequence is then cut into windows that overlap by half: a target
            away from the sequence's start sees at least ``max_history / 2`` items.
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
    return TrainingRows(flat, table[:, 0], table[:, 1], table[:, 2])


def batches(rows: TrainingRows, targets_per_batch: int, rng: np.random.Generator) -> list[Int64Array]:
    """Shuffle rows into batches of similar length and about ``targets_per_batch`` targets, in random order."""
    shuffled = rng.permutation(len(rows.start))
    # Neighbours in length share a batch; the shuffle before decides among equals.
    by_length = shuffled[np.argsort(rows.length[shuffled], kind="stable")]
    total = np.cumsum(rows.predicted[by_length])
    groups = np.split(by_length, np.flatnonzero(np.diff((total - 1) // targets_per_batch)) + 1)
    return [groups[index] for index in rng.permutation(len(groups)) if len(groups[index])]


def collate(rows: TrainingRows, chosen: Int64Array) -> Batch:
    """Gather rows into one padded batch."""
    length, count = rows.length[chosen], rows.predicted[chosen]
    step = np.arange(length.max())
    at = rows.start[chosen][:, None] + np.minimum(step, length[:, None] - 1)
    history = np.where(step < length[:, None], rows.items[at], 0)
    slot = np.arange(count.max())
    prefix = np.minimum(length[:, None] - count[:, None] + 1 + slot, length[:, None])
    targets = np.where(slot < count[:, None], rows.items[rows.start[chosen][:, None] + prefix], PADDING)
    as_tensor = torch.from_numpy
    return Batch(as_tensor(history), as_tensor(length), as_tensor(targets), as_tensor(prefix))


def collate_share(rows: TrainingRows, chosen: Int64Array) -> Batch:
    """This process's rows of a joint batch, in a single process all; a row that must not count has no target."""
    mine, counts = distributed.share(chosen)
    batch = collate(rows, mine)._replace(all_targets=int(rows.predicted[chosen].sum()))
    return batch if counts else batch._replace(targets=torch.full_like(batch.targets, PADDING))


def epoch(rows: TrainingRows, targets_per_batch: int, rng: np.random.Generator) -> Iterator[Batch]:
    """All rows once, in random batches."""
    for chosen in batches(rows, targets_per_batch, rng):
        yield collate(rows, chosen)
