"""Fake engine without weights, for tests of the real app and for trying the API.

Anyone can predict its answers. A history is answered with the items that follow the newest one in the order of their
semantic IDs, round and round. It obeys rules, exclusions, ``max_per_prefix`` and steering exactly. It has no dense
part: dense scores are 0, and no dense candidate joins.
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
"""Fall of the log-probability from one item to the next."""


class FakeEngine(Engine):
    """Engine that answers with the successors of the newest history item."""

    name = "fake"
    checks_goldens = False  # goldens are the answers of a model, and this is none

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
            log_probs = (-STEP * (1 + distance)).astype(np.float32)
            steered = log_probs + _steering(inputs, row, trie) if inputs.steer_nodes.shape[1] else log_probs
            ranked = np.argsort(-steered, kind="stable")
            ranked = ranked[_open_leaves(inputs, row, trie)[ranked]]
            ranked = _limit_per_prefix(ranked, trie, int(inputs.max_per_prefix[row]))[:width]
            leaves[row, : len(ranked)] = ranked
            log_prob[row, : len(ranked)] = log_probs[ranked]

        code_log_prob = np.repeat(log_prob[:, :, None] / np.float32(trie.levels), trie.levels, axis=2)
        return SearchOutputs(leaves, log_prob, np.zeros_like(log_prob), code_log_prob)


def _open_leaves(inputs: SearchInputs, row: int, trie: Trie) -> npt.NDArray[np.bool_]:
    """Return a mask of the leaves that the rule and the exclusions of a request leave open."""
    bits = np.unpackbits(inputs.rule_bits[inputs.rule_of[row]], count=trie.nodes, bitorder="little").astype(np.bool_)
    excluded = inputs.excluded[row]
    bits[excluded[excluded >= 0]] = False
    return bits[trie.node_offset[-2] :]


def _steering(inputs: SearchInputs, row: int, trie: Trie) -> npt.NDArray[np.float32]:
    """Return the nats ``[leaves]`` that a request adds to the log-probability of each leaf."""
    added = np.zeros(trie.nodes + 1, dtype=np.float32)  # padding, -1, has the last place
    added[inputs.steer_nodes[row]] = inputs.steer_nats[row]
    ids = trie.leaf_nodes + np.array(trie.node_offset[:-1])
    total: npt.NDArray[np.float32] = added[ids].sum(axis=1)
    return total


def _limit_per_prefix(leaves: npt.NDArray[np.int64], trie: Trie, limit: int) -> npt.NDArray[np.int64]:
    """Keep the first ``limit`` leaves of each first code."""
    first_code = trie.codes()[trie.leaf_item[leaves], 0]
    return leaves[count_earlier(first_code) < limit]
