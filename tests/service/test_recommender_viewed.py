"""Recommendations beside a viewed item: it is left out, and filters take values from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.service_harness import Json, live_store, loaded_model, serving

pytestmark = pytest.mark.anyio

SAME_CATEGORY = {"categories": {"viewed": True}}
NOT_NEWER = {"attributes": [{"field": "year", "lte": {"viewed": "year"}}]}


async def ask(client: httpx.AsyncClient, **body: Any) -> Json:
    response = await client.post("/recommend", json={"history": ["item-3"], "k": 40, "exclude_seen": False, **body})
    assert response.status_code == 200, response.text
    return dict(response.json())


def rows(answer: Json) -> set[int]:
    """Rows of the items: category and year of the small catalogue follow from them."""
    return {int(item["item_id"].removeprefix("item-")) for item in answer["items"]}


async def test_filters_take_values_from_the_viewed_item(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, service):
        assert rows(await ask(client, viewed_item="item-4")) == set(range(40)) - {4}
        same = await ask(client, viewed_item="item-4", filter=SAME_CATEGORY)
        assert rows(same) == {row for row in range(40) if row % 3 == 1} - {4}
        assert same["ignored_rules"] == []
        older = await ask(client, viewed_item="item-4", filter=NOT_NEWER)
        assert rows(older) == {row for row in range(40) if row % 10 <= 4} - {4}
        others = await ask(client, viewed_item="item-4", filter={"not": SAME_CATEGORY})
        assert rows(others) == {row for row in range(40) if row % 3 != 1}
        popular = await ask(client, viewed_item="item-4", filter=SAME_CATEGORY, history=[])
        assert (popular["served_by"], rows(popular)) == ("popular", rows(same))

        model = loaded_model(service)
        compiled = len(model.rules._compiled)
        await ask(client, viewed_item="item-7", filter=SAME_CATEGORY)  # of the same category
        assert len(model.rules._compiled) == compiled


@pytest.mark.parametrize("viewed_item", [None, "nobody"])
async def test_without_a_known_item_such_parts_restrict_nothing(viewed_item: str | None, tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        rules = {**SAME_CATEGORY, **NOT_NEWER, "categories_all": ["category-2"]}
        answer = await ask(client, viewed_item=viewed_item, filter=rules)
        assert rows(answer) == {row for row in range(40) if row % 3 == 2}
        assert answer["ignored_rules"] == ["filter.categories", "filter.attributes.0.lte"]
        assert answer["unknown_items"] == []


async def test_a_value_that_no_item_can_have_is_refused(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        wrong = {"attributes": [{"field": "year", "lte": {"viewed": "price"}}, {"field": "weight", "gte": 1}]}
        body = {"viewed_item": "item-4", "filter": wrong}
        refused = (await client.post("/recommend", json=body)).json()
        assert [each["field"] for each in refused["errors"]] == [
            "filter.attributes.0.lte.viewed",
            "filter.attributes.1.field",
        ]
