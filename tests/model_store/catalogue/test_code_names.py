"""Names of code prefixes survive their file, are found by prefix, and fit the catalogue or are refused."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model_store.catalogue.code_names import NAME_LENGTH, CodeNames
from model_store.errors import CatalogueError

PREFIXES = np.array([[300, 0, -1], [0, -1, -1], [255, 256, 32767], [0, 0, -1], [300, -1, -1]])
NAMES = ["Κόκκινο", "Nail Polish", "护肤 · Red", "شامبو", "Soap"]


def table(prefixes: list[list[int] | None], names: list[str | None]) -> bytes:
    """A Parquet file with these columns, whatever they hold."""
    columns = {"prefix": pa.array(prefixes, pa.large_list(pa.int16())), "name": pa.array(names, pa.large_string())}
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def test_names_are_found_by_prefix_and_survive_their_file() -> None:
    names = CodeNames.from_parquet(CodeNames.of(PREFIXES, NAMES).to_parquet())
    assert len(names) == 5
    for prefix, name in zip(PREFIXES, NAMES, strict=True):
        assert names.name(prefix[prefix >= 0].tolist()) == name
    assert names.prefixes.tolist() == sorted(PREFIXES.tolist())
    assert names.find(np.array([[0, 0], [0, 1], [300, 0], [255, 256]])) == ["شامبو", None, "Κόκκινο", None]
    assert names.find(np.empty((0, 2), dtype=np.int64)) == []
    assert names.name([255, 256, 32767, 1]) is None
    assert names.depths.tolist() == [1, 2, 3, 1, 2]


def test_equal_names_give_equal_bytes_in_whatever_order_they_come() -> None:
    order = [3, 0, 4, 1, 2]
    shuffled = CodeNames.of(PREFIXES[order], [NAMES[place] for place in order])
    assert shuffled.to_parquet() == CodeNames.of(PREFIXES, NAMES).to_parquet()


def test_a_version_may_have_no_names() -> None:
    none = CodeNames.from_parquet(CodeNames.none().to_parquet())
    assert len(none) == 0
    assert none.find(np.array([[0, 1], [2, 3]])) == [None, None]
    none.check_fit(np.array([[0, 1]]))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"PAR1", "does not decode"),
        (table([[0]], [None]), "does not decode"),
        (table([None], ["a"]), "does not decode"),
        (table([[0, -1]], ["a"]), "below 0"),
        (table([[]], ["a"]), "at least one code"),
        (table([[1], [0]], ["a", "b"]), "must ascend"),
        (table([[1], [1]], ["a", "b"]), "must ascend"),
        (table([[0]], [""]), f"1 to {NAME_LENGTH} characters"),
        (table([[0]], ["x" * (NAME_LENGTH + 1)]), f"1 to {NAME_LENGTH} characters"),
        (table([[0]], ["a\x07b"]), "control character"),
        (table([[0]], ["a\u2028b"]), "line break"),
    ],
)
def test_what_cannot_be_names_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(CatalogueError, match=problem):
        CodeNames.from_parquet(data)


def test_a_column_is_missing() -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"name": ["a"]}), sink)
    with pytest.raises(CatalogueError, match="does not decode"):
        CodeNames.from_parquet(sink.getvalue())


def test_names_must_begin_longer_semantic_ids_of_the_catalogue() -> None:
    codes = np.array([[0, 1, 2], [3, 4, 5]], dtype=np.int16)
    CodeNames.of(np.array([[0, -1], [3, 4]]), ["a", "b"]).check_fit(codes)
    with pytest.raises(CatalogueError, match="the prefix 0-2 has a name, but no items below it"):
        CodeNames.of(np.array([[0, -1], [0, 2]]), ["a", "b"]).check_fit(codes)
    with pytest.raises(CatalogueError, match="the prefix 0-1-2 has a name"):
        CodeNames.of(np.array([[0, 1, 2]]), ["a whole semantic ID"]).check_fit(codes)
