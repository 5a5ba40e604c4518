"""Histories that are asked for together are read together, and answered each for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from model_store.errors import StoreCorrupt, StoreError, StoreUnavailable
from model_store.events.event import Event
from service.store.base import History
from service.store.embedded_store import EmbeddedStore
from service.store.read_batching import READ_AT_ONCE, ReadBatcher
from service.store.redis_store import RedisStore
from tests.support.redis_server import RedisServer
from tests.support.service_harness import until

pytestmark = pytest.mark.anyio


class CountingLive(EmbeddedStore):
    """Tells how many users each read was for; fails as a whole for `away`, for one user for `corrupt`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.reads: list[int] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def histories(self, user_ids: Sequence[str]) -> list[History | StoreError]:
        self.reads.append(len(user_ids))
        await self.may_answer.wait()
        if "away" in user_ids:
            raise StoreUnavailable("away")
        return await super().histories(user_ids)

    async def history(self, user_id: str) -> History:
        if user_id == "corrupt":
            raise StoreCorrupt("damaged")
        return History.untyped([f"{user_id}-item"])


async def test_what_comes_together_is_one_read_and_what_comes_meanwhile_the_next(tmp_path: Path) -> None:
    store = CountingLive(tmp_path)
    reads = ReadBatcher(store.histories)
    store.may_answer.clear()
    first = [asyncio.create_task(reads.read(f"u{n % 50}")) for n in range(100)]
    await until(lambda: store.reads == [50])
    later = [asyncio.create_task(reads.read(f"v{n}")) for n in range(READ_AT_ONCE + 10)]
    await asyncio.sleep(0)  # all of them have asked
    store.may_answer.set()
    assert await asyncio.gather(*first) == [History.untyped([f"u{n % 50}-item"]) for n in range(100)]
    assert await asyncio.gather(*later) == [History.untyped([f"v{n}-item"]) for n in range(READ_AT_ONCE + 10)]
    assert store.reads == [50, READ_AT_ONCE, 10]
    assert await reads.read("again") == History.untyped(["again-item"])
    await store.close()


async def test_failures_reach_those_they_concern(tmp_path: Path) -> None:
    store = CountingLive(tmp_path)
    reads = ReadBatcher(store.histories)
    well, corrupt = await asyncio.gather(reads.read("u"), reads.read("corrupt"), return_exceptions=True)
    assert well == History.untyped(["u-item"])
    assert isinstance(corrupt, StoreCorrupt)
    outcomes = await asyncio.gather(reads.read("away"), reads.read("u"), return_exceptions=True)
    assert [type(each) for each in outcomes] == [StoreUnavailable] * 2
    leaving = asyncio.create_task(reads.read("away"))
    staying = asyncio.create_task(reads.read("u"))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(StoreUnavailable):
        await staying
    assert await reads.read("u") == History.untyped(["u-item"])
    await store.close()


@pytest.mark.redis
async def test_a_key_of_another_type_spoils_one_history_only(redis_server: RedisServer, prefix: str) -> None:
    store = RedisStore(redis_server.url, prefix=prefix, timeout_ms=10_000)
    await store.record([Event(event_id="e", user_id="u", item_id="i", timestamp=1)])
    await store._connection.fast.set(store._keys.history("v"), "text")
    found = await store.histories(["u", "v", "w"])
    assert found[0] == History(["i"], b"c")
    assert isinstance(found[1], StoreCorrupt)
    assert found[2] == History([], b"")
    with pytest.raises(StoreCorrupt):
        await store.history("v")
    await store.close()
