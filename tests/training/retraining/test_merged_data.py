"""Base data joined by what happened live: what is trained then, what changes, and what is recognised."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from model_store.errors import DataError
from model_store.events.event import EVENT_TYPES
from model_store.replication.item_payload import ItemContent
from training.data.dataset import Dataset, ItemInfo
from training.data.prepare import PrepareOptions, build_dataset
from training.data.raw import RawData
from training.retraining.merged_data import merge_data

Row = tuple[str, str, int]

USERS, STEPS = 6, 4
LATE = ItemContent("Late", ("new",), {"year": 2026})
INFO = {"a": ItemInfo("A", ("old",), {"year": 1990})}
ROWS: list[Row] = [(f"u{user}", item, 1 + step) for step, item in enumerate("abcd") for user in range(USERS)]
OPTIONS = PrepareOptions(min_user=2, min_item=5)


def frame_of(rows: list[Row], names: tuple[str, str] = ("user", "item")) -> pl.DataFrame:
    schema = {names[0]: pl.String, names[1]: pl.String, "timestamp": pl.Int64}
    return pl.DataFrame(sorted(rows, key=lambda row: row[2]), schema=schema, orient="row")


def prepared(rows: list[Row] = ROWS, info: dict[str, ItemInfo] = INFO, options: PrepareOptions = OPTIONS) -> Dataset:
    """Six users who each saw a, b, c and d, unless told otherwise."""
    return build_dataset(RawData("base", frame_of(rows), info), options)


def events(*rows: tuple[str, str]) -> pl.DataFrame:
    return events_at([(user, item, 100 + at) for at, (user, item) in enumerate(rows)])


def events_at(rows: list[Row]) -> pl.DataFrame:
    return frame_of(rows, ("user_id", "item_id"))


def seen_by(users: int, item: str, later: int = 2) -> list[tuple[str, str]]:
    """Return events in which so many users saw an item and, later, others that they know."""
    return [(f"u{user}", each) for user in range(users) for each in (item, *"ab"[:later])]


def canonical(dataset: Dataset) -> dict[str, Any]:
    """Return everything in a data set by ids, without row numbers."""
    sequences = {
        user: [
            (dataset.item_ids[dataset.items[at]], int(dataset.timestamps[at]))
            for at in range(dataset.offsets[row], dataset.offsets[row + 1])
        ]
        for row, user in enumerate(dataset.user_ids)
    }
    content = zip(dataset.titles, dataset.categories, dataset.attributes, strict=True)
    others = dataset.untrained_items
    other_content = zip(others.titles, others.categories, others.attributes, strict=True)
    return {
        "sequences": sequences,
        "trained": dict(zip(dataset.item_ids, content, strict=True)),
        "untrained": dict(zip(others.item_ids, other_content, strict=True)),
        "aside": sorted(dataset.set_aside.with_columns(pl.col("user", "item").cast(pl.String)).rows()),
    }


def test_a_live_item_is_trained_once_training_sees_it_often_enough() -> None:
    for users, later, is_trained in ((5, 2, True), (4, 2, False), (6, 0, False), (6, 1, False)):
        found = merge_data(prepared(), events(*seen_by(users, "late", later)), {"late": LATE})
        assert (found.new_items, "late" in found.dataset.item_row) == (int(is_trained), is_trained)
        assert found.rejected == ({} if is_trained else {"below the filters": users})
        assert found.accepted + sum(found.rejected.values()) == users * (1 + later)
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
    fewer = prepared(options=OPTIONS.model_copy(update={"min_item": 4}))
    assert merge_data(fewer, events(*rows), items).new_items == 2
    found = merge_data(prepared(), events(*rows), items)
    assert found.new_items == 0
    assert (found.accepted, found.rejected) == (9, {"below the filters": 10})


def test_changed_content_counts_whether_or_not_anything_happened() -> None:
    same = ItemContent("A", ("old",), {"year": 1990})
    before = prepared()
    assert merge_data(before, events(), {"a": same, "unknown": LATE}).changed_items == 0
    found = merge_data(before, events(), {"a": same._replace(title="B"), "b": LATE})
    assert (found.changed_items, found.new_items, found.accepted, found.rejected) == (2, 0, 0, {})
    rows = found.dataset.item_row
    assert (found.dataset.titles[rows["a"]], found.dataset.titles[rows["b"]]) == ("B", "Late")
    assert before.titles[before.item_row["a"]] == "A"
    assert found.dataset.fingerprint != before.fingerprint
    np.testing.assert_array_equal(found.dataset.items, before.items)


def test_an_item_of_the_base_data_is_never_new_however_often_it_is_seen() -> None:
    before = prepared()
    rows = [(f"u{user}", item) for user in range(6) for item in ("b", "a", "c")]
    found = merge_data(before, events(*rows), {"b": LATE})
    assert (found.new_items, found.changed_items, found.accepted) == (0, 1, 18)
    assert list(found.dataset.item_ids) == list(before.item_ids)
    row = found.dataset.item_row["b"]
    assert (found.dataset.titles[row], found.dataset.categories[row]) == ("Late", ("new",))
    assert found.dataset.attributes[row] == {"year": 2026}
    assert found.dataset.popularity()[row] == 12  # once in the base data and once live, of each user


def test_without_anything_live_the_data_is_what_it_was() -> None:
    before = prepared([*ROWS, ("u1", "rare", 9), ("once", "a", 9)], {**INFO, "unsold": ItemInfo("Unsold")})
    assert len(before.set_aside) == 2
    found = merge_data(before, events(), {})
    assert found.dataset.fingerprint == before.fingerprint
    assert found.dataset.notes == before.notes
    assert found[1:] == (0, {}, 0, 0)


def test_base_rows_sent_again_as_events_are_nothing_new() -> None:
    """Else every held-out item would lie in the history before it, and the gate would be fooled."""
    rows = [*ROWS, ("u1", "rare", 9), ("once", "a", 9)]
    before = prepared(rows)
    found = merge_data(before, events_at(rows), {})
    assert found.dataset.fingerprint == before.fingerprint
    assert (found.accepted, found.rejected) == (0, {"duplicate": len(rows)})

    new: Row = ("u2", "a", 50)
    grown = merge_data(before, events_at([*rows, new, new]), {})
    assert (grown.accepted, grown.rejected) == (1, {"duplicate": len(rows) + 1})
    assert grown.dataset.fingerprint == merge_data(before, events_at([new]), {}).dataset.fingerprint


def test_base_rows_without_times_sent_again_are_nothing_new() -> None:
    before = prepared([(user, item, 0) for user, item, _ in ROWS])
    found = merge_data(
        before, events_at([(user, item, 1_700_000_000 + at) for at, (user, item, _) in enumerate(ROWS)]), {}
    )
    assert found.dataset.fingerprint == before.fingerprint
    assert found.rejected == {"duplicate": len(ROWS)}


def test_what_happened_earlier_comes_earlier_whenever_it_arrives() -> None:
    found = merge_data(prepared(), events_at([("u0", "d", 2), ("u0", "a", 90), ("u0", "b", 3)]), {}).dataset
    sequence = canonical(found)["sequences"]["u0"]
    assert sequence == [("a", 1), ("b", 2), ("d", 2), ("c", 3), ("b", 3), ("d", 4), ("a", 90)]
    test = found.test()
    assert found.item_ids[test.targets[test.users.tolist().index(0)]] == "a"


def test_interactions_set_aside_count_when_events_join_them() -> None:
    """Three interactions in the base data and two events make the five that an item needs."""
    rare = [(f"u{user}", "rare", 1) for user in range(3)]
    unsold = ItemInfo("Rare", ("old",))
    before = prepared([*rare, *ROWS], {**INFO, "rare": unsold})
    assert "rare" not in before.item_row

    once = merge_data(before, events_at([("u3", "rare", 2)]), {})
    assert (once.new_items, once.rejected) == (0, {"below the filters": 1})
    assert "rare" in once.dataset.untrained_items.row_of
    assert once.dataset.fingerprint != before.fingerprint

    found = merge_data(before, events_at([("u3", "rare", 2), ("u4", "rare", 2)]), {})
    assert (found.new_items, found.accepted, found.rejected) == (1, 2, {})
    data = found.dataset
    row = data.item_row["rare"]
    assert data.popularity()[row] == 5
    assert (data.titles[row], data.categories[row]) == ("Rare", ("old",))
    assert (len(data.untrained_items), len(data.set_aside)) == (0, 0)


def test_an_item_with_content_waits_until_training_sees_it_and_one_without_does_not() -> None:
    """Five events that are all held out teach nothing. Content places the item; without content nothing else would."""
    newest = events_at([(f"u{user}", "rare", 99) for user in range(5)])
    before = prepared([("u0", "rare", 1), *ROWS], {**INFO, "rare": ItemInfo("Rare")})
    waits = merge_data(before, newest, {})
    assert (waits.new_items, waits.rejected) == (0, {"below the filters": 5})
    bare = merge_data(prepared([("u0", "rare", 1), *ROWS]), newest, {})
    assert (bare.new_items, bare.accepted) == (1, 5)


def test_events_of_a_user_with_too_few_are_kept_until_they_are_enough() -> None:
    before = prepared()
    first = merge_data(before, events_at([("new", "a", 50)]), {})
    assert (first.dataset.users, first.rejected) == (USERS, {"below the filters": 1})
    assert len(first.dataset.set_aside) == 1
    found = merge_data(before, events_at([("new", "a", 50), ("new", "b", 51)]), {})
    assert (found.dataset.users, found.accepted, found.rejected) == (USERS + 1, 2, {})
    assert found.dataset.user_ids[-1] == "new"


def test_items_that_nobody_described_are_unknown() -> None:
    found = merge_data(prepared(), events(*[(f"u{user}", "made-up") for user in range(6)]), {})
    assert found.rejected == {"unknown item": 6}
    assert found.dataset.fingerprint == prepared().fingerprint


def test_untrained_items_take_the_content_of_the_store() -> None:
    info = {**INFO, "x": ItemInfo("X"), "y": ItemInfo("Y"), "z": ItemInfo("Z", ("old",), {"n": 1})}
    before = prepared(info=info)
    items = {"z": LATE, "x": ItemContent("New X", (), {}), "y": ItemContent("Y", (), {}), "elsewhere": LATE}
    found = merge_data(before, events(), items)
    others = found.dataset.untrained_items
    assert found.changed_items == 2
    assert list(others.item_ids) == ["x", "y", "z"]
    assert list(others.titles) == ["New X", "Y", "Late"]
    assert (others.categories[2], others.attributes[2]) == (("new",), {"year": 2026})
    assert list(before.untrained_items.titles) == ["X", "Y", "Z"]
    assert found.dataset.fingerprint != before.fingerprint


LOGS = st.lists(st.tuples(st.sampled_from("uvwx"), st.sampled_from("abcd"), st.integers(1, 9)), min_size=1, max_size=40)


@settings(deadline=None)
@given(LOGS, LOGS, st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_merging_gives_what_preparing_everything_together_gives(
    rows: list[Row], later: list[Row], users: int, items: int, length: int
) -> None:
    known = {item for _, item, _ in rows}
    later = [row for row in later if row[1] in known]
    options = PrepareOptions(min_user=users, min_item=items, min_length=length)
    try:
        base = prepared(rows, {}, options)
    except DataError:
        assume(False)  # the filters leave nothing to merge into
        raise

    found = merge_data(base, events_at(later), {})
    assert canonical(found.dataset) == canonical(prepared([*rows, *later], {}, options))
    assert found.dataset.item_ids[: base.n_items] == base.item_ids
    assert found.dataset.user_ids[: base.users].equals(base.user_ids)
    assert found.accepted + sum(found.rejected.values()) == len(later)


def test_a_repeat_tells_the_type_only_where_repeats_are_one_interaction() -> None:
    sent = events_at([("u0", "a", 1)]).with_columns(type=pl.lit("purchase"))
    for keeps_repeats, expected in ((False, "purchase"), (True, None)):
        options = PrepareOptions(min_user=2, min_item=5, keep_repeats=keeps_repeats)
        found = merge_data(prepared(options=options), sent, {}).dataset
        kind = int(found.event_types[found.offsets[found.user_ids.to_list().index("u0")]])
        assert (EVENT_TYPES[kind] if kind >= 0 else None) == expected


def test_new_items_have_no_vector_of_the_user_s_own() -> None:
    before = prepared()
    vectors = np.arange(1, 1 + 3 * before.n_items, dtype=np.float32).reshape(before.n_items, 3)
    found = merge_data(replace(before, own_vectors=vectors), events(*seen_by(5, "late")), {"late": LATE}).dataset
    assert found.own_vectors is not None
    np.testing.assert_array_equal(found.own_vectors, np.vstack([vectors, np.zeros((1, 3), dtype=np.float32)]))
