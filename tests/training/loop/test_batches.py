"""Training rows and batches: every target once, no look ahead, enough context, little padding."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.embedding.windows import Windows
from training.loop.batches import PADDING, Batch, TrainingRows, batches, collate, epoch, training_rows

Sequences = list[npt.NDArray[np.int32]]
Trained = tuple[int, tuple[int, ...]]  # a target and the history that it is predicted from


def distinct_sequences(lengths: list[int]) -> Sequences:
    """Each item names its user and position (1000 · user + position), so that every row can be traced back."""
    return [np.arange(1000 * user, 1000 * user + size, dtype=np.int32) for user, size in enumerate(lengths)]


def trained_on(batch: Batch) -> list[Trained]:
    """Read off a batch's tensors alone what it trains."""
    found: list[Trained] = []
    for row in range(len(batch.lengths)):
        for target, prefix in zip(batch.targets[row].tolist(), batch.prefix[row].tolist(), strict=True):
            if target != PADDING:
                found.append((target, tuple(batch.history[row, :prefix].tolist())))
    return found


def all_at_once(rows: TrainingRows) -> Batch:
    return collate(rows, np.arange(len(rows.start)))


lengths_strategy = st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(lambda sizes: max(sizes) > 1)


@settings(deadline=None)
@given(lengths=lengths_strategy, max_history=st.integers(1, 12), packed=st.booleans(), seed=st.integers(0, 3))
def test_every_item_but_the_first_is_a_target_once_with_its_own_past(
    lengths: list[int], max_history: int, packed: bool, seed: int
) -> None:
    sequences = distinct_sequences(lengths)
    rows = training_rows(sequences, max_history, packed)
    found = [pair for batch in epoch(rows, 7, np.random.default_rng(seed)) for pair in trained_on(batch)]
    expected = [item for sequence in sequences for item in sequence[1:].tolist()]
    assert sorted(target for target, _ in found) == expected
    for target, history in found:
        # The history ends right before the target, in order, within the user's own sequence.
        assert history == tuple(range(target - len(history), target))
        assert history[0] // 1000 == target // 1000
        position = target % 1000
        full = min(position, max_history)
        assert len(history) == full if not packed else min(position, max_history / 2) <= len(history) <= full


@settings(deadline=None)
@given(lengths=lengths_strategy, max_history=st.integers(1, 12), packed=st.booleans())
def test_lengths_prefixes_and_padding_agree(lengths: list[int], max_history: int, packed: bool) -> None:
    batch = all_at_once(training_rows(distinct_sequences(lengths), max_history, packed))
    real = batch.targets != PADDING
    assert batch.history.shape[1] == batch.lengths.max() <= max_history
    assert batch.targets.shape == batch.prefix.shape
    assert batch.targets.shape[1] == real.sum(dim=1).max()
    assert ((batch.prefix >= 1) & (batch.prefix <= batch.lengths[:, None])).all()
    assert (batch.prefix[~real] == batch.lengths[:, None].expand_as(real)[~real]).all()
    assert torch.equal(batch.real, torch.nonzero(real.flatten()).flatten())
    assert batch.items.tolist() == batch.targets[real].tolist() == batch.host.items.tolist()
    assert batch.host.prefix.tolist() == batch.prefix[real].tolist()
    assert batch.host.shares == (batch.all_targets,) == (int(real.sum()),)
    padding = torch.arange(batch.history.shape[1]) >= batch.lengths[:, None]
    assert (batch.history[padding] == 0).all()
    if not packed:
        # Bidirectional encoders have seen the whole row: the only target must follow all of it.
        assert batch.targets.shape[1] == 1
        assert (batch.prefix[:, 0] == batch.lengths).all()


def test_a_long_sequence_is_cut_into_windows_that_overlap_by_half() -> None:
    rows = training_rows([np.arange(12, dtype=np.int32)], 4, packed=True)
    assert rows.start.tolist() == [0, 2, 4, 6, 7]
    assert rows.length.tolist() == [4, 4, 4, 4, 4]
    assert rows.predicted.tolist() == [4, 2, 2, 2, 1]


def test_a_short_user_is_one_packed_row() -> None:
    rows = training_rows([np.array([3, 1, 4, 1], dtype=np.int32)], 10, packed=True)
    batch = all_at_once(rows)
    assert batch.history.tolist() == [[3, 1, 4]]
    assert batch.targets.tolist() == [[1, 4, 1]]
    assert batch.prefix.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("packed", [True, False])
def test_sequences_without_a_target_give_no_row(packed: bool) -> None:
    rows = training_rows([np.array([5], dtype=np.int32), np.empty(0, dtype=np.int32)], 4, packed)
    assert len(rows.start) == 0
    assert list(epoch(rows, 8, np.random.default_rng(0))) == []


@settings(deadline=None)
@given(
    lengths=lengths_strategy, max_history=st.integers(1, 12), packed=st.booleans(), targets_per_batch=st.integers(1, 50)
)
def test_every_row_is_in_one_batch_of_bounded_size(
    lengths: list[int], max_history: int, packed: bool, targets_per_batch: int
) -> None:
    rows = training_rows(distinct_sequences(lengths), max_history, packed)
    groups = batches(rows, targets_per_batch, np.random.default_rng(0))
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(rows.start)))
    most_of_a_row = int(rows.predicted.max())
    for group in groups:
        assert 1 <= rows.predicted[group].sum() < targets_per_batch + most_of_a_row


def test_batches_hold_rows_of_similar_length() -> None:
    rng = np.random.default_rng(0)
    rows = training_rows(distinct_sequences(rng.integers(2, 41, 300).tolist()), 40, packed=False)
    spans = [int(np.ptp(rows.length[group])) for group in batches(rows, 64, rng)]
    padded = sum(len(group) * int(rows.length[group].max()) for group in batches(rows, 64, rng))
    assert max(spans) <= 3
    assert padded <= 1.02 * rows.length.sum()


def test_batches_depend_on_the_generator_alone() -> None:
    rows = training_rows(distinct_sequences([9] * 40), 5, packed=False)

    def drawn(seed: int) -> list[list[int]]:
        return [group.tolist() for group in batches(rows, 32, np.random.default_rng(seed))]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    rng = np.random.default_rng(1)
    first, second = (np.concatenate(batches(rows, 32, rng)).tolist() for _ in range(2))
    assert first != second
    # Not only the order of batches: equals in length are shuffled among them.
    assert {tuple(sorted(group)) for group in drawn(1)} != {tuple(sorted(group)) for group in drawn(2)}


@pytest.mark.parametrize("packed", [False, True])
def test_every_target_brings_its_own_weight(packed: bool) -> None:
    """A weight that is the item itself shows whose it is, in rows of both kinds and in windows."""
    sequences = distinct_sequences([0, 7, 2, 30, 1])
    weights = [sequence.astype(np.float32) for sequence in sequences]
    rows = training_rows(sequences, 5, packed, weights=weights)
    windows = Windows([sequence for sequence in sequences if len(sequence)], 5, weights=weights)
    for each in (*epoch(rows, 7, np.random.default_rng(0)), all_at_once(windows.cut(2))):
        assert each.weights is not None
        assert each.weights.tolist() == each.items.tolist()


def test_rows_without_weights_bring_none() -> None:
    assert all_at_once(training_rows(distinct_sequences([4]), 5, packed=True)).weights is None
