"""Placements: what wins, what is refused, and what replicas know while the store comes and goes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from model_store.errors import StoreUnavailable
from service.app import create_app
from service.placements import lay_under
from service.schemas.placements import ONE_PLACEMENT, Placement
from service.schemas.recommend import ONE_REQUEST, RecommendRequest
from service.service import Service
from service.store.document_store import StoredDocuments
from service.store.embedded_documents import EmbeddedDocuments
from tests.support.flaky_store import FlakyStore
from tests.support.service_harness import Json, fast_settings, live_store, running, serving, until

pytestmark = pytest.mark.anyio


def asked(**fields: Any) -> RecommendRequest:
    return ONE_REQUEST.validate_python(fields)


def rules(**fields: Any) -> Placement:
    return ONE_PLACEMENT.validate_python(fields)


def test_given_fields_win_even_if_they_are_the_defaults() -> None:
    placement = rules(k=3, exclude_seen=False, exclude_shown={"answers": 2}, max_per_prefix=4, description="d")
    assert lay_under(asked(), placement) == asked().model_copy(
        update={"k": 3, "exclude_seen": False, "exclude_shown": placement.exclude_shown, "max_per_prefix": 4}
    )
    given = asked(k=10, exclude_seen=True, exclude_shown=None, max_per_prefix=None)
    assert lay_under(given, placement) == given
    assert lay_under(asked(user_id="u"), rules()) == asked(user_id="u")


@pytest.mark.parametrize(
    ("filter_", "below", "expected"),
    [
        ({"categories": ["a"]}, {"categories": ["b"], "allow": ["x"]}, {"categories": ["a"]}),
        (None, {"categories": ["b"]}, None),
        ({"deny": ["y"]}, {"deny": ["x"], "categories": ["b"]}, {"deny": ["x", "y"]}),
        (None, {"deny": ["x"]}, {"deny": ["x"]}),
        ({"categories": ["a"]}, {"not": {"categories": ["b"]}}, {"categories": ["a"], "not": {"categories": ["b"]}}),
        ({"not": {"allow": ["x"]}}, {"not": {"categories": ["b"]}}, {"not": {"allow": ["x"]}}),
        ({"not": None}, {"not": {"categories": ["b"]}}, {"not": None}),
    ],
)
def test_a_filter_replaces_the_placements_but_not_what_it_leaves_out(
    filter_: Json | None, below: Json, expected: Json | None
) -> None:
    placed = lay_under(asked(filter=filter_), rules(filter=below)).filter
    assert (placed and placed.model_dump(exclude_unset=True)) == expected


def test_a_placement_is_stored_as_it_was_given() -> None:
    body = {
        "k": 5,
        "filter": {
            "categories": {"viewed": True},
            "attributes": [{"field": "price", "lte": {"viewed": "price", "times": 1.2}}],
            "not": {"categories": ["x"]},
        },
    }
    payload = rules(**body).payload()
    assert ONE_PLACEMENT.validate_json(payload, strict=True) == rules(**body)
    assert rules().payload() == b"{}"
    assert b'"not":' in payload


async def put(client: httpx.AsyncClient, name: str, **body: Any) -> Json:
    response = await client.put(f"/placements/{name}", json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def items(client: httpx.AsyncClient, **body: Any) -> Json:
    response = await client.post("/recommend", json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def test_requests_name_a_placement(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        stored = await put(client, "home", k=4, filter={"categories": ["category-1"]}, description="Start")
        assert stored == {
            "name": "home",
            "revision": 1,
            "description": "Start",
            "rules": {"k": 4, "filter": {"categories": ["category-1"]}},
        }
        plain = await items(client, history=["item-0"], k=4, filter={"categories": ["category-1"]})
        placed = await items(client, history=["item-0"], placement="home")
        assert placed["items"] == plain["items"]
        assert (placed["placement"], plain["placement"]) == ({"name": "home", "revision": 1}, None)
        assert len((await items(client, history=["item-0"], placement="home", k=2))["items"]) == 2

        await put(client, "home", k=1)
        batch = await client.post("/recommend/batch", json=[{"placement": "home"}, {"k": 2}])
        assert [(len(each["items"]), each["placement"]) for each in batch.json()] == [
            (1, {"name": "home", "revision": 2}),
            (2, None),
        ]


async def test_unknown_placements_are_named(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        for response in (
            await client.post("/recommend", json={"placement": "nowhere"}),
            await client.post("/recommend/batch", json=[{"placement": "nowhere"}]),
            await client.get("/placements/nowhere"),
            await client.delete("/placements/nowhere"),
        ):
            assert response.status_code == 404
            assert response.json()["type"] == "urn:etegrec:problem:no-such-placement"
            assert "there is no placement nowhere" in response.json()["detail"]


async def test_limits_hold_when_a_placement_is_put_and_when_it_is_used(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path, max_k=20, max_filter_ids=3) as (client, _):
        wrong = {"k": 21, "filter": {"deny": list("abcd"), "not": {"allow": list("abcd")}}}
        refused = (await client.put("/placements/home", json=wrong)).json()
        assert [each["field"] for each in refused["errors"]] == ["k", "filter.deny", "filter.not.allow"]
        await put(client, "home", k=20, filter={"allow": ["a", "b", "c"]})

    async with serving(tmp_path, max_k=10, max_filter_ids=2) as (client, _):
        for body, where in (({"placement": "home"}, ""), ([{"placement": "home"}], "0.")):
            path = "/recommend" if isinstance(body, dict) else "/recommend/batch"
            response = await client.post(path, json=body)
            assert response.status_code == 422
            fields = [each["field"] for each in response.json()["errors"]]
            assert fields == [f"{where}placement.k", f"{where}placement.filter.allow"]
        fine = await items(client, placement="home", k=10, filter=None)
        assert len(fine["items"]) == 10


async def test_a_store_that_is_away_takes_no_placement_and_the_last_ones_stay(tmp_path: Path) -> None:
    live_store(tmp_path)
    store = FlakyStore(tmp_path / "events")
    app = create_app(fast_settings(tmp_path), store=store)
    service: Service = app.state.service
    async with running(app) as client:
        await until(lambda: service.models.current is not None)
        await put(client, "home", k=3)
        store.is_away = True
        assert len((await items(client, placement="home"))["items"]) == 3
        assert (await client.get("/placements")).json()["placements"][0]["name"] == "home"
        for response in (
            await client.put("/placements/home", json={"k": 4}),
            await client.delete("/placements/home"),
        ):
            assert response.status_code == 503
            assert response.json()["type"] == "urn:etegrec:problem:live-store-unavailable"
        store.is_away = False
        await put(client, "home", k=4)
        assert len((await items(client, placement="home"))["items"]) == 4


async def test_before_the_first_read_placements_are_not_known(tmp_path: Path) -> None:
    live_store(tmp_path)
    store = FlakyStore(tmp_path / "events")
    await store.placements.put("home", b'{"k":2}', 0)
    store.is_away = True
    app = create_app(fast_settings(tmp_path), store=store)
    service: Service = app.state.service
    async with running(app) as client:
        await until(lambda: service.models.current is not None)
        for response in (
            await client.post("/recommend", json={"placement": "home"}),
            await client.get("/placements"),
            await client.get("/placements/home"),
        ):
            assert response.status_code == 503
            assert response.json()["type"] == "urn:etegrec:problem:placements-not-read"
            assert response.headers["retry-after"] == "1"
        assert len((await items(client, k=5))["items"]) == 5

        store.is_away = False
        await service.placements.read()
        assert len((await items(client, placement="home"))["items"]) == 2


async def test_what_a_newer_release_wrote_is_left_out(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, service):
        await put(client, "home", k=3)
        stored = service.store_client.store.placements
        await stored.put("home", b'{"k": 3, "field_of_tomorrow": 1}', 0)
        await stored.put("cart", b'{"k": 2}', 0)
        await service.placements.read()
        assert len((await items(client, placement="cart"))["items"]) == 2
        assert (await client.post("/recommend", json={"placement": "home"})).status_code == 404
        await put(client, "home", k=1)
        assert len((await items(client, placement="home"))["items"]) == 1


class CountingPlacements(EmbeddedDocuments):
    """Counts its reads, which wait until they may go on."""

    reads = 0
    may_answer = asyncio.Event()

    async def read(self, known: int) -> StoredDocuments | None:
        self.reads += 1
        await self.may_answer.wait()
        return await super().read(known)


async def test_requests_for_unknown_placements_share_one_read(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, service):
        await until(lambda: service.placements.all() == [])
        store: Any = service.store_client.store
        counting = CountingPlacements(store._state.placements, store._commit)
        counting.may_answer = asyncio.Event()
        store._placements = counting
        asking = [asyncio.create_task(client.post("/recommend", json={"placement": "none"})) for _ in range(20)]
        await until(lambda: counting.reads > 0)
        counting.may_answer.set()
        assert {(await each).status_code for each in asking} == {404}
        assert counting.reads <= 3  # one, beside those of the watcher


async def test_a_failed_write_changes_nothing_here(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, service):
        await put(client, "home", k=3)
        await service.store_client.store.close()
        with pytest.raises(StoreUnavailable):
            await service.placements.put("home", rules(k=1), None)
        assert (await service.placements.find("home")).content.k == 3
