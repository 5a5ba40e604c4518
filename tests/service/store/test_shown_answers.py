"""The contract of lists of what was shown, run on Redis, a cluster and the embedded store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from model_store.errors import StoreCorrupt, StoreError
from service.store.base import Store
from service.store.embedded_shown import ShownLists
from service.store.embedded_store import EmbeddedStore
from service.store.redis_store import RedisStore
from service.store.shown_answers import SHOWN_ITEMS, SHOWN_S, ShownAnswer, Subject
from tests.support.redis_cluster import RedisClusterGroup
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

USER = Subject("user", "u")
NOW = 4_000_000_000_000_000  # far ahead, in microseconds: nothing expires


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


async def test_lists_are_of_users_and_sessions_each(store: Store) -> None:
    session = Subject("session", "u")
    answers = [
        ShownAnswer(USER, NOW, ["a", "b"]),
        ShownAnswer(session, NOW, ["c"]),
        ShownAnswer(USER, NOW + 1, ["é", "a"]),
    ]
    await store.note_shown(answers)
    found = await store.shown([USER, Subject("user", "v"), session, USER])
    of_user = [answers[0], answers[2]]
    assert found == [of_user, [], [answers[1]], of_user]


async def test_the_newest_items_stay(store: Store) -> None:
    size = 300
    answers = [
        ShownAnswer(USER, NOW + n, [f"{n}-{item}" for item in range(size)]) for n in range(SHOWN_ITEMS // size + 2)
    ]
    for answer in answers:
        await store.note_shown([answer])
    [found] = await store.shown([USER])
    assert not isinstance(found, StoreError)
    kept = [item_id for answer in found for item_id in answer.item_ids]
    assert kept == [item_id for answer in answers for item_id in answer.item_ids][-SHOWN_ITEMS:]
    assert found[-1] == answers[-1]


async def test_to_forget_a_user_drops_the_list(store: Store) -> None:
    session = Subject("session", "u")
    await store.note_shown([ShownAnswer(USER, NOW, ["a"]), ShownAnswer(session, NOW, ["b"])])
    await store.forget("u")
    assert await store.shown([USER, session]) == [[], [ShownAnswer(session, NOW, ["b"])]]


async def test_lists_expire_in_redis_and_others_spoil_one_only(redis_server: RedisServer, prefix: str) -> None:
    store = RedisStore(redis_server.url, prefix=prefix, timeout_ms=10_000)
    await store.note_shown([ShownAnswer(USER, NOW, ["a"])])
    with redis_server.client() as raw:
        assert 0 < raw.ttl(f"{prefix}:shown:user:u") <= SHOWN_S
        raw.set(f"{prefix}:shown:user:odd", "text")
        raw.rpush(f"{prefix}:shown:user:u", b"short")
    found = await store.shown([Subject("user", "odd"), USER])
    assert isinstance(found[0], StoreCorrupt)
    assert found[1] == [ShownAnswer(USER, NOW, ["a"])]
    assert store.corrupt_values == 1
    await store.close()


def test_lists_in_memory_expire() -> None:
    now = 1000.0
    lists = ShownLists(lambda: now)
    lists.add(ShownAnswer(USER, 1000_000_000, ["a"]))
    now += SHOWN_S - 1
    assert len(lists.of(USER)) == 1
    now += 1
    assert lists.of(USER) == []
    lists.add(ShownAnswer(Subject("user", "v"), int(now * 1e6), ["b"]))
    assert list(lists._lists) == [Subject("user", "v")]
