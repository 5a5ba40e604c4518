"""The embedded store across restarts, crashes and failing disks."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import numpy as np
import pytest

from model_store.errors import LockHeld, StoreCorrupt, StoreUnavailable
from model_store.events import event_log
from model_store.events.event import Event
from model_store.events.log_writer import LogWriter
from model_store.replication import redis_keys
from model_store.replication.snapshots import BLOCK_MAGIC
from service.store import open_store
from service.store.base import Recorded
from service.store.change_stream import Position, RawChange, Snapshot
from service.store.embedded_store import EmbeddedStore
from tests.support.store_reading import newest_event

pytestmark = pytest.mark.anyio


def event(number: int) -> Event:
    return Event(event_id=f"e{number}", user_id="u", item_id=f"i{number}", timestamp=number)


def change(item_id: str) -> RawChange:
    return RawChange(item_id, "put", '{"title":"é"}'.encode())


def snapshot(revision: int, value: int = 0) -> Snapshot:
    return Snapshot(Position(revision), "a" * 32, "b" * 64, {"a": np.full(3, value, dtype=np.int32)})


async def save(store: EmbeddedStore, version: str, saved: Snapshot) -> Snapshot | None:
    async def make() -> Snapshot:
        return saved

    return await store.catalogue.save_snapshot(version, make)


async def test_a_restart_keeps_histories_ids_forgetting_and_changes(tmp_path: Path) -> None:
    for start in range(3):  # the second and third start read a state
        store = EmbeddedStore(tmp_path)
        assert await store.record([event(1)]) == Recorded(int(start == 0), int(start > 0))
        await store.record([event(10 + start)])
        await store.record([Event(event_id=f"v{start}", user_id="v", item_id="i", timestamp=1)])
        await store.forget("v")
        assert (await store.catalogue.append([change(f"i{start}")])).revision == start + 1
        await store.close()
    store = EmbeddedStore(tmp_path)
    assert (await store.history("u")).item_ids == ["i1", "i10", "i11", "i12"]
    assert (await store.history("v")).item_ids == []
    tail = await store.catalogue.read_tail("v", Position())
    assert [(each.at.revision, each.item_id) for each in tail.changes] == [(1, "i0"), (2, "i1"), (3, "i2")]
    assert {each.payload for each in tail.changes} == {'{"title":"é"}'.encode()}
    await store.close()


async def test_a_torn_last_line_is_dropped_and_a_damaged_one_counted(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    for number in range(3):
        await store.record([event(number)])
    await store.close()
    path = event_log.segment_path(tmp_path, 1)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(b"i1", b"i9") + lines[2] + lines[2][:-5])
    store = EmbeddedStore(tmp_path)
    assert (await store.history("u")).item_ids == ["i0", "i2"]
    assert store.corrupt_values == 1
    await store.record([event(1)])
    await store.close()
    store = EmbeddedStore(tmp_path)
    assert (await store.history("u")).item_ids == ["i0", "i1", "i2"]
    await store.close()


async def test_full_segments_are_closed_and_covered_by_a_state(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path, segment_bytes=500)
    for number in range(50):
        await store.record([event(number)])
    assert len(event_log.segment_numbers(tmp_path)) > 5
    assert event_log.newest_state(tmp_path) == event_log.segment_numbers(tmp_path)[-1] - 1
    assert len(list(tmp_path.glob("*.state"))) == 1
    for number in event_log.segment_numbers(tmp_path)[:-1]:
        event_log.segment_path(tmp_path, number).unlink()  # what a drain does
    await store.close()
    store = EmbeddedStore(tmp_path)
    assert (await store.history("u")).item_ids == [f"i{number}" for number in range(50)]
    assert await newest_event(store, "u") == max(event(number).timestamp for number in range(50))
    assert await store.record([event(0)]) == Recorded(0, 1)
    await store.close()


async def test_a_restart_keeps_snapshots_latest_changes_and_a_trimmed_stream(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    for item_id in ("a", "b", "a", "c"):
        await store.catalogue.append([change(item_id)])
    await store.catalogue.trim(before=3)
    assert await save(store, "v", snapshot(4, 7))
    for _ in range(3):  # the second start writes a state, the third reads it
        await store.close()
        store = EmbeddedStore(tmp_path)
    latest = await store.catalogue.read_latest()
    assert [(each.item_id, each.at.revision) for each in latest.changes] == [("a", 3), ("b", 2), ("c", 4)]
    tail = await store.catalogue.read_tail("v", Position(4))
    assert (tail.latest_revision, tail.is_unbroken, tail.head) == (4, True, snapshot(4).head)
    loaded = await store.catalogue.load_snapshot("v")
    assert loaded is not None
    assert np.asarray(loaded.arrays["a"]).tolist() == [7, 7, 7]
    await store.close()


async def test_a_damaged_change_breaks_the_stream_instead_of_being_stepped_over(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    for item_id in ("a", "b", "c"):
        await store.catalogue.append([change(item_id)])
    await store.close()
    path = event_log.segment_path(tmp_path, 1)
    path.write_bytes(path.read_bytes().replace(b'"item_id":"b"', b'"item_id":"x"'))
    store = EmbeddedStore(tmp_path)
    assert store.corrupt_values == 1
    tail = await store.catalogue.read_tail("v", Position(1))
    assert (tail.latest_revision, tail.is_unbroken) == (3, False)
    assert [each.item_id for each in (await store.catalogue.read_latest()).changes] == ["a", "c"]
    assert (await store.catalogue.append([change("d")])).revision == 4
    await store.close()


async def test_a_damaged_snapshot_file_is_corrupt_and_has_no_head(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    await save(store, "v", snapshot(4))
    await store.close()
    path = tmp_path / "v.snapshot"
    whole = path.read_bytes()
    for damaged, has_head in ((whole[:-1], True), (b"{}\n" + whole, False), (b"", False)):
        path.write_bytes(damaged)
        store = EmbeddedStore(tmp_path)
        with pytest.raises(StoreCorrupt):
            await store.catalogue.load_snapshot("v")
        assert ((await store.catalogue.read_tail("v", Position())).head is not None) == has_head
        await store.close()


async def test_snapshots_of_the_two_newest_versions_stay(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    for at, version in enumerate(("v1", "v2", "v3")):
        await save(store, version, snapshot(at))
        os.utime(tmp_path / f"{version}.snapshot", (at, at))
    await save(store, "v3", snapshot(9))
    assert await store.catalogue.load_snapshot("v1") is None
    assert await store.catalogue.load_snapshot("v2") is not None
    await store.close()


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    store = open_store(None, tmp_path)
    with pytest.raises(LockHeld, match="another process"):
        EmbeddedStore(tmp_path)
    await store.close()
    await EmbeddedStore(tmp_path).close()


async def test_what_a_failing_disk_refused_is_not_there_and_writing_resumes(tmp_path: Path) -> None:
    class FailingOnce(LogWriter):
        is_failing = False

        def sync(self, descriptor: int) -> None:
            if self.is_failing:
                self.is_failing = False
                raise OSError(28, "No space left on device")
            os.fsync(descriptor)

    store = EmbeddedStore(tmp_path, open_log=FailingOnce)
    log = store.log
    assert isinstance(log, FailingOnce)
    await store.record([event(1)])
    log.is_failing = True
    with pytest.raises(StoreUnavailable, match="No space left"):
        await store.record([event(2)])
    assert (await store.history("u")).item_ids == ["i1"]
    await store.check()
    assert (await store.catalogue.append([change("i")])).revision == 1
    await store.close()
    store = EmbeddedStore(tmp_path)
    assert (await store.history("u")).item_ids == ["i1"]
    assert await store.record([event(2)]) == Recorded(1, 0)
    await store.close()


async def test_a_cancelled_caller_neither_stops_others_nor_the_write(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    first = asyncio.create_task(store.record([event(1)]))
    second = asyncio.create_task(store.record([event(2)]))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == Recorded(1, 0)
    assert (await store.history("u")).item_ids == ["i1", "i2"]
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.record([event(3)])


async def test_ids_are_remembered_for_the_window_only(tmp_path: Path) -> None:
    now = 1_000_000.0
    store = EmbeddedStore(tmp_path, clock=lambda: now)
    await store.record([event(1)])
    now += 24 * 3600
    assert await store.record([event(1)]) == Recorded(0, 1)
    now += redis_keys.SEEN_WINDOW_S
    await store.record([event(2)])
    assert await store.record([event(1)]) == Recorded(1, 0)
    await store.close()


async def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("a file")
    with pytest.raises(StoreUnavailable, match="event log cannot be written"):
        EmbeddedStore(tmp_path / "events")


async def test_idle_users_are_forgotten_at_the_start_and_when_a_state_is_written(tmp_path: Path) -> None:
    now = 1_000_000_000.0

    def opened(ttl_s: int) -> EmbeddedStore:
        return EmbeddedStore(tmp_path, user_ttl_s=ttl_s, segment_bytes=2000, clock=lambda: now)

    store = opened(0)
    await store.record([Event(event_id="a", user_id="before", item_id="i", timestamp=1)])
    await store.close()
    store = opened(1000)  # where the time is not known, it begins with the first start that asks for it
    await store.record([Event(event_id="b", user_id="idle", item_id="i", timestamp=1)])
    now += 600
    await store.record([Event(event_id="c", user_id="active", item_id="i", timestamp=1)])
    await store.close()
    now += 300
    store = opened(1000)
    assert [(await store.history(user)).item_ids for user in ("before", "idle", "active")] == [["i"]] * 3
    now += 101
    await store.record([event(number) for number in range(100)])  # more than a segment
    await store.record([event(200)])
    assert [(await store.history(user)).item_ids for user in ("before", "idle", "active")] == [[], [], ["i"]]
    assert await newest_event(store, "idle") is None
    await store.close()
    now += 700
    store = opened(1000)
    assert ((await store.history("active")).item_ids, len((await store.history("u")).item_ids)) == ([], 101)
    await store.close()
    now += 400
    await opened(1000).close()  # nothing but a state is read at this start
    assert not any(b'"history"' in path.read_bytes() for path in tmp_path.glob("*.state"))


async def test_the_oldest_waiting_segments_are_dropped_and_histories_stay(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path, max_undrained_events=100, segment_bytes=2000)
    for number in range(400):
        await store.record([event(number)])
    waiting = await store.backlog()
    assert 100 <= waiting.events <= 130
    assert store.dropped_events == 400 - waiting.events
    await store.close()
    store = EmbeddedStore(tmp_path, max_undrained_events=100, segment_bytes=2000)
    assert (await store.history("u")).item_ids == [f"i{number}" for number in range(200, 400)]
    assert await store.record([event(0)]) == Recorded(0, 1)
    await store.close()


async def test_a_clock_that_jumps_loses_nothing_and_keeps_no_ids_for_ever(tmp_path: Path) -> None:
    now = 1_000_000_000.0
    day = 86_400

    def opened() -> EmbeddedStore:
        return EmbeddedStore(tmp_path, clock=lambda: now, half_lives_s=(36,), user_ttl_s=30 * day)

    store = opened()
    for number, jump in enumerate((0, day, -day, -day, 400 * day, -400 * day, 0)):
        now += jump
        recorded = event(number).model_copy(update={"timestamp": int(now)})
        assert await store.record([recorded]) == Recorded(1, 0)
        assert await store.record([recorded]) == Recorded(0, 1)
        assert all(0 <= count < 1e13 for count in (await store.counts(36)).values())
        await store.close()
        store = opened()
        assert len((await store.history("u")).item_ids) == number + 1
    for _ in range(3):
        now += redis_keys.SEEN_WINDOW_S + 1
        await store.record([event(100)])
    assert list(store._state.seen) == ["e100"]
    await store.close()


async def test_a_snapshot_file_of_another_format_has_no_head_and_is_not_read(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    await save(store, "v", snapshot(4))
    await store.close()
    path = tmp_path / "v.snapshot"
    content = path.read_bytes()
    assert b"\n" + BLOCK_MAGIC in content
    path.write_bytes(content.replace(b"\n" + BLOCK_MAGIC, b"\nETGSNAP1"))
    store = EmbeddedStore(tmp_path)
    assert (await store.catalogue.read_tail("v", Position())).head is None
    with pytest.raises(StoreCorrupt):
        await store.catalogue.load_snapshot("v")
    await save(store, "v", snapshot(5))
    assert (await store.catalogue.load_snapshot("v")) is not None
    await store.close()


async def test_the_snapshot_just_written_stays_although_the_clock_was_put_back(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    for version in ("v1", "v2"):
        await save(store, version, snapshot(1))
        os.utime(tmp_path / f"{version}.snapshot", (4e9, 4e9))
    await save(store, "v3", snapshot(2))
    assert await store.catalogue.load_snapshot("v3") is not None
    assert len(list(tmp_path.glob("*.snapshot"))) == 2
    await store.close()
