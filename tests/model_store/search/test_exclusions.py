"""Excluded items close the nodes that they should by definition, in a batch as alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from model_store.search.exclusions import EXCLUDED_SIZES, closed_nodes, no_nodes
from model_store.semantic_ids.trie import Trie
from tests.support.bundles import small_catalogue


def closed_by_definition(
    codes: npt.NDArray[np.integer], is_allowed: npt.NDArray[np.bool_], excluded: npt.NDArray[np.integer]
) -> list[int]:
    """Every open leaf of an excluded item, and every topmost inner node that lost all of its open items."""
    items = [tuple(row) for row in codes.tolist()]
    levels = codes.shape[1]
    prefixes = [prefix for depth in range(1, levels + 1) for prefix in sorted({item[:depth] for item in items})]
    was_open = {item for item, allowed in zip(items, is_allowed, strict=True) if allowed}
    still_open = was_open - {items[row] for row in excluded.tolist()}

    def is_closed(prefix: tuple[int, ...]) -> bool:
        before = any(item[: len(prefix)] == prefix for item in was_open)
        return before and not any(item[: len(prefix)] == prefix for item in still_open)

    return [
        node
        for node, prefix in enumerate(prefixes)
        if is_closed(prefix) and (len(prefix) == levels or len(prefix) == 1 or not is_closed(prefix[:-1]))
    ]


@pytest.mark.parametrize("seed", range(20))
def test_requests_of_a_batch_close_what_they_should(seed: int) -> None:
    random = np.random.default_rng(seed)
    catalogue = small_catalogue(seed, items=int(random.integers(1, 60)), codebook_size=4)
    trie = catalogue.trie
    allowed = [random.random(trie.items) < share for share in (0.3, 0.9)][: 1 + seed % 2]
    masks = [trie.mask(rows) for rows in allowed]
    rule_of = random.integers(0, len(masks), 7).tolist()
    excluded = [random.integers(0, trie.items, random.integers(0, trie.items + 1)) for _ in rule_of]
    found = closed_nodes(trie, masks, rule_of, excluded)
    for nodes, rows, rule in zip(found, excluded, rule_of, strict=True):
        expected = closed_by_definition(catalogue.codes, allowed[rule], rows)
        assert sorted(nodes[nodes >= 0].tolist()) == expected
        assert (nodes[len(expected) :] == -1).all()
        [alone] = closed_nodes(trie, [masks[rule]], [0], [rows])
        assert sorted(alone[alone >= 0].tolist()) == expected
    assert found.shape[1] in EXCLUDED_SIZES


def test_nothing_is_closed_where_nothing_is_excluded() -> None:
    trie = small_catalogue(0).trie
    nothing = np.empty(0, dtype=np.int64)
    np.testing.assert_array_equal(closed_nodes(trie, [trie.everything], [0, 0], [nothing, nothing]), no_nodes(2))
    assert closed_nodes(trie, [trie.everything], [], []).shape == no_nodes(0).shape == (0, EXCLUDED_SIZES[0])


@pytest.mark.parametrize(
    ("most", "padded"),
    [(0, 16), (1, 16), (16, 16), (17, 128), (128, 128), (129, 1024), (1025, 8192), (8193, 16384), (32769, 65536)],
)
def test_exclusions_are_padded_to_few_sizes(most: int, padded: int) -> None:
    """One item stays open below every node, so that leaves are all that is closed."""
    codes = np.stack(np.unravel_index(np.arange(40_000), (200, 200)), axis=1)
    trie = Trie.build(codes, 200)
    rows = np.flatnonzero(codes[:, 1] > 0)[:most]
    found = closed_nodes(trie, [trie.everything], [0, 0], [rows, rows[:0]])
    assert found.shape == (2, padded)
    assert found.dtype == np.int64
    assert set(found[0, :most].tolist()) == set((trie.node_offset[-2] + rows).tolist())
    assert (found[0, most:] == -1).all()
    assert (found[1] == -1).all()


def test_too_many_nodes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    trie = small_catalogue(0).trie
    monkeypatch.setattr("model_store.search.exclusions.EXCLUDED_SIZES", (4,))
    with pytest.raises(ValueError, match="the limit is 4"):
        closed_nodes(trie, [trie.everything], [0], [np.arange(9)])
