"""A range over a field without numbers is refused and named; one over a field that just came is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from service.app import create_app
from service.store.redis_store import RedisStore
from tests.service.http.test_item_routes import shop
from tests.support.bundles import NOON, bundle_files, description, publish_small, small_catalogue
from tests.support.hash_coder import hash_coder
from tests.support.redis_server import RedisServer
from tests.support.service_harness import fast_settings, live_store, running, serving, until

pytestmark = pytest.mark.anyio


def asked(*fields: str) -> dict[str, Any]:
    return {"history": ["item-1"], "filter": {"attributes": [{"field": field, "gte": 0} for field in fields]}}


async def errors_of(client: httpx.AsyncClient, path: str, body: Any) -> list[dict[str, Any]]:
    refused = await client.post(path, json=body)
    assert refused.status_code == 422, refused.text
    found: list[dict[str, Any]] = refused.json()["errors"]
    return found


async def test_a_field_without_numbers_is_named_with_those_that_have_some(tmp_path: Path) -> None:
    async with shop(tmp_path / "s") as (client, _):
        await client.put("/items/item-2", json={"attributes": {"weight": 19, "price": "59.99", "new": True}})
        for _ in range(2):
            [error] = await errors_of(client, "/recommend", asked("weight", "price"))
            assert error["field"] == "filter.attributes.1.field"
            assert "no item of the catalogue has a number in price; fields with numbers: " in error["message"]
            assert "weight" in error["expected"]
        [error] = await errors_of(client, "/recommend/batch", [asked("weight"), asked("new")])
        assert error["field"] == "1.filter.attributes.0.field"
        [error] = await errors_of(client, "/recommend", asked("no such field"))
        assert "no such field" not in error["message"]
        found = (await client.post("/recommend", json=asked("weight"))).json()
        assert [item["item_id"] for item in found["items"]] == ["item-2"]


async def test_a_named_model_is_asked_for_its_own_fields_and_viewed_items(tmp_path: Path) -> None:
    live_store(tmp_path)
    weighed = replace(small_catalogue(1), attributes=[{"weight": row} for row in range(40)])
    store = ModelStore(tmp_path)
    store.set_alias("candidate", publish(store, bundle_files(1, weighed), description(), NOON.replace(minute=1)), 0)
    lighter = {"attributes": [{"field": "weight", "lt": {"viewed": "weight"}}]}
    async with serving(tmp_path) as (client, service):
        await until(lambda: service.second_models.candidate.current is not None)
        for model, own, other in (("candidate", "weight", "year"), ("live", "year", "weight")):
            assert (await client.post("/recommend", json={**asked(own), "model": model})).status_code == 200
            [error] = await errors_of(client, "/recommend", {**asked(other), "model": model})
            assert error["expected"] == f"one of {own}"

        viewing = {"history": ["item-1"], "viewed_item": "item-3", "filter": lighter, "model": "candidate"}
        found = (await client.post("/recommend", json=viewing)).json()
    assert {item["item_id"] for item in found["items"]} == {"item-0", "item-2"}  # item-1 was seen
    assert found["ignored_rules"] == []


async def test_a_named_model_that_lags_behind_reads_the_changes_before_it_refuses(tmp_path: Path) -> None:
    live_store(tmp_path)
    store = ModelStore(tmp_path)
    store.set_alias("candidate", publish_small(store, 1), 0)
    app = create_app(fast_settings(tmp_path, catalogue_poll_s=60), coders=hash_coder)
    candidate = app.state.service.second_models.candidate
    async with running(app) as client:
        await until(lambda: candidate.current is not None)
        assert (await client.put("/items/item-2", json={"attributes": {"weight": 3}})).status_code == 200
        assert candidate.current.revision == 0, "it looks once a minute"
        found = await client.post("/recommend", json={**asked("weight"), "model": "candidate"})
    assert [item["item_id"] for item in found.json()["items"]] == ["item-2"]


async def test_a_long_list_of_fields_is_cut(tmp_path: Path) -> None:
    async with shop(tmp_path / "s") as (client, _):
        await client.put("/items/item-2", json={"attributes": {f"field-{n:03}": n for n in range(100)}})
        [error] = await errors_of(client, "/recommend", asked("price"))
        assert error["message"].count("field-") == 20
        assert " more" in error["message"]


@pytest.mark.redis
async def test_a_field_that_another_replica_acknowledged_is_known(
    tmp_path: Path, redis_server: RedisServer, prefix: str
) -> None:
    live_store(tmp_path)
    apps = [
        create_app(
            fast_settings(tmp_path, catalogue_poll_s=poll_s),
            store=RedisStore(redis_server.url, prefix=prefix),
            coders=hash_coder,
        )
        for poll_s in (0.01, 60)
    ]
    async with running(apps[0]) as first:
        await until(lambda: apps[0].state.service.models.current is not None)
        # Started together, the second one could find the first at its snapshot, and look again after a whole poll.
        async with running(apps[1]) as second:
            await until(lambda: apps[1].state.service.models.current is not None)
            await errors_of(second, "/recommend", asked("weight"))
            await first.put("/items/item-2", json={"attributes": {"weight": 3}})
            found = await second.post("/recommend", json=asked("weight"))
            assert [item["item_id"] for item in found.json()["items"]] == ["item-2"]
