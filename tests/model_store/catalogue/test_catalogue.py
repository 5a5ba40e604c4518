"""The catalogue: a round trip through Parquet, its views, and everything that it refuses."""

import dataclasses
import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.catalogue.catalogue import ID_BYTES, MAX_CODEBOOK_SIZE, Attributes, Catalogue
from model_store.errors import CatalogueError


def small_catalogue(**changes: Any) -> Catalogue:
    catalogue = Catalogue(
        codebook_size=4,
        item_ids=["a", "ä/ 2", "c"],
        codes=np.array([[0, 1], [3, 3], [0, 2]], dtype=np.int16),
        titles=["First", "", "Dritter – ß"],
        categories=[("x", "y"), (), ("y",)],
        attributes=[{"year": 1999, "tags": ["q"]}, {}, {"price": 1.5, "nested": {"deep": None}}],
        popularity=np.array([3, 9, 3]),
    )
    return dataclasses.replace(catalogue, **changes)


def assert_equal(found: Catalogue, expected: Catalogue) -> None:
    assert found.codebook_size == expected.codebook_size
    assert list(found.item_ids) == list(expected.item_ids)
    assert list(found.titles) == list(expected.titles)
    assert list(found.categories) == list(expected.categories)
    assert list(found.attributes) == list(expected.attributes)
    np.testing.assert_array_equal(found.codes, expected.codes)
    np.testing.assert_array_equal(found.popularity, expected.popularity)
    assert found.codes.dtype == np.int16


def parquet(catalogue: Catalogue, **columns: Any) -> bytes:
    """The catalogue as Parquet with columns replaced, or dropped where the replacement is None."""
    table = pq.read_table(io.BytesIO(catalogue.to_parquet()))
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.remove_column(at) if values is None else table.set_column(at, name, values)
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def test_parquet_round_trip() -> None:
    assert_equal(Catalogue.from_parquet(small_catalogue().to_parquet()), small_catalogue())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
texts = st.text(max_size=10)


@settings(deadline=None, max_examples=50)
@given(
    rows=st.lists(
        st.tuples(
            st.text(min_size=1, max_size=20),
            texts,
            st.lists(texts, max_size=3),
            st.dictionaries(texts, json_values, max_size=3),
            st.integers(0, 2**62),
        ),
        min_size=1,
        max_size=20,
        unique_by=lambda row: row[0],
    )
)
def test_any_text_survives_the_round_trip(rows: list[tuple[str, str, list[str], Attributes, int]]) -> None:
    item_ids, titles, categories, attributes, popularity = zip(*rows, strict=True)
    codes = np.stack([np.arange(len(rows)) % 5, np.arange(len(rows)) // 5], axis=1).astype(np.int16)
    names = [tuple(found) for found in categories]
    catalogue = Catalogue(5, item_ids, codes, titles, names, attributes, np.array(popularity))
    assert_equal(Catalogue.from_parquet(catalogue.to_parquet()), catalogue)


def test_equal_catalogues_give_equal_bytes() -> None:
    first = small_catalogue(attributes=[{"b": 1, "a": 2}, {}, {}])
    second = small_catalogue(attributes=[{"a": 2, "b": 1}, {}, {}])
    assert first.to_parquet() == second.to_parquet()


def test_views_speak_of_rows() -> None:
    catalogue = small_catalogue()
    assert len(catalogue) == 3
    assert catalogue.row_of == {"a": 0, "ä/ 2": 1, "c": 2}
    assert catalogue.by_popularity.tolist() == [1, 0, 2]
    assert [catalogue.rows_of_categories(names).tolist() for names in (["x"], ["y"], ["x", "y"], ["z"])] == [
        [0],
        [0, 2],
        [0, 2],
        [],
    ]
    np.testing.assert_array_equal(catalogue.trie.codes(), catalogue.codes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item_ids": ["a", "b", "a"]}, "1 repeated item ids"),
        ({"item_ids": ["a", "", "c"]}, "item id '' must be 1 to 128 bytes"),
        ({"item_ids": ["a", "x" * (ID_BYTES + 1), "c"]}, "must be 1 to 128 bytes"),
        ({"item_ids": ["a", "ä" * (ID_BYTES // 2 + 1), "c"]}, "must be 1 to 128 bytes"),
        ({"item_ids": ["a", "b"]}, r"differ in length: \[2, 3, 3, 3, 3, 3, 3\]"),
        ({"titles": ["a", "b", "c", "d"]}, "differ in length"),
        ({"categories": []}, "differ in length"),
        ({"attributes": [{}]}, "differ in length"),
        ({"popularity": np.array([1, 2])}, "differ in length"),
        ({"codes": np.array([[0, 1], [3, 3]], dtype=np.int16)}, "differ in length"),
        ({"codes": np.array([[0, 1], [3, 3], [0, 1]], dtype=np.int16)}, r"rows 0 and 2 share the semantic ID \[0, 1\]"),
        ({"codes": np.array([[0, 1], [3, 4], [0, 2]], dtype=np.int16)}, "codes must lie in 0 … 3, found 0 … 4"),
        ({"codes": np.array([[0, 1], [3, -1], [0, 2]], dtype=np.int16)}, "codes must lie in 0 … 3, found -1 … 3"),
        ({"codebook_size": 3}, "codes must lie in 0 … 2"),
        ({"codebook_size": 0}, "codebook_size must be 1 to 32768, not 0"),
        ({"codebook_size": 10**13}, "codebook_size must be 1 to 32768"),
    ],
)
def test_contradictions_are_refused_in_memory_and_from_parquet(changes: dict[str, Any], message: str) -> None:
    catalogue = small_catalogue(**changes)
    with pytest.raises(CatalogueError, match=message):
        catalogue.check_integrity()
    if "differ" not in message:  # a table's columns cannot differ in length
        with pytest.raises(CatalogueError, match=message):
            Catalogue.from_parquet(catalogue.to_parquet())


def test_limits_themselves_are_allowed() -> None:
    small_catalogue(item_ids=["a", "x" * ID_BYTES, "ä" * (ID_BYTES // 2)]).check_integrity()
    small_catalogue(codebook_size=MAX_CODEBOOK_SIZE).check_integrity()


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("item_id", ["a", None, "c"]),
        ("codes", [[0, 1], None, [0, 2]]),
        ("codes", [[0, 1], [3, None], [0, 2]]),
        ("codes", [[0, 1], [3], [0, 2]]),
        ("codes", [[0, 1], [3, 70_000], [0, 2]]),
        ("codes", [[], [], []]),
        ("codes", ["01", "33", "02"]),
        ("title", ["First", None, ""]),
        ("categories", [["x"], None, []]),
        ("categories", [["x"], [None], []]),
        ("attributes", ["{}", None, "{}"]),
        ("attributes", ["{}", "{", "{}"]),
        ("attributes", ["{}", "[1]", "{}"]),
        ("attributes", ["{}", "null", "{}"]),
        ("popularity", [1, None, 3]),
        ("popularity", ["many", "few", "none"]),
    ],
)
def test_damaged_columns_are_refused(column: str, values: list[Any]) -> None:
    data = parquet(small_catalogue(), **{column: pa.array(values)})
    with pytest.raises(CatalogueError):
        Catalogue.from_parquet(data)


@pytest.mark.parametrize("column", ["item_id", "codes", "title", "categories", "attributes", "popularity"])
def test_missing_columns_are_named(column: str) -> None:
    with pytest.raises(CatalogueError, match=column):
        Catalogue.from_parquet(parquet(small_catalogue(), **{column: None}))


@pytest.mark.parametrize("metadata", [None, {"codebook_size": "many"}, {"codebook_size": "-1"}, {"other": "4"}])
def test_the_codebook_size_must_be_stored(metadata: dict[str, str] | None) -> None:
    table = pq.read_table(io.BytesIO(small_catalogue().to_parquet())).replace_schema_metadata(metadata)
    sink = io.BytesIO()
    pq.write_table(table, sink)
    with pytest.raises(CatalogueError):
        Catalogue.from_parquet(sink.getvalue())


def test_other_bytes_are_refused() -> None:
    data = small_catalogue().to_parquet()
    for damaged in (b"", b"PAR1", json.dumps({}).encode(), data[:-1], data[: len(data) // 2]):
        with pytest.raises(CatalogueError, match="does not decode"):
            Catalogue.from_parquet(damaged)


def test_an_empty_catalogue_is_refused() -> None:
    empty = Catalogue(4, [], np.empty((0, 2), dtype=np.int16), [], [], [], np.empty(0, dtype=np.int64))
    with pytest.raises(CatalogueError, match="a trie needs codes"):
        empty.check_integrity()
    with pytest.raises(CatalogueError):
        Catalogue.from_parquet(empty.to_parquet())
