"""The contract of subjects of experiments, run on Redis, a cluster and the embedded store: each one counts once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from model_store.events.counts import Counts
from model_store.events.event import Event
from model_store.events.marks import MOST_MARKS, Mark, SubjectCounts
from service.store.base import Recorded, Store
from service.store.embedded_store import EmbeddedStore
from service.store.redis_store import RedisStore
from service.store.subject_store import Exposure
from tests.support.redis_cluster import RedisClusterGroup
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

DAY = "2026-01-05"
LABEL = "0000000a"
Opener = Callable[[], Store]


@pytest.fixture(params=["redis", "cluster", "embedded"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path, prefix: str) -> Opener:
    if request.param == "embedded":
        return lambda: EmbeddedStore(tmp_path / "events")
    fixture = "redis_server" if request.param == "redis" else "redis_cluster"
    server: RedisServer | RedisClusterGroup = request.getfixturevalue(fixture)
    return lambda: RedisStore(server.url, prefix=prefix, timeout_ms=10_000, write_timeout_s=10)


@asynccontextmanager
async def opened(open_store: Opener) -> AsyncIterator[Store]:
    store = open_store()
    try:
        async with asyncio.timeout(120):
            yield store
    finally:
        await store.close()


def subject_of(user: int) -> str:
    return f"{user:012x}"


def mark(user: int, kind: str = "click", value: float | None = None, currency: str = "-") -> Mark:
    return Mark(LABEL, user % 2, subject_of(user), kind, value, currency, is_asker=True)


def exposure(user: int) -> Exposure:
    return Exposure(LABEL, user % 2, subject_of(user), f"u{user}")


async def record(store: Store, number: int, user: int, said: Mark) -> Recorded:
    event = Event(event_id=f"e{number}", user_id=f"u{user}", item_id="i", type=said.type, timestamp=1_700_000_000)
    return await store.record([event], counts=[Counts(DAY, {f"x|{LABEL}.0|{said.type}": 1}, said)])


async def test_each_subject_counts_once_whatever_comes_first(open_store: Opener) -> None:
    async with opened(open_store) as store:
        await record(store, 1, 4, mark(4))  # before its exposure was sent
        await store.subjects.expose([exposure(user) for user in range(10)])
        await store.subjects.expose([exposure(user) for user in range(12)])
        for number in (2, 2, 3):  # a repeated event adds nothing
            await record(store, number, 4, mark(4))
        await record(store, 4, 5, mark(5))
        sums = await store.subjects.sums(LABEL)
    assert sums == {"0|#subjects": 6, "1|#subjects": 6, "0|click|#active": 1, "1|click|#active": 1}


async def test_sums_equal_those_of_the_reference_and_survive_a_restart(open_store: Opener) -> None:
    dice = random.Random(3)
    reference = SubjectCounts()
    async with opened(open_store) as store:
        for number in range(150):
            user = dice.randrange(8)
            kind = dice.choice(["click", "purchase", "rating"])
            value = dice.choice([None, 12.5, -12.5, 0.25]) if kind == "purchase" else None
            said = mark(user, kind, value, dice.choice(["EUR", "-"]) if value is not None else "-")
            await record(store, number, user, said)
            reference.add(said)
    async with opened(open_store) as again:
        found = await again.subjects.sums(LABEL)
    assert found == pytest.approx(reference.sums)
    assert found["0|purchase|EUR|#squares"] > 0


async def test_what_is_kept_of_a_subject_has_an_end(open_store: Opener) -> None:
    async with opened(open_store) as store:
        for number in range(MOST_MARKS + 5):
            await record(store, number, 1, mark(1, f"own_{number}"))
        sums = await store.subjects.sums(LABEL)
    assert sum(name.endswith("#active") for name in sums) == MOST_MARKS


async def test_subjects_go_before_their_sums(open_store: Opener) -> None:
    async with opened(open_store) as store:
        await store.subjects.expose([exposure(1), exposure(3)])
        await store.subjects.delete(LABEL, with_sums=False)
        assert await store.subjects.sums(LABEL) == {"1|#subjects": 2}
        await store.subjects.expose([exposure(1)])
        assert await store.subjects.sums(LABEL) == {"1|#subjects": 3}
        await store.subjects.delete(LABEL, with_sums=True)
        assert await store.subjects.sums(LABEL) == {}
        await store.subjects.delete(LABEL, with_sums=True)


async def test_in_a_cluster_an_event_of_somebody_else_counts_no_exposure(
    redis_cluster: RedisClusterGroup, prefix: str
) -> None:
    async with opened(
        lambda: RedisStore(redis_cluster.url, prefix=prefix, timeout_ms=10_000, write_timeout_s=10)
    ) as store:
        await store.subjects.expose([Exposure(LABEL, 0, subject_of(2), "session")])
        await record(store, 1, 7, mark(2)._replace(is_asker=False))
        await record(store, 2, 7, mark(2)._replace(is_asker=False))
        assert await store.subjects.sums(LABEL) == {"0|#subjects": 1, "0|click|#active": 1}


async def test_an_experiment_that_only_events_know_expires_in_redis(redis_server: RedisServer, prefix: str) -> None:
    async with opened(lambda: RedisStore(redis_server.url, prefix=prefix, timeout_ms=10_000)) as store:
        await record(store, 1, 1, mark(1))
        with redis_server.client() as raw:
            key = f"{prefix}:experiments:{LABEL}:subjects"
            assert raw.ttl(key) > 0
            await store.subjects.expose([exposure(1)])
            assert raw.ttl(key) == -1
