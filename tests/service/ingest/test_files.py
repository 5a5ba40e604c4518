"""Files as a source: each record once, wherever a run was killed; a broken file stops no other."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog

from model_store.errors import ConfigError, DataError
from service.ingest import files, tail
from service.ingest.files import FilesSource
from service.ingest.progress import Progress
from service.ingest.source import Record


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LIST_S", 0.0)
    monkeypatch.setattr(files, "WAIT_S", 0.0)


def line(number: int) -> bytes:
    return json.dumps({"user_id": "u", "item_id": f"i{number}"}).encode() + b"\n"


def lines(numbers: Iterable[int]) -> bytes:
    return b"".join(map(line, numbers))


def parquet(path: Path, numbers: Iterable[int]) -> None:
    items = [f"i{number}" for number in numbers]
    pq.write_table(pa.table({"user_id": ["u"] * len(items), "item_id": items}), path, row_group_size=3)


def source(folder: Path, url: str | Path, *, follows: bool = False, max_bytes: int = 1000) -> FilesSource:
    return FilesSource(str(url), Progress(f"{folder}/progress.json", str(url)), follows, max_bytes)


def read(opened: FilesSource, limit: int = 4, batches: int | None = None) -> list[Record]:
    """Read and confirm, until nothing comes any more or so many batches came; then close."""
    found: list[Record] = []
    count = idle = 0
    while count != batches and idle < 3 and (batch := opened.read(limit)) is not None:
        found += batch.records
        count += bool(batch.records)
        idle = 0 if batch.position is not None or batch.records else idle + 1
        if batch.position is not None:
            opened.confirm(batch)
    opened.close()
    return found


def items(records: Iterable[Record]) -> list[str]:
    return [json.loads(record.raw)["item_id"] for record in records]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve records in four files, with others beside them."""
    place = tmp_path / "events"
    (place / "day=2").mkdir(parents=True)
    (place / "1.jsonl").write_bytes(lines(range(5)) + b"\n")
    (place / "2.ndjson.gz").write_bytes(gzip.compress(lines(range(5, 8))))
    parquet(place / "3.parquet", range(8, 11))
    (place / "day=2" / "4.json").write_bytes(line(11).rstrip())
    (place / "_SUCCESS").touch()
    (place / "notes.csv").write_text("user,item\n")
    return place


def test_every_format_is_read_once_in_the_order_of_names(folder: Path, tmp_path: Path) -> None:
    opened = source(tmp_path, folder)
    records = read(opened)
    assert items(records) == [f"i{number}" for number in range(12)]
    assert records[1].place == {"file": str(folder / "1.jsonl"), "line": 2}
    assert records[9].place == {"file": str(folder / "3.parquet"), "row": 2}
    assert len({record.event_id for record in records}) == 12
    assert opened.failures == 0
    assert read(source(tmp_path, folder)) == []


@pytest.mark.parametrize("stop", range(1, 6))
def test_a_run_goes_on_where_the_last_one_stopped(folder: Path, tmp_path: Path, stop: int) -> None:
    whole = read(source(tmp_path / "other", folder), limit=2)
    first = read(source(tmp_path, folder), limit=2, batches=stop)
    second = read(source(tmp_path, folder), limit=3)
    assert first + second == whole


def test_what_was_read_and_not_confirmed_comes_again_with_the_same_ids(folder: Path, tmp_path: Path) -> None:
    opened = source(tmp_path, folder)
    unconfirmed = opened.read(3)
    assert unconfirmed is not None
    assert read(source(tmp_path, folder))[:3] == list(unconfirmed.records)


def test_a_pattern_a_file_and_a_bucket(folder: Path, tmp_path: Path) -> None:
    assert items(read(source(tmp_path / "a", f"{folder}/*.parquet"))) == ["i8", "i9", "i10"]
    assert items(read(source(tmp_path / "b", folder / "day=2" / "4.json"))) == ["i11"]

    bucket = fsspec.filesystem("memory")
    bucket.pipe_file("/bucket/events/1.jsonl", lines(range(3)))
    opened = FilesSource("memory://bucket/events", Progress("memory://bucket/p.json", "here"), False, 1000)
    assert items(read(opened)) == ["i0", "i1", "i2"]
    assert read(FilesSource("memory://bucket/events", Progress("memory://bucket/p.json", "here"), False, 1000)) == []


def test_followed_files_bring_new_lines_and_new_files(folder: Path, tmp_path: Path) -> None:
    path = folder / "1.jsonl"
    opened = source(tmp_path, folder, follows=True)
    assert len(read(opened)) == 12
    assert read(opened) == []

    with path.open("ab") as file:
        file.write(line(20) + line(21)[:9])
    assert items(read(opened)) == ["i20"]
    with path.open("ab") as file:
        file.write(line(21)[9:].rstrip())  # whole, although no line feed has come
    parquet(folder / "0.parquet", [22])
    again = source(tmp_path, folder, follows=True)  # a restart in between changes nothing
    assert items(read(again)) == ["i22", "i21"]
    assert read(again) == []


def test_a_file_that_is_no_parquet_stops_no_other(folder: Path, tmp_path: Path) -> None:
    (folder / "0.parquet").write_bytes(b"PAR1 no more")
    (folder / "2b.jsonl.gz").write_bytes(gzip.compress(lines(range(90, 95)))[:-9])
    opened = source(tmp_path, folder)
    records = read(opened)
    assert opened.failures == 2
    assert items(records)[:8] == [f"i{number}" for number in range(8)]
    assert items(records)[-4:] == ["i8", "i9", "i10", "i11"]

    (folder / "0.parquet").unlink()
    (folder / "2b.jsonl.gz").write_bytes(gzip.compress(lines(range(90, 95))))
    mended = source(tmp_path, folder)
    read(mended)
    assert mended.failures == 0


@pytest.mark.parametrize(
    "value",
    [
        pa.array([2**60], pa.timestamp("us")),  # beyond the year 9999
        pa.array([2**50], pa.timestamp("s", "UTC")),
        pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]),
    ],
    ids=["far time", "farther time", "no UTF-8"],
)
def test_a_value_that_cannot_be_read_stops_no_other_file(tmp_path: Path, value: pa.Array) -> None:
    place = tmp_path / "events"
    place.mkdir()
    pq.write_table(pa.table({"user_id": ["u"], "item_id": ["i"], "timestamp": value}), place / "a.parquet")
    (place / "b.jsonl").write_bytes(line(1))
    opened = source(tmp_path, place)
    assert items(read(opened)) == ["i1"]
    assert opened.failures == 1


def test_a_file_that_was_replaced_is_left_out_and_said_in_every_run(folder: Path, tmp_path: Path) -> None:
    read(source(tmp_path, folder))
    parquet(folder / "3.parquet", range(50, 90))
    (folder / "1.jsonl").write_bytes(line(91))
    for _ in range(2):
        opened = source(tmp_path, folder)
        assert read(opened) == []
        assert opened.failures == 2

    (folder / "1.jsonl").rename(folder / "5.jsonl")
    (folder / "3.parquet").unlink()
    opened = source(tmp_path, folder)
    assert items(read(opened)) == ["i91"]
    assert opened.failures == 0


@pytest.mark.parametrize("follows", [False, True])
def test_a_file_that_shrank_and_grew_again_is_left_out(tmp_path: Path, follows: bool) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(lines(range(3)))
    read(source(tmp_path, path, follows=follows))
    path.write_bytes(line(10))
    read(source(tmp_path, path, follows=follows))

    path.write_bytes(lines(range(10, 15)))
    opened = source(tmp_path, path, follows=follows)
    assert read(opened) == []
    assert opened.failures == 1


@pytest.mark.parametrize("batches", [1, None], ids=["interrupted", "at its end"])
def test_a_file_with_other_content_before_the_position_is_left_out(tmp_path: Path, batches: int | None) -> None:
    """Nobody saw it shorter: what was read stands there no more."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(lines(range(6)))
    assert len(read(source(tmp_path, path), batches=batches)) == (4 if batches else 6)
    path.write_bytes(lines(range(10, 40)))
    opened = source(tmp_path, path)
    assert read(opened) == []
    assert opened.failures == 1


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_appended_lines_are_read_whatever_the_chunks(
    tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "CHUNK", 50)
    monkeypatch.setattr(tail, "TAIL_BYTES", 70)
    path = tmp_path / "log.jsonl"
    half = b'{"user_id":"' + b"u" * 400
    found: list[Record] = []
    for first in range(0, 30, 10):
        with path.open("ab") as file:
            file.write(lines(range(first, first + 10)) + half)
        opened = source(tmp_path, path)
        found += read(opened, limit)
        assert opened.failures == 0
        with path.open("ab") as file:
            file.write(b'","item_id":"long"}\n')
    found += read(source(tmp_path, path), limit)
    assert [item for item in items(found) if item != "long"] == [f"i{number}" for number in range(30)]
    assert items(found).count("long") == 3


@pytest.mark.parametrize("follows", [False, True])
def test_half_a_line_is_left_to_the_next_run(tmp_path: Path, follows: bool) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(line(1) + line(2)[:12])
    with structlog.testing.capture_logs() as said:
        assert items(read(source(tmp_path, path, follows=follows))) == ["i1"]
    assert [each["line"] for each in said if each["event"] == "line_not_complete"] == ([] if follows else [2])

    with path.open("ab") as file:
        file.write(line(2)[12:].rstrip())  # whole, without a line feed
    opened = source(tmp_path, path, follows=follows)
    [second] = read(opened)
    assert (items([second]), second.place["line"], opened.failures) == (["i2"], 2, 0)


def test_half_a_line_of_a_compressed_file_is_a_record_for_nothing_follows(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl.gz"
    path.write_bytes(gzip.compress(line(1) + line(2)[:12]))
    assert [record.raw for record in read(source(tmp_path, path, follows=True))] == [line(1).rstrip(), line(2)[:12]]


def test_a_byte_order_mark_is_no_part_of_the_first_record(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + lines(range(2)))
    assert [record.raw for record in read(source(tmp_path, path))] == [line(0).rstrip(), line(1).rstrip()]
    alone = tmp_path / "two.jsonl"
    alone.write_bytes(b"\xef\xbb\xbf" + line(3).rstrip())
    assert [record.raw for record in read(source(tmp_path / "other", alone, follows=True))] == [line(3).rstrip()]


def test_lines_that_are_too_long_are_marked(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    path.write_bytes(b"x" * 5000 + b"\n" + line(1))
    long, fine = read(source(tmp_path, path))
    assert (long.is_too_long, len(long.raw)) == (True, 1000)
    assert not fine.is_too_long


def test_values_of_tables_become_json(tmp_path: Path) -> None:
    moment = datetime(2026, 1, 5, 10, tzinfo=UTC)
    columns: dict[str, Any] = {
        "user_id": pa.array([7, 8]),
        "item_id": pa.array(["a", "b"]).dictionary_encode(),
        "event_id": pa.array([None, "e"]),
        "timestamp": pa.array([moment, None], pa.timestamp("ns", "UTC")),
    }
    pq.write_table(pa.table(columns), tmp_path / "one.parquet")
    first, second = [json.loads(record.raw) for record in read(source(tmp_path, tmp_path / "one.parquet"))]
    assert first == {"user_id": 7, "item_id": "a", "timestamp": "2026-01-05T10:00:00+00:00"}
    assert second == {"user_id": 8, "item_id": "b", "event_id": "e"}


def test_mistakes_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read(source(tmp_path, tmp_path / "nowhere"))
    with pytest.raises(DataError, match="holds no file of events"):
        read(source(tmp_path, folder / "notes.csv"))
    with pytest.raises(ConfigError, match="nosuch"):
        source(tmp_path, "nosuch://bucket")

    read(source(tmp_path, folder))
    with pytest.raises(ConfigError, match="belongs to"):
        source(tmp_path, tmp_path)
    (tmp_path / "progress.json").write_text("{")
    with pytest.raises(ConfigError, match="does not decode"):
        source(tmp_path, folder)
