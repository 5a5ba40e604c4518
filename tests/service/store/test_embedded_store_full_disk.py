"""The embedded store on a disk that is full, on a real one: what is stored is read, deletions work, it comes back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from model_store.durable_files import write_durably
from model_store.errors import StoreReadOnly
from model_store.events import event_log
from model_store.events.event import Event
from model_store.events.log_writer import SEGMENT_BYTES, LogWriter
from service.store.base import Recorded
from service.store.change_stream import Position, RawChange, Snapshot
from service.store.embedded_store import EmbeddedStore
from tests.support.small_disk import SmallDisk, small_disk

pytestmark = pytest.mark.anyio

DISK_BYTES = 2 * 1024 * 1024
RESERVE_BYTES = 64 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    with small_disk(mount_point, DISK_BYTES) as mounted:
        if mounted is None:
            pytest.skip("this machine mounts no tmpfs for us")
        yield mounted


@pytest.fixture
def own_disk(disk: SmallDisk) -> SmallDisk:
    if not disk.is_mounted_here:
        pytest.skip("only root can mount a disk again")
    return disk


def open_store(disk: SmallDisk, segment_bytes: int = SEGMENT_BYTES) -> EmbeddedStore:
    return EmbeddedStore(
        disk.path / "events",
        segment_bytes=segment_bytes,
        open_log=lambda folder, size: LogWriter(folder, size, RESERVE_BYTES),
    )


def event(number: int, user: str | None = None) -> Event:
    return Event(event_id=f"e{number}", user_id=user or f"user-{number % 7}", item_id=f"i{number}", timestamp=number)


def change(item_id: str, kind: str = "put") -> RawChange:
    return RawChange(item_id, "delete", b"") if kind == "delete" else RawChange(item_id, "put", b'{"title":"t"}')


def snapshot(revision: int, size: int) -> Snapshot:
    rows = np.random.default_rng(revision).integers(0, 255, size).astype(np.uint8)
    return Snapshot(Position(revision), "a" * 32, "b" * 64, {"a": rows})


async def record_until_full(store: EmbeddedStore) -> list[Event]:
    """Record events one after another until the disk refuses; return those that were acknowledged."""
    recorded: list[Event] = []
    while True:
        batch = [event(len(recorded) + number) for number in range(50)]
        try:
            await store.record(batch)
        except StoreReadOnly:
            return recorded
        recorded += batch


def history_of(user: str, events: list[Event]) -> list[str]:
    return [each.item_id for each in events if each.user_id == user][-200:]


async def assert_read_only(store: EmbeddedStore) -> None:
    with pytest.raises(StoreReadOnly, match="No space left") as refusal:
        await store.check()
    assert refusal.value.reason == "its disk is full"


async def test_a_full_disk_refuses_events_and_loses_none_that_was_acknowledged(disk: SmallDisk) -> None:
    store = open_store(disk)
    await store.check()
    disk.fill(leave=200_000)
    recorded = await record_until_full(store)
    assert len(recorded) > 100
    await assert_read_only(store)
    for start in range(3):  # the second and third start on the full disk
        for number in range(7):
            assert (await store.history(f"user-{number}")).item_ids == history_of(f"user-{number}", recorded), start
        with pytest.raises(StoreReadOnly):
            await store.record([event(10_000)])
        with pytest.raises(StoreReadOnly):
            await store.catalogue.append([change("i")])
        await store.close()
        store = open_store(disk)
        await assert_read_only(store)
    disk.clear()
    await store.check()
    assert await store.record([event(10_000), recorded[0]]) == Recorded(1, 1)
    assert (disk.path / "events" / "reserve").stat().st_size == RESERVE_BYTES
    await store.close()


async def test_items_are_hidden_and_users_forgotten_on_a_full_disk(disk: SmallDisk) -> None:
    store = open_store(disk)
    await store.record([event(number) for number in range(700)])
    await store.catalogue.append([change("a"), change("b")])
    await store.close()
    store = open_store(disk)  # histories are in a state now
    await store.record([event(number) for number in range(700, 1400)])
    await store.check()
    disk.fill()
    await assert_read_only(store)
    assert disk.free == 0
    assert (await store.catalogue.append([change("a", "delete")])).revision == 3
    assert (await store.forget("user-3")).events == 100 + 100
    assert (await store.forget("user-4")).history == 200
    with pytest.raises(StoreReadOnly):
        await store.record([event(2000)])
    await store.close()
    held = b"".join(path.read_bytes() for path in (disk.path / "events").iterdir())
    assert (held.count(b"user-3"), held.count(b"user-4")) == (1, 1)  # the lines that say so
    store = open_store(disk)
    assert store.corrupt_values == 0
    assert (await store.history("user-3")).item_ids == (await store.history("user-4")).item_ids == []
    assert len((await store.history("user-5")).item_ids) == 200
    latest = {each.item_id: each.kind for each in (await store.catalogue.read_latest()).changes}
    assert latest == {"a": "delete", "b": "put"}
    await store.forget("user-5")  # a start on a full disk forgets as well
    assert (await store.history("user-5")).item_ids == []
    await store.close()


async def test_the_reserve_serves_many_deletions_one_after_another(disk: SmallDisk) -> None:
    store = open_store(disk)
    await store.catalogue.append([change(f"i{number}") for number in range(200)])
    await store.check()
    disk.fill()
    await assert_read_only(store)
    for number in range(200):
        assert (await store.catalogue.append([change(f"i{number}", "delete")])).revision == 201 + number
    assert {each.kind for each in (await store.catalogue.read_latest()).changes} == {"delete"}
    await store.close()


async def test_deletions_are_stored_when_they_share_a_write_with_events_that_are_refused(disk: SmallDisk) -> None:
    store = open_store(disk)
    await store.catalogue.append([change("a")])
    disk.fill()
    recorded, hidden, put = await asyncio.gather(
        store.record([event(number) for number in range(500)]),
        store.catalogue.append([change("a", "delete")]),
        store.catalogue.append([change("b")]),
        return_exceptions=True,
    )
    assert isinstance(recorded, StoreReadOnly)
    assert isinstance(put, StoreReadOnly)
    assert hidden == Position(2)
    await store.close()
    store = open_store(disk)
    assert [each.kind for each in (await store.catalogue.read_latest()).changes] == ["delete"]
    assert (await store.history("user-1")).item_ids == []
    await store.close()


async def test_events_go_on_where_there_is_space_for_them_but_not_for_a_new_state(disk: SmallDisk) -> None:
    store = open_store(disk, segment_bytes=50_000)
    await store.record([event(number, f"user-{number}") for number in range(3000)])
    await store.close()
    store = open_store(disk, segment_bytes=50_000)
    state = event_log.state_path(disk.path / "events", event_log.newest_state(disk.path / "events"))
    assert state.stat().st_size > 250_000
    disk.fill(leave=150_000)
    for number in range(6):
        await store.record([event(5000 + 100 * number + each, "late") for each in range(100)])
    assert state.exists()
    assert len(event_log.segment_numbers(disk.path / "events")) >= 2
    await store.close()
    store = open_store(disk, segment_bytes=50_000)
    assert len((await store.history("late")).item_ids) == 200
    assert (await store.history("user-17")).item_ids == ["i17"]
    assert not list((disk.path / "events").glob(".*.tmp"))
    await store.close()


async def test_a_snapshot_without_space_leaves_the_old_one(disk: SmallDisk) -> None:
    async def save(saved: Snapshot) -> Snapshot | None:
        async def make() -> Snapshot:
            return saved

        return await store.catalogue.save_snapshot("v", make)

    store = open_store(disk)
    await save(snapshot(1, 100_000))
    disk.fill(leave=50_000)
    with pytest.raises(StoreReadOnly, match="snapshot"):
        await save(snapshot(2, 100_000))
    await store.close()
    store = open_store(disk)
    loaded = await store.catalogue.load_snapshot("v")
    assert loaded is not None
    assert loaded.at == Position(1)
    assert not list((disk.path / "events").glob(".*.tmp"))
    await store.close()


async def test_a_disk_that_is_read_only_is_read_until_it_is_written_again(own_disk: SmallDisk) -> None:
    store = open_store(own_disk)
    await store.record([event(1)])
    await store.close()
    own_disk.remount("ro")
    store = open_store(own_disk)
    with pytest.raises(StoreReadOnly) as refusal:
        await store.check()
    assert refusal.value.reason == "its disk refuses writes"
    assert (await store.history("user-1")).item_ids == ["i1"]
    with pytest.raises(StoreReadOnly):
        await store.forget("user-1")
    own_disk.remount("rw")
    await store.check()
    assert (await store.record([event(8)])).accepted == 1
    assert (await store.history("user-1")).item_ids == ["i1", "i8"]
    await store.close()


async def test_a_store_that_started_without_its_lock_stays_read_only_if_another_has_written(
    own_disk: SmallDisk,
) -> None:
    store = open_store(own_disk)
    await store.record([event(1)])
    await store.close()
    own_disk.remount("ro")
    late = open_store(own_disk)
    own_disk.remount("rw")
    other = open_store(own_disk)
    with pytest.raises(StoreReadOnly, match="another process writes"):
        await late.check()
    await other.record([event(8)])
    await other.close()
    with pytest.raises(StoreReadOnly, match="another process has written"):
        await late.check()
    with pytest.raises(StoreReadOnly, match="another process has written"):
        await late.forget("user-1")
    await late.close()
    again = open_store(own_disk)
    assert (await again.history("user-1")).item_ids == ["i1", "i8"]
    await again.close()


class FullLog(LogWriter):
    """Log whose disk can be made full, for machines that mount no disk of ours: syncs fail while it is."""

    is_disk_full = False

    def sync(self, descriptor: int) -> None:
        if self.is_disk_full:
            raise OSError(28, "No space left on device")
        os.fsync(descriptor)


async def test_after_a_refusal_nothing_but_deletions_is_tried_until_the_check_succeeds(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path, open_log=FullLog)
    log = store.log
    assert isinstance(log, FullLog)
    await store.record([event(1)])
    log.is_disk_full = True
    with pytest.raises(StoreReadOnly):
        await store.record([event(8)])
    files = sorted(tmp_path.iterdir())
    for _ in range(5):
        with pytest.raises(StoreReadOnly):
            await store.record([event(15)])
    assert sorted(tmp_path.iterdir()) == files  # no new segment for each attempt
    log.is_disk_full = False
    await store.forget("user-1")
    with pytest.raises(StoreReadOnly):
        await store.record([event(15)])
    await store.check()
    assert (await store.record([event(15)])).accepted == 1
    await store.close()


def test_a_file_that_cannot_be_written_leaves_no_half_of_it(disk: SmallDisk) -> None:
    path = disk.path / "file"
    write_durably(path, b"old")
    disk.fill(leave=50_000)
    with pytest.raises(OSError, match="No space left"):
        write_durably(path, os.urandom(100_000))
    assert path.read_bytes() == b"old"
    assert disk.free >= 50_000 - 8192
