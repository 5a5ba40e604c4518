"""Hostile and mistaken input: a problem document each time, never a 500, never an echo."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from service.http.body import MAX_DEPTH, MAX_KEYS
from tests.support.service_harness import BrokenEngine, live_store, serving

pytestmark = pytest.mark.anyio

JSON = {"Content-Type": "application/json"}
ECHO = "zebra"  # must never come back

BAD_BODIES: dict[str, tuple[str | bytes, int]] = {
    "empty": (b"", 400),
    "no JSON": (ECHO.encode(), 400),
    "NaN": (b'{"budget_ms": NaN, "user_id": "zebra"}', 400),
    "Infinity in an unknown field": (b'{"zebra": -Infinity}', 400),
    "too large a float": (b'{"budget_ms": 1e999}', 400),
    "huge integer": (b'{"k": 1' + b"0" * 5000 + b"}", 400),
    "large integer": (b'{"k": 1' + b"0" * 30 + b"}", 422),
    "lone surrogate": (b'{"user_id": "zebra\\ud800"}', 400),
    "lone low surrogate in a list": (b'{"history": ["\\udc00zebra"]}', 400),
    "no UTF-8": (b'{"user_id": "zebra\xff"}', 400),
    "UTF-16": ('{"user_id": "zebra"}'.encode("utf-16"), 400),
    "byte order mark": (b"\xef\xbb\xbf{}", 400),
    "repeated key": (b'{"user_id": "zebra", "user_id": "b"}', 400),
    "repeated key inside": (b'{"filter": {"deny": [], "deny": ["zebra"]}}', 400),
    "deep arrays": (b'{"history": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
    "deep objects": (b'{"filter":' * 30_000 + b"1" + b"}" * 30_000, 400),
    "deep arrays and objects in turn": (b'[{"a":' * 20 + b"1" + b"}]" * 20, 400),
    "deep behind escaped quotes": (b'{"a\\\\\\"": "\\\\", "b": ' + b"[" * 40 + b"]" * 40 + b"}", 400),
    "unclosed": (b"[" * 200_000, 400),
    "a list": (b"[]", 422),
    "null": (b"null", 422),
    "unknown field": (b'{"zebra crossing": 1}', 422),
    "bool for a number": (b'{"k": true}', 422),
    "text for a number": (b'{"k": "3"}', 422),
    "k zero": (b'{"k": 0}', 422),
    "k too large": (b'{"k": 101}', 422),
    "empty id": (b'{"user_id": ""}', 422),
    "long id": (b'{"user_id": "' + b"zebra" * 30 + b'"}', 422),
    "long id in bytes": ('{"history": ["' + "ä" * 65 + '"]}', 422),
    "long history": (b'{"history": [' + b",".join([b'"zebra"'] * 1001) + b"]}", 422),
    "explain as text": (b'{"explain": "zebra"}', 422),
    "negative budget": (b'{"budget_ms": -1}', 422),
    "as many keys as fit": (b'{"zebra": 1' + b"".join(b',"%d": 1' % n for n in range(30_000)) + b"}", 400),
}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    live_store(tmp_path)
    async with serving(tmp_path, max_body_bytes=400_000) as (client, _):
        yield client


def check(response: httpx.Response, status: int) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["type"].startswith("urn:etegrec:problem:")
    assert {"title", "detail"} <= problem.keys()
    assert problem["request_id"] == response.headers["x-request-id"]
    assert ECHO not in response.text
    assert "Traceback" not in response.text


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_a_bad_body_is_refused(client: httpx.AsyncClient, name: str) -> None:
    body, status = BAD_BODIES[name]
    check(await client.post("/recommend", content=body, headers=JSON), status)


@pytest.mark.parametrize("path", ["/recommend/batch", "/events"])
async def test_lists_are_checked_alike(client: httpx.AsyncClient, path: str) -> None:
    for name in ("NaN", "lone surrogate", "deep arrays", "no UTF-8", "repeated key", "huge integer"):
        check(await client.post(path, content=BAD_BODIES[name][0], headers=JSON), 400)
    for body in ("[]", '[{"zebra crossing": 1}]', "[1]", '"zebra"'):
        check(await client.post(path, content=body, headers=JSON), 422)


async def test_brackets_inside_text_are_no_nesting(client: httpx.AsyncClient) -> None:
    text = "[" * (MAX_DEPTH + 1) + '\\"{\\\\'
    response = await client.post("/recommend", content=f'{{"user_id": "{text}"}}', headers=JSON)
    assert response.status_code == 200
    nested = b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1)
    refused = await client.post("/recommend", content=b'{"attributes": ' + nested + b"}", headers=JSON)
    assert refused.status_code == 422  # as deep as it may be, so its fields were checked


async def test_field_errors_name_field_and_limit(client: httpx.AsyncClient) -> None:
    response = await client.post("/recommend", json={"k": 101, "filter": {"deny": [ECHO] * 10_001}})
    check(response, 422)
    assert response.json()["errors"] == [
        {"field": "k", "message": "must be at most 100 (max_k)", "limit": 100},
        {"field": "filter.deny", "message": "must have at most 10000 entries (max_filter_ids)", "limit": 10_000},
    ]


async def test_a_long_list_of_wrong_entries_is_refused_at_its_first(client: httpx.AsyncClient) -> None:
    for path, body in {
        "/recommend": json.dumps({"history": [1.5] * 70_000}),
        "/recommend/batch": json.dumps([{"zebra crossing": 1}] * 12_000),
        "/events": json.dumps([1] * 100_000),
    }.items():
        response = await client.post(path, content=body, headers=JSON)
        check(response, 422)
        assert len(response.json()["errors"]) == 1


async def test_an_object_may_not_have_ever_so_many_keys(client: httpx.AsyncClient) -> None:
    most = {str(n): 1 for n in range(MAX_KEYS)}
    check(await client.post("/recommend", json=most), 422)
    refused = await client.post("/recommend", json={**most, "one more": 1})
    check(refused, 400)
    assert str(MAX_KEYS) in refused.json()["detail"]


async def test_events_without_a_list_around_them_are_one_json_document(client: httpx.AsyncClient) -> None:
    event = '{"event_id": "%d", "user_id": "u", "item_id": "item-1", "timestamp": 1}'
    check(await client.post("/events", content=f"{event % 1},{event % 2}", headers=JSON), 400)
    check(await client.post("/events", content="", headers=JSON), 400)
    wrong = await client.post("/events", content='{"event_id": "1"}', headers=JSON)
    assert wrong.json()["errors"][0]["field"] == "user_id"
    assert (await client.post("/events", content=event % 1, headers=JSON)).json() == {"accepted": 1, "duplicates": 0}


async def test_wrong_content_types_are_refused(client: httpx.AsyncClient) -> None:
    for headers in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}):
        check(await client.post("/recommend", content=b"{}", headers=headers), 415)
    accepted = {"Content-Type": "application/json; charset=utf-8"}
    assert (await client.post("/recommend", content=b"{}", headers=accepted)).status_code == 200


async def test_compressed_bodies_are_refused_as_such(client: httpx.AsyncClient) -> None:
    for path, media_type in (("/recommend", "application/json"), ("/items/bulk", "application/jsonl")):
        headers = {"Content-Type": media_type, "Content-Encoding": "gzip"}
        refused = await client.post(path, content=gzip.compress(b"{}"), headers=headers)
        check(refused, 415)
        assert refused.headers["accept-encoding"] == "identity"
        assert "Content-Encoding" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "body", "advice"),
    [
        ("POST", "/recommend", {"zebra crossing": 1}, "does not exist; GET /docs"),
        ("POST", "/recommend", '{"user_id": "\\ud800"}', "a lone surrogate at line 1"),
        ("POST", "/recommend", {"filter": {"attributes": [{"field": "a"}]}}, "filter.attributes.0: must have a bound"),
        ("GET", "/popular?cat=1", None, "query.cat: does not exist; known are k, category"),
        ("GET", "/popular?k=1&k=2", None, "query: repeats a parameter"),
        ("GET", "/codes/1-2-3-4", None, "they have 3 codes, each 0 to 7"),
        ("GET", "/zebra", None, "GET /docs"),
        ("DELETE", "/recommend", None, "the header Allow"),
        (
            "POST",
            "/events",
            {"event_id": "e", "user_id": "u", "item_id": "i", "timestamp": 1_795_614_435_000},
            "timestamp: must be Unix time in seconds, an integer of 0 to 253402300799 (not milliseconds)",
        ),
        (
            "PUT",
            "/items/new",
            {"title": "t"},
            "is not known to this model, which cannot place new items; train a new model",
        ),
    ],
)
async def test_details_say_what_to_do(
    client: httpx.AsyncClient, method: str, path: str, body: object, advice: str
) -> None:
    content = body if isinstance(body, str) else json.dumps(body)
    refused = await client.request(method, path, content=None if body is None else content, headers=JSON)
    check(refused, refused.status_code)
    assert refused.status_code >= 400
    assert advice in refused.json()["detail"]


async def test_the_frameworks_own_errors_are_problems(client: httpx.AsyncClient) -> None:
    check(await client.get("/zebra"), 404)
    check(await client.get("/recommend/"), 404)
    refused = await client.get("/recommend")
    check(refused, 405)
    assert refused.headers["allow"] == "POST"


async def test_an_unexpected_error_says_nothing_about_itself(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path, opener=lambda *_: BrokenEngine()) as (client, _):
        broken = await client.post("/recommend", json={"history": [f"item-{n}" for n in range(6)]})
        still_there = await client.post("/recommend", json={"history": ["item-1"]})
    check(broken, 500)
    assert "secret" not in broken.text
    assert still_there.status_code == 200
