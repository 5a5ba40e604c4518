"""The table of histories in a bundle: it round-trips, and anything else is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model_store.bundle.bundle import check_contents
from model_store.bundle.histories import HISTORIES, check_histories, count_users, iterate_histories
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from model_store.errors import BundleRefused
from model_store.events.history_entry import UserInteractions
from tests.support.bundles import NOON, bundle_files, description, small_config, small_histories

ROWS = {"ann": [("a", 1, 0), ("b", 2, 3)], "bob": [("a", 0, -1)]}


def test_histories_round_trip() -> None:
    data = small_histories(ROWS)
    assert list(iterate_histories(data)) == [
        UserInteractions("ann", ["a", "b"], [1, 2], "vp"),
        UserInteractions("bob", ["a"], [0], "-"),
    ]
    assert count_users(data) == 2


def test_thousands_of_users_are_read_in_parts() -> None:
    rows = {f"u{user}": [(f"i{user % 7}", n, n % 5) for n in range(user % 4 + 1)] for user in range(3000)}
    found = list(iterate_histories(small_histories(rows)))
    assert [each.user_id for each in found] == list(rows)
    assert found[-1] == UserInteractions("u2999", ["i3"] * 4, [0, 1, 2, 3], "vcbp")


def test_no_users_are_histories_too() -> None:
    assert list(iterate_histories(small_histories({}))) == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"": [("a", 1, 0)]}, "an id must be 1 to 128 bytes"),
        ({"u": [("x" * 129, 1, 0)]}, "an id must be 1 to 128 bytes"),
        ({"u": [("a", -1, 0)]}, "out of range"),
        ({"u": [("a", 10**12, 0)]}, "out of range"),
        ({"u": [("a", 1, 5)]}, "out of range"),
        ({"u": [("a", 1, -2)]}, "out of range"),
        ({"u": [("a", 2, 0), ("b", 1, 0)]}, "not sorted by time"),
        ({"u": []}, "empty"),
    ],
)
def test_wrong_values_are_refused(rows: dict[str, list[tuple[str, int, int]]], message: str) -> None:
    with pytest.raises(BundleRefused, match=f"{HISTORIES}: does not decode: .*{message}"):
        check_histories(small_histories(rows))


def test_lists_of_different_lengths_are_refused() -> None:
    table = pq.read_table(pa.BufferReader(small_histories({"u": [("a", 1, 0), ("b", 2, 0)]})))
    table = table.set_column(2, "timestamps", pa.array([[1]], pa.large_list(pa.int64())))
    with pytest.raises(BundleRefused, match="differ in length"):
        check_histories(written(table))


def test_other_tables_and_noise_are_refused() -> None:
    for data in (b"noise", written(pa.table({"user_id": ["u"]}))):
        with pytest.raises(BundleRefused, match=HISTORIES):
            check_histories(data)


def written(table: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def test_a_bundle_is_verified_with_its_histories(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    version = publish(store, {**bundle_files(), HISTORIES: small_histories(ROWS)}, description(), NOON)
    store.bundle(version).verify()
    files = {**bundle_files(), HISTORIES: small_histories({"u": [("a", 2, 0), ("b", 1, 0)]})}
    with pytest.raises(BundleRefused, match="not sorted by time"):
        check_contents(files.__getitem__, files, small_config())
