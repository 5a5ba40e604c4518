"""Packed columns read like the lists that they were made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.catalogue.columns import NUMBER_COLUMNS, PackedAttributes, PackedCategories
from model_store.catalogue.id_index import IdIndex, hash_ids
from model_store.catalogue.packed import PackedStrings
from model_store.catalogue.ragged import Ragged
from model_store.errors import CatalogueError

texts = st.lists(st.text(max_size=20), max_size=30)
ids = st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=60, unique=True)


@given(texts)
def test_strings_read_like_a_list(values: list[str]) -> None:
    packed = PackedStrings.of(values)
    assert (len(packed), list(packed)) == (len(values), values)
    assert packed == values
    assert [packed[row] for row in range(len(values))] == values
    assert [packed[row] for row in range(-len(values), 0)] == values
    assert packed[1:7:2] == values[1:7:2]
    assert PackedStrings.of(packed) is packed
    assert PackedStrings.from_arrow(packed.to_arrow()) == packed
    with pytest.raises(IndexError):
        packed[len(values)]


def test_strings_of_several_chunks_are_picked() -> None:
    values = [f"item-{row}" for row in range(40_000)]
    packed = PackedStrings.of(values)
    assert packed.pick([39_999, 0, 16_384, 16_383, 0]) == ["item-39999", "item-0", "item-16384", "item-16383", "item-0"]
    with pytest.raises(IndexError):
        packed.pick([0, 40_000])


@given(texts)
def test_chunked_and_sliced_arrow_columns_are_packed(values: list[str]) -> None:
    pieces = pa.chunked_array([pa.array(values[:3], pa.string()), pa.array(["x", *values[3:]], pa.string()).slice(1)])
    assert list(PackedStrings.from_arrow(pieces)) == values
    many = pa.list_(pa.string())
    lists = pa.chunked_array([pa.array([values, values[:1]], many), pa.array([["x"], values], many).slice(1)])
    assert list(PackedCategories.from_arrow(lists)) == [tuple(values), tuple(values[:1]), tuple(values)]


@given(texts, st.lists(st.integers(0, 40), unique=True, max_size=10), st.data())
def test_rows_are_replaced_and_appended(values: list[str], rows: list[int], data: st.DataObject) -> None:
    inside = sorted(row for row in rows if row < len(values))
    appended = data.draw(st.integers(0, 3))
    at = np.array([*inside, *range(len(values), len(values) + appended)], dtype=np.int64)
    content = [f"ö{row}" * (row % 3) for row in at.tolist()]
    expected = values + [""] * appended
    for row, text in zip(at.tolist(), content, strict=True):
        expected[row] = text
    packed = PackedStrings.of(values)
    changed_texts = packed.with_rows(at, content)
    assert list(changed_texts) == expected
    assert changed_texts.pick(reversed(range(len(expected)))) == expected[::-1]
    assert list(packed) == values
    categories = PackedCategories.of([(text, "all") for text in values])
    changed = categories.with_rows(at, [(text,) for text in content])
    assert list(changed) == [(text,) if row in at else (text, "all") for row, text in enumerate(expected)]


def test_more_names_than_two_bytes_hold() -> None:
    few = PackedCategories.of([(f"name {number}",) for number in range(2**16)])
    assert few.ragged.values.dtype == np.uint16
    many = few.with_rows(np.array([3, 2**16]), [("one more", "name 7"), ("name 65535",)])
    assert many.ragged.values.dtype == np.uint32
    assert (many[3], many[2**16], many[2**16 - 1]) == (("one more", "name 7"), ("name 65535",), ("name 65535",))
    arrays = many.arrays()
    assert arrays["categories/values"].dtype == np.uint16  # name 3 is gone, so they fit again
    assert PackedCategories.from_arrays(arrays)[3] == ("one more", "name 7")


def test_offsets_that_do_not_fit_are_refused() -> None:
    good = PackedStrings.of(["ab", "", "c"]).ragged.arrays("titles")
    assert list(PackedStrings(Ragged.from_arrays(good, "titles"))) == ["ab", "", "c"]
    for offsets in ([0, 2, 2], [1, 2, 2, 3], [0, 3, 2, 3], []):
        with pytest.raises(CatalogueError, match="offsets of titles do not partition its 3 values"):
            Ragged.from_arrays(good | {"titles/offsets": np.array(offsets, dtype=np.uint32)}, "titles")
    broken = PackedStrings(Ragged(np.array([0xFF, 0xFE], dtype=np.uint8), np.array([0, 2], dtype=np.uint32)))
    with pytest.raises(CatalogueError, match="titles are not all UTF-8"):
        broken.check_integrity("titles")


@settings(deadline=None)
@given(ids, st.lists(st.text(max_size=20), max_size=40))
def test_the_index_is_a_dict(known: list[str], others: list[str]) -> None:
    index = IdIndex(PackedStrings.of(known))
    expected = {item_id: row for row, item_id in enumerate(known)}
    assert index == expected
    assert index.repeated == 0
    for item_id in [*known, *others]:
        assert index.row(item_id) == index.get(item_id) == expected.get(item_id)
        assert (item_id in index) == (item_id in expected)
    asked = [*others, *known, *others]
    for some in (asked, asked[:3]):  # many are looked up together, few one by one
        assert index.find(some).tolist() == [expected.get(item_id, -1) for item_id in some]
    with pytest.raises(KeyError):
        index["\ud800"]


@settings(deadline=None)
@given(ids, st.integers(0, 59))
def test_a_grown_index_is_the_one_of_all_ids(known: list[str], cut: int) -> None:
    whole = PackedStrings.of(known)
    first = known[: max(1, cut % len(known))]
    start = IdIndex(PackedStrings.of(first))
    found = start.with_ids(whole)
    fork = start.with_ids(PackedStrings.of([*first, "of the fork", *known[len(first) :]]))
    expected = {item_id: row for row, item_id in enumerate(known)}
    for asked in (known, known[:3]):  # many are looked up together, few one by one
        assert found.find(asked).tolist() == [expected[item_id] for item_id in asked]
        rows = [expected[item_id] for item_id in asked]
        assert start.find(asked).tolist() == [row if row < len(first) else -1 for row in rows]
        assert fork.find(asked).tolist() == [row + (row >= len(first)) for row in rows]
    assert found == expected
    assert "of the fork" not in found
    assert fork["of the fork"] == len(first)


def test_an_index_with_many_added_ids_is_built_anew() -> None:
    many = PackedStrings.of([f"B{number:011d}" for number in range(50_050)])
    start = IdIndex(many.take(np.arange(20)))
    some = start.with_ids(many.take(np.arange(50_000)))
    assert some.nbytes == start.nbytes
    all_of_them = some.with_ids(many)
    assert all_of_them.nbytes == IdIndex(many).nbytes
    assert all_of_them.find(list(many)).tolist() == list(range(len(many)))


def test_the_hash_of_one_is_the_hash_of_many_and_spreads() -> None:
    many = [f"B{number:011d}" for number in range(40_000)]
    index = IdIndex(PackedStrings.of(many))
    assert index.find(many).tolist() == list(range(len(many)))
    assert [index.row(item_id) for item_id in many[::997]] == list(range(0, len(many), 997))
    buckets = np.bincount((hash_ids(index.ids) >> np.uint64(49)).astype(np.int64), minlength=2**15)
    assert buckets.max() < 12  # 1.2 ids a bucket


@pytest.mark.parametrize("known", [["a", "b", "a", "a"], ["a"] * 4, ["x" * 128, "b", "x" * 128, "b"]])
def test_repeated_ids_are_counted(known: list[str]) -> None:
    assert IdIndex(PackedStrings.of(known)).repeated == len(known) - len(set(known))


def test_numbers_of_attributes() -> None:
    values: list[dict[str, Any]] = [{"year": 1999, "price": 2.5}, {"year": "1999"}, {"year": True}, {"price": None}]
    values += [{"year": 10**400}, {}]
    packed = PackedAttributes.of(values)
    assert list(packed) == values
    np.testing.assert_array_equal(packed.numbers("year"), [1999, np.nan, np.nan, np.nan, np.inf, np.nan])
    np.testing.assert_array_equal(packed.numbers("price"), [2.5, *[np.nan] * 5])
    assert np.isnan(packed.numbers("none of them")).all()
    changed = packed.with_rows(np.array([0, 6]), [{"year": 3}, {"price": -1}])
    np.testing.assert_array_equal(changed.numbers("year"), [3, np.nan, np.nan, np.nan, np.inf, np.nan, np.nan])
    np.testing.assert_array_equal(changed.numbers("price"), [*[np.nan] * 6, -1])


def test_a_field_may_begin_and_cease_to_hold_numbers() -> None:
    packed = PackedAttributes.of([{"size": "L"}, {"year": 1}])
    assert np.isnan(packed.numbers("size")).all()
    changed = packed.with_rows(np.array([0, 1]), [{"size": 4}, {}])
    np.testing.assert_array_equal(changed.numbers("size"), [4, np.nan])
    assert np.isnan(changed.numbers("year")).all()


def test_fields_that_hold_numbers_are_known() -> None:
    packed = PackedAttributes.of([{"size": "4", "new": True, "year": 1999}, {"price": 2.5}])
    assert packed.number_fields() == {"year", "price"}
    changed = packed.with_rows(np.array([1, 2]), [{}, {"size": 3}])
    assert changed.number_fields() == {"year", "price", "size"}  # what an item had stays known


def test_only_so_many_number_columns_are_kept() -> None:
    fields = [f"field-{number}" for number in range(NUMBER_COLUMNS + 1)]
    packed = PackedAttributes.of([dict.fromkeys(fields, 1)])
    columns = [packed.numbers(name) for name in fields]
    assert packed.numbers(fields[-1]) is columns[-1]
    assert packed.numbers(fields[0]) is not columns[0]
