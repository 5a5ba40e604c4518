"""A store that is full, as clients and operators of the service see it: it answers on, says so, deletes, comes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from model_store.events.log_writer import LogWriter
from service.app import create_app
from service.service import Service
from service.store.base import Store
from service.store.embedded_store import EmbeddedStore
from service.store.redis_store import RedisStore
from tests.support.hash_coder import hash_coder
from tests.support.redis_server import RedisServer
from tests.support.service_harness import Json, fast_settings, live_store, metric, running, until
from tests.support.small_disk import SmallDisk, small_disk

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    with small_disk(mount_point, 4 * 1024 * 1024) as mounted:
        if mounted is None:
            pytest.skip("this machine mounts no tmpfs for us")
        yield mounted


def events(start: int, count: int, user: str = "u") -> list[Json]:
    return [
        {"event_id": f"e{number}", "user_id": user, "item_id": f"item-{number % 40}", "timestamp": number}
        for number in range(start, start + count)
    ]


async def test_a_service_starts_on_a_full_disk_and_answers_from_what_is_stored(tmp_path: Path, disk: SmallDisk) -> None:
    live_store(tmp_path / "store")

    def open_store() -> Store:
        return EmbeddedStore(disk.path / "events", open_log=lambda folder, size: LogWriter(folder, size, 65_536))

    app = create_app(fast_settings(tmp_path / "store"), store=open_store(), coders=hash_coder)
    async with running(app) as client:
        await until(lambda: app.state.service.models.current is not None)
        assert (await client.post("/events", json=events(0, 20))).status_code == 200
        assert (await client.post("/events", json=events(100, 5, "v"))).status_code == 200
    disk.fill()

    app = create_app(fast_settings(tmp_path / "store"), store=open_store(), coders=hash_coder)
    service: Service = app.state.service
    async with running(app) as client:
        await until(lambda: service.models.current is not None and service.store_client.status == "read-only")
        ready = await client.get("/health/ready")
        assert ready.status_code == 200
        assert (ready.json()["live_store"], ready.json()["live_store_problem"]) == ("read-only", "its disk is full")
        assert (metric(service, "etegrec_live_up"), metric(service, "etegrec_live_read_only")) == (0, 1)

        answer = (await client.post("/recommend", json={"user_id": "u"})).json()
        assert (answer["served_by"], answer["degraded"]) == ("model", True)
        for method, path, body in (("POST", "/events", events(50, 1)), ("PUT", "/items/new", {"title": "new"})):
            refused = await client.request(method, path, json=body)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            assert refused.json()["type"] == "urn:etegrec:problem:live-store-read-only"
            assert "its disk is full" in refused.json()["detail"]

        assert (await client.delete("/items/item-9")).status_code == 200
        assert (await client.get("/items/item-9")).json()["hidden"]
        assert (await client.delete("/users/u")).json() == {"history": 20, "events": 20}
        assert (await client.get("/users/u")).json()["history"] == []
        assert (await client.get("/users/v")).json()["count"] == 5

        disk.clear()
        await until(lambda: service.store_client.status == "up")
        assert (await client.post("/events", json=events(50, 1))).json()["accepted"] == 1
        assert (metric(service, "etegrec_live_up"), metric(service, "etegrec_live_read_only")) == (1, 0)
        assert (await client.get("/health/ready")).json()["live_store_problem"] == ""


async def test_a_full_redis_is_said_steadily_and_what_was_left_out_is_counted(
    tmp_path: Path, own_redis: RedisServer
) -> None:
    live_store(tmp_path / "store")
    store = RedisStore(own_redis.url, timeout_ms=5000, write_timeout_s=5, max_undrained_events=200)
    app = create_app(fast_settings(tmp_path / "store"), store=store, coders=hash_coder)
    service: Service = app.state.service
    with own_redis.client() as raw:
        async with running(app) as client:
            await until(lambda: service.models.current is not None)
            for start in range(0, 1000, 500):
                assert (await client.post("/events", json=events(start, 500))).status_code == 200
            raw.rpush("etegrec:history:w", b"\xfe")
            await client.get("/users/w")
            await until(lambda: metric(service, "etegrec_corrupt_values_total") == 1)
            await until(lambda: metric(service, "etegrec_events_dropped_total") >= 600)

            limit = round(raw.info("memory")["used_memory"] / 0.96)  # above the mark for coming back
            raw.config_set("maxmemory", "1")
            await until(lambda: service.store_client.status == "read-only")
            raw.config_set("maxmemory", str(limit))
            seen = {(await client.get("/health/ready")).json()["live_store"] for _ in range(100)}
            assert seen == {"read-only"}
            assert (await client.post("/events", json=events(5000, 1))).status_code == 503
            assert (await client.delete("/items/item-9")).status_code == 200
            raw.config_set("maxmemory", "0")
            await until(lambda: service.store_client.status == "up")
            assert (await client.post("/events", json=events(5000, 1))).json()["accepted"] == 1
