"""A refusal of fields names the field, says what it takes and its limit, and guesses what a wrong name meant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.service_harness import live_store, serving

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        yield client


async def errors_of(client: httpx.AsyncClient, path: str, body: Any, method: str = "POST") -> list[dict[str, Any]]:
    refused = await client.request(method, path, json=body)
    assert refused.status_code == 422, refused.text
    found: list[dict[str, Any]] = refused.json()["errors"]
    return found


@pytest.mark.parametrize(
    ("body", "field", "advice"),
    [
        ({"userId": "u"}, "userId", "does not exist; did you mean user_id?"),
        ({"filter": {"categorys": []}}, "filter.categorys", "did you mean categories?"),
        ({"filter": {"attributes": [{"field": "year", "min": 1}]}}, "filter.attributes.0.min", "known are field, gte"),
        ({"zzz": 1}, "zzz", "known are k, exclude_seen"),
        ({"k ; DROP": 1}, "", "has a field that does not exist; GET /docs"),
        ({"x" * 65: 1}, "", "has a field that does not exist; GET /docs"),
    ],
)
async def test_a_field_that_does_not_exist_is_named(
    client: httpx.AsyncClient, body: dict[str, Any], field: str, advice: str
) -> None:
    [error] = await errors_of(client, "/recommend", body)
    assert error["field"] == field
    assert advice in error["message"]
    assert error["expected"].startswith("fields of ")


@pytest.mark.parametrize(
    ("method", "path", "body", "error"),
    [
        ("POST", "/recommend", {"k": 0}, {"field": "k", "expected": "an integer, at least 1", "limit": 1}),
        ("POST", "/recommend", {"k": "3"}, {"field": "k", "expected": "an integer, at least 1"}),
        ("POST", "/recommend", {"exclude_seen": 1}, {"field": "exclude_seen"}),
        ("POST", "/recommend", {"max_per_prefix": 1001}, {"field": "max_per_prefix", "limit": 1000}),
        (
            "POST",
            "/events",
            {"user_id": "u", "item_id": "i", "type": "Buy now"},
            {
                "field": "type",
                "message": "must be view, click, cart, purchase, rating, impression, dislike, hide, or a name of your"
                " own: at most 32 small letters (a-z), digits and _, beginning with a letter",
            },
        ),
        ("POST", "/events", {"user_id": "u"}, {"field": "item_id", "message": "is needed"}),
        (
            "POST",
            "/events",
            {"user_id": "u", "item_id": 1.5},
            {"field": "item_id", "expected": "text of 1 to 128 characters or an integer"},
        ),
        ("PUT", "/items/a", {"title": 5}, {"field": "title", "expected": "text of at most 2000 characters"}),
        (
            "PUT",
            "/items/a",
            {"attributes": 5},
            {"field": "attributes", "expected": "an object of at most 256 fields or text of at most 20000 characters"},
        ),
        (
            "PUT",
            "/items/a",
            {},
            {"field": "", "message": "needs at least one of title, categories, attributes, embedding"},
        ),
        (
            "PATCH",
            "/items/item-1",
            {},
            {"field": "", "message": "needs at least one of title, categories, attributes, embedding, hidden"},
        ),
        (
            "GET",
            "/popular?categori=x",
            None,
            {"field": "query.categori", "message": "does not exist; did you mean category?"},
        ),
        ("GET", "/popular?k=0", None, {"field": "k", "limit": 1}),
    ],
)
async def test_what_was_expected_is_said(
    client: httpx.AsyncClient, method: str, path: str, body: Any, error: dict[str, Any]
) -> None:
    [found] = await errors_of(client, path, body, method)
    assert found | error == found


async def test_a_long_text_of_attributes_is_taken(client: httpx.AsyncClient) -> None:
    assert (await client.put("/items/item-1", json={"attributes": "x" * 20_000})).status_code == 200
    [error] = await errors_of(client, "/items/item-1", {"attributes": "x" * 20_001}, "PUT")
    assert error["field"] == "attributes"
