"""GET and DELETE /users/{id} over HTTP, on both stores, up to what training gets to see."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from service.app import create_app
from service.service import Service
from service.store.base import Store
from service.store.embedded_store import EmbeddedStore
from service.store.redis_store import RedisStore
from tests.support.redis_server import RedisServer
from tests.support.service_harness import fast_settings, live_store, metric, running, until
from training.retraining.drain_events import drain, read_drained

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

READ, WRITE, ADMIN = ({"X-API-Key": key} for key in ("may-only-read", "may-write-too", "may-do-everything"))
Served = tuple[httpx.AsyncClient, Service, str | Path]


@pytest.fixture(params=["redis", "embedded"])
async def served(request: pytest.FixtureRequest, tmp_path: Path, prefix: str) -> AsyncIterator[Served]:
    live_store(tmp_path)
    source: str | Path = tmp_path / "events"
    store: Store
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        source = server.url
        store = RedisStore(server.url, prefix=prefix, history_cap=3, timeout_ms=10_000)
    else:
        store = EmbeddedStore(tmp_path / "events", history_cap=3)
    keys = {name: key["X-API-Key"] for name, key in (("read_keys", READ), ("write_keys", WRITE), ("admin_keys", ADMIN))}
    app = create_app(fast_settings(tmp_path, trends_s=0.02, **keys), store=store)
    async with running(app) as client:
        await until(lambda: app.state.service.models.current is not None)
        yield client, app.state.service, source


def event(number: int, user: str = "u") -> dict[str, object]:
    return {"event_id": f"e{number}", "user_id": user, "item_id": f"item-{number}", "timestamp": number}


async def test_recent_answers_are_shown_until_the_user_is_forgotten(served: Served) -> None:
    client, _, __ = served
    asked = {"user_id": "u", "history": ["item-1"], "k": 3, "exclude_shown": {"answers": 2}}
    items = [
        [item["item_id"] for item in (await client.post("/recommend", json=asked, headers=ADMIN)).json()["items"]]
        for _ in range(2)
    ]
    await client.post("/recommend", json={"user_id": "u", "history": ["item-1"]}, headers=ADMIN)
    async with asyncio.timeout(30):
        while len(answers := (await client.get("/users/u", headers=ADMIN)).json()["recent_answers"]) < 2:
            await asyncio.sleep(0.01)
    assert [each["items"] for each in answers] == items
    assert abs(answers[-1]["timestamp"] - time.time()) < 60

    await client.delete("/users/u", headers=ADMIN)
    assert (await client.get("/users/u", headers=ADMIN)).json()["recent_answers"] == []


async def test_a_user_is_shown_and_forgotten_with_queued_events(served: Served, prefix: str, tmp_path: Path) -> None:
    client, service, source = served
    await client.post("/events", json=[event(n, "a/b c") for n in range(5)] + [event(9, "v")], headers=ADMIN)
    shown = (await client.get("/users/a%2Fb%20c", headers=ADMIN)).json()
    items = ["item-2", "item-3", "item-4"]
    stored = [{"item_id": item, "type": "click", "timestamp": n} for n, item in enumerate(items, 2)]
    expected = {"user_id": "a/b c", "count": 3, "history": items, "interactions": stored, "newest_event_at": 4}
    assert shown == {**expected, "recent_answers": []}
    await until(lambda: metric(service, "etegrec_event_stream_length") == 6)
    gone = await client.delete("/users/a%2Fb%20c", headers=ADMIN)
    assert (gone.status_code, gone.json()) == (200, {"history": 3, "events": 5})
    shown = (await client.get("/users/a%2Fb%20c", headers=ADMIN)).json()
    assert (shown["history"], shown["newest_event_at"]) == ([], None)
    answer = (await client.post("/recommend", json={"user_id": "a/b c"}, headers=READ)).json()
    assert answer["served_by"] == "popular"
    await until(lambda: metric(service, "etegrec_event_stream_length") == 1)
    drain(source, tmp_path / "drained", prefix=prefix)
    assert read_drained(tmp_path / "drained")["user_id"].to_list() == ["v"]


async def test_a_users_data_needs_an_admin_key(served: Served) -> None:
    client, _, __ = served
    for method in ("GET", "DELETE"):
        assert (await client.request(method, "/users/u")).status_code == 401
        for headers in (READ, WRITE):
            assert (await client.request(method, "/users/u", headers=headers)).status_code == 403


async def test_ids_that_cannot_be_are_refused(served: Served) -> None:
    client, _, __ = served
    for user in ("", "x" * 129, "%FF", "%C3%A4" * 65):
        refused = await client.delete(f"/users/{user}", headers=ADMIN)
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "user_id")
    assert (await client.put("/users/u", headers=ADMIN)).headers["allow"] == "DELETE, GET, HEAD"


async def test_an_id_may_hold_any_character(served: Served) -> None:
    client, _, __ = served
    for number, user in enumerate(["a/../b", "\n", "a\nb\n", "?#%", "\u2028 \U0001f600", "\0"]):
        await client.post("/events", json=event(number, user), headers=ADMIN)
        shown = (await client.get(f"/users/{quote(user, safe='')}", headers=ADMIN)).json()
        assert (shown["user_id"], shown["count"]) == (user, 1)


async def test_events_are_counted_by_what_became_of_them(served: Served) -> None:
    client, service, _ = served
    await client.post("/events", json=[event(1), event(2), event(1)], headers=ADMIN)
    await client.post("/events", json=[event(3) | {"timestamp": -1}], headers=ADMIN)
    await client.post("/events", content=b"[", headers=ADMIN | {"Content-Type": "application/json"})
    assert metric(service, "etegrec_events_total", result="accepted") == 2
    assert metric(service, "etegrec_events_total", result="duplicate") == 1
    for slug in ("invalid-fields", "bad-json"):
        assert metric(service, "etegrec_event_requests_rejected_total", slug=slug) == 1


async def test_an_event_of_an_item_that_the_catalogue_lacks_is_kept(served: Served) -> None:
    client, _, __ = served
    unknown = {**event(1), "item_id": "not yet there"}
    assert (await client.post("/events", json=unknown, headers=ADMIN)).json() == {"accepted": 1, "duplicates": 0}
    answer = (await client.post("/recommend", json={"user_id": "u"}, headers=READ)).json()
    assert answer["unknown_items"] == ["not yet there"]
