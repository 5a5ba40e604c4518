"""Similar items against brute force, with and without vectors, and beyond the bound on candidates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model_store.catalogue.catalogue import Catalogue
from service.answers.similar import find_similar
from tests.support.bundles import small_catalogue


@pytest.fixture
def catalogue(rng: np.random.Generator) -> Catalogue:
    vectors = rng.normal(size=(300, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    hidden = rng.random(300) < 0.2
    return replace(small_catalogue(1, items=300), vectors=vectors, is_hidden=hidden)


def shared(catalogue: Catalogue, row: int, other: int) -> int:
    levels = catalogue.codes.shape[1]
    return next((n for n in range(levels) if catalogue.codes[row, n] != catalogue.codes[other, n]), levels)


def test_nearest_vectors_come_first_and_hidden_items_never(catalogue: Catalogue) -> None:
    assert catalogue.vectors is not None
    for row in (0, 7, 299):
        found = find_similar(catalogue, row, 10)
        assert found.cosine is not None
        cosine = catalogue.vectors @ catalogue.vectors[row]
        cosine[catalogue.is_hidden] = -2
        cosine[row] = -2
        assert found.rows.tolist() == np.argsort(-cosine, kind="stable")[:10].tolist()
        np.testing.assert_allclose(found.cosine, cosine[found.rows], atol=1e-6)
        assert found.shared_codes.tolist() == [shared(catalogue, row, other) for other in found.rows.tolist()]


def test_without_vectors_the_longest_shared_prefix_wins_then_popularity(catalogue: Catalogue) -> None:
    plain = replace(catalogue, vectors=None)
    for row in (0, 7, 299):
        found = find_similar(plain, row, 12)
        others = [other for other in range(300) if other != row and not plain.is_hidden[other]]
        others.sort(key=lambda other: (-shared(plain, row, other), -plain.popularity[other], other))
        assert found.cosine is None
        assert found.rows.tolist() == others[:12]


def test_beyond_the_bound_those_that_share_a_prefix_are_compared(catalogue: Catalogue) -> None:
    leaf = catalogue.trie.item_leaf
    for row in range(0, 300, 37):
        found = find_similar(catalogue, row, 5, candidates=40)
        assert len(found.rows) == 5
        assert np.abs(leaf[found.rows] - leaf[row]).max() <= 40


def test_equal_vectors_keep_the_order_of_rows_and_k_may_exceed_the_items(catalogue: Catalogue) -> None:
    alike = replace(catalogue, vectors=np.ones((300, 1), dtype=np.float32))
    visible = [row for row in range(300) if row != 4 and not alike.is_hidden[row]]
    assert find_similar(alike, 4, 20).rows.tolist() == visible[:20]
    assert find_similar(alike, 4, 1000).rows.tolist() == visible


def test_an_only_item_has_none_like_it() -> None:
    found = find_similar(small_catalogue(items=1), 0, 5)
    assert not len(found.rows)
