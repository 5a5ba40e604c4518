"""The watch over the event stream: it warns once before events are dropped, and says how long there is left."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from redis import Redis
from structlog.testing import capture_logs

from model_store.events.event import Event
from model_store.events.event_queue import EventBacklog
from service.store.backlog_watch import BacklogWatch
from service.store.redis_store import RedisStore
from service.telemetry.telemetry import Telemetry
from tests.support.redis_server import RedisServer
from training.retraining.drain_events import drain

LIMIT = 1000


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


def waiting(events: int, age_h: float = 2.0) -> EventBacklog:
    return EventBacklog(events, time.time() - age_h * 3600)


def warnings_of(watch: BacklogWatch, *lengths: int) -> list[str]:
    with capture_logs() as lines:
        for length in lengths:
            watch.note(waiting(length))
    return [str(line["event"]) for line in lines]


def test_each_approach_of_the_limit_is_warned_of_once(telemetry: Telemetry) -> None:
    watch = BacklogWatch(LIMIT, telemetry)
    assert warnings_of(watch, 0, 799) == []
    assert warnings_of(watch, 800, 900, 1100, 750) == ["event_stream_nearly_full"]
    assert warnings_of(watch, 699, 100) == ["event_stream_has_room"]
    assert warnings_of(watch, 850) == ["event_stream_nearly_full"]
    assert telemetry.registry.get_sample_value("etegrec_event_stream_limit") == LIMIT
    assert telemetry.registry.get_sample_value("etegrec_event_stream_length") == 850


def test_the_warning_says_how_long_there_is_left_and_what_to_do(telemetry: Telemetry) -> None:
    with capture_logs() as lines:
        BacklogWatch(LIMIT, telemetry).note(waiting(800, age_h=8))
    [line] = lines
    assert (line["events"], line["limit"], line["full_in_h"]) == (800, LIMIT, 2.0)
    assert "etegrec-train retrain" in line["fix"]
    assert "ETEGREC_MAX_UNDRAINED_EVENTS" in line["fix"]


def test_without_a_limit_nothing_is_warned_of(telemetry: Telemetry) -> None:
    assert warnings_of(BacklogWatch(0, telemetry), 10**9) == []


@pytest.mark.redis
@pytest.mark.anyio
async def test_a_stream_that_nobody_drains_is_bounded_announced_and_has_room_again_after_a_drain(
    own_redis: RedisServer, telemetry: Telemetry, tmp_path: Path
) -> None:
    with own_redis.client() as raw:
        raw.config_set("appendfsync", "no")
        await _fill_and_drain(own_redis, raw, telemetry, tmp_path)


async def _fill_and_drain(server: RedisServer, raw: Redis, telemetry: Telemetry, folder: Path) -> None:
    store = RedisStore(server.url, max_undrained_events=LIMIT, timeout_ms=10_000, write_timeout_s=10)
    watch = BacklogWatch(LIMIT, telemetry)
    said = []
    for start in range(0, 4000, 400):
        await store.record(
            [Event(event_id=f"e{n}", user_id="u", item_id="i", timestamp=n) for n in range(start, start + 400)]
        )
        with capture_logs() as lines:
            watch.note(await store.backlog())
        said += [(line["event"], store.dropped_events) for line in lines]

    assert said == [("event_stream_nearly_full", 0)]  # before the first event was dropped
    left = (await store.backlog()).events
    assert LIMIT <= left <= 1.2 * LIMIT
    assert store.dropped_events == 4000 - left
    used = raw.memory_usage("etegrec:events") or 0
    assert used < 200 * left

    assert drain(server.url, folder).events == left
    with capture_logs() as lines:
        watch.note(await store.backlog())
    assert [line["event"] for line in lines] == ["event_stream_has_room"]
    await store.close()
