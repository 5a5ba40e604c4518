"""Two shops in one Redis and one model store: neither sees anything of the other, from the API to retraining."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from redis import Redis

from model_store.bundle.registry import ModelStore
from model_store.cli import app as models_app
from model_store.console import run
from model_store.namespace import NAMESPACE_ENV
from model_store.replication.redis_keys import Keys, prefix_of
from service.app import create_app
from service.cli import app as serve_app
from service.service import Service
from tests.support.bundles import publish_small
from tests.support.hash_coder import hash_coder
from tests.support.redis_server import RedisServer
from tests.support.replica import Replica
from tests.support.service_harness import fast_settings, running, until
from training.cli import app as train_app

pytestmark = [pytest.mark.anyio, pytest.mark.redis]
SHOPS = ("shop-a", "shop-b")


def event(user: str, item: str) -> list[dict[str, object]]:
    """Return an event whose id is the same in every shop: it must not count as a repeat of another shop's."""
    return [{"event_id": f"{user}-1", "user_id": user, "item_id": item, "timestamp": 1}]


@asynccontextmanager
async def open_shop(folder: Path, url: str, name: str) -> AsyncIterator[Replica]:
    app = create_app(fast_settings(folder, redis_url=url, namespace=name), coders=hash_coder)
    service: Service = app.state.service
    async with running(app) as client:
        await until(lambda: service.models.current is not None)
        yield Replica(service, client)


@pytest.fixture
def versions(tmp_path: Path) -> dict[str, str]:
    """The live version of each shop, by its name."""
    live = {}
    for seed, name in enumerate(SHOPS):
        store = ModelStore(tmp_path / "models", namespace=name)
        live[name] = publish_small(store, seed)
        store.promote(live[name])
    return live


@pytest.fixture
def raw(own_redis: RedisServer) -> Iterator[Redis]:
    with own_redis.client() as client:
        yield client


async def test_services_do_not_see_each_other(
    tmp_path: Path, own_redis: RedisServer, versions: dict[str, str], raw: Redis
) -> None:
    async with (
        open_shop(tmp_path / "models", own_redis.url, SHOPS[0]) as first,
        open_shop(tmp_path / "models", own_redis.url, SHOPS[1]) as second,
    ):
        for shop, name in zip((first, second), SHOPS, strict=True):
            assert shop.service.models.current is not None
            assert shop.service.models.current.version == versions[name]

        await first.accepted("PUT", "/items/new", {"title": "of the first"})
        await second.accepted("PUT", "/items/other", {"title": "of the second"})
        await first.accepted("DELETE", "/items/item-9")
        assert (await second.client.get("/items/new")).status_code == 404
        assert (await first.client.get("/items/other")).status_code == 404
        assert not (await second.accepted("GET", "/items/item-9"))["hidden"]

        await first.accepted("POST", "/events", event("ann", "item-1"))
        await second.accepted("POST", "/events", event("ann", "item-2"))
        assert (await first.accepted("GET", "/users/ann"))["history"] == ["item-1"]
        assert (await second.accepted("GET", "/users/ann"))["history"] == ["item-2"]
        await first.accepted("DELETE", "/users/ann")
        assert (await second.accepted("GET", "/users/ann"))["history"] == ["item-2"]
        assert (await second.service.store_client.store.backlog()).events == 1

    prefixes = {str(key, "utf-8").partition(":")[0] for key in raw.keys("*") if isinstance(key, bytes)}
    assert prefixes == {prefix_of(name) for name in SHOPS}


async def test_commands_see_one_shop_only(
    tmp_path: Path,
    own_redis: RedisServer,
    versions: dict[str, str],
    raw: Redis,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    models = str(tmp_path / "models")
    monkeypatch.setenv("ETEGREC_REDIS_URL", own_redis.url)
    for name, item in zip(SHOPS, ("item-1", "item-2"), strict=True):
        async with open_shop(tmp_path / "models", own_redis.url, name) as shop:
            await shop.accepted("POST", "/events", event("bob", item))

    def command(app: Any, namespace: str, *arguments: str) -> int:
        monkeypatch.setenv(NAMESPACE_ENV, namespace)
        capsys.readouterr()
        return run(app, "etegrec", [*arguments, "--store", models])

    for name in SHOPS:
        assert command(models_app, name, "list") == 0
        shown = capsys.readouterr().out
        assert [version in shown for version in versions.values()] == [each == name for each in SHOPS]

    past = tmp_path / "past.csv"
    past.write_text("user,item,timestamp\ncarl,a,5\n")
    assert await asyncio.to_thread(command, serve_app, "shop-a", "import-history", str(past)) == 0
    assert [raw.exists(Keys(prefix_of(name)).history("carl")) for name in SHOPS] == [1, 0]

    # the base data are none, so the pass ends after it has drained
    work = tmp_path / "work"
    training = ["retrain", "--data", str(tmp_path / "none.csv"), "--work", str(work)]
    assert await asyncio.to_thread(command, train_app, "shop-a", *training) != 0
    assert [raw.xlen(Keys(prefix_of(name)).events) for name in SHOPS] == [0, 1]
    [drained] = work.rglob("events-*.parquet")
    assert drained.parent == work / "_namespaces" / "shop-a" / "events"
    assert pl.read_parquet(drained)["item_id"].to_list() == ["item-1"]
