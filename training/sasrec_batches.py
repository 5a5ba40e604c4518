"""SASRec's training rows: sequences cut into windows, windows of like length put together into padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training import distributed
from training.softmax import Candidates

Int32Array = npt.NDArray[np.int32]

IGNORED = -100
"""Target of a padded position, left out of the loss."""


class Batch(NamedTuple):
    """Windows of similar length."""

    inputs: Tensor  # [B, T] int64, padded with 0
    targets: Tensor  # [B, T] int64, the item after each input; padded with -100
    all_targets: int | None = None  # real positions of the joint batch, where this is one process's share of it
    candidates: Candidates | None = None  # of a sampled softmax

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        candidates = self.candidates and self.candidates.to(device)
        return self._replace(inputs=self.inputs.to(device), targets=self.targets.to(device), candidates=candidates)


def windows(sequences: Sequence[Int32Array], max_history: int, shift: int = 0) -> list[Int32Array]:
    """Cut sequences into pieces of at most ``max_history + 1`` items.

    Each piece's items but the first are targets of those before them; every item of a sequence but its first is a
    target in exactly one piece.

    Args:
        sequences: Item rows, oldest first.
        max_history: Most inputs of a piece.
        shift: How much shorter the last piece is, below ``max_history``: varied by epoch, the cuts fall elsewhere, so
            that no target is always left with the little context behind a cut.
    """
    pieces = []
    for sequence in sequences:
        length = len(sequence)
        cuts = [length, *range(length - max_history + shift, 1, -max_history)]
        starts = [*cuts[1:], 1]
        pieces += [sequence[start - 1 : end] for start, end in zip(starts, cuts, strict=True) if end > start]
    return pieces


def length_batches(lengths: npt.NDArray[np.integer], batch_tokens: int, rng: np.random.Generator) -> list[list[int]]:
    """Group windows of similar length into batches in random order.

    Args:
        lengths: [n], positions of each window.
        batch_tokens: Most positions a batch with its padding; a longer window is a batch of its own.
        rng: Decides which windows of one length meet, and the order of batches.
    """
    order = rng.permutation(len(lengths))
    order = order[np.argsort(lengths[order], kind="stable")]
    batches: list[list[int]] = [[]]
    for window in order.tolist():
        if batches[-1] and (len(batches[-1]) + 1) * int(lengths[window]) > batch_tokens:
            batches.append([])
        batches[-1].append(window)
    return [batches[index] for index in rng.permutation(len(batches))]


def epoch_batches(
    sequences: Sequence[Int32Array], max_history: int, batch_tokens: int, rng: np.random.Generator
) -> list[list[Int32Array]]:
    """One epoch over all positions of all sequences: the windows of each batch."""
    pieces = windows(sequences, max_history, int(rng.integers(max_history)))
    lengths = np.array([len(piece) - 1 for piece in pieces])
    return [[pieces[row] for row in rows] for rows in length_batches(lengths, batch_tokens, rng)]


def collate(pieces: Sequence[Int32Array], candidates: Candidates | None = None) -> Batch:
    """This process's share of a batch of windows, padded; in a single process all of them."""
    mine, counts = distributed.share(pieces)
    inputs = padded([piece[:-1] for piece in mine], 0)
    targets = padded([piece[1:] for piece in mine], IGNORED)
    if not counts:
        targets.fill_(IGNORED)
    return Batch(inputs, targets, sum(len(piece) - 1 for piece in pieces), candidates)


def padded(rows: Sequence[Int32Array], value: int) -> Tensor:
    """Item rows of several sequences as one array ``[B, T]``, int64, filled up on the right."""
    out = np.full((len(rows), max(len(row) for row in rows)), value, dtype=np.int64)
    for line, row in zip(out, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(out)
