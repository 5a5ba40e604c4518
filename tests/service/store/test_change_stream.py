"""The contract of stores of catalogue changes and snapshots, run on both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from model_store.errors import StoreUnavailable
from model_store.semantic_ids.trie import Trie
from service.store.base import Store
from service.store.change_stream import ChangeStore, Position, RawChange, Snapshot
from service.store.embedded_store import EmbeddedStore
from service.store.redis_store import RedisStore
from tests.support.redis_cluster import RedisClusterGroup
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

PATIENT_MS = 10_000
LINEAGE, ORIGIN = "a" * 32, "b" * 64


def put(item_id: str, payload: bytes = b"{}") -> RawChange:
    return RawChange(item_id, "put", payload)


def snapshot(revision: int, value: int = 0) -> Snapshot:
    return Snapshot(Position(revision), LINEAGE, ORIGIN, {"a": np.array([value], dtype=np.int32)})


@pytest.fixture(params=["redis", "cluster", "embedded"])
async def whole_store(request: pytest.FixtureRequest, tmp_path: Path, prefix: str) -> AsyncIterator[Store]:
    made: Store
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        made = RedisStore(server.url, prefix=prefix, timeout_ms=PATIENT_MS)
    elif request.param == "cluster":
        cluster: RedisClusterGroup = request.getfixturevalue("redis_cluster")
        made = RedisStore(cluster.url, prefix=prefix, timeout_ms=PATIENT_MS, write_timeout_s=10)
    else:
        made = EmbeddedStore(tmp_path / "events")
    async with asyncio.timeout(120):
        yield made
    await made.close()


@pytest.fixture
def store(whole_store: Store) -> ChangeStore:
    return whole_store.catalogue


async def save(store: ChangeStore, version: str, saved: Snapshot) -> Snapshot | None:
    async def make() -> Snapshot:
        return saved

    return await store.save_snapshot(version, make)


async def test_revisions_have_no_gaps_under_concurrency(store: ChangeStore) -> None:
    places = await asyncio.gather(*(store.append([put(f"i{n}", b'{"n":1}')]) for n in range(50)))
    assert sorted(place.revision for place in places) == list(range(1, 51))
    tail = await store.read_tail("v", Position())
    assert (tail.latest_revision, tail.is_unbroken, tail.head) == (50, True, None)
    assert {change.at: change.item_id for change in tail.changes} == {at: f"i{n}" for n, at in enumerate(places)}
    later = await store.read_tail("v", tail.changes[19].at, limit=3)
    assert [change.at.revision for change in later.changes] == [21, 22, 23]
    assert (await store.read_tail("v", tail.changes[49].at)).changes == []


async def test_an_empty_stream_is_unbroken_from_its_start_only(store: ChangeStore) -> None:
    assert (await store.read_tail("v", Position())).is_unbroken
    ahead = await store.read_tail("v", Position(3))
    assert (ahead.is_unbroken, ahead.latest_revision) == (False, 0)
    assert (await store.read_latest()).changes == []


async def test_several_changes_come_in_order_and_a_step_shares_a_nonce(store: ChangeStore) -> None:
    last = await store.append([put(f"i{n}") for n in range(600)])
    assert last.revision == 600
    tail = await store.read_tail("v", Position(), limit=1000)
    assert [change.item_id for change in tail.changes] == [f"i{n}" for n in range(600)]
    assert tail.changes[-1].at == last
    assert len({change.at.nonce for change in tail.changes}) <= 3


async def test_payloads_and_ids_may_hold_any_bytes(store: ChangeStore) -> None:
    item_id, payload = 'a b 1-2 put "\n\0é\U0001f600', '{"title":"ü \\n put 1-2"}'.encode()
    await store.append([put(item_id, payload), RawChange("gone", "delete", b"")])
    first, second = (await store.read_tail("v", Position())).changes
    assert (first.item_id, first.kind, first.payload) == (item_id, "put", payload)
    assert (second.item_id, second.kind, second.payload) == ("gone", "delete", b"")
    kept = {change.item_id: change for change in (await store.read_latest()).changes}
    assert (kept[item_id], kept["gone"]) == (first, second)


async def test_the_latest_change_of_each_item_is_kept_in_order_of_first_changes(store: ChangeStore) -> None:
    for item_id in ("b", "a", "c", "b"):
        await store.append([put(item_id)])
    await store.append([RawChange("a", "delete", b"")])
    latest = await store.read_latest()
    assert [(change.item_id, change.at.revision, change.kind) for change in latest.changes] == [
        ("b", 4, "put"),
        ("a", 5, "delete"),
        ("c", 3, "put"),
    ]
    assert latest.at.revision == 5


async def test_the_latest_change_of_a_deleted_item_has_the_content_that_it_had(store: ChangeStore) -> None:
    gone = RawChange("a", "delete", b"")
    await store.append([put("a", b'{"title":"1-2 put\n"}'), gone, gone, RawChange("never put", "delete", b"")])
    deleted, other = (await store.read_latest()).changes
    assert (deleted.kind, deleted.at.revision, deleted.payload) == ("delete", 3, b'{"title":"1-2 put\n"}')
    assert (other.kind, other.payload) == ("delete", b"")
    tail = await store.read_tail("v", Position())
    assert [change.payload for change in tail.changes[1:]] == [b"", b"", b""]

    await store.append([put("a", b"{}"), gone, put("never put", b'{"title":"new"}')])
    latest = (await store.read_latest()).changes
    assert [(change.kind, change.payload) for change in latest] == [("delete", b"{}"), ("put", b'{"title":"new"}')]


async def test_a_trimmed_stream_says_so_and_keeps_counting(store: ChangeStore) -> None:
    for n in range(10):
        await store.append([put(f"i{n}")])
    await store.trim(before=6)
    assert not (await store.read_tail("v", Position())).is_unbroken
    whole = await store.read_latest()
    assert len(whole.changes) == 10
    at_six = next(change.at for change in whole.changes if change.at.revision == 6)
    assert [change.at.revision for change in (await store.read_tail("v", at_six)).changes] == [7, 8, 9, 10]
    await store.trim(before=1000)
    at_end = await store.read_tail("v", whole.at)
    assert (at_end.is_unbroken, at_end.latest_revision) == (True, 10)
    assert (await store.append([put("i")])).revision == 11
    assert [change.at.revision for change in (await store.read_tail("v", whole.at)).changes] == [11]


async def test_a_store_that_lost_changes_is_begun_anew_by_one_reader(store: ChangeStore) -> None:
    mine = await store.append([put("kept", b'{"title":"kept"}')])
    refill = [put("kept", b'{"title":"old"}'), put("lost", b'{"title":"lost"}')]
    place = await store.restart(7, refill)
    assert place is not None
    assert place.revision >= 8
    assert await store.restart(7, refill) is None
    assert not (await store.read_tail("v", mine)).is_unbroken
    assert (await store.read_tail("v", place)).is_unbroken
    latest = await store.read_latest()
    assert {change.item_id: change.payload for change in latest.changes} == {
        "kept": b'{"title":"kept"}',
        "lost": b'{"title":"lost"}',
    }
    assert (await store.append([put("next")])).revision == place.revision + 1


async def test_nothing_is_appended_to_a_store_that_holds_less_than_the_caller_has_read(store: ChangeStore) -> None:
    await store.append([put("a")], known=0)
    for changes in ([put("b")], [put("b"), put("c")]):
        with pytest.raises(StoreUnavailable, match="lost changes"):
            await store.append(changes, known=2)
    assert [change.item_id for change in (await store.read_latest()).changes] == ["a"]
    assert (await store.append([put("b")], known=1)).revision == 2


async def test_snapshot_comes_back_as_saved_and_read_only(store: ChangeStore, rng: np.random.Generator) -> None:
    codes = np.unique(rng.integers(0, 16, (300, 3)), axis=0)
    saved = Snapshot(Position(7, 9), LINEAGE, ORIGIN, Trie.build(codes, 16).arrays())
    assert await store.load_snapshot("v1") is None
    assert await save(store, "v1", saved) is saved
    loaded = await store.load_snapshot("v1")
    assert loaded is not None
    assert (loaded.at, loaded.lineage, loaded.origin) == (Position(7, 9), LINEAGE, ORIGIN)
    assert set(loaded.arrays) == set(saved.arrays)
    for name, array in loaded.arrays.items():
        np.testing.assert_array_equal(array, saved.arrays[name])
        assert array.dtype == saved.arrays[name].dtype
        assert not array.flags.writeable
    Trie.from_arrays(loaded.arrays, 16)
    assert await store.load_snapshot("v2") is None
    assert (await store.read_tail("v1", Position())).head == saved.head
    assert (await store.read_tail("v2", Position())).head is None


async def test_the_newest_saved_snapshot_counts(store: ChangeStore) -> None:
    for revision, value in ((2, 20), (3, 30), (1, 10)):
        assert await save(store, "v", snapshot(revision, value))
        loaded = await store.load_snapshot("v")
        assert loaded is not None
        assert (loaded.at.revision, np.asarray(loaded.arrays["a"]).tolist()) == (revision, [value])
        assert (await store.read_tail("v", Position())).head == loaded.head


async def test_whoever_makes_a_snapshot_is_alone_and_may_find_that_none_is_needed(store: ChangeStore) -> None:
    async def unneeded() -> None:
        assert await save(store, "v", snapshot(5)) is None  # the lock is held
        assert await save(store, "other", snapshot(5)) is not None

    assert await store.save_snapshot("v", unneeded) is None
    assert await store.load_snapshot("v") is None
    assert await save(store, "v", snapshot(6)) is not None


async def test_a_snapshot_that_cannot_be_made_frees_the_lock(store: ChangeStore) -> None:
    async def fails() -> Snapshot:
        raise KeyError("no snapshot")

    with pytest.raises(KeyError):
        await store.save_snapshot("v", fails)
    assert await save(store, "v", snapshot(1)) is not None
