"""The contract of the store, run on both implementations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from model_store.events.event import Event
from service.store.base import Recorded, Store
from service.store.embedded_store import EmbeddedStore
from service.store.redis_store import RedisStore
from tests.support.redis_server import RedisServer
from tests.support.store_reading import newest_event

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

CAP = 5
PATIENT_MS = 10_000  # a loaded machine must not fail a test of behaviour


def event(number: int, user: str = "u", item: str | None = None) -> Event:
    return Event(event_id=f"e{number}", user_id=user, item_id=item or f"i{number}", timestamp=number)


@pytest.fixture(params=["redis", "embedded"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, prefix: str) -> AsyncIterator[Store]:
    made: Store
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        made = RedisStore(server.url, prefix=prefix, history_cap=CAP, timeout_ms=PATIENT_MS)
    else:
        made = EmbeddedStore(tmp_path / "events", history_cap=CAP)
    async with asyncio.timeout(120):
        yield made
    await made.close()


async def test_unknown_user_has_an_empty_history(store: Store) -> None:
    await store.ping()
    assert (await store.history("nobody")).item_ids == []


async def test_history_is_oldest_first_and_keeps_the_newest(store: Store) -> None:
    await store.record([event(n) for n in range(CAP + 3)])
    await store.record([event(100)])
    assert (await store.history("u")).item_ids == ["i4", "i5", "i6", "i7", "i100"]


async def test_repeated_event_ids_are_recorded_once(store: Store) -> None:
    assert await store.record([event(1), event(1, item="other"), event(2)]) == Recorded(2, 1)
    assert await store.record([event(2), event(3)]) == Recorded(1, 1)
    assert (await store.history("u")).item_ids == ["i1", "i2", "i3"]


async def test_concurrent_repeats_are_recorded_once(store: Store) -> None:
    results = await asyncio.gather(*(store.record([event(1), event(100 + n, user=f"v{n}")]) for n in range(20)))
    assert sum(result.accepted for result in results) == 21
    assert (await store.history("u")).item_ids == ["i1"]
    assert [(await store.history(f"v{n}")).item_ids for n in range(20)] == [[f"i{100 + n}"] for n in range(20)]


async def test_a_batch_may_be_empty_or_larger_than_one_call(store: Store) -> None:
    assert await store.record([]) == Recorded(0, 0)
    many = [event(n, user=f"u{n % 7}") for n in range(700)]
    assert await store.record(many) == Recorded(700, 0)
    assert await store.record(many) == Recorded(0, 700)


async def test_ids_may_hold_any_character(store: Store) -> None:
    user, item = "a:b {c}\n\0é", "\r\n*3\u2028\U0001f600"
    await store.record([event(1, user=user, item=item)])
    assert (await store.history(user)).item_ids == [item]


async def test_forget_drops_one_history_only(store: Store) -> None:
    await store.record([event(1), event(2, user="v")])
    await store.forget("u")
    assert ((await store.history("u")).item_ids, (await store.history("v")).item_ids) == ([], ["i2"])
    assert (await newest_event(store, "u"), await newest_event(store, "v")) == (None, 2)


async def test_the_newest_event_is_so_by_its_timestamp(store: Store) -> None:
    assert await newest_event(store, "u") is None
    await store.record([event(7), event(9), event(8, user="v"), event(0, user="w")])
    await store.record([event(3), event(9)])
    assert [await newest_event(store, user) for user in "uvwx"] == [9, 8, 0, None]
