"""A small file cannot decode into gigabytes: limits follow from its size, and are checked before memory is taken."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model_store.catalogue.bounded_parquet import (
    MAX_VALUE_BYTES,
    TEXT_FLOOR,
    TEXT_PER_BYTE,
    VALUES_FLOOR,
    Limits,
    read_bounded,
)
from model_store.catalogue.catalogue import Catalogue
from model_store.errors import CatalogueError
from tests.support.bundles import small_catalogue

COLUMNS = ["item_id", "title", "categories"]


def parquet(rows: int, **given: Any) -> bytes:
    """A file of these columns; options of the writer begin with an underscore."""
    options = {name[1:]: given.pop(name) for name in list(given) if name.startswith("_")}
    columns: dict[str, Any] = {
        "item_id": pa.array([f"item-{row}" for row in range(rows)]),
        "title": pa.array([""] * rows),
        "categories": pa.array([[]] * rows, pa.list_(pa.string())),
    } | given
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression="zstd", **options)
    return sink.getvalue()


def repeated(text: str, rows: int) -> Any:
    """One text in all rows, as numbers into a dictionary, which the writer stores as it is."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text]))


def lists_of(text: str, rows: int) -> Any:
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32)), repeated(text, rows))


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a title that repeats": (
        lambda: parquet(2000, title=repeated("x" * 200_000, 2000)),
        r"\d+ bytes of text, at most 6\d{7} are allowed in a file of this size",
    ),
    "a category that repeats": (
        lambda: parquet(2000, categories=lists_of("x" * 200_000, 2000)),
        r"\d+ bytes of text, at most 6\d{7} are allowed in a file of this size",
    ),
    "a title of a megabyte": (
        lambda: parquet(3, title=repeated("x" * (1 << 20), 3)),
        f"title: a value of 1048576 bytes, at most {MAX_VALUE_BYTES} are allowed",
    ),
    "a category of a megabyte": (
        lambda: parquet(3, categories=lists_of("x" * (1 << 20), 3)),
        f"categories: a value of 1048576 bytes, at most {MAX_VALUE_BYTES} are allowed",
    ),
    "compressed titles": (
        lambda: parquet(2000, title=["x" * 100_000] * 2000, _use_dictionary=False),
        r"\d+ decompressed bytes, at most \d+ are allowed in a file of this size",
    ),
    "titles stored as differences": (
        lambda: parquet(
            2000,
            title=["x" * 100_000] * 2000,
            _use_dictionary=False,
            _column_encoding={"title": "DELTA_BYTE_ARRAY"},
        ),
        "title: the encoding DELTA_BYTE_ARRAY is not allowed",
    ),
    "many rows": (
        lambda: parquet(
            0, item_id=repeated("", n := 3 * VALUES_FLOOR), title=repeated("", n), categories=repeated("", n)
        ),
        r"3145728 rows, at most 1\d{6} are allowed",
    ),
    "many categories": (
        lambda: parquet(
            1, categories=pa.ListArray.from_arrays(pa.array([0, 3 * VALUES_FLOOR]), repeated("", 3 * VALUES_FLOOR))
        ),
        r"3145728 values of categories\.list\.element, at most 1\d{6} are allowed",
    ),
}


@pytest.mark.parametrize(("make", "problem"), BOMBS.values(), ids=BOMBS.keys())
def test_a_file_that_would_take_too_much_is_refused(make: Callable[[], bytes], problem: str) -> None:
    data = make()
    assert len(data) < 60_000
    with pytest.raises(CatalogueError, match=problem) as caught:
        read_bounded(data, COLUMNS)
    assert caught.value.hint


CHILD = """
import resource, sys
from model_store.catalogue.catalogue import Catalogue
from model_store.errors import CatalogueError
data = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    Catalogue.from_parquet(data)
except CatalogueError as refused:
    print(refused, file=sys.stderr)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_refused_file_never_takes_the_memory(tmp_path: Path) -> None:
    """Two hundred megabytes of titles in a file of a few kilobytes; refusing it takes a tenth."""
    path = tmp_path / "catalogue.parquet"
    rows = 1000
    content = {
        "codes": pa.array([[row // 64, row % 64, 0] for row in range(rows)], pa.list_(pa.int16())),
        "attributes": pa.array(["{}"] * rows),
        "popularity": pa.array([0] * rows),
    }
    path.write_bytes(parquet(rows, title=repeated("x" * 200_000, rows), **content))
    done = subprocess.run([sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True, check=True)
    assert "at most" in done.stderr
    assert int(done.stdout) < 60_000  # kilobytes


@pytest.mark.parametrize("options", [{}, {"_use_dictionary": False}, {"_row_group_size": 7}, {"_compression_level": 1}])
def test_what_is_allowed_is_read_as_it_is(options: dict[str, Any]) -> None:
    rows = 20
    titles = [f"title {row % 3}" for row in range(rows)]
    categories = [[f"c{row % 2}", "all"][: row % 3] for row in range(rows)]
    data = parquet(rows, title=pa.array(titles), categories=pa.array(categories), **options)
    table = read_bounded(data, COLUMNS)
    assert table["title"].to_pylist() == titles
    assert table["categories"].to_pylist() == categories
    assert read_bounded(parquet(0), COLUMNS).num_rows == 0


def test_a_column_that_outgrows_its_dictionary_is_read() -> None:
    """The writer gives up a dictionary that becomes too large, in the middle of a column."""
    rows = 30_000
    categories = [[f"a category with a long name {row}", "all"] for row in range(rows)]
    titles = [f"a title that nothing else has {row}" for row in range(rows)]
    data = parquet(rows, title=pa.array(titles), categories=pa.array(categories), _dictionary_pagesize_limit=20_000)
    table = read_bounded(data, COLUMNS)
    assert table["title"].to_pylist() == titles
    assert table["categories"].to_pylist() == categories


def test_limits_grow_with_the_file() -> None:
    assert Limits.of(0) == (VALUES_FLOOR, TEXT_FLOOR)
    assert Limits.of(1 << 20).text_bytes == TEXT_FLOOR + (TEXT_PER_BYTE << 20)
    catalogue = small_catalogue(items=500)
    assert Catalogue.from_parquet(catalogue.to_parquet()).digest() == catalogue.digest()
