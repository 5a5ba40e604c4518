"""Full ranking by the served search: where beam search places the held-out item, under both protocols."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from model_store.history import encode_histories
from model_store.network.recommender import Recommender
from model_store.network.search import BeamSearch
from model_store.search_interface import SearchInputs, search_inputs
from model_store.trie import Trie
from training.data.dataset import Split
from training.metrics import Ranks

Int64Array = npt.NDArray[np.int64]

USERS_AT_ONCE = 128
"""Histories searched together; neighbours in length, so that little is padded."""


def generative_ranks(
    recommender: Recommender, codes: npt.NDArray[np.int16], split: Split, beam_width: int, seen_excluded: bool = True
) -> Ranks:
    """Rank of every target among the items that the beam search answers.

    A hit is an item, never a code tuple. The target is not excluded even if its user had it before.

    Args:
        recommender: In evaluation mode afterwards.
        codes: Semantic IDs of all items, ``[items, L]``.
        split: Histories and targets.
        beam_width: W, also the longest rank that can be seen.
        seen_excluded: Whether to search the second protocol too; if not, its ranks repeat the first's.
    """
    recommender.eval()
    trie = Trie.build(codes, recommender.code_embedding.shape[1])
    search = BeamSearch(recommender)
    order = np.argsort([len(history) for history in split.histories], kind="stable")
    protocols = np.empty((2, len(order)), dtype=np.int64)
    for start in range(0, len(order), USERS_AT_ONCE):
        rows = order[start : start + USERS_AT_ONCE]
        histories, targets = [split.histories[row] for row in rows], split.targets[rows]
        encoded = encode_histories(histories, codes, recommender.shape.max_history)
        protocols[:, rows] = _ranks(search, trie, search_inputs(encoded, trie, beam_width), targets)
        if seen_excluded:
            others = [np.unique(seen[seen != target]) for seen, target in zip(histories, targets, strict=True)]
            inputs = search_inputs(encoded, trie, beam_width, excluded_items=others)
            protocols[1, rows] = _ranks(search, trie, inputs, targets)
    return Ranks(protocols[0], protocols[1])


def _ranks(search: BeamSearch, trie: Trie, inputs: SearchInputs, targets: npt.NDArray[np.integer]) -> Int64Array:
    device = search.recommender.bos.device
    with torch.inference_mode():
        arrays = (*inputs, *trie.child_start, *trie.child_code)
        leaves, _ = search(*(torch.from_numpy(array).to(device) for array in arrays))
    hit = leaves.cpu().numpy() == trie.item_leaf[targets][:, None]
    return np.where(hit.any(axis=1), hit.argmax(axis=1), -1).astype(np.int64)


def sample_split(split: Split, most: int, seed: int) -> Split:
    """At most ``most`` users of a split, drawn once and for all by ``seed``, for validation during training."""
    if len(split.targets) <= most:
        return split
    rows: Sequence[int] = np.sort(np.random.default_rng(seed).choice(len(split.targets), most, replace=False)).tolist()
    return Split([split.histories[row] for row in rows], split.targets[rows], split.users[rows])
