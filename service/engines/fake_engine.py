"""An engine without weights whose answers anyone can predict: the real app runs on it in tests and when trying the API.

After the newest history item it answers the items that follow in the order of their semantic IDs, round and round,
and obeys rules, exclusions and ``max_per_prefix`` exactly. It has no dense part: such scores are 0 and no candidate
joins.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model_store.catalogue.catalogue import Catalogue
from model_store.search.fusion import count_earlier
from model_store.search.interface import SearchInputs, SearchOutputs
from model_store.semantic_ids.trie import Trie
from service.engines.base import Engine

STEP = 0.01
"""By how much the log-probability falls from one item to the next."""


class FakeEngine(Engine):
    """Answers the successors of the newest history item."""

    name = "fake"
    checks_goldens = False  # it is not the model that the goldens speak of

    def __init__(self, max_history: int = 50) -> None:
        self.max_history = max_history

    def compute(self, inputs: SearchInputs, catalogue: Catalogue) -> SearchOutputs:
        """See :meth:`service.engines.base.Engine.compute`."""
        trie = catalogue.trie
        width = len(inputs.beam)
        leaves = np.full((len(inputs.lengths), width + len(inputs.candidates)), -1, dtype=np.int64)
        log_prob = np.full(leaves.shape, -np.inf, dtype=np.float32)
        for row, length in enumerate(inputs.lengths):
            newest = int(inputs.history[row, length - 1])
            distance = (np.arange(trie.items) - newest - 1) % trie.items
            ranked = np.argsort(distance)
            ranked = ranked[_open_leaves(inputs, row, trie)[ranked]]
            ranked = _spread(ranked, trie, int(inputs.max_per_prefix[row]))[:width]
            leaves[row, : len(ranked)] = ranked
            log_prob[row, : len(ranked)] = -STEP * (1 + distance[ranked])
        code_log_prob = np.repeat(log_prob[:, :, None] / np.float32(trie.levels), trie.levels, axis=2)
        return SearchOutputs(leaves, log_prob, np.zeros_like(log_prob), code_log_prob)


def _open_leaves(inputs: SearchInputs, row: int, trie: Trie) -> npt.NDArray[np.bool_]:
    bits = np.unpackbits(inputs.rule_bits[inputs.rule_of[row]], count=trie.nodes, bitorder="little").astype(np.bool_)
    excluded = inputs.excluded[row]
    bits[excluded[excluded >= 0]] = False
    return bits[trie.node_offset[-2] :]


def _spread(leaves: npt.NDArray[np.int64], trie: Trie, limit: int) -> npt.NDArray[np.int64]:
    """The given leaves without those that are more than the ``limit``-th of their first code."""
    first_code = trie.codes()[trie.leaf_item[leaves], 0]
    return leaves[count_earlier(first_code) < limit]
