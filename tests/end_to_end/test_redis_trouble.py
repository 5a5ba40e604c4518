"""Redis trouble, each kind on a real server, as clients of a replica see it over HTTP.

Whatever happens to Redis: requests that bring their history are all answered, answers say `degraded`, a write that
cannot be stored is refused with 503, what was acknowledged stays, and full service returns by itself.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from model_store.bundle.registry import ModelStore
from model_store.errors import StoreUnavailable
from model_store.replication import redis_keys
from service.schemas.items import ItemBody
from tests.support.redis_server import RedisServer
from tests.support.replica import INLINE, Replica, event, open_replica, same_place
from tests.support.service_harness import live_store, metric, until
from tests.support.tcp_proxy import TcpProxy

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

SLOW_S = 1.5  # longer than a write may take


class Shop:
    """A model store, a Redis of its own and the network in front of it."""

    def __init__(self, folder: Path, server: RedisServer, proxy: TcpProxy) -> None:
        self.folder, self.server, self.proxy = folder, server, proxy
        self.keys = redis_keys.Keys()

    def replica(self, *, by_proxy: bool = False, **given: Any) -> AbstractAsyncContextManager[Replica]:
        url = self.server.url.replace(str(self.server.port), str(self.proxy.port)) if by_proxy else self.server.url
        return open_replica(self.folder, url, **given)


@pytest.fixture
async def shop(tmp_path: Path, own_redis: RedisServer) -> AsyncIterator[Shop]:
    live_store(tmp_path / "store")
    proxy = TcpProxy(own_redis.port)
    await proxy.mend()
    yield Shop(tmp_path / "store", own_redis, proxy)
    await proxy.cut()


@asynccontextmanager
async def killed(shop: Shop) -> AsyncIterator[None]:
    shop.server.kill()
    yield
    shop.server.start()


@asynccontextmanager
async def frozen(shop: Shop) -> AsyncIterator[None]:
    with shop.server.frozen():
        yield


@asynccontextmanager
async def paused(shop: Shop) -> AsyncIterator[None]:
    with shop.server.client() as raw:
        raw.execute_command("CLIENT", "PAUSE", 600_000, "WRITE")  # a pause of everything would hold UNPAUSE back, too
        yield
        raw.execute_command("CLIENT", "UNPAUSE")


@asynccontextmanager
async def slow(shop: Shop) -> AsyncIterator[None]:
    shop.proxy.delay_s = SLOW_S
    yield
    shop.proxy.delay_s = 0


@asynccontextmanager
async def out_of_memory(shop: Shop) -> AsyncIterator[None]:
    with shop.server.client() as raw:
        raw.config_set("maxmemory-policy", "noeviction")
        raw.config_set("maxmemory", "1")
        yield
        raw.config_set("maxmemory", "0")


@asynccontextmanager
async def wrong_password(shop: Shop) -> AsyncIterator[None]:
    with shop.server.client() as raw:
        raw.config_set("requirepass", "another")
        raw.execute_command("CLIENT", "KILL", "TYPE", "normal")
        yield
        raw.config_set("requirepass", str(shop.server.password))


@asynccontextmanager
async def key_of_another_type(shop: Shop) -> AsyncIterator[None]:
    with shop.server.client() as raw:
        raw.set(shop.keys.changes, "text")
        yield
        raw.delete(shop.keys.changes)


Trouble = Callable[[Shop], AbstractAsyncContextManager[None]]


@pytest.mark.parametrize("trouble", [killed, frozen, paused, slow, out_of_memory, wrong_password])
async def test_service_goes_on_through_trouble_and_loses_nothing(trouble: Trouble, shop: Shop) -> None:
    async with shop.replica(by_proxy=True) as replica, replica.asked_all_along():
        await replica.accepted("PUT", "/items/before", {"title": "before"})
        await replica.accepted("DELETE", "/items/item-9")
        await replica.accepted("POST", "/events", [event(1), event(2)])
        await replica.until_degraded(False)
        expected = (await replica.recommended(**INLINE))["items"]
        async with trouble(shop):
            await replica.until_degraded(True)
            await replica.refused("PUT", "/items/during", {"title": "during"})
            if trouble is out_of_memory:
                await replica.accepted("DELETE", "/items/item-8")
            else:
                await replica.refused("DELETE", "/items/item-8")
            await replica.refused("POST", "/events", event(3))
            assert (await replica.recommended(user_id="u"))["degraded"]
            items = (await replica.recommended(**INLINE))["items"]
            hidden = ["item-8"] if trouble is out_of_memory else []
            kept = [each for each in expected if each["item_id"] not in hidden]
            assert items[: len(kept)] == kept
            assert (await replica.client.get("/items/before")).status_code == 200
            assert (await replica.client.get("/items/unheard-of")).status_code == 404
        await replica.until_degraded(False)
        await replica.accepted("PUT", "/items/during", {"title": "during"})
        await replica.accepted("DELETE", "/items/item-8")
        repeated = await replica.accepted("POST", "/events", event(3))
        assert repeated["accepted"] + repeated["duplicates"] == 1
        async with shop.replica() as other:
            await same_place(replica, other)
            for item_id, is_hidden in (("before", False), ("during", False), ("item-8", True), ("item-9", True)):
                assert (await other.client.get(f"/items/{item_id}")).json()["hidden"] == is_hidden
            user = (await other.client.get("/users/u")).json()
            assert user["history"] == ["item-1", "item-2", "item-3"]


async def test_a_server_that_restarts_empty_is_refilled(shop: Shop) -> None:
    async with shop.replica() as first, shop.replica() as second, first.asked_all_along(), second.asked_all_along():
        await first.accepted("PUT", "/items/kept", {"title": "kept"})
        await first.accepted("DELETE", "/items/item-9")
        await same_place(first, second)
        before = first.place
        shop.server.kill()
        shutil.rmtree(shop.server.folder / "appendonlydir")
        await first.until_degraded(True)
        await second.until_degraded(True)
        await first.refused("PUT", "/items/during", {"title": "t"})
        shop.server.start()
        await until(lambda: min(first.place[1], second.place[1]) > before[1])
        await same_place(first, second)
        assert first.place[2] == before[2]
        await first.until_degraded(False)
        await second.until_degraded(False)
        saved = [metric(each.service, "etegrec_snapshots_total", result="saved") for each in (first, second)]
        assert sum(saved) >= 2  # the first one of all, and the one that refilled the server
        await second.accepted("PUT", "/items/during", {"title": "during"})
        version = ModelStore(shop.folder).live()
        with shop.server.client() as raw:
            assert raw.exists(shop.keys.head(str(version)), shop.keys.changes, shop.keys.items) == 3
        async with shop.replica() as third:  # knows no more than what the server holds
            await same_place(first, second, third)
            assert (await third.client.get("/items/kept")).json()["title"] == "kept"
            assert (await third.client.get("/items/item-9")).json()["hidden"]


async def test_nothing_is_written_to_a_server_that_came_back_empty_before_it_is_refilled(shop: Shop) -> None:
    async with shop.replica(catalogue_poll_s=60) as replica:
        written = await replica.accepted("PUT", "/items/kept", {"title": "kept"})
        with shop.server.client() as raw:
            raw.flushall()
            for attempt in (
                replica.service.catalogue.put("early", ItemBody(title="early")),
                replica.service.catalogue.delete("kept"),
            ):
                with pytest.raises(StoreUnavailable, match="lost changes"):
                    await attempt
            assert not raw.exists(shop.keys.changes)
        await replica.service.updater.step()
        again = await replica.accepted("PUT", "/items/early", {"title": "early"})
        assert again["revision"] > written["revision"] + 1
        async with shop.replica() as other:
            await same_place(replica, other)
            assert (await other.client.get("/items/early")).json()["title"] == "early"


async def test_corrupt_values_harm_only_what_they_hold(shop: Shop) -> None:
    async with shop.replica() as first, shop.replica() as second, first.asked_all_along(), second.asked_all_along():
        await first.accepted("PUT", "/items/kept", {"title": "kept"})
        await first.accepted("POST", "/events", [event(1), event(2) | {"user_id": "v"}])
        await same_place(first, second)
        with shop.server.client() as raw:
            raw.set(shop.keys.history("u"), "text")
            raw.rpush(shop.keys.history("v"), b"\xff\xfe")
            raw.hset(shop.keys.items, "noise", b"noise")
            for chunk in raw.keys("*:chunk:*"):
                raw.setrange(chunk, raw.strlen(chunk) // 2, b"\xff\xfe\xfd")
            raw.xadd(shop.keys.changes, {"item": "x", "kind": "melt", "payload": ""}, id=f"{first.place[1] + 1}-0")
            assert (await first.recommended(user_id="u"))["degraded"]
            await first.refused("POST", "/events", event(3))
            assert (await first.recommended(user_id="v"))["served_by"] == "model"  # what decodes is used
            await first.accepted("PUT", "/items/after", {"title": "after"})
            async with shop.replica() as third:
                await same_place(first, second, third)
                for item_id in ("kept", "after"):
                    assert (await third.client.get(f"/items/{item_id}")).status_code == 200
            raw.delete(shop.keys.history("u"))
        await first.accepted("POST", "/events", event(3))
        await first.until_degraded(False, user_id="u")
        await second.until_degraded(False)


async def test_a_stream_that_is_none_is_survived_and_begun_anew(shop: Shop) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(shop.replica())
        await stack.enter_async_context(first.asked_all_along())
        await first.accepted("PUT", "/items/kept", {"title": "kept"})
        async with key_of_another_type(shop):
            await first.until_degraded(True)
            await first.refused("PUT", "/items/during", {"title": "t"})
        await first.until_degraded(False)
        await first.accepted("PUT", "/items/during", {"title": "t"})
        other = await stack.enter_async_context(shop.replica())
        await same_place(first, other)
        assert (await other.client.get("/items/kept")).json()["title"] == "kept"


async def test_a_replica_that_alone_cannot_reach_the_server_catches_up(shop: Shop) -> None:
    async with shop.replica() as near, shop.replica(by_proxy=True) as far:
        async with near.asked_all_along(), far.asked_all_along():
            await near.accepted("PUT", "/items/before", {"title": "before"})
            await same_place(near, far)
            await shop.proxy.cut()
            await far.until_degraded(True)
            await far.refused("PUT", "/items/during", {"title": "t"})
            await far.refused("POST", "/events", event(1))
            await near.accepted("PUT", "/items/during", {"title": "during"})
            await near.accepted("DELETE", "/items/item-9")
            await near.accepted("POST", "/events", event(2))
            await near.until_degraded(False)
            await shop.proxy.mend()
            await far.until_degraded(False)
            await same_place(near, far)
        assert (await far.client.get("/items/during")).json()["title"] == "during"
        assert (await far.client.get("/items/item-9")).json()["hidden"]
        assert (await far.recommended(user_id="u"))["served_by"] == "model"
