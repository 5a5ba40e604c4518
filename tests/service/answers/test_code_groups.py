"""Groups of items below a prefix, counted by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model_store.catalogue.catalogue import Catalogue
from service.answers.code_groups import CATEGORY, CodeGroups
from tests.support.bundles import small_catalogue


def catalogue(hidden: tuple[int, ...] = ()) -> Catalogue:
    """Twelve items: those below code 1 are comedies of 1999 but one, the others are of all kinds."""
    codes = np.array([[1, n // 3, n % 3] if n < 6 else [2, n - 6, 0] for n in range(12)], dtype=np.int16)
    genres = [("comedy", "film") if n < 5 else ("drama", "film") if n % 2 else ("comedy", "film") for n in range(12)]
    return Catalogue(
        codebook_size=8,
        item_ids=[f"i{n}" for n in range(12)],
        codes=codes,
        titles=[f"Title {n}" for n in range(12)],
        categories=genres,
        attributes=[{"year": 1999 if n < 5 else 2000 + n, "text": "long " * 50, "cast": ["a", "b"]} for n in range(12)],
        popularity=np.arange(12),
        is_hidden=np.isin(np.arange(12), hidden),
    )


def test_items_below_a_prefix_most_popular_first_with_the_codes_that_follow() -> None:
    group = CodeGroups().below(catalogue(), [1])
    assert group is not None
    assert group.rows.tolist() == [5, 4, 3, 2, 1, 0]
    assert group.next_codes == [(0, 3, 0 + 1 + 2, "comedy"), (1, 3, 3 + 4 + 5, "film")]
    whole = CodeGroups().below(catalogue(), [1, 0, 2])
    assert whole is not None
    assert (whole.rows.tolist(), whole.next_codes, whole.traits) == ([2], [], [])


def test_no_codes_at_all_stand_for_the_whole_catalogue() -> None:
    group = CodeGroups().below(catalogue(hidden=(11,)), [])
    assert group is not None
    assert group.rows.tolist() == list(range(10, -1, -1))
    assert [(each.code, each.items, each.popularity) for each in group.next_codes] == [(1, 6, 15), (2, 5, 40)]
    assert group.traits == []  # the catalogue has nothing more often than itself


def test_what_items_have_in_common_is_told_as_lift() -> None:
    group = CodeGroups().below(catalogue(), [1])
    assert group is not None
    found = {(trait.field, trait.value): trait for trait in group.traits}
    assert set(found) == {("year", "1999"), (CATEGORY, "comedy")}  # all are films: that tells nothing
    year, comedy = found["year", "1999"], found[CATEGORY, "comedy"]
    assert (year.share, year.catalogue_share, year.lift) == pytest.approx((5 / 6, 5 / 12, 2))
    assert (comedy.share, comedy.catalogue_share) == pytest.approx((5 / 6, 8 / 12))
    assert group.traits[0] is year


def test_hidden_items_are_left_out_but_their_codes_exist() -> None:
    groups = CodeGroups()
    group = groups.below(catalogue(hidden=(4, 5, 3)), [1])
    assert group is not None
    assert (group.rows.tolist(), group.next_codes) == ([2, 1, 0], [(0, 3, 3, "comedy")])
    empty = groups.below(catalogue(hidden=(0, 1, 2)), [1, 0])
    assert empty is not None
    assert (empty.rows.tolist(), empty.next_codes, empty.traits) == ([], [], [])


def test_a_prefix_that_the_trie_lacks_is_none() -> None:
    groups = CodeGroups()
    for prefix in ([0], [3], [1, 2], [1, 0, 0, 0], [99999]):
        assert groups.below(catalogue(), prefix) is None


def test_every_prefix_of_a_random_catalogue_holds_its_items(rng: np.random.Generator) -> None:
    random = small_catalogue(3, items=200)
    random = replace(random, is_hidden=rng.random(200) < 0.3)
    groups = CodeGroups()
    for row in range(0, 200, 17):
        for depth in (1, 2, 3):
            prefix = random.codes[row, :depth].tolist()
            group = groups.below(random, prefix)
            assert group is not None
            expected = np.flatnonzero((random.codes[:, :depth] == prefix).all(axis=1) & ~random.is_hidden)
            assert sorted(group.rows.tolist()) == expected.tolist()
            assert sum(each.items for each in group.next_codes) == (len(expected) if depth < 3 else 0)
