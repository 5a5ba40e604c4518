"""PATCH of items: given fields change, absent ones stay, null empties, and a hidden item comes back as it was."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from tests.service.http.test_item_routes import recommended, shop
from tests.support.bundles import bundle_files, description, small_catalogue

pytestmark = pytest.mark.anyio

CONTENT = {
    "title": "New",
    "categories": ["fresh"],
    "attributes": {"year": 2026, "price": 9.5, "size": {"w": 1, "h": 2}},
}


def content_of(item: dict[str, Any]) -> dict[str, Any]:
    return {name: item[name] for name in ("title", "categories", "attributes", "hidden")}


@pytest.mark.parametrize(
    ("patch", "changed"),
    [
        ({"title": "Newer"}, {"title": "Newer"}),
        ({"title": None}, {"title": None}),
        ({"categories": []}, {"categories": []}),
        ({"categories": None}, {"categories": []}),
        ({"attributes": {"price": 8}}, {"attributes": CONTENT["attributes"] | {"price": 8}}),  # type: ignore[operator]
        ({"attributes": {"year": None, "size": {"w": None}}}, {"attributes": {"price": 9.5, "size": {"h": 2}}}),
        ({"attributes": "text"}, {"attributes": {"text": "text"}}),
        ({"attributes": None}, {"attributes": {}}),
        ({"hidden": True}, {"hidden": True}),
        ({"hidden": True, "title": "Last"}, {"hidden": True, "title": "Last"}),
        ({"hidden": False}, {}),
    ],
)
async def test_only_what_is_given_changes(tmp_path: Path, patch: dict[str, Any], changed: dict[str, Any]) -> None:
    async with shop(tmp_path / "s") as (client, _):
        put = (await client.put("/items/new", json=CONTENT)).json()
        merge_patch = {"Content-Type": "application/merge-patch+json"}
        answer = await client.patch("/items/new", json=patch, headers=merge_patch)
        shown = (await client.get("/items/new")).json()
    assert answer.status_code == 200, answer.text
    assert answer.json() == shown
    assert content_of(shown) == {**CONTENT, "hidden": False, **changed}
    assert shown["codes"] == put["codes"]


@pytest.mark.parametrize("item_id", ["new", "item-3"])
async def test_a_deleted_item_comes_back_with_its_content(tmp_path: Path, item_id: str) -> None:
    async with shop(tmp_path / "s") as (client, _):
        await client.put(f"/items/{item_id}", json=CONTENT)
        await client.delete(f"/items/{item_id}")
        renamed = (await client.patch(f"/items/{item_id}", json={"title": "Renamed"})).json()
        while_hidden = await recommended(client)
        back = (await client.patch(f"/items/{item_id}", json={"hidden": False})).json()
        assert content_of(renamed) == {**CONTENT, "title": "Renamed", "hidden": True}
        assert item_id not in while_hidden
        assert content_of(back) == {**CONTENT, "title": "Renamed", "hidden": False}
        assert item_id in await recommended(client)


async def test_patches_at_the_same_moment_all_count(tmp_path: Path) -> None:
    async with shop(tmp_path / "s") as (client, _):
        await client.put("/items/new", json=CONTENT)
        patches = [client.patch("/items/new", json={"attributes": {f"a{n}": n}}) for n in range(20)]
        assert {each.status_code for each in await asyncio.gather(*patches)} == {200}
        attributes = (await client.get("/items/new")).json()["attributes"]
    assert attributes == CONTENT["attributes"] | {f"a{n}": n for n in range(20)}  # type: ignore[operator]


async def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    async with shop(tmp_path / "s") as (client, _):
        await client.put("/items/new", json={"attributes": {str(n): n for n in range(256)}})
        assert (await client.patch("/items/nobody", json={"title": "t"})).status_code == 404
        for patch in (
            {"hidden": None},
            {"price": 5},
            {"attributes": {"one more": 1}},
            {"attributes": {"1": 2**64}},
            {"attributes": {"1": "x" * 66_000}},
            {"embedding": [1.0]},
        ):
            refused = await client.patch("/items/new", json=patch)
            assert refused.status_code == 422, patch
        assert (await client.get("/items/new")).json()["attributes"]["1"] == 1


async def test_an_item_that_is_longer_than_clients_may_send_can_be_hidden_and_brought_back(tmp_path: Path) -> None:
    plain = small_catalogue()
    title, text = "long " * 1000, "x" * 70_000
    catalogue = replace(
        plain,
        titles=[title, *list(plain.titles)[1:]],
        attributes=[{"text": text}, *list(plain.attributes)[1:]],
    )
    files = bundle_files() | {"catalogue.parquet": catalogue.to_parquet()}
    store = ModelStore(tmp_path / "s")
    store.promote(publish(store, files, description()))

    async with shop(tmp_path / "s") as (client, _):
        before = (await client.get("/items/item-0")).json()
        assert (before["title"], before["attributes"]) == (title, {"text": text})
        assert (await client.delete("/items/item-0")).status_code == 200
        assert "item-0" not in await recommended(client)

        back = await client.patch("/items/item-0", json={"hidden": False})
        assert back.status_code == 200, back.text
        assert content_of(back.json()) == content_of(before)
        assert "item-0" in await recommended(client)

        shorter = await client.patch("/items/item-0", json={"attributes": {"text": "x" * 66_000}})
        assert shorter.status_code == 200, shorter.text
        for patch in ({"title": title}, {"attributes": {"more": "x"}, "hidden": True}):
            refused = await client.patch("/items/item-0", json=patch)
            assert refused.status_code == 422, patch
