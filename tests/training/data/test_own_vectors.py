"""Vectors that users bring in the items file: read, kept through preparation, and refused with line and limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from model_store.errors import DataError
from model_store.source_files.column_names import Columns
from model_store.source_files.intake import Intake
from training.data.item_files import read_items
from training.data.own_vectors import WIDEST
from training.data.prepare import PrepareOptions, prepare
from training.data.storage import load_dataset


def write_items(path: Path, vectors: list[Any], dtype: Any = None) -> Path:
    ids = [f"i{row}" for row in range(len(vectors))]
    pl.DataFrame({"item_id": ids, "emb": pl.Series("emb", vectors, dtype=dtype)}).write_parquet(path)
    return path


def read(path: Path) -> tuple[list[Any], str]:
    intake = Intake(path.parent)
    items = read_items(path, Columns(vector="emb"), intake)
    return [info.vector for info in items.values()], "\n".join(intake.notes)


@pytest.mark.parametrize("dtype", [pl.List(pl.Float64), pl.Array(pl.Float32, 3), pl.List(pl.Int16)])
def test_lists_of_numbers_of_any_kind_are_vectors(tmp_path: Path, dtype: Any) -> None:
    vectors, said = read(write_items(tmp_path / "items.parquet", [[1, 2, 3], [4, 5, 6]], dtype))
    np.testing.assert_array_equal(vectors, [[1, 2, 3], [4, 5, 6]])
    assert "vectors of 3 numbers in 'emb'" in said
    assert "not used" not in said


def test_items_without_a_vector_are_counted(tmp_path: Path) -> None:
    given = [[1.0, 2.0], None, [0.0, 0.0], [], [3.0, 4.0]]
    vectors, said = read(write_items(tmp_path / "items.parquet", given))
    assert [vector is not None for vector in vectors] == [True, False, False, False, True]
    assert "3 items have none, or only zeros, and no text that can be read: known by interactions alone" in said
    assert "predicted" not in said


@pytest.mark.parametrize(
    ("titles", "words"),
    [
        (["A", "B", "C"], "; 2 items have none, or only zeros: predicted from what they say"),
        (
            ["A", "B", "!!!"],
            "; 2 items have none, or only zeros: 1 predicted from what they say, 1 say nothing, known by interactions "
            "alone",
        ),
    ],
)
def test_a_missing_vector_is_predicted_from_what_the_item_says(tmp_path: Path, titles: list[str], words: str) -> None:
    path = tmp_path / "items.parquet"
    frame = {"item_id": ["a", "b", "c"], "title": titles, "emb": [[1.0, 2.0], None, [0.0, 0.0]]}
    pl.DataFrame(frame).write_parquet(path)
    assert read(path)[1].endswith(f"vectors of 2 numbers in 'emb'{words}")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([[1.0, 2.0], [1.0, 2.0, 3.0]], "line 2: the vector in 'emb' has 3 numbers, line 1 has 2"),
        ([None, [1.0, 2.0], [1.0, float("nan")]], "line 3: the vector in 'emb' has number 2 missing, not finite"),
        ([[1.0, float("-inf")]], "line 1: the vector in 'emb' has number 2 missing, not finite"),
        ([[1.0, 2.0], [None, 2.0]], "line 2: the vector in 'emb' has number 1 missing"),
        ([[1.0, 1e39]], "beyond 32 bits"),
        ([[1.0]], "has 1 numbers, 2 to 8,192 are allowed"),
        ([[0.5] * (WIDEST + 1)], "has 8193 numbers, 2 to 8,192 are allowed"),
        ([None, []], "column 'emb' holds no vector"),
        ([[0.0, 0.0], None, [0.0, -0.0]], "column 'emb' holds no vector but zeros, which count as none"),
        (["[1, 2]"], "column 'emb' holds string, not lists of numbers"),
        ([[["1"]]], "not lists of numbers"),
    ],
)
def test_what_is_no_vector_is_refused_with_line_and_limit(tmp_path: Path, given: list[Any], words: str) -> None:
    dtype = pl.List(pl.Float64) if given == [None, []] else None
    with pytest.raises(DataError) as refused:
        read(write_items(tmp_path / "items.parquet", given, dtype))
    assert words in str(refused.value)
    assert refused.value.hint


@pytest.mark.parametrize("other", [{"attributes": ("emb",)}, {"categories": "emb"}])
def test_a_column_of_vectors_is_nothing_else(tmp_path: Path, other: dict[str, Any]) -> None:
    path = write_items(tmp_path / "items.parquet", [[1.0, 2.0]])
    with pytest.raises(DataError, match="'emb' is asked for as the vector, and as title, categories or an attribute"):
        read_items(path, Columns(vector="emb", **other), Intake(tmp_path))


def test_vectors_are_kept_with_the_prepared_data(tmp_path: Path) -> None:
    clicks = tmp_path / "clicks.csv"
    rows = [f"u{user},i{(user + step) % 6},{step}" for user in range(6) for step in range(5)]
    clicks.write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n", encoding="utf-8")
    given = [[float(row), 1.0, -1.0] if row != 2 else None for row in range(6)]
    items = write_items(tmp_path / "items.parquet", given)

    def prepared(folder: str, vector: str) -> Any:
        options = {"items_file": str(items), "min_user": 1, "min_item": 1, "columns": Columns(vector=vector)}
        return prepare(str(clicks), tmp_path / folder, PrepareOptions.model_validate(options), lambda _: None)

    data = prepared("with", "emb")
    again = load_dataset(tmp_path / "with")
    assert data.own_vectors is not None
    assert again.own_vectors is not None
    np.testing.assert_array_equal(again.own_vectors, data.own_vectors)
    for row, item_id in enumerate(data.item_ids):
        expected = given[int(item_id[1:])] or [0.0, 0.0, 0.0]
        assert again.own_vectors[row].tolist() == expected
    without = prepared("without", "")
    assert without.own_vectors is None
    assert without.fingerprint != data.fingerprint
