"""Endpoints of placements: names, revisions, limits, scopes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.store.documents import MAX_DOCUMENT_BYTES
from tests.support.service_harness import Json, live_store, serving

pytestmark = pytest.mark.anyio


async def test_a_placement_is_put_shown_and_deleted(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        assert (await client.get("/placements")).json() == {"revision": 0, "placements": []}
        for name in ("home", "a.b_c-1"):
            assert (await client.put(f"/placements/{name}", json={"k": 3})).status_code == 200
        listed = (await client.get("/placements")).json()
        assert [(each["name"], each["revision"]) for each in listed["placements"]] == [("a.b_c-1", 2), ("home", 1)]
        assert (await client.get("/placements/home")).json() == listed["placements"][1]
        assert (await client.delete("/placements/home")).json() == {"name": "home", "revision": 3}
        assert (await client.get("/placements/home")).status_code == 404


async def test_a_write_may_expect_a_revision(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        first = await client.put("/placements/home", params={"revision": 0}, json={})
        assert first.json()["revision"] == 1
        for method, revision in (("PUT", 0), ("PUT", 2), ("DELETE", 0)):
            refused = await client.request(method, "/placements/home", params={"revision": revision}, json={})
            assert refused.status_code == 409
            assert refused.json()["type"] == "urn:etegrec:problem:placement-conflict"
            assert "revision 1" in refused.json()["detail"]
        gone = await client.put("/placements/other", params={"revision": 3}, json={})
        assert "there is no placement other, but revision 3 was expected" in gone.json()["detail"]
        assert (await client.delete("/placements/home", params={"revision": 1})).status_code == 200
        assert (await client.put("/placements/home", params={"revision": -1}, json={})).status_code == 422


@pytest.mark.parametrize("name", ["Home", "-home", "a" * 65, "h%C3%A9", "a b", ".x"])
async def test_names_are_short_and_plain(name: str, tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        for method in ("PUT", "GET", "DELETE"):
            refused = await client.request(method, f"/placements/{name}", json={})
            assert refused.status_code == 422, method
            assert refused.json()["errors"][0]["field"] == "name"
        refused = await client.post("/recommend", json={"placement": "Home"})
        assert refused.json()["errors"][0]["field"] == "placement"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"k": 0}, "k"),
        ({"user_id": "u"}, "user_id"),
        ({"filter": {"attributes": [{"field": "weight", "gte": 1}]}}, "filter.attributes.0.field"),
        ({"filter": {"not": {"attributes": [{"field": "weight", "gte": 1}]}}}, "filter.not.attributes.0.field"),
        (
            {"filter": {"attributes": [{"field": "year", "gte": {"viewed": "weight"}}]}},
            "filter.attributes.0.gte.viewed",
        ),
        ({"filter": {"not": {}}}, "filter.not"),
        ({"filter": {"not": {"deny": ["a"]}}}, "filter.not.deny"),
        ({"filter": {"categories": {"viewed": False}}}, "filter.categories"),
        ({"exclude_shown": {}}, "exclude_shown"),
        ({"exclude_shown": {"answers": 101}}, "exclude_shown.answers"),
        ({"exclude_shown": {"hours": 169}}, "exclude_shown.hours"),
        ({"description": "x" * 1001}, "description"),
    ],
)
async def test_wrong_rules_are_named(body: Json, field: str, tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        refused = await client.put("/placements/home", json=body)
        assert refused.status_code == 422, refused.text
        assert refused.json()["errors"][0]["field"] == field


async def test_a_placement_has_a_largest_size(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        ids = ["x" * 128 for _ in range(MAX_DOCUMENT_BYTES // 131)]
        small = await client.put("/placements/home", json={"filter": {"deny": ids[:-1]}})
        assert small.status_code == 200, small.text
        refused = await client.put("/placements/home", json={"filter": {"deny": [*ids, "y" * 128]}})
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["limit"] == MAX_DOCUMENT_BYTES


async def test_keys_need_their_scopes(tmp_path: Path) -> None:
    live_store(tmp_path)
    keys: dict[str, Any] = {"read_keys": "reader-key", "write_keys": "writer-key"}
    async with serving(tmp_path, **keys) as (client, _):
        statuses = {}
        for key in ("reader-key", "writer-key"):
            headers = {"X-API-Key": key}
            statuses[key] = [
                (await client.put("/placements/home", json={}, headers=headers)).status_code,
                (await client.get("/placements", headers=headers)).status_code,
                (await client.get("/placements/home", headers=headers)).status_code,
                (await client.delete("/placements/home", headers=headers)).status_code,
            ]
    assert statuses["reader-key"] == [403, 200, 404, 403]
    assert statuses["writer-key"] == [200] * 4
