"""Files of interactions, as shops export them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model_store.errors import DataError
from model_store.events.history_entry import UserInteractions
from model_store.source_files.column_names import Columns
from service.histories.history_file import HistoryFile, read_history_file


def read(path: Path, text: str | bytes, *, skip_bad: bool = False) -> HistoryFile:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_history_file(path, Columns(), skip_bad)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separators_and_the_case_of_the_header_are_found(separator: str, tmp_path: Path) -> None:
    rows = [["User_ID", "ItemID", "TIME", "type"], ["u", "a", "20", "view"], ["v", "a", "5", ""], ["u", "b", "10", "x"]]
    text = "\n".join(separator.join(row) for row in rows) + "\n"
    found = read(tmp_path / "log.csv", text.encode("utf-8-sig"))
    assert list(found.histories(10)) == [
        UserInteractions("u", ["b", "a"], [10, 20], "-v"),
        UserInteractions("v", ["a"], [5], "-"),
    ]
    assert next(iter(found.histories(1))) == UserInteractions("u", ["a"], [20], "v")


def test_ids_that_look_like_numbers_stay_text(tmp_path: Path) -> None:
    found = read(tmp_path / "log.csv", "user,item\n007,0010\n")
    assert list(found.histories(5)) == [UserInteractions("007", ["0010"], [0], "-")]


def test_ids_lose_what_an_export_added_to_them_and_it_is_said(tmp_path: Path) -> None:
    found = read(tmp_path / "log.csv", "user,item\n u ,106.0\nu,7\n")
    assert list(found.histories(5)) == [UserInteractions("u", ["106", "7"], [0, 0], "--")]
    assert found.notes == (
        "log.csv: user ids have spaces around them, which are left out",
        "log.csv: item ids are written like 106.0: read as 106",
    )


def _as_json(path: Path) -> None:
    time = "2026-01-05T10:00:00Z"
    lines = [{"user": 1, "item": 20.0, "time": time, "event": "view"}, {"user": 1, "item": 3, "time": time}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _as_parquet(path: Path) -> None:
    times = pa.array([1_767_607_200, 1_767_607_200], pa.timestamp("s", "Europe/Berlin"))
    kinds = pa.array(["view", None]).dictionary_encode()
    pq.write_table(pa.table({"user": [1, 1], "item": [20.0, 3.0], "time": times, "event": kinds}), path)


def _as_gzip(path: Path) -> None:
    path.write_bytes(gzip.compress(b"user;item;time;event\n1;20.0;1767607200000;view\n1;3;1767607200000;\n"))


@pytest.mark.parametrize(
    ("name", "write"), [("log.jsonl", _as_json), ("log.parquet", _as_parquet), ("log.CSV.gz", _as_gzip)]
)
def test_every_format_gives_the_same(name: str, write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / name)
    found = read_history_file(tmp_path / name, Columns())
    assert list(found.histories(5)) == [UserInteractions("1", ["20", "3"], [1_767_607_200] * 2, "v-")]


def test_order_within_a_second_counts(tmp_path: Path) -> None:
    found = read(tmp_path / "log.csv", "user,item,time\nu,b,1700000000700\nu,a,1700000000200\n")
    assert list(found.histories(5)) == [UserInteractions("u", ["a", "b"], [1_700_000_000] * 2, "--")]


BAD = f"user,item,time\nu,a,5\n,b,6\nu,,7\nu,{'x' * 129},8\nu,b,noon\n"


def test_a_line_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"log.csv line 3: user id is empty: ',b'") as refused:
        read(tmp_path / "log.csv", BAD)
    assert str(refused.value.hint).startswith("4 of 5 lines have such a problem")


def test_lines_that_cannot_be_used_are_skipped_on_request(tmp_path: Path) -> None:
    found = read(tmp_path / "log.csv", BAD, skip_bad=True)
    assert list(found.histories(5)) == [UserInteractions("u", ["a"], [5], "-")]
    assert found.notes[0].startswith("4 lines cannot be used: skipped, such as log.csv line 3: user id is empty")
    for line, reason in ((4, "item id is empty"), (5, "item id is longer than 128 bytes"), (6, "timestamp is neither")):
        assert f"log.csv line {line}: {reason}" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("log.csv", "", "log.csv is empty"),
        ("log.csv", "user,item\n,b\n", "log.csv holds no interactions"),
        ("log.csv.gz", "user,item\nu,a\n", "log.csv.gz cannot be read"),
        ("log.parquet", "user,item\nu,a\n", "log.parquet cannot be read"),
        ("log.jsonl", '{"user": "u", "item": \n', "log.jsonl cannot be read"),
        ("log.jsonl", '{"user": "u", "item": ["a", "b"]}\n', "log.jsonl cannot be read"),
    ],
)
def test_a_file_that_gives_nothing_is_refused(name: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path / name, text, skip_bad=True)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.csv does not exist"):
        read_history_file(tmp_path / "nowhere.csv", Columns())
    with pytest.raises(DataError, match="is a folder"):
        read_history_file(tmp_path, Columns())


def test_a_message_is_short_however_long_the_header_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no user column with a usual name") as refused:
        read(tmp_path / "log.csv", ",".join(f"column-{n}" for n in range(5000)) + "\n")
    assert len(str(refused.value)) < 500
