"""Search by titles: words in any order and case, hostile titles, and the same rows as a plain scan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.changes import ItemPut
from service.answers.title_search import TitleSearch
from tests.support.bundles import small_catalogue

TITLES = ["Toy Story", "Story of a Toy", "the toy", "ÉTÉ à Paris", "<script>alert(1)</script>", "", "שלום toy", "Über"]


@pytest.fixture
def catalogue() -> Catalogue:
    return replace(small_catalogue(items=8), titles=TITLES, popularity=np.array([1, 9, 5, 0, 0, 0, 2, 0]))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("toy", [0, 1, 2, 6]),
        ("story toy", [1, 0]),
        ("toy story", [0, 1]),
        ("été", [3]),
        ("<script>", [4]),
        ("über", [7]),
        ("שלום", [6]),
        ("item-5", [5]),
        ("nothing", []),
        ("%", []),
    ],
)
def test_words_are_found_in_any_order_and_case(catalogue: Catalogue, query: str, expected: list[int]) -> None:
    found = TitleSearch().find(catalogue, query, 10)
    assert found.rows.tolist() == expected
    assert found.total == len(expected)


def test_an_item_comes_first_under_its_own_id_and_once(catalogue: Catalogue) -> None:
    named = replace(catalogue, titles=[f"about item-{row}" for row in range(8)])
    found = TitleSearch().find(named, "item-3", 10)
    assert (found.rows.tolist(), found.total) == ([3], 1)


def test_pages_do_not_overlap_and_hold_every_item_once(catalogue: Catalogue) -> None:
    search = TitleSearch()
    for query in ("", "t"):
        whole = search.find(catalogue, query, 100)
        pages = [search.find(catalogue, query, 3, offset).rows.tolist() for offset in range(0, whole.total, 3)]
        assert [row for page in pages for row in page] == whole.rows.tolist()
        assert len(set(whole.rows.tolist())) == whole.total


def test_a_changed_title_is_found_and_the_old_one_is_not(catalogue: Catalogue) -> None:
    search = TitleSearch()
    assert search.find(catalogue, "paris", 1).rows.tolist() == [3]
    changed = catalogue.with_changes([ItemPut("item-3", "Rome", (), {})])
    assert search.find(changed, "paris", 1).total == 0
    assert search.find(changed, "rome", 1).rows.tolist() == [3]
    assert search.find(catalogue, "paris", 1).rows.tolist() == [3]


def test_a_large_catalogue_gives_what_a_plain_scan_gives() -> None:
    random = np.random.default_rng(5)
    words = ["red", "blue", "Shoe", "boot", "Großes"]
    titles = [" ".join(random.choice(words, size=3)) for _ in range(300)]
    catalogue = replace(small_catalogue(items=300), titles=titles)
    for query in ("red", "shoe blue", "bo re", "großes"):
        expected = {row for row, title in enumerate(titles) if all(word in title.lower() for word in query.split())}
        assert set(TitleSearch().find(catalogue, query, 300).rows.tolist()) == expected
