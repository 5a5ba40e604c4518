"""Catalogues that stay bound to an engine: which ones, what shares a binding, and who waits for it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from model_store.catalogue.catalogue import Catalogue, ItemDelete, ItemPut
from service.engines.base import BoundCatalogues
from tests.support.bundles import small_catalogue


def test_the_two_catalogues_searched_last_stay_bound() -> None:
    made: list[int] = []

    def make(catalogue: Catalogue) -> int:
        made.append(len(catalogue))
        return len(catalogue)

    first, second, third = (small_catalogue(items=items) for items in (10, 20, 30))
    bound = BoundCatalogues(make)
    assert [bound.get(each) for each in (first, second, first, second, first)] == [10, 20, 10, 20, 10]
    assert made == [10, 20]
    assert [bound.get(each) for each in (third, first, second)] == [30, 10, 20]  # the second had to go
    assert made == [10, 20, 30, 20]


def test_catalogues_that_differ_in_content_or_visibility_alone_share_what_is_bound() -> None:
    numbers = count(1)
    bound = BoundCatalogues(lambda _: next(numbers))
    start = small_catalogue(items=10)
    item_id = start.item_ids[3]
    hidden = start.with_changes([ItemDelete(item_id)])
    changed = hidden.with_changes([ItemPut(item_id, "another title", ("rare",), {})])
    assert [bound.get(each) for each in (start, hidden, changed)] == [1, 1, 1]
    assert bound.get(small_catalogue(items=10)) == 2


def test_an_engine_ready_for_one_catalogue_is_not_held_up_by_another_one() -> None:
    begun, may_end = threading.Event(), threading.Event()
    first, second = small_catalogue(items=10), small_catalogue(items=20)

    def make(catalogue: Catalogue) -> int:
        if catalogue is second:
            begun.set()
            assert may_end.wait(30)
        return len(catalogue)

    bound = BoundCatalogues(make)
    assert bound.get(first) == 10
    with ThreadPoolExecutor() as threads:
        slow = threads.submit(bound.get, second)
        assert begun.wait(30)
        assert bound.get(first) == 10
        may_end.set()
        assert slow.result(30) == 20
