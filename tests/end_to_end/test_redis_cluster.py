"""The service on a Redis Cluster: users spread over the primaries, and the loss of one harms its own users only."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from model_store.replication.redis_keys import DEFAULT_PREFIX, ClusterKeys, keys_at
from tests.support.redis_cluster import PRIMARIES, RedisClusterGroup, running_cluster
from tests.support.redis_server import RedisServer
from tests.support.replica import Replica, event, open_replica, same_place
from tests.support.service_harness import live_store
from training.retraining.drain_events import drain, read_drained
from training.retraining.drain_items import drain_items

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

CALM: dict[str, Any] = {"pause_s": 1.0, "live_check_s": 1.0}  # each failure makes the client ask for all slots again
USERS = [f"user-{number}" for number in range(24)]


def primary_of(cluster: RedisClusterGroup, user: str) -> RedisServer:
    """Return the primary that has everything of a user."""
    keys = keys_at(cluster.url, DEFAULT_PREFIX).of_user(user)
    [primary] = {cluster.primary_of(key) for key in (keys.history(user), keys.events, keys.seen, keys.erased)}
    return primary


async def record_one_each(replica: Replica, first: int) -> None:
    """Record an event of every user; their ids are numbered from ``first`` on."""
    for number, user in enumerate(USERS):
        await replica.accepted("POST", "/events", [event(first + number, user)])


async def lengths(replica: Replica) -> list[int]:
    return [len((await replica.accepted("GET", f"/users/{user}"))["history"]) for user in USERS]


async def test_a_killed_primary_costs_its_own_users_their_histories_until_it_is_back(tmp_path: Path) -> None:
    live_store(tmp_path / "store")
    with running_cluster(tmp_path / "redis") as cluster:
        homes = {user: primary_of(cluster, user) for user in USERS}
        assert len(set(homes.values())) == PRIMARIES
        catalogue = cluster.primary_of(ClusterKeys(f"{{{DEFAULT_PREFIX}}}").changes)
        lost = next(node for node in cluster.nodes if node is not catalogue)
        away = next(user for user in USERS if homes[user] is lost)
        here = next(user for user in USERS if homes[user] is not lost)

        async with (
            open_replica(tmp_path / "store", cluster.url, **CALM) as replica,
            replica.asked_all_along(),
        ):
            await record_one_each(replica, 0)
            lost.kill()
            await replica.until_degraded(True)
            await replica.accepted("POST", "/events", [event(1000, here)])
            await replica.accepted("PUT", "/items/during", {"title": "during"})
            await replica.refused("POST", "/events", [event(2000, away)])
            assert (await replica.recommended(user_id=away))["degraded"]
            async with asyncio.timeout(60):  # the circuit breaker lets others wait for a moment, too
                while (await replica.recommended(user_id=here))["served_by"] != "model":
                    await asyncio.sleep(0.02)

            await asyncio.to_thread(lost.start)
            await replica.until_degraded(False)
            await replica.accepted("POST", "/events", [event(2000, away)])
            assert sum(await lengths(replica)) == len(USERS) + 2

        drained = await asyncio.to_thread(drain, cluster.url, tmp_path / "events")
        assert (drained.events, drained.rejected) == (len(USERS) + 2, 0)
        assert len(read_drained(tmp_path / "events")) == len(USERS) + 2
        assert set(await asyncio.to_thread(drain_items, cluster.url, tmp_path / "items")) == {"during"}


async def test_a_replica_takes_the_place_of_a_killed_primary(tmp_path: Path) -> None:
    live_store(tmp_path / "store")
    with running_cluster(tmp_path / "redis", replicas=1) as cluster:
        async with (
            open_replica(tmp_path / "store", cluster.url, **CALM) as first,
            open_replica(tmp_path / "store", cluster.url, **CALM) as second,
            first.asked_all_along(),
        ):
            await record_one_each(first, 0)
            await first.accepted("PUT", "/items/before", {"title": "before"})
            await first.accepted("DELETE", "/items/item-9")
            await asyncio.to_thread(cluster.wait_until_replicated)

            cluster.nodes[0].kill()
            await record_one_each(first, 100)
            await first.accepted("PUT", "/items/after", {"title": "after"})
            await first.until_degraded(False)
            await second.until_degraded(False)
            await same_place(first, second)
            assert await lengths(second) == [2] * len(USERS)
            assert (await second.client.get("/items/item-9")).json()["hidden"]

        drained = await asyncio.to_thread(drain, cluster.url, tmp_path / "events")
        assert (drained.events, drained.rejected) == (2 * len(USERS), 0)
