"""The contract of stored placements, run on Redis, a cluster and the embedded store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from model_store.errors import StoreCorrupt, StoreUnavailable
from service.store.base import Store
from service.store.document_store import (
    MAX_DOCUMENTS,
    DocumentChanged,
    StoredDocument,
    StoredDocuments,
    TooManyDocuments,
)
from service.store.embedded_store import EmbeddedStore
from service.store.redis_store import RedisStore
from tests.support.redis_cluster import RedisClusterGroup
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


@pytest.fixture(params=["redis", "cluster", "embedded"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, prefix: str) -> AsyncIterator[Store]:
    made: Store
    if request.param == "embedded":
        made = EmbeddedStore(tmp_path / "events")
    else:
        fixture = "redis_server" if request.param == "redis" else "redis_cluster"
        server: RedisServer | RedisClusterGroup = request.getfixturevalue(fixture)
        made = RedisStore(server.url, prefix=prefix, timeout_ms=10_000, write_timeout_s=10)
    async with asyncio.timeout(120):
        yield made
    await made.close()


def names(found: StoredDocuments | None) -> list[str]:
    assert found is not None
    return sorted(each.name for each in found.changed)


async def test_writes_are_numbered_and_read_once(store: Store) -> None:
    placements = store.placements
    assert await placements.read(0) is None
    assert await placements.put("home", b'{"k":1}', 0) == 1
    assert await placements.put("cart", b"{}", 1) == 2
    assert await placements.put("home", '{"description":"é"}'.encode(), 2) == 3

    found = await placements.read(0)
    assert found is not None
    assert (found.revision, found.names) == (3, frozenset({"home", "cart"}))
    assert set(found.changed) == {
        StoredDocument("home", 3, '{"description":"é"}'.encode()),
        StoredDocument("cart", 2, b"{}"),
    }
    assert names(await placements.read(2)) == ["home"]
    assert await placements.read(3) is None

    assert await placements.delete("home", 3) == 4
    assert await placements.delete("home", 4) == 0
    assert await placements.read(3) == StoredDocuments(4, frozenset({"cart"}), [])
    assert await placements.put("home", b"{}", 4) == 5


async def test_a_write_that_expects_another_revision_is_refused(store: Store) -> None:
    placements = store.placements
    with pytest.raises(DocumentChanged) as none:
        await placements.put("home", b"{}", 0, expected=1)
    assert none.value.revision == 0
    assert await placements.put("home", b"{}", 0, expected=0) == 1
    for expected in (0, 2):
        with pytest.raises(DocumentChanged) as changed:
            await placements.delete("home", 1, expected=expected)
        assert changed.value.revision == 1
    assert await placements.put("home", b"{}", 1, expected=1) == 2
    assert await placements.delete("home", 2, expected=2) == 3


async def test_of_two_writes_at_once_one_finds_what_it_expects(store: Store) -> None:
    works = [store.placements.put("home", b"{}", 0, expected=0) for _ in range(5)]
    outcomes = await asyncio.gather(*works, return_exceptions=True)
    assert sorted(type(each).__name__ for each in outcomes) == ["DocumentChanged"] * 4 + ["int"]


async def test_there_is_an_end_to_their_number(store: Store) -> None:
    for number in range(MAX_DOCUMENTS):
        await store.placements.put(f"p{number}", b"{}", 0)
    with pytest.raises(TooManyDocuments):
        await store.placements.put("one-more", b"{}", 0)
    assert await store.placements.put("p7", b'{"k":2}', 0) == MAX_DOCUMENTS + 1
    await store.placements.delete("p7", 0)
    assert await store.placements.put("one-more", b"{}", 0) == MAX_DOCUMENTS + 3


@pytest.mark.parametrize("kind", ["redis", "cluster"])
async def test_lost_writes_are_given_back_once(kind: str, request: pytest.FixtureRequest, prefix: str) -> None:
    server = request.getfixturevalue("redis_server" if kind == "redis" else "redis_cluster")
    store = RedisStore(server.url, prefix=prefix, timeout_ms=10_000, write_timeout_s=10)
    placements = store.placements
    with pytest.raises(StoreUnavailable, match="lost documents"):
        await placements.put("home", b"{}", known=7)
    with pytest.raises(StoreUnavailable, match="lost documents"):
        await placements.delete("home", known=7)
    assert await placements.read(7) == StoredDocuments(0, frozenset(), [])

    known = [StoredDocument("home", 3, b"{}"), StoredDocument("cart", 7, b'{"k":1}')]
    assert await placements.restore(7, known)
    assert not await placements.restore(7, [])
    assert not await placements.restore(6, [])
    found = await placements.read(0)
    assert found is not None
    assert (found.revision, sorted(found.changed)) == (7, sorted(known))
    assert await placements.put("new", b"{}", known=7) == 8
    await store.close()


async def test_what_another_program_wrote_is_corrupt(redis_server: RedisServer, prefix: str) -> None:
    store = RedisStore(redis_server.url, prefix=prefix, timeout_ms=10_000)
    await store.placements.put("home", b"{}", 0)
    with redis_server.client() as raw:
        raw.hset(f"{prefix}:placements", mapping={"odd": "7x text", "": "9"})
    with pytest.raises(StoreCorrupt):
        await store.placements.read(0)
    await store.close()


async def test_a_restart_of_the_embedded_store_keeps_placements_and_their_numbers(tmp_path: Path) -> None:
    for round_ in range(3):
        store = EmbeddedStore(tmp_path, segment_bytes=200 if round_ == 1 else 1 << 20)
        known = 3 * round_
        found = await store.placements.read(0)
        if round_:
            assert found is not None
            assert (found.revision, names(found)) == (known, ["kept"])
        await store.placements.put("kept", b'{"k":%d}' % (round_ + 1), known)
        await store.placements.put("gone", b"{}", known)
        assert await store.placements.delete("gone", known) == known + 3
        await store.close()
