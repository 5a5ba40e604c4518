"""Base data joined by what happened live: who joins, what changes, and what is left out until it is worth training."""

from __future__ import annotations

import numpy as np
import polars as pl

from model_store.replication.item_payload import ItemContent
from training.data.dataset import Dataset, ItemInfo
from training.retraining.merged_data import merge_data

USERS, STEPS = 6, 4
LATE = ItemContent("Late", ("new",), {"year": 2026})


def base() -> Dataset:
    """Six users who each saw a, b, c and d."""
    rows = [(f"u{user}", item, step) for user in range(USERS) for step, item in enumerate("abcd")]
    frame = pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")
    return Dataset.from_frame("base", frame, {"a": ItemInfo("A", ("old",), {"year": 1990})})


def events(*rows: tuple[str, str]) -> pl.DataFrame:
    columns = [(user, item, 100 + at) for at, (user, item) in enumerate(rows)]
    schema = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}
    return pl.DataFrame(columns, schema=schema, orient="row")


def seen_by(users: int, item: str, later: int = 2) -> list[tuple[str, str]]:
    """Return events in which so many users saw an item and, later, others that they know."""
    return [(f"u{user}", each) for user in range(users) for each in (item, *"ab"[:later])]


def test_a_live_item_is_trained_once_training_sees_it_often_enough() -> None:
    for users, later, is_trained in ((5, 2, True), (4, 2, False), (6, 0, False), (6, 1, False)):
        found = merge_data(base(), events(*seen_by(users, "late", later)), {"late": LATE}, min_item=5)
        assert (found.new_items, "late" in found.dataset.item_row) == (int(is_trained), is_trained)
        assert found.rejected == (0 if is_trained else users)
        assert found.accepted + found.rejected == users * (1 + later)
        found.dataset.check_integrity()
        if is_trained:
            row = found.dataset.item_row["late"]
            assert found.dataset.popularity()[row] == users
            assert (found.dataset.titles[row], found.dataset.categories[row]) == ("Late", ("new",))
            assert found.dataset.attributes[row] == {"year": 2026}


def test_an_item_that_is_only_enough_beside_one_that_is_not_stays_out() -> None:
    """Without the item that leaves, the other one's interactions become the newest and are held out."""
    rows = [(f"u{user}", item) for user in range(5) for item in ("early", "rare", "a")]
    rows += [(f"u{user}", "b") for user in range(4)]  # so that training sees "rare" four times
    items = {"early": LATE, "rare": LATE}
    assert merge_data(base(), events(*rows), items, min_item=4).new_items == 2
    found = merge_data(base(), events(*rows), items, min_item=5)
    assert found.new_items == 0
    assert (found.accepted, found.rejected) == (9, 10)


def test_changed_content_counts_whether_or_not_anything_happened() -> None:
    same = ItemContent("A", ("old",), {"year": 1990})
    before = base()
    assert merge_data(before, events(), {"a": same, "unknown": LATE}, 5).changed_items == 0
    found = merge_data(before, events(), {"a": same._replace(title="B"), "b": LATE}, 5)
    assert (found.changed_items, found.new_items, found.accepted, found.rejected) == (2, 0, 0, 0)
    rows = found.dataset.item_row
    assert (found.dataset.titles[rows["a"]], found.dataset.titles[rows["b"]]) == ("B", "Late")
    assert before.titles[before.item_row["a"]] == "A"
    assert found.dataset.fingerprint != before.fingerprint
    np.testing.assert_array_equal(found.dataset.items, before.items)


def test_an_item_of_the_base_data_is_never_new_however_often_it_is_seen() -> None:
    before = base()
    rows = [(f"u{user}", item) for user in range(6) for item in ("b", "a", "c")]
    found = merge_data(before, events(*rows), {"b": LATE}, min_item=5)
    assert (found.new_items, found.changed_items, found.accepted) == (0, 1, 18)
    assert list(found.dataset.item_ids) == list(before.item_ids)
    row = found.dataset.item_row["b"]
    assert (found.dataset.titles[row], found.dataset.categories[row]) == ("Late", ("new",))
    assert found.dataset.attributes[row] == {"year": 2026}
    assert found.dataset.popularity()[row] == 12  # once in the base data and once live, of each user


def test_without_anything_live_the_data_is_what_it_was() -> None:
    found = merge_data(base(), events(), {}, min_item=5)
    assert found.dataset.fingerprint == base().fingerprint
    assert found[1:] == (0, 0, 0, 0)
