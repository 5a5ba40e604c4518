"""Work on all primaries of a cluster: settings applied to stored users, memory watched, keys of one shop only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from model_store.errors import StoreReadOnly
from model_store.events.event import Event
from model_store.events.history_entry import UserInteractions
from service.store.redis_store import RedisStore
from tests.support.redis_cluster import RedisClusterGroup, running_cluster

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

USERS = [f"u{number}" for number in range(50)]
Open = Callable[..., RedisStore]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisClusterGroup]:
    with running_cluster(tmp_path_factory.mktemp("cluster") / "nodes") as started:
        yield started


@pytest.fixture
async def open_store(cluster: RedisClusterGroup, prefix: str) -> AsyncIterator[Open]:
    opened: list[RedisStore] = []

    def build(**given: Any) -> RedisStore:
        options = {"prefix": prefix, "timeout_ms": 10_000, "write_timeout_s": 10.0, **given}
        opened.append(RedisStore(cluster.url, **options))
        return opened[-1]

    async with asyncio.timeout(120):
        yield build
    for store in opened:
        await store.close()


def one_event_each() -> list[Event]:
    return [Event(event_id=f"e-{user}", user_id=user, item_id="i", timestamp=1) for user in USERS]


def ttls(cluster: RedisClusterGroup, pattern: str) -> list[int]:
    """Return the expiries of the keys of all nodes that match."""
    found = []
    for node in cluster.nodes:
        with node.client() as raw:
            found += [int(raw.ttl(key)) for key in raw.keys(pattern)]
    return found


async def test_changed_settings_apply_to_users_and_counts_of_all_primaries(
    cluster: RedisClusterGroup, open_store: Open, prefix: str
) -> None:
    first = open_store(half_lives_s=(60, 3600))
    assert (await first.record(one_event_each())).accepted == len(USERS)
    assert ttls(cluster, f"{{{prefix}:*}}:history:*") == [-1] * len(USERS)
    assert await first.counts(60) == {"i": pytest.approx(0, abs=1)}
    assert len(ttls(cluster, f"{{{prefix}:*}}:events:counts:60")) > 3

    second = open_store(half_lives_s=(3600,), user_ttl_s=1000)
    await second.check()
    async with asyncio.timeout(60):
        while not ttls(cluster, f"{{{prefix}}}:applied"):
            await asyncio.sleep(0.05)
    assert all(990 < ttl <= 1000 for ttl in ttls(cluster, f"{{{prefix}:*}}:history:*"))
    assert ttls(cluster, f"{{{prefix}:*}}:events:counts:60") == []
    assert len(ttls(cluster, f"{{{prefix}:*}}:events:counts:3600")) > 3


async def test_histories_are_imported_over_all_primaries(open_store: Open) -> None:
    store = open_store()
    past = [UserInteractions(user, ["a", "b"], [1, 2], "--") for user in USERS]
    assert await store.import_histories(past) == (len(USERS), 2 * len(USERS))
    assert await store.import_histories(past) == (0, 0)
    assert [each.item_ids for each in await store.histories(USERS)] == [["a", "b"]] * len(USERS)  # type: ignore[union-attr]


async def test_one_full_primary_is_a_full_store(cluster: RedisClusterGroup, open_store: Open) -> None:
    store = open_store()
    await store.record(one_event_each())
    with cluster.nodes[1].client() as raw:
        raw.config_set("maxmemory-policy", "noeviction")
        raw.config_set("maxmemory", "1")
        with pytest.raises(StoreReadOnly):
            await store.check()
        with pytest.raises(StoreReadOnly, match="out of memory"):
            await store.record([Event(event_id="late", user_id="u", item_id="i", timestamp=1)])
        assert (await store.forget(USERS[0])).history == 1  # users are forgotten all the same
        raw.config_set("maxmemory", "0")
    await store.check()
    assert (await store.record([Event(event_id="late", user_id="u", item_id="i", timestamp=1)])).accepted == 1
