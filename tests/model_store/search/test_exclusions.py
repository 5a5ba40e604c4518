"""Closing nodes for a batch is closing them for each request."""

from __future__ import annotations

import numpy as np
import pytest

from model_store.search.exclusions import closed_nodes
from model_store.search.interface import EXCLUDED_SIZES
from tests.support.bundles import small_catalogue


@pytest.mark.parametrize("seed", range(20))
def test_a_batch_closes_what_its_requests_close_alone(seed: int) -> None:
    random = np.random.default_rng(seed)
    trie = small_catalogue(seed, items=int(random.integers(1, 60)), codebook_size=4).trie
    masks = [trie.mask(random.random(trie.items) < share) for share in (0.3, 0.9)][: 1 + seed % 2]
    rule_of = random.integers(0, len(masks), 7).tolist()
    excluded = [random.integers(0, trie.items, random.integers(0, trie.items + 1)) for _ in rule_of]
    found = closed_nodes(trie, masks, rule_of, excluded)
    for nodes, rows, rule in zip(found, excluded, rule_of, strict=True):
        alone = trie.excluded_nodes(rows, masks[rule])
        assert sorted(nodes[nodes >= 0].tolist()) == sorted(alone.tolist())
        assert (nodes[len(alone) :] == -1).all()
    assert found.shape[1] in EXCLUDED_SIZES


def test_too_many_nodes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    trie = small_catalogue(0).trie
    monkeypatch.setattr("model_store.search.exclusions.EXCLUDED_SIZES", (4,))
    with pytest.raises(ValueError, match="the limit is 4"):
        closed_nodes(trie, [trie.everything], [0], [np.arange(9)])
