"""Training rows of SASRec: windows cut out of sequences, and batches of windows of similar length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from training.loop.batches import Float32Array, Int64Array, TrainingRows, flat_weights


class Windows:
    """Sequences of items that are cut into windows anew for every epoch.

    Args:
        sequences: Item rows, oldest first.
        max_history: Maximum items that a window reads.
        device: Device where batches are made.
        weights: Weight of each item of the sequences as a target; None: all weigh 1.
    """

    def __init__(
        self,
        sequences: Sequence[npt.NDArray[np.integer]],
        max_history: int,
        device: torch.device | str = "cpu",
        weights: Sequence[Float32Array] | None = None,
    ) -> None:
        self.items: Int64Array = np.concatenate(sequences).astype(np.int64)
        self._max_history = max_history
        self._device_items = torch.from_numpy(self.items).to(device)
        self._device_weights = flat_weights(weights, device)
        self._sizes = [len(sequence) for sequence in sequences]

    @property
    def targets(self) -> Int64Array:
        """Items that are targets: all but the first of each sequence."""
        first = np.cumsum([0, *self._sizes[:-1]])
        return np.delete(self.items, first)

    def cut(self, shift: int = 0) -> TrainingRows:
        """Cut sequences into windows of at most ``max_history`` items; each item is an input, its successor a target.

        Every item of a sequence but its first is a target in exactly one window.

        Args:
            shift: Items, less than ``max_history``, by which a sequence's last window is shorter. A new shift in every
                epoch moves the cuts, so that no target is always left with the little context behind a cut.
        """
        longest = self._max_history
        offset = 0
        windows: list[tuple[int, int]] = []
        for size in self._sizes:
            cuts = [size, *range(size - longest + shift, 1, -longest)]
            starts = [*cuts[1:], 1]
            windows += [
                (offset + start - 1, end - start) for start, end in zip(starts, cuts, strict=True) if end > start
            ]
            offset += size

        start, length = np.array(windows, dtype=np.int64).reshape(-1, 2).T
        return TrainingRows(self.items, start, length, length, self._device_items, self._device_weights)

    def draw_epoch(self, batch_tokens: int, rng: np.random.Generator) -> tuple[TrainingRows, list[Int64Array]]:
        """Draw an epoch over all positions of all sequences: its windows, and the rows of each batch."""
        rows = self.cut(int(rng.integers(self._max_history)))
        return rows, batch_by_length(rows.length, batch_tokens, rng)


def batch_by_length(lengths: npt.NDArray[np.integer], batch_tokens: int, rng: np.random.Generator) -> list[Int64Array]:
    """Group windows of similar length into batches in random order.

    Args:
        lengths: [n], positions of each window.
        batch_tokens: Maximum positions of a batch with its padding; a longer window is a batch of its own.
        rng: Source of the order of windows of one length, and of the order of batches.
    """
    order = rng.permutation(len(lengths))
    order = order[np.argsort(lengths[order], kind="stable")]
    batches: list[list[int]] = [[]]
    for window in order.tolist():
        if batches[-1] and (len(batches[-1]) + 1) * int(lengths[window]) > batch_tokens:
            batches.append([])
        batches[-1].append(window)
    return [np.array(batches[index]) for index in rng.permutation(len(batches))]
