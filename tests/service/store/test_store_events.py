"""The event stream on both stores and on a cluster: what waits for training, fading counts, erasing a user."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from model_store.events import event_log
from model_store.events.event import Event
from service.store.base import Forgotten, Recorded, Store
from service.store.decayed_counts import DecayedCounts, counts_at
from service.store.embedded_store import EmbeddedStore
from service.store.redis_store import RedisStore
from tests.support.redis_cluster import RedisClusterGroup
from tests.support.redis_server import RedisServer
from training.retraining.drain_events import drain, read_drained

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

CAP = 5
HOUR, DAY = 3600, 86_400
PATIENT_MS = 10_000


def event(number: int, user: str = "u", item: str | None = None, at: float = 1) -> Event:
    return Event(event_id=f"e{number}", user_id=user, item_id=item or f"i{number}", timestamp=int(at))


@pytest.fixture(params=["redis", "cluster", "embedded"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        return server.url
    if request.param == "cluster":
        cluster: RedisClusterGroup = request.getfixturevalue("redis_cluster")
        return cluster.url
    return tmp_path / "events"


def open_store(source: str | Path, prefix: str) -> Store:
    if isinstance(source, Path):
        return EmbeddedStore(source, history_cap=CAP, half_lives_s=(DAY, HOUR), segment_bytes=4000)
    patient: dict[str, Any] = {"timeout_ms": PATIENT_MS, "write_timeout_s": PATIENT_MS / 1000}
    return RedisStore(source, prefix=prefix, history_cap=CAP, half_lives_s=(DAY, HOUR), **patient)


@pytest.fixture
async def store(source: str | Path, prefix: str) -> AsyncIterator[Store]:
    made = open_store(source, prefix)
    async with asyncio.timeout(120):
        yield made
    await made.close()


def drained(source: str | Path, prefix: str, folder: Path) -> pl.DataFrame:
    drain(source, folder, prefix=prefix)
    return read_drained(folder)


async def test_what_waits_is_what_training_has_not_drained(
    store: Store, source: str | Path, prefix: str, tmp_path: Path
) -> None:
    assert await store.backlog() == (0, None)
    before = time.time()
    await store.record([event(n) for n in range(100)])
    waiting = await store.backlog()
    assert waiting.events == 100
    assert waiting.oldest is not None
    assert before - 2 < waiting.oldest < time.time() + 2
    drained(source, prefix, tmp_path / "out")
    assert await store.backlog() == (0, None)
    await store.record([event(n) for n in range(90, 130)])
    assert (await store.backlog()).events == 30


async def test_training_does_not_see_a_forgotten_user(
    store: Store, source: str | Path, prefix: str, tmp_path: Path
) -> None:
    early = [event(1, "u"), event(2, "v")]
    await store.record(early)
    drained(source, prefix, tmp_path / "out")
    others = ["v", "u2", 'u"', "\\u", '","user_id":"u', "é\n\0"]
    assert await store.backlog() == (0, None)
    late = [event(10 + n, "u" if n % 3 == 0 else others[n % 6], at=n) for n in range(1200)]
    await store.record(late)
    assert (await store.backlog()).events == 1200
    history, erased = await store.forget("u")
    assert history == CAP
    assert erased in (400, 401)  # a log may still hold the one that was drained
    assert await store.forget("u") == Forgotten(0, 0)
    assert (await store.history("u")).item_ids == []
    assert (await store.backlog()).events == 800
    found = drained(source, prefix, tmp_path / "out")
    gone = {each.event_id for each in late if each.user_id == "u"}
    assert set(found["event_id"]) == {each.event_id for each in [*early, *late]} - gone


async def test_a_repeated_event_does_not_bring_a_forgotten_user_back(
    store: Store, source: str | Path, prefix: str
) -> None:
    events = [event(n) for n in range(3)]
    await store.record(events)
    await store.forget("u")
    assert await store.record(events) == Recorded(0, 3)
    await store.close()
    again = open_store(source, prefix)
    assert await again.record([*events, event(3)]) == Recorded(1, 3)
    assert (await again.history("u")).item_ids == ["i3"]
    assert (await again.backlog()).events == 1
    await again.close()


async def test_events_while_a_user_is_forgotten_are_kept_whole(store: Store) -> None:
    await store.record([event(n, f"u{n % 4}") for n in range(400)])
    forgotten, *recorded = await asyncio.gather(
        store.forget("u0"), *(store.record([event(1000 + n, "v")]) for n in range(50)), store.forget("u1")
    )
    assert sum(each.accepted for each in recorded if isinstance(each, Recorded)) == 50
    assert [forgotten, recorded[-1]] == [Forgotten(CAP, 100), Forgotten(CAP, 100)]
    assert (await store.backlog()).events == 250
    assert len((await store.history("v")).item_ids) == CAP


async def test_counts_fade_by_their_half_life(store: Store) -> None:
    now = time.time()
    await store.record([event(n, item="old", at=now - DAY) for n in range(8)])
    await store.record([event(10, item="new", at=now), event(11, item="new", at=now - HOUR)])
    long, short = await store.counts(DAY), await store.counts(HOUR)
    assert long == pytest.approx({"old": 4, "new": 1 + 2 ** (-1 / 24)}, rel=1e-2)
    assert short == pytest.approx({"old": 8 * 2**-24, "new": 1.5}, rel=1e-2)
    assert list(long) == ["old", "new"]
    assert list(short) == ["new", "old"]
    assert await store.counts(7) == {}


async def test_an_event_of_the_future_or_a_repeated_one_counts_no_more_than_any(store: Store) -> None:
    await store.record([event(1, item="a", at=253_402_300_799), event(1, item="a"), event(2, item="b", at=time.time())])
    counts = await store.counts(HOUR)
    assert counts == pytest.approx({"a": 1, "b": 1}, rel=1e-2)


async def test_counts_outlive_a_restart_and_forgetting_a_user(store: Store, source: str | Path, prefix: str) -> None:
    now = time.time()
    await store.record([event(n, f"u{n % 2}", item=f"i{n % 3}", at=now - n) for n in range(200)])
    await store.forget("u0")
    before = await store.counts(DAY)
    await store.close()
    again = open_store(source, prefix)
    assert await again.counts(DAY) == pytest.approx(before, rel=1e-3)
    await again.close()


async def test_redis_counts_alike_and_drops_counts_of_another_type(
    redis_server: RedisServer, prefix: str, tmp_path: Path
) -> None:
    redis, memory = open_store(redis_server.url, prefix), open_store(tmp_path / "events", prefix)
    now = time.time()
    events = [event(n, item=f"i{n * n % 7}", at=now - 977 * (n % 50)) for n in range(300)]
    with redis_server.client() as raw:
        raw.set(f"{prefix}:events:counts:{HOUR}", "no sorted set")
        for each in (redis, memory):
            await each.record(events)
        for half_life in (DAY, HOUR):
            assert await redis.counts(half_life) == pytest.approx(await memory.counts(half_life), rel=1e-2)
        assert raw.ttl(f"{prefix}:events:counts:{HOUR}") == -1  # or a full server would evict trends first
    await redis.close()
    await memory.close()


async def test_erased_lines_keep_their_length_and_only_hold_the_events_id(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path, segment_bytes=2000)
    await store.record([event(n, "secret" if n % 2 else "other") for n in range(40)])
    sizes = [path.stat().st_size for path in sorted(tmp_path.glob("*.log"))]
    assert len(sizes) >= 1
    await store.forget("secret")
    after = sorted(tmp_path.glob("*.log"))
    assert [path.stat().st_size for path in after[: len(sizes) - 1]] == sizes[:-1]
    held = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    assert held.count(b"secret") == 1  # the line that says so: a restart must not bring the history back
    assert not any(event_log.read_lines(path).rejected for path in after)
    await store.close()


def test_only_the_highest_counts_are_kept() -> None:
    counts = DecayedCounts(HOUR, items=10)
    for number in range(100):
        for repeat in range(1 + number % 20):
            counts.add(f"i{number}", 10_000 + repeat)
    kept = counts.at(10_000)
    assert len(kept) == 10
    assert list(kept.values()) == sorted(kept.values(), reverse=True)
    assert {"i99", "i79"} <= kept.keys()
    assert len(counts.scores) <= 20


def test_counts_stay_finite_and_ranked_when_the_clock_was_put_back() -> None:
    counts = DecayedCounts(36)  # the shortest half-life that can be set
    for number in range(5):
        for _ in range(number + 1):
            counts.add(f"i{number}", 1_800_000_000)
    for days in (1, -1, 3650, -3650):
        found = counts.at(1_800_000_000 - days * DAY)
        assert list(found) == ["i4", "i3", "i2", "i1", "i0"]
        assert all(0 <= count < 1e13 for count in found.values())
    back = counts.at(1_800_000_000 - DAY)
    assert back["i4"] == pytest.approx(5 * back["i0"])
    assert counts_at(0, HOUR, []) == {}
