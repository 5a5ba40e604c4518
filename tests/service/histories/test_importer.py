"""Users of the training data are known from when their version is first served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from model_store.bundle.histories import HISTORIES
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from model_store.errors import StoreReadOnly
from model_store.events.event import Event
from model_store.events.history_entry import UserInteractions
from service.app import create_app
from service.service import Service
from service.store.base import Imported, ImportProgress, Store
from service.store.embedded_store import EmbeddedStore
from service.store.redis_store import RedisStore
from tests.support.bundles import NOON, bundle_files, description, small_histories
from tests.support.redis_server import RedisServer
from tests.support.service_harness import fast_settings, live_store, metric, running, until

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

PURCHASE = 3
Opener = Callable[[], Store]


def publish_with(folder: Path, histories: dict[str, list[tuple[str, int, int]]], seed: int = 0) -> str:
    """Publish and promote a bundle with these histories."""
    store = ModelStore(folder)
    files = {**bundle_files(seed), HISTORIES: small_histories(histories)}
    version = publish(store, files, description(), NOON.replace(minute=seed))
    store.promote(version)
    return version


def many(users: int) -> dict[str, list[tuple[str, int, int]]]:
    return {f"u{user}": [(f"item-{(user + n) % 40}", 100 + n, -1) for n in range(20)] for user in range(users)}


@pytest.fixture(params=["redis", "embedded"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path, prefix: str) -> Opener:
    if request.param == "embedded":
        return lambda: EmbeddedStore(tmp_path / "events")
    server: RedisServer = request.getfixturevalue("redis_server")
    return lambda: RedisStore(server.url, prefix=prefix, timeout_ms=10_000, write_timeout_s=10, lock_ttl_s=1)


async def until_complete(store: Store, version: str) -> None:
    async with asyncio.timeout(30):
        while not (await store.import_progress(version)).is_complete:
            await asyncio.sleep(0.01)


def is_imported(service: Service) -> bool:
    return metric(service, "etegrec_history_import_progress") == 1


async def test_a_user_of_the_training_data_is_answered_by_the_model(tmp_path: Path, open_store: Opener) -> None:
    publish_with(tmp_path, {"ann": [("item-1", 10, PURCHASE), ("item-2", 20, -1)]})
    app = create_app(fast_settings(tmp_path), store=open_store())
    service: Service = app.state.service
    async with running(app) as client:
        await until(lambda: is_imported(service))
        answer = (await client.post("/recommend", json={"user_id": "ann"})).json()
        shown = (await client.get("/users/ann")).json()
    assert answer["served_by"] == "model"
    assert [(each["item_id"], each["type"], each["timestamp"]) for each in shown["interactions"]] == [
        ("item-1", "purchase", 10),
        ("item-2", None, 20),
    ]
    assert metric(service, "etegrec_history_import_users_total", result="written") == 1


async def test_the_next_version_only_adds_what_is_new(tmp_path: Path, open_store: Opener) -> None:
    publish_with(tmp_path, {"ann": [("item-1", 10, -1)], "bob": [("item-5", 10, -1)]})
    app = create_app(fast_settings(tmp_path), store=open_store())
    service: Service = app.state.service
    async with running(app) as client:
        await until(lambda: is_imported(service))
        event = {"event_id": "e", "user_id": "ann", "item_id": "item-3", "type": "view", "timestamp": 30}
        assert (await client.post("/events", json=event)).json()["accepted"] == 1
        second = {"ann": [("item-1", 10, -1), ("item-2", 20, -1), ("item-3", 30, 0)], "bob": [("item-5", 10, -1)]}
        version = publish_with(tmp_path, second, seed=1)
        store = service.store_client.store
        await until(lambda: service.models.current is not None and service.models.current.version == version)
        await until_complete(store, version)
        shown = (await client.get("/users/ann")).json()
    assert shown["history"] == ["item-1", "item-2", "item-3"]
    assert metric(service, "etegrec_history_import_users_total", result="written") == 3
    assert metric(service, "etegrec_history_import_users_total", result="unchanged") == 1


async def test_erased_users_stay_erased_after_imports_and_restarts(tmp_path: Path, open_store: Opener) -> None:
    publish_with(tmp_path, {"ann": [("item-1", 10, -1)], "bob": [("item-5", 10, -1)]})
    app = create_app(fast_settings(tmp_path), store=open_store())
    async with running(app) as client:
        await until(lambda: is_imported(app.state.service))
        assert (await client.delete("/users/ann")).json() == {"history": 1, "events": 0}

    publish_with(tmp_path, {"ann": [("item-1", 10, -1), ("item-2", 20, -1)], "bob": [("item-5", 10, -1)]}, seed=1)
    app = create_app(fast_settings(tmp_path), store=open_store())
    async with running(app) as client:
        await until(lambda: is_imported(app.state.service))
        answer = (await client.post("/recommend", json={"user_id": "ann"})).json()
        known = (await client.post("/recommend", json={"user_id": "bob"})).json()
        later = {"event_id": "e", "user_id": "ann", "item_id": "item-3", "timestamp": 4_000_000_000}
        await client.post("/events", json=later)
        shown = (await client.get("/users/ann")).json()
    assert (answer["served_by"], known["served_by"]) == ("popular", "model")
    assert shown["history"] == ["item-3"]


async def test_nothing_is_imported_if_that_is_turned_off(tmp_path: Path) -> None:
    version = publish_with(tmp_path, {"ann": [("item-1", 10, -1)]})
    app = create_app(fast_settings(tmp_path, import_histories=False))
    service: Service = app.state.service
    async with running(app) as client:
        await until(lambda: service.models.current is not None)
        await asyncio.sleep(0.2)
        answer = (await client.post("/recommend", json={"user_id": "ann"})).json()
        assert await service.store_client.store.import_progress(version) == ImportProgress(0, is_complete=False)
    assert answer["served_by"] == "popular"


async def test_a_version_without_histories_has_nothing_to_import(tmp_path: Path) -> None:
    live_store(tmp_path)
    app = create_app(fast_settings(tmp_path))
    async with running(app):
        await until(lambda: is_imported(app.state.service))


class FailingStore(EmbeddedStore):
    """Store that takes a few chunks, then is full until it is emptied; it counts the users that it is given."""

    room = 2
    given = 0

    async def import_histories(self, histories: list[UserInteractions]) -> Imported:  # type: ignore[override]
        if not self.room:
            raise StoreReadOnly("no room", "make room", "it is full")
        self.room -= 1
        self.given += len(histories)
        return await super().import_histories(histories)


async def test_a_full_store_stops_the_import_which_goes_on_where_it_stopped(tmp_path: Path) -> None:
    publish_with(tmp_path, many(250))
    store = FailingStore(tmp_path / "events")
    app = create_app(fast_settings(tmp_path), store=store)
    service: Service = app.state.service
    service.importer.retry_s = 0.02
    with capture_logs() as lines:
        async with running(app) as client:
            await until(lambda: any(line["event"] == "history_import_stopped" for line in lines))
            assert (await client.get("/health/ready")).status_code == 200
            assert 0 < metric(service, "etegrec_history_import_progress") < 1
            store.room = 1000
            await until(lambda: is_imported(service))
            assert store.given == 250
            assert (await store.history("u249")).item_ids == [f"item-{(249 + n) % 40}" for n in range(20)]
    stopped = next(line for line in lines if line["event"] == "history_import_stopped")
    assert stopped["hint"] == "make room"


async def test_two_replicas_have_one_importer(tmp_path: Path, redis_server: RedisServer, prefix: str) -> None:
    publish_with(tmp_path, many(400))
    apps = []
    for _ in range(2):
        store = RedisStore(redis_server.url, prefix=prefix, timeout_ms=10_000, write_timeout_s=10)
        apps.append(create_app(fast_settings(tmp_path), store=store))
    async with running(apps[0]), running(apps[1]):
        await until(lambda: all(is_imported(app.state.service) for app in apps))
        for user in (0, 399):
            assert len((await apps[0].state.service.store_client.store.history(f"u{user}")).item_ids) == 20
    written = [metric(app.state.service, "etegrec_history_import_users_total", result="written") for app in apps]
    unchanged = [metric(app.state.service, "etegrec_history_import_users_total", result="unchanged") for app in apps]
    assert sorted(written) == [0, 400]
    assert unchanged == [0, 0]


@pytest.fixture
async def emptied(tmp_path: Path, own_redis: RedisServer) -> AsyncIterator[RedisStore]:
    store = RedisStore(own_redis.url, timeout_ms=10_000, write_timeout_s=10)
    yield store
    await store.close()


async def test_a_store_that_lost_everything_is_filled_again(tmp_path: Path, emptied: RedisStore) -> None:
    publish_with(tmp_path, many(3))
    app = create_app(fast_settings(tmp_path), store=emptied)
    service: Service = app.state.service
    async with running(app):
        await until(lambda: is_imported(service))
        await emptied.record([Event(event_id="e", user_id="u1", item_id="item-1", timestamp=1)])
        async with emptied._connection.background() as redis:
            await redis.flushall()
        await until(lambda: metric(service, "etegrec_history_import_users_total", result="written") == 6)
        assert len((await emptied.history("u1")).item_ids) == 20
