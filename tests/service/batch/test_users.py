"""Users files: every way in which one can be wrong, and where that is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model_store.errors import DataError
from service.batch.users import CHUNK_USERS, UsersFile
from service.store.base import History
from tests.support.batch_runs import walks, write_users


def write(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path / "users.parquet")
    return path / "users.parquet"


LISTS = pa.array([["a"], ["b"], ["c"]], pa.list_(pa.string()))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.parquet does not exist"):
        UsersFile(tmp_path / "none.parquet")


def test_a_file_of_another_format(tmp_path: Path) -> None:
    (tmp_path / "users.parquet").write_text("user,history\n")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        UsersFile(tmp_path / "users.parquet")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"who": ["a", "b", "c"], "history": LISTS}, "users.parquet"),
        ({"user_id": [0.5, 1.5, 2.5], "history": LISTS}, "column 'user_id' holds double"),
        ({"user_id": ["a", "b", "c"], "history": ["x", "y", "z"]}, "column 'history' holds string"),
        ({"user_id": ["a", "b", "c"], "history": [[1.5], [], []]}, "column 'history' holds double"),
        (
            {"user_id": ["a", None, "c"], "history": LISTS},
            "row 2: 'user_id' is missing, empty or longer than 128 bytes",
        ),
        ({"user_id": ["a", "b", ""], "history": LISTS}, "row 3: 'user_id'"),
        ({"user_id": ["a", "b", "x" * 129], "history": LISTS}, "row 3: 'user_id'"),
        ({"user_id": ["a", "b", "a"], "history": LISTS}, "1 users have more than one row, such as 'a' in rows 1 and 3"),
    ],
)
def test_wrong_columns_and_rows_are_named(tmp_path: Path, columns: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError) as refused:
        UsersFile(write(tmp_path, **columns))
    assert words in str(refused.value)
    assert refused.value.hint


def test_no_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no rows"):
        UsersFile(write_users(tmp_path / "users.parquet", {}))


@pytest.mark.parametrize("bad", [None, "", "x" * 129])
def test_a_wrong_item_id_is_found_in_its_row(tmp_path: Path, bad: str | None) -> None:
    histories: dict[str, Any] = {**walks(CHUNK_USERS + 2), "last": ["a", bad]}
    file = UsersFile(write_users(tmp_path / "users.parquet", histories))
    with pytest.raises(DataError, match=f"row {CHUNK_USERS + 3}: an id in 'history' is missing"):
        list(file.histories(10))


def test_histories_keep_their_newest_items(tmp_path: Path) -> None:
    histories = {"a": ["1", "2", "3", "4"], "b": None, "c": ["5"], "d": []}
    file = UsersFile(write_users(tmp_path / "users.parquet", histories))
    [found] = list(file.histories(3))
    expected = {"a": ["2", "3", "4"], "b": [], "c": ["5"], "d": []}
    assert {each.user_id: each.history for each in found} == {
        user: History.untyped(items) for user, items in expected.items()
    }
    assert file.cut == 1
    assert list(file.user_ids()) == [["a", "b", "c", "d"]]


def test_whole_numbers_and_encoded_columns_are_ids(tmp_path: Path) -> None:
    path = write(tmp_path, customer=pa.array(["x", "y"]).dictionary_encode(), history=[[10, 11], [12]])
    [found] = list(UsersFile(path).histories(10))
    assert [(each.user_id, each.history.item_ids) for each in found] == [("x", ["10", "11"]), ("y", ["12"])]
