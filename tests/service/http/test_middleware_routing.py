"""Paths are routed as they came, HEAD is answered like GET, and keys are read from headers only."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

from service.app import create_app
from tests.support.raw_http import HOST, raw_server, send_all
from tests.support.service_harness import fast_settings, live_store, metric, running, serving, until

pytestmark = pytest.mark.anyio

KEY = "a-key-for-reading"


async def test_an_encoded_slash_separates_nothing(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, service):
        for path in ("/users%2fu1", "/users%2Fu1", "/items%2Fbulk", "/recommend%2Fbatch", "/health%2Flive"):
            for method in ("GET", "POST"):
                answer = await client.request(method, path)
                assert (answer.status_code, answer.json()["type"]) == (404, "urn:etegrec:problem:not-found")
        assert metric(service, "etegrec_request_seconds_count", endpoint="unmatched", status="404") == 10
        assert (await client.get("/%75sers/u1")).status_code == 200
        assert (await client.get("/%68ealth/live")).status_code == 200


@pytest.mark.parametrize(
    "item_id", ["a/b", "a/similar", "/similar", "x/similar/similar", "100%", "%2F", "a\nb", "ä", "+"]
)
async def test_every_id_can_be_reached(tmp_path: Path, item_id: str) -> None:
    live_store(tmp_path)
    path = f"/users/{quote(item_id, safe='')}"
    event = {"event_id": "e", "user_id": item_id, "item_id": "item-1", "timestamp": 1}
    async with serving(tmp_path) as (client, _):
        await client.post("/events", json=event)
        shown = (await client.get(path)).json()
        item = await client.get(f"/items/{quote(item_id, safe='')}")
        similar = await client.get(f"/items/{quote(item_id, safe='')}/similar")
    assert (shown["user_id"], shown["history"]) == (item_id, ["item-1"])
    assert item.json()["detail"] == similar.json()["detail"] == "the catalogue has no item with this id"


async def test_an_item_whose_id_ends_in_similar_can_be_read(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, service):
        item = await client.get("/items/item-1%2Fsimilar")
        similar = await client.get("/items/item-1/similar")
        assert (item.status_code, similar.status_code) == (404, 200)
        assert len(similar.json()["items"]) > 0
        labels = {"endpoint": "/items/{item_id:id}", "status": "404"}
        assert metric(service, "etegrec_request_seconds_count", **labels) == 1


async def test_head_is_answered_like_get_without_a_body(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        for path in ("/health/live", "/health/ready", "/model", "/popular", "/items/item-1", "/docs"):
            get = await client.get(path)
            head = await client.head(path)
            assert (head.status_code, head.content) == (200, b"")
            assert get.status_code == 200
            assert head.headers["content-type"] == get.headers["content-type"]
        assert (await client.head("/items/nothing")).status_code == 404
        refused = await client.head("/recommend")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


async def test_a_key_counts_as_a_header_with_blanks_and_never_as_a_trailer(tmp_path: Path) -> None:
    live_store(tmp_path)
    app = create_app(fast_settings(tmp_path, read_keys=KEY))
    async with running(app), raw_server(app) as server:
        await until(lambda: app.state.service.models.current is not None)
        close = HOST + b"Connection: close\r\n"
        for value in (b"%b", b" \t%b \t", b"%b "):
            header = b"X-API-Key: " + value % KEY.encode() + b"\r\n"
            (answer,) = await send_all(server.port, b"GET /model HTTP/1.1\r\n" + close + header + b"\r\n")
            assert answer.status == 200

        chunked = b"GET /model HTTP/1.1\r\n" + close + b"Transfer-Encoding: chunked\r\n\r\n"
        trailer = b"0\r\nX-API-Key: " + KEY.encode() + b"\r\n\r\n"
        for pieces in ([chunked + trailer], [chunked, trailer]):
            (answer,) = await send_all(server.port, *pieces, pause_s=0.05)
            assert answer.status in (400, 401)
