"""Draining: whatever step a drain dies at, each event counts exactly once in the end."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import polars as pl
import pytest
from filelock import FileLock
from redis import Redis

from model_store import durable_files
from model_store.errors import ConfigError, DataError, LockHeld, StoreUnavailable
from model_store.events import event_log
from model_store.events.event import Event
from model_store.events.event_log import EventLine, ForgetLine
from model_store.events.log_writer import LogWriter
from model_store.replication import redis_keys, redis_values
from model_store.tracing.interface import MAX_LINKS
from tests.support.redis_server import RedisServer
from training.retraining import drain_events as drain_module
from training.retraining.drain_events import DrainResult, drain, read_drained

pytestmark = pytest.mark.redis


class Source(Protocol):
    place: str | Path
    prefix: str

    def add(self, *numbers: int) -> None: ...
    def add_traced(self, traceparents: Mapping[int, str]) -> None: ...
    def add_noise(self) -> None: ...
    def left(self) -> int: ...


class RedisSource:
    def __init__(self, client: Redis, url: str, prefix: str) -> None:
        self.place: str | Path = url
        self.prefix = prefix
        self.client = client
        self.stream = redis_keys.Keys(prefix).events

    def add(self, *numbers: int) -> None:
        for number in numbers:
            self.client.xadd(self.stream, {redis_values.EVENT_FIELD: redis_values.encode_event(event(number))})

    def add_traced(self, traceparents: Mapping[int, str]) -> None:
        for number, traceparent in traceparents.items():
            encoded = redis_values.encode_event(event(number))
            traced = {redis_values.EVENT_FIELD: encoded, redis_values.TRACEPARENT_FIELD: traceparent.encode()}
            self.client.xadd(self.stream, traced)  # type: ignore[arg-type]  # a dictionary's types are invariant

    def add_noise(self) -> None:
        self.client.xadd(self.stream, {"event": "noise"})

    def left(self) -> int:
        return int(self.client.xlen(self.stream))


class LogSource:
    """Closes a segment after each addition, as a service that restarts does."""

    def __init__(self, folder: Path) -> None:
        self.place: str | Path = folder
        self.prefix = "unused"
        self.log = LogWriter(folder)

    def add(self, *numbers: int) -> None:
        self.log.append(EventLine(recorded_at=0, event=event(number)) for number in numbers)
        self.log.append([ForgetLine(user_id="someone")])
        self.log.save_state([])

    def add_traced(self, traceparents: Mapping[int, str]) -> None:
        lines = [
            EventLine(recorded_at=0, event=event(number), traceparent=traceparent)
            for number, traceparent in traceparents.items()
        ]
        self.log.append(lines)
        self.log.save_state([])

    def add_noise(self) -> None:
        path = event_log.segment_path(self.log.folder, self.log.segment)
        path.write_bytes(path.read_bytes() + b"00000000 noise\n")

    def left(self) -> int:
        cursor = event_log.read_cursor(self.log.folder)
        numbers = [n for n in event_log.segment_numbers(self.log.folder) if n >= cursor.segment]
        paths = [(event_log.segment_path(self.log.folder, n), n) for n in numbers]
        contents = [event_log.read_lines(path, cursor.offset if n == cursor.segment else 0) for path, n in paths]
        return sum(len(content.lines) for content in contents)


def event(number: int) -> Event:
    return Event(event_id=f"e{number}", user_id="u", item_id=f"i{number}", timestamp=10_000 - number)


@pytest.fixture(params=["redis", "log"])
def source(request: pytest.FixtureRequest, tmp_path: Path, prefix: str) -> Iterator[Source]:
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        with server.client() as client:
            yield RedisSource(client, server.url, prefix)
    else:
        made = LogSource(tmp_path / "events")
        yield made
        made.log.close()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "drained"


def run(source: Source, out: Path, per_file: int = 2) -> DrainResult:
    return drain(source.place, out, prefix=source.prefix, events_per_file=per_file)


def ids(out: Path) -> list[str]:
    return read_drained(out)["event_id"].to_list()


def test_nothing_recorded_is_an_empty_table(source: Source, out: Path) -> None:
    assert run(source, out) == DrainResult(0, [], 0)
    assert read_drained(out).is_empty()
    assert read_drained(out).schema == drain_module.SCHEMA


def test_events_arrive_once_ordered_by_time(source: Source, out: Path) -> None:
    source.add(1, 2, 3, 4, 5)
    first = run(source, out)
    assert (first.events, len(first.files), first.rejected) == (5, 3, 0)
    assert source.left() == 0
    assert run(source, out).events == 0
    source.add(6)
    assert run(source, out).events == 1
    assert ids(out) == ["e6", "e5", "e4", "e3", "e2", "e1"]
    assert read_drained(out).row(0) == ("e6", "u", "i6", "click", 9994, None, None, None, None)


def test_repeated_ids_count_once_and_the_first_wins(source: Source, out: Path) -> None:
    source.add(1, 2)
    run(source, out)
    source.add(2, 3, 1)
    run(source, out)
    assert sorted(ids(out)) == ["e1", "e2", "e3"]


def test_noise_is_kept_beside_and_never_blocks(source: Source, out: Path) -> None:
    source.add(1)
    source.add_noise()
    source.add(2)
    result = run(source, out)
    assert (result.events, result.rejected) == (2, 1)
    assert len(list(out.glob("rejected-*.jsonl"))) == 1
    assert sorted(ids(out)) == ["e1", "e2"]
    assert run(source, out) == DrainResult(0, [], 0)


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


def die_before_step(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Die before step number ``at``: a file made durable, an acknowledgement, a deletion."""
    steps = 0

    def stepped(function: Callable[..., object]) -> Callable[..., object]:
        def before(*args: object, **named: object) -> object:
            nonlocal steps
            steps += 1
            if steps - 1 == at:
                raise Killed
            return function(*args, **named)

        return before

    monkeypatch.setattr(Path, "replace", stepped(Path.replace))
    monkeypatch.setattr(durable_files, "sync_folder", stepped(durable_files.sync_folder))
    monkeypatch.setattr(Path, "unlink", stepped(Path.unlink))
    monkeypatch.setattr(Redis, "xreadgroup", stepped(Redis.xreadgroup))
    monkeypatch.setattr(Redis, "pipeline", stepped(Redis.pipeline))


def test_killed_before_any_step_loses_and_repeats_nothing(
    source: Source, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = 0
    step, finished = 0, False
    while not finished:
        source.add(*range(recorded, recorded + 5))
        recorded += 5
        with monkeypatch.context() as patch:
            die_before_step(patch, step)
            try:
                run(source, out)
                finished = True
            except Killed:
                step += 1
        assert step < 100
    run(source, out)
    assert step >= 8
    assert source.left() == 0
    assert sorted(ids(out)) == sorted(f"e{number}" for number in range(recorded))


def test_drained_segments_are_deleted_only_if_a_state_covers_them(tmp_path: Path, out: Path) -> None:
    source = LogSource(tmp_path / "events")
    source.add(1)
    source.add(2)
    source.log.append([EventLine(recorded_at=0, event=event(3))])
    source.log.close_segment()
    source.log.append([EventLine(recorded_at=0, event=event(4))])
    run(source, out)
    assert event_log.segment_numbers(source.log.folder) == [3, 4]
    source.log.close()
    assert sorted(ids(out)) == ["e1", "e2", "e3", "e4"]


def test_only_the_segment_that_may_grow_is_left_of_what_was_drained_and_covered(tmp_path: Path, out: Path) -> None:
    source = LogSource(tmp_path / "events")
    for number in (1, 2, 3):
        source.add(number)
    assert event_log.segment_numbers(source.log.folder) == [1, 2, 3]
    assert run(source, out).events == 3
    assert event_log.segment_numbers(source.log.folder) == [3]
    source.log.close()


def test_what_a_killed_drain_left_half_written_is_deleted(source: Source, out: Path) -> None:
    out.mkdir()
    (out / ".events-log-1.parquet.tmp").write_bytes(b"half")
    source.add(1)
    assert run(source, out).events == 1
    assert not list(out.glob(".*.tmp"))


def test_entries_that_someone_deleted_after_they_were_taken_hide_none_of_the_others(
    redis_server: RedisServer, prefix: str, out: Path
) -> None:
    with redis_server.client() as client:
        source = RedisSource(client, redis_server.url, prefix)
        source.add(1, 2, 3)
        client.xgroup_create(source.stream, redis_keys.DRAIN_GROUP, id="0")
        [[_, taken]] = client.xreadgroup(redis_keys.DRAIN_GROUP, "retrain", {source.stream: ">"})
        client.xdel(source.stream, taken[0][0])
        assert run(source, out, per_file=10).events == 2
        assert source.left() == 0
        assert client.xpending(source.stream, redis_keys.DRAIN_GROUP)["pending"] == 0
    assert ids(out) == ["e3", "e2"]


def test_a_drain_ends_although_events_keep_coming(
    redis_server: RedisServer, prefix: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One event comes after each reading. The drain ends once a batch is not full; what came since waits."""
    read = Redis.xreadgroup
    numbers = iter(range(10, 30))  # a drain that never ends by itself would take them all

    with redis_server.client() as client:
        source = RedisSource(client, redis_server.url, prefix)
        source.add(1, 2, 3)

        def read_while_one_comes(*args: Any, **named: Any) -> Any:
            found = read(*args, **named)
            source.add(*itertools.islice(numbers, 1))
            return found

        with monkeypatch.context() as patch:
            patch.setattr(Redis, "xreadgroup", read_while_one_comes)
            assert run(source, out).events == 7
        assert source.left() == 1

        assert run(source, out).events == 1
    assert sorted(ids(out)) == ["e1", "e10", "e11", "e12", "e13", "e14", "e2", "e3"]


def test_a_line_still_being_written_is_left_for_later(tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "events"
    folder.mkdir()
    line = event_log.encode_line(EventLine(recorded_at=0, event=event(1)))
    path = event_log.segment_path(folder, 1)
    path.write_bytes(line[:-4])
    assert drain(folder, out) == DrainResult(0, [], 0)
    path.write_bytes(line)
    assert drain(folder, out).events == 1


def test_a_second_drain_is_refused(tmp_path: Path, out: Path) -> None:
    out.mkdir()
    with FileLock(out / ".lock"), pytest.raises(LockHeld, match="drains"):
        drain(tmp_path, out)


def test_sources_that_cannot_be_used(tmp_path: Path, out: Path) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        drain("redis://127.0.0.1:1/0", out)
    with pytest.raises(ConfigError):
        drain("http://127.0.0.1:1", out)


def test_a_damaged_file_is_named(out: Path) -> None:
    out.mkdir()
    (out / "events-log-0.parquet").write_bytes(b"PAR1 noise")
    with pytest.raises(DataError, match="cannot be read"):
        read_drained(out)


def test_spans_of_the_newest_events_come_along_each_once(source: Source, out: Path) -> None:
    source.add(1)
    source.add_traced(dict.fromkeys(range(2, 4), "00-old"))
    source.add_traced({10 + number: f"00-{number}" for number in range(MAX_LINKS)})

    drained = run(source, out, per_file=50)
    assert drained.events == 3 + MAX_LINKS
    assert drained.traceparents == tuple(f"00-{number}" for number in range(MAX_LINKS))


def test_files_of_earlier_releases_are_still_read(out: Path) -> None:
    out.mkdir()
    columns = {"event_id": ["a"], "user_id": ["u"], "item_id": ["i"], "type": ["click"], "timestamp": [1]}
    pl.DataFrame(columns).write_parquet(out / "events-0.parquet")
    assert read_drained(out).row(0) == ("a", "u", "i", "click", 1, None, None, None, None)
