"""SASRec's training rows: sequences cut into windows, windows of like length put together into batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from training.loop.batches import Int64Array, TrainingRows


class Windows:
    """Sequences of items, cut anew for every epoch.

    Args:
        sequences: Item rows, oldest first.
        max_history: Most items that a window reads.
        device: Where batches are made.
    """

    def __init__(
        self, sequences: Sequence[npt.NDArray[np.integer]], max_history: int, device: torch.device | str = "cpu"
    ) -> None:
        self.items: Int64Array = np.concatenate(sequences).astype(np.int64)
        self._max_history, self._resident = max_history, torch.from_numpy(self.items).to(device)
        self._sizes = [len(sequence) for sequence in sequences]

    @property
    def targets(self) -> Int64Array:
        """All items but the first of each sequence."""
        first = np.cumsum([0, *self._sizes[:-1]])
        return np.delete(self.items, first)

    def cut(self, shift: int = 0) -> TrainingRows:
        """Windows of at most ``max_history`` items and what follows each of them: that many targets a window.

        Every item of a sequence but its first is a target in exactly one window.

        Args:
            shift: How much shorter a sequence's last window is, below ``max_history``: varied by epoch, the cuts fall
                elsewhere, so that no target is always left with the little context behind a cut.
        """
        longest, offset = self._max_history, 0
        windows: list[tuple[int, int]] = []
        for size in self._sizes:
            cuts = [size, *range(size - longest + shift, 1, -longest)]
            starts = [*cuts[1:], 1]
            windows += [
                (offset + start - 1, end - start) for start, end in zip(starts, cuts, strict=True) if end > start
            ]
            offset += size
        start, length = np.array(windows, dtype=np.int64).reshape(-1, 2).T
        return TrainingRows(self.items, start, length, length, self._resident)

    def epoch(self, batch_tokens: int, rng: np.random.Generator) -> tuple[TrainingRows, list[Int64Array]]:
        """One epoch over all positions of all sequences: its windows, and which of them each batch has."""
        rows = self.cut(int(rng.integers(self._max_history)))
        return rows, length_batches(rows.length, batch_tokens, rng)


def length_batches(lengths: npt.NDArray[np.integer], batch_tokens: int, rng: np.random.Generator) -> list[Int64Array]:
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
    return [np.array(batches[index]) for index in rng.permutation(len(batches))]
