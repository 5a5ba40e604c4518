"""Endpoints of experiments: what may change, whose traffic it is, scopes, wrong fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.service_harness import Json, live_store, serving

pytestmark = pytest.mark.anyio

TWO = [{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5, "rules": {"k": 3}}]
LATER = 4_000_000_000


async def refused(client: httpx.AsyncClient, name: str, body: Json, status: int = 409) -> str:
    response = await client.put(f"/experiments/{name}", json=body)
    assert response.status_code == status, response.text
    return str(response.json()["detail"])


async def accepted(client: httpx.AsyncClient, name: str, body: Json) -> Json:
    response = await client.put(f"/experiments/{name}", json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def test_one_that_has_begun_keeps_what_it_counts(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        begun = await accepted(client, "try", {"variants": TWO})
        assert begun["status"] == "running"
        starts = begun["experiment"]["starts"]
        changed = await accepted(client, "try", {"variants": TWO, "description": "why", "ends": LATER})
        assert changed["experiment"]["starts"] == starts
        for field, value in (("variants", TWO[::-1]), ("goal", "click"), ("traffic", {"layer": "l"}), ("starts", 5)):
            assert f"keeps its {field}" in await refused(client, "try", {"variants": TWO, field: value})

        ended = await accepted(client, "try", {"variants": TWO, "ends": starts + 1})
        assert (ended["experiment"]["ends"], ended["experiment"]["starts"]) == (starts + 1, starts)


async def test_one_that_has_not_begun_may_change(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        assert (await accepted(client, "try", {"variants": TWO, "starts": LATER}))["status"] == "planned"
        await accepted(client, "try", {"variants": TWO[::-1], "goal": "cart", "starts": LATER})
        assert (await client.delete("/experiments/try")).status_code == 200
        assert (await client.get("/experiments/try")).status_code == 404


async def test_nobody_is_in_two_experiments_of_a_layer(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        first = {"layer": "home", "start": 0.0, "end": 0.5}
        await accepted(client, "one", {"variants": TWO, "traffic": first, "ends": LATER})
        clash = {"variants": TWO, "traffic": {"layer": "home", "start": 0.4}}
        assert "the experiment one has some of this traffic of layer home" in await refused(client, "two", clash)
        await accepted(client, "two", {**clash, "traffic": {"layer": "home", "start": 0.5}})
        await accepted(client, "three", {**clash, "traffic": {"layer": "other"}})
        await accepted(client, "four", {"variants": TWO})
        await accepted(client, "five", {"variants": TWO, "traffic": first, "starts": LATER})


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"variants": TWO[:1]}, "variants"),
        ({"variants": [TWO[0], TWO[0]]}, ""),
        ({"variants": [TWO[0], {"name": "b", "share": 0.4}]}, ""),
        ({"variants": [TWO[0], {**TWO[1], "rules": {"k": 100_000}}]}, "variants.1.rules.k"),
        ({"variants": [TWO[0], {**TWO[1], "rules": {"user_id": "u"}}]}, "variants.1.rules.user_id"),
        ({"variants": TWO, "traffic": {"layer": "l", "start": 0.5, "end": 0.5}}, "traffic"),
        ({"variants": TWO, "starts": 9, "ends": 8}, ""),
    ],
)
async def test_wrong_fields_are_named(given: Json, field: str, tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        response = await client.put("/experiments/try", json=given)
        assert response.status_code == 422, response.text
        assert response.json()["errors"][0]["field"] == field
        placement = await client.put("/placements/home", json={"experiment": "nowhere"})
        assert placement.json()["errors"][0]["field"] == "experiment"


async def test_keys_need_their_scopes(tmp_path: Path) -> None:
    live_store(tmp_path)
    keys: dict[str, Any] = {"read_keys": "reader-key", "write_keys": "writer-key"}
    async with serving(tmp_path, **keys) as (client, _):
        statuses = {}
        for key in ("reader-key", "writer-key"):
            headers = {"X-API-Key": key}
            statuses[key] = [
                (await client.put("/experiments/try", json={"variants": TWO}, headers=headers)).status_code,
                (await client.get("/experiments", headers=headers)).status_code,
                (await client.get("/experiments/try/report", headers=headers)).status_code,
                (await client.delete("/experiments/try?force=true", headers=headers)).status_code,
            ]
    assert statuses["reader-key"] == [403, 200, 403, 403]
    assert statuses["writer-key"][:2] == [200, 200]
