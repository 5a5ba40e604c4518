"""Histories of a bundle: everyone's newest interactions, bounded, with what the filters set aside."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.bundle.histories import count_users, iterate_histories
from model_store.events.event import NEGATIVE_TYPES
from model_store.events.history_entry import LETTERS, UserInteractions
from training.config import ExportConfig
from training.data.dataset import Dataset
from training.data.prepare import PrepareOptions, build_dataset
from training.data.raw import RawData
from training.export.histories import build_histories

Row = tuple[str, str, int, str]


def prepared(rows: list[Row], min_item: int = 1) -> Dataset:
    schema = {"user": pl.String, "item": pl.String, "timestamp": pl.Int64, "event": pl.String}
    frame = pl.DataFrame(sorted(rows, key=lambda row: row[2]), schema=schema, orient="row")
    return build_dataset(RawData("shop", frame, {}), PrepareOptions(min_user=1, min_item=min_item, keep_repeats=True))


def histories(dataset: Dataset, **given: int) -> list[UserInteractions]:
    return list(iterate_histories(build_histories(dataset, ExportConfig(**given))))


ROWS: list[Row] = [
    ("ann", "a", 10, "view"),
    ("ann", "b", 20, "purchase"),
    ("bob", "a", 30, ""),
    ("cat", "rare", 40, "rating"),
    ("ann", "c", 15, "cart"),
]


def test_users_come_with_times_and_types_the_newest_user_first() -> None:
    assert histories(prepared(ROWS)) == [
        UserInteractions("cat", ["rare"], [40], "r"),
        UserInteractions("bob", ["a"], [30], "-"),
        UserInteractions("ann", ["a", "c", "b"], [10, 15, 20], "vbp"),
    ]


def test_what_the_filters_set_aside_is_history_too() -> None:
    filtered = prepared(ROWS, min_item=2)
    assert filtered.user_ids.to_list() == ["ann", "bob"]
    assert sorted(histories(filtered)) == sorted(histories(prepared(ROWS)))


def test_users_and_lengths_are_bounded() -> None:
    found = histories(prepared(ROWS), history_users=2, history_length=1)
    assert found == [UserInteractions("cat", ["rare"], [40], "r"), UserInteractions("bob", ["a"], [30], "-")]
    assert histories(prepared(ROWS), history_length=2)[-1] == UserInteractions("ann", ["c", "b"], [15, 20], "bp")


def test_ids_that_the_service_cannot_store_are_left_out() -> None:
    long: list[Row] = [("x" * 129, "lonely", 50, ""), ("ann", "y" * 129, 60, "")]
    assert [each.user_id for each in histories(prepared([*ROWS, *long], min_item=2))] == ["cat", "bob", "ann"]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("uvwxyz"),
            st.sampled_from("abcdefg"),
            st.integers(0, 50),
            st.sampled_from([*sorted(LETTERS.keys() - NEGATIVE_TYPES), ""]),
        ),
        min_size=1,
        max_size=60,
    ),
    st.integers(1, 4),
    st.integers(1, 8),
    st.integers(1, 5),
)
def test_random_logs_end_in_everyones_newest(rows: list[Row], min_item: int, users: int, length: int) -> None:
    frame = prepared(rows)
    if max(np.bincount(frame.items)) < min_item:
        return
    found = histories(prepared(rows, min_item), history_users=users, history_length=length)
    assert len(found) == min(users, len({row[0] for row in rows}))
    ordered = sorted(rows, key=lambda row: row[2])
    newest = []
    for history in found:
        own = [row for row in ordered if row[0] == history.user_id][-length:]
        assert history.item_ids == [row[1] for row in own]
        assert history.timestamps == [row[2] for row in own]
        assert list(history.letters) == [LETTERS.get(row[3], "-") for row in own]
        newest.append(own[-1][2])
    assert newest == sorted(newest, reverse=True)


def test_the_number_of_users_is_in_the_file() -> None:
    assert count_users(build_histories(prepared(ROWS), ExportConfig())) == 3


@pytest.mark.parametrize("timestamp", [-5, 10**15])
def test_times_beyond_what_the_service_stores_are_the_nearest_that_it_does(timestamp: int) -> None:
    [found] = histories(prepared([("u", "a", timestamp, "")]))
    assert found.timestamps == [0 if timestamp < 0 else 253_402_300_799]
