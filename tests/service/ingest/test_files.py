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

from model_store.errors import ConfigError, DataError
from service.ingest import files
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


def test_a_file_that_was_replaced_is_left_out(folder: Path, tmp_path: Path) -> None:
    read(source(tmp_path, folder))
    parquet(folder / "3.parquet", range(50, 90))
    (folder / "1.jsonl").write_bytes(line(91))
    assert read(source(tmp_path, folder)) == []


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
