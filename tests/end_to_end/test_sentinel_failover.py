"""Failover by Sentinel, as clients of a service see it: all requests are answered, and writes come back by themselves.

Redis replicates after it has answered, so what the replica had not confirmed may be lost. What it had confirmed is not.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.replica import Replica, event, open_replica, same_place
from tests.support.sentinels import SentinelGroup, running_sentinels
from tests.support.service_harness import live_store
from training.retraining.drain_events import drain, read_drained
from training.retraining.drain_items import drain_items

# redis-py leaves a connection to the garbage collector if the call for which it connects is ended by its deadline.
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.redis,
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning", "ignore:loop is closed:ResourceWarning"),
]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Collect such connections before another test gets the blame."""
    yield
    gc.collect()


@pytest.fixture
def group(tmp_path: Path) -> Iterator[SentinelGroup]:
    with running_sentinels(tmp_path / "redis") as started:
        yield started


async def history(replica: Replica) -> list[str]:
    return list((await replica.accepted("GET", "/users/u"))["history"])


async def test_a_killed_primary_is_replaced_and_what_its_replica_had_is_kept(
    tmp_path: Path, group: SentinelGroup
) -> None:
    live_store(tmp_path / "store")
    async with (
        open_replica(tmp_path / "store", group.url) as first,
        open_replica(tmp_path / "store", group.url) as second,
        first.asked_all_along(),
        second.asked_all_along(),
    ):
        await first.accepted("PUT", "/items/before", {"title": "before"})
        await first.accepted("DELETE", "/items/item-9")
        await first.accepted("POST", "/events", [event(1), event(2)])
        await same_place(first, second)
        await asyncio.to_thread(group.wait_until_replicated)

        killed = group.primary
        await asyncio.to_thread(group.kill_primary)
        await first.accepted("POST", "/events", [event(3)])
        await first.accepted("PUT", "/items/after", {"title": "after"})
        assert group.primary is not killed
        await first.until_degraded(False)
        await second.until_degraded(False)
        await same_place(first, second)
        assert await history(second) == ["item-1", "item-2", "item-3"]

        await asyncio.to_thread(group.restart_killed)  # it follows now, and the writes meanwhile are not undone
        await second.accepted("POST", "/events", [event(4)])
        assert await history(first) == ["item-1", "item-2", "item-3", "item-4"]
        assert (await second.client.get("/items/item-9")).json()["hidden"]
        for item in ("before", "after"):
            assert (await second.client.get(f"/items/{item}")).json()["title"] == item

    drained = await asyncio.to_thread(drain, group.url, tmp_path / "events")
    assert (drained.events, drained.rejected) == (4, 0)
    assert set(read_drained(tmp_path / "events")["event_id"]) == {"e1", "e2", "e3", "e4"}
    assert set(await asyncio.to_thread(drain_items, group.url, tmp_path / "items")) >= {"before", "after"}


async def test_a_second_sentinel_answers_while_the_first_is_down(tmp_path: Path, group: SentinelGroup) -> None:
    group.kill_first_sentinel()
    live_store(tmp_path / "store")
    async with open_replica(tmp_path / "store", group.url) as replica:
        await replica.accepted("POST", "/events", [event(1)])
        assert await history(replica) == ["item-1"]
    assert (await asyncio.to_thread(drain, group.url, tmp_path / "events")).events == 1
