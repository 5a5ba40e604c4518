"""Similar items, code prefixes, popular and trending over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from model_store.bundle.parts import CODE_NAMES
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.code_names import CodeNames
from service.app import create_app
from service.service import Service
from tests.support.bundles import NOON, bundle_files, description, small_catalogue, small_names
from tests.support.service_harness import fast_settings, live_store, loaded_model, running, serving, until

pytestmark = pytest.mark.anyio

Served = tuple[httpx.AsyncClient, Service, Catalogue]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    live_store(tmp_path)
    async with serving(tmp_path, trends_s=0.02, popular_prior_events=10) as (client, service):
        assert service.models.current is not None
        yield client, service, service.models.current.catalogue


async def test_similar_items_tell_how_many_codes_they_share(served: Served) -> None:
    client, _, catalogue = served
    answer = (await client.get("/items/item-3/similar?k=6")).json()
    assert answer.keys() == {"model_version", "items"}
    assert len(answer["items"]) == 6
    assert "item-3" not in {item["item_id"] for item in answer["items"]}
    for item in answer["items"]:
        row = catalogue.row(item["item_id"])
        assert row is not None
        assert (item["title"], item["codes"]) == (catalogue.titles[row], catalogue.codes[row].tolist())
        assert item["similarity"] is None  # this model has no vectors
        equal = (catalogue.codes[row] == catalogue.codes[3]).tolist()
        assert item["shared_codes"] == (equal.index(False) if False in equal else 3)
    shared = [item["shared_codes"] for item in answer["items"]]
    assert shared == sorted(shared, reverse=True)


async def test_a_prefix_shows_its_items_page_by_page(served: Served) -> None:
    client, _, catalogue = served
    code = int(catalogue.codes[0, 0])
    below = [row for row in range(40) if catalogue.codes[row, 0] == code]
    seen: list[str] = []
    while len(seen) < len(below):
        page = (await client.get(f"/codes/{code}?limit=2&offset={len(seen)}")).json()
        assert (page["prefix"], page["total"]) == ([code], len(below))
        assert sum(each["items"] for each in page["next_codes"]) == len(below)
        seen += [item["item_id"] for item in page["items"]]
    assert sorted(seen) == sorted(f"item-{row}" for row in below)
    whole = "-".join(map(str, catalogue.codes[7].tolist()))
    only = (await client.get(f"/codes/{whole}")).json()
    assert [item["item_id"] for item in only["items"]] == ["item-7"]
    assert (only["next_codes"], only["common"], only["measured_items"]) == ([], [], 1)


async def test_prefixes_have_the_names_of_the_version_whatever_is_hidden_or_put(served: Served) -> None:
    client, service, catalogue = served
    names = small_names(catalogue)
    first_codes = np.unique(catalogue.codes[:, 0]).tolist()

    async def shown() -> list[str | None]:
        answers = [(await client.get(f"/codes/{code}")).json() for code in first_codes]
        assert all(each["name"] is None for answer in answers for each in answer["next_codes"])
        return [answer["name"] for answer in answers]

    before = await shown()
    assert before == [names.name([code]) for code in first_codes]
    assert before[0] is None
    assert None not in before[1:]
    for row in range(0, 40, 2):
        await client.delete(f"/items/item-{row}")
    await client.put("/items/item-1", json={"title": "Something else"})
    assert await shown() == before

    second = live_store(Path(service.settings.store), 1)
    await until(lambda: loaded_model(service).version == second)
    newer = small_catalogue(1)
    first_codes = np.unique(newer.codes[:, 0]).tolist()
    assert await shown() == [small_names(newer).name([code]) for code in first_codes]
    assert await shown() != before


async def test_the_next_codes_have_their_names(tmp_path: Path) -> None:
    catalogue = small_catalogue()
    named = catalogue.codes[4, :2].tolist()
    files = bundle_files() | {CODE_NAMES: CodeNames.of(np.array([named]), ["Drama · 1990s"]).to_parquet()}
    store = ModelStore(tmp_path)
    store.promote(publish(store, files, description(), NOON))
    async with serving(tmp_path) as (client, _):
        page = (await client.get(f"/codes/{named[0]}")).json()
        assert page["name"] is None
        assert {each["code"]: each["name"] for each in page["next_codes"] if each["name"]} == {
            named[1]: "Drama · 1990s"
        }
        assert (await client.get(f"/codes/{named[0]}-{named[1]}")).json()["name"] == "Drama · 1990s"
        body = {"history": ["item-0"], "filter": {"allow": ["item-4"]}, "explain": True}
        [item] = (await client.post("/recommend", json=body)).json()["items"]
        assert [code["name"] for code in item["explanation"]["codes"]] == [None, "Drama · 1990s", None]


async def test_the_root_of_the_tree_has_every_item(served: Served) -> None:
    client, service, catalogue = served
    root = (await client.get("/codes?limit=3")).json()
    assert (root["prefix"], root["name"], root["total"]) == ([], None, 40)
    assert [item["item_id"] for item in root["items"]] == [f"item-{row}" for row in catalogue.by_popularity[:3]]
    names = loaded_model(service).names
    for each in root["next_codes"]:
        below = np.flatnonzero(catalogue.codes[:, 0] == each["code"])
        assert (each["items"], each["popularity"]) == (len(below), catalogue.popularity[below].sum())
        assert each["name"] == names.name([each["code"]])
        assert each["category"] in {catalogue.categories[row][0] for row in below.tolist()}


async def test_items_are_found_by_words_of_their_titles_hidden_ones_too(served: Served) -> None:
    client, _, catalogue = served
    await client.delete("/items/item-30")
    found = (await client.get("/items", params={"query": "TITLE 3", "limit": 100})).json()
    assert {item["item_id"] for item in found["items"]} == {f"item-{row}" for row in range(40) if "3" in str(row)}
    assert found["total"] == len(found["items"]) == 13
    assert [item["item_id"] for item in found["items"] if item["hidden"]] == ["item-30"]
    pages = [(await client.get("/items", params={"limit": 15, "offset": at})).json() for at in (0, 15, 30)]
    listed = [item["item_id"] for page in pages for item in page["items"]]
    assert listed == [f"item-{row}" for row in catalogue.by_popularity]
    by_id = (await client.get("/items", params={"query": "item-7"})).json()["items"]
    assert [(item["item_id"], item["categories"], item["is_new"]) for item in by_id] == [
        ("item-7", ["category-1"], False)
    ]
    refused = await client.get("/items", params={"query": "a " * 9})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["limit"] == 8


async def test_popular_follows_training_until_events_say_otherwise(served: Served) -> None:
    client, _, catalogue = served
    popular = (await client.get("/popular?k=3")).json()["items"]
    assert [item["item_id"] for item in popular] == [f"item-{row}" for row in catalogue.by_popularity[:3]]
    assert [(item["events"], item["popularity"]) for item in popular] == [
        (0.0, int(catalogue.popularity[row])) for row in catalogue.by_popularity[:3]
    ]
    assert (await client.get("/trending")).json()["items"] == []
    least = f"item-{catalogue.by_popularity[-1]}"
    now = int(time.time())
    events = [{"event_id": str(n), "user_id": f"u{n}", "item_id": least, "timestamp": now} for n in range(30)]
    await client.post("/events", json=[*events, {**events[0], "event_id": "x", "item_id": "item-1"}])
    async with asyncio.timeout(30):
        while not (trending := (await client.get("/trending")).json()["items"]):
            await asyncio.sleep(0.01)
    assert [item["item_id"] for item in trending] == [least, "item-1"]
    assert trending[0]["events"] == pytest.approx(30, rel=1e-2)
    newest = (await client.get("/popular?k=2")).json()["items"]
    assert newest[0]["item_id"] == least
    fallback = (await client.post("/recommend", json={"k": 2})).json()
    assert [item["item_id"] for item in fallback["items"]] == [item["item_id"] for item in newest]
    categories = {f"category-{row % 3}" for row in (1, int(catalogue.by_popularity[-1]))}
    for category in categories:
        found = (await client.get("/trending", params={"category": category})).json()["items"]
        assert {int(item["item_id"].split("-")[1]) % 3 for item in found} == {int(category[-1])}
    assert (await client.get("/trending?category=none")).json()["items"] == []


async def test_what_does_not_exist_is_404_and_what_is_malformed_422(served: Served) -> None:
    client, _, __ = served
    for path in ("/items/nobody/similar", "/codes/7-7-7-7", "/codes/99999"):
        assert (await client.get(path)).status_code == 404, path
    wrong = ["/codes/a", "/codes/1-", "/codes/-1", "/codes/1--2", "/codes/%D9%A1", "/codes/1-1-1-1-1-1-1-1-1"]
    wrong += ["/codes/123456", "/items/item-1/similar?k=0", "/items/item-1/similar?k=x", "/items/item-1/similar?n=5"]
    wrong += [
        "/popular?k=1&k=2",
        "/popular?category=" + "x" * 257,
        "/trending?k=101",
        "/codes/1?offset=-1",
        "/items?limit=101",
    ]
    wrong += ["/items/%FF/similar", "/codes/1?limit=101"]
    for path in wrong:
        refused = await client.get(path)
        assert refused.status_code == 422, path
        assert refused.headers["content-type"] == "application/problem+json"


async def test_k_is_bounded_by_the_settings(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path, max_k=3) as (client, _):
        for path in ("/items/item-1/similar", "/popular", "/trending"):
            assert (await client.get(f"{path}?k=3")).status_code == 200
            refused = await client.get(f"{path}?k=4")
            assert refused.json()["errors"] == [{"field": "k", "message": "must be at most 3 (max_k)", "limit": 3}]


async def test_reading_needs_a_key_where_keys_are_set(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path, read_keys="only-for-reading") as (client, _):
        for path in ("/items/item-1/similar", "/codes/1", "/popular", "/trending"):
            assert (await client.get(path)).status_code == 401
            assert (await client.get(path, headers={"X-API-Key": "only-for-reading"})).status_code in (200, 404)


async def test_without_a_model_there_is_nothing_to_look_at(tmp_path: Path) -> None:
    async with running(create_app(fast_settings(tmp_path))) as client:
        for path in ("/items/item-1/similar", "/codes/1", "/popular", "/trending"):
            assert (await client.get(path)).status_code == 503
