"""Items over HTTP: put, shown, hidden, brought back, uploaded by the thousand, refused with a reason."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from service.app import create_app
from service.service import Service
from service.store.redis_store import RedisStore
from tests.support.bundles import small_catalogue
from tests.support.hash_coder import hash_coder
from tests.support.redis_server import RedisServer
from tests.support.service_harness import fast_settings, live_store, loaded_model, running, until

pytestmark = pytest.mark.anyio

JSONL = {"Content-Type": "application/jsonl"}


@asynccontextmanager
async def shop(folder: Path, **given: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Service]]:
    """A client of a service that can place new items."""
    if not folder.exists():
        live_store(folder)
    store = given.pop("store", None)
    app = create_app(fast_settings(folder, catalogue_poll_s=0.01, **given), store=store, coders=hash_coder)
    service: Service = app.state.service
    async with running(app) as client:
        await until(lambda: service.models.current is not None)
        yield client, service


def path(item_id: str) -> str:
    return f"/items/{quote(item_id, safe='')}"


def lines(*items: object) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


async def recommended(client: httpx.AsyncClient, **request: Any) -> list[str]:
    answer = (await client.post("/recommend", json={"history": ["item-1"], "k": 100} | request)).json()
    return [item["item_id"] for item in answer["items"]]


async def test_a_new_item_is_recommended_hidden_and_brought_back(tmp_path: Path) -> None:
    async with shop(tmp_path / "s") as (client, _):
        body = {"title": "New", "categories": ["fresh", "x"], "attributes": {"year": 2026}}
        put = (await client.put("/items/new", json=body)).json()
        assert (put["item_id"], put["revision"], put["is_new"], len(put["codes"])) == ("new", 1, True, 3)
        assert put["recommendable_after_ms"] > 0
        assert len(put["nearest"]) == 5
        for near in put["nearest"]:
            row = small_catalogue().row(near["item_id"])
            assert row is not None
            assert near["codes"] == small_catalogue().codes[row].tolist()
        assert "new" in await recommended(client)
        assert await recommended(client, filter={"categories": ["fresh"]}) == ["new"]
        shown = (await client.get("/items/new")).json()
        assert shown | {"model_version": ""} == {
            "item_id": "new",
            "model_version": "",
            "revision": 1,
            "title": "New",
            "categories": ["fresh", "x"],
            "attributes": {"year": 2026},
            "codes": put["codes"],
            "hidden": False,
            "is_new": True,
        }
        deleted = await client.delete("/items/new")
        assert (deleted.status_code, deleted.json()) == (200, {"item_id": "new", "revision": 2, "hidden": True})
        assert "new" not in await recommended(client)
        assert (await client.get("/items/new")).json()["hidden"] is True
        again = (await client.put("/items/new", json={"title": "t"})).json()
        assert (again["codes"], again["revision"]) == (put["codes"], 3)
        assert "new" in await recommended(client)


async def test_fresh_boost_moves_live_items_and_nothing_else(tmp_path: Path) -> None:
    answers = {}
    for boost in (0.0, 5.0, -5.0):
        async with shop(tmp_path / str(boost), fresh_boost=boost) as (client, _):
            for item_id in ("new-1", "new-2"):
                assert (await client.put(f"/items/{item_id}", json={"title": item_id})).status_code == 200
            body = {"history": ["item-1"], "k": 20, "filter": {"allow": ["new-1", "new-2", "item-2", "item-3"]}}
            answers[boost] = (await client.post("/recommend", json=body)).json()["items"]
            hidden = (await client.delete("/items/new-2")).json()["hidden"]
            assert hidden
            assert "new-2" not in await recommended(client)
    plain = {item["item_id"]: item for item in answers[0.0]}
    assert len(plain) == 4
    trained = [item["item_id"] for item in answers[0.0] if item["item_id"].startswith("item-")]
    new = [item["item_id"] for item in answers[0.0] if item["item_id"].startswith("new-")]
    assert [item["item_id"] for item in answers[5.0]] == new + trained
    assert [item["item_id"] for item in answers[-5.0]] == trained + new
    for boost in (5.0, -5.0):
        for item in answers[boost]:
            before = plain[item["item_id"]]
            assert item["log_prob"] == before["log_prob"]
            added = boost if item["item_id"] in new else 0
            assert item["score"] == pytest.approx(before["score"] + added, abs=1e-5)


async def test_an_update_of_a_trained_item_keeps_its_codes(tmp_path: Path) -> None:
    async with shop(tmp_path / "s") as (client, _):
        put = (await client.put("/items/item-3", json={"title": "Renamed", "attributes": "plain text"})).json()
        shown = (await client.get("/items/item-3")).json()
    assert put["codes"] == shown["codes"] == small_catalogue().codes[3].tolist()
    assert (put["is_new"], shown["is_new"]) == (False, False)
    assert (shown["title"], shown["categories"]) == ("Renamed", [])
    assert shown["attributes"] == {"text": "plain text"}


@pytest.mark.parametrize(
    "item_id", ["a/b", "a b?c#d&e=f%25", "é\U0001f600", "similar", "bulk", "a/similar/b", "x" * 128]
)
async def test_ids_may_hold_any_character(tmp_path: Path, item_id: str) -> None:
    async with shop(tmp_path / "s") as (client, _):
        assert (await client.put(path(item_id), json={"title": "t"})).json()["item_id"] == item_id
        assert (await client.get(path(item_id))).json()["title"] == "t"
        assert (await client.delete(path(item_id))).status_code == 200


async def test_what_cannot_be_is_refused_with_a_reason(tmp_path: Path) -> None:
    async with shop(tmp_path / "s") as (client, service):
        wrong = {
            "body": client.put("/items/a", json=[]),
            "price": client.put("/items/a", json={"price": 1}),
            "title": client.put("/items/a", json={"title": "refused"}),
            "embedding": client.put("/items/item-1", json={"embedding": [1.0, 2.0]}),
            "item_id": client.put(f"/items/{'x' * 129}", json={"title": "t"}),
            "bytes": client.put("/items/a", json={"attributes": {"a": "x" * 70_000}}),
            "UTF-8": client.put("/items/%ff", json={"title": "t"}),
        }
        for word, call in wrong.items():
            response = await call
            assert response.status_code == 422, word
            assert response.headers["content-type"] == "application/problem+json"
            assert word in response.text or word in ("body", "price")
        for call in (client.get("/items/none"), client.delete("/items/none")):
            assert (await call).status_code == 404
        assert service.models.current is not None
        assert service.models.current.revision == 0


async def test_writing_needs_a_write_key_and_reading_any(tmp_path: Path) -> None:
    keys = {"read_keys": "reader-key", "write_keys": "writer-key"}
    async with shop(tmp_path / "s", **keys) as (client, _):
        reader, writer = {"X-API-Key": "reader-key"}, {"X-API-Key": "writer-key"}
        calls = [("PUT", "/items/a"), ("DELETE", "/items/item-1"), ("POST", "/items/bulk")]
        for method, url in calls:
            assert (await client.request(method, url, content=b"{}")).status_code == 401
            assert (await client.request(method, url, content=b"{}", headers=reader)).status_code == 403
        assert (await client.get("/items/item-1")).status_code == 401
        assert (await client.get("/items/item-1", headers=reader)).status_code == 200
        assert (await client.put("/items/a", json={"title": "t"}, headers=writer)).status_code == 200


async def test_a_full_catalogue_answers_409_and_takes_no_part_of_an_upload(tmp_path: Path) -> None:
    async with shop(tmp_path / "s") as (client, service):
        room = 8**3 - 40
        too_many = lines(*({"item_id": f"n{n}", "title": str(n)} for n in range(room + 1)))
        refused = await client.post("/items/bulk", content=too_many, headers=JSONL)
        assert (refused.status_code, refused.json()["type"]) == (409, "urn:etegrec:problem:catalogue-full")
        assert loaded_model(service).revision == 0
        fits = lines(*({"item_id": f"n{n}", "title": str(n)} for n in range(room)))
        stored = (await client.post("/items/bulk", content=fits, headers=JSONL)).json()
        assert (stored["items"], stored["new"], stored["revision"]) == (room, room, room)
        assert (await client.put("/items/one-more", json={"title": "t"})).status_code == 409
        assert (await client.put("/items/n1", json={"title": "known"})).status_code == 200


async def test_an_upload_with_wrong_lines_names_them_and_stores_nothing(tmp_path: Path) -> None:
    async with shop(tmp_path / "s") as (client, service):
        good = {"item_id": "good", "title": "t"}
        body = lines(good, {"item_id": "a", "price": 1}) + b"no json\n\n" + lines({"title": "no id"}, good)
        body += b'{"item_id":"nan","attributes":{"a":NaN}}\n' + lines({"item_id": "x", "categories": [1]})
        answer = await client.post("/items/bulk", content=body, headers=JSONL)
        assert answer.status_code == 422
        problem = answer.json()
        assert problem["type"] == "urn:etegrec:problem:invalid-lines"
        assert [each["field"] for each in problem["errors"]] == ["2.price", "3", "5.item_id", "7", "8.categories.0"]
        assert "nothing was stored" in problem["detail"]
        late = lines(good, {"item_id": "r", "title": "refused"}, {"item_id": "item-1", "embedding": [1.0]})
        problem = (await client.post("/items/bulk", content=late, headers=JSONL)).json()
        assert [each["field"] for each in problem["errors"]] == ["2.title", "3.embedding"]
        many = b"x\n" * 5000
        problem = (await client.post("/items/bulk", content=many, headers=JSONL)).json()
        assert len(problem["errors"]) == 100
        assert "5000 lines" in problem["detail"]
        assert loaded_model(service).revision == 0
        assert (await client.get("/items/good")).status_code == 404


async def test_an_upload_is_streamed_counted_and_harmless_to_repeat(tmp_path: Path) -> None:
    items = [{"item_id": f"n{n % 300}", "title": f"title {n}", "attributes": {"text": "x" * 900}} for n in range(700)]
    body = lines(*items)[:-1]  # the last line needs no end

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 10_007):
            yield body[start : start + 10_007]

    async with shop(tmp_path / "s") as (client, service):
        first = (await client.post("/items/bulk", content=pieces(), headers=JSONL)).json()
        assert (first["items"], first["new"], first["revision"]) == (700, 300, 700)
        before = loaded_model(service).catalogue.digest()
        second = (await client.post("/items/bulk", content=body, headers=JSONL)).json()
        assert (second["items"], second["new"], second["revision"]) == (700, 0, 1400)
        assert loaded_model(service).catalogue.digest() == before
        assert (await client.get("/items/n99")).json()["title"] == "title 699"


async def test_uploads_have_limits_of_their_own(tmp_path: Path) -> None:
    async with shop(tmp_path / "s", max_bulk_bytes=5000, max_body_bytes=1024) as (client, _):
        body = lines(*({"item_id": f"n{n}", "title": "x" * 50} for n in range(40)))
        assert len(body) > 1024
        assert (await client.post("/items/bulk", content=body, headers=JSONL)).status_code == 200
        too_large = await client.post("/items/bulk", content=body * 3, headers=JSONL)
        assert (too_large.status_code, too_large.headers["connection"]) == (413, "close")
        assert "max_bulk_bytes" in too_large.json()["detail"]
        plain = await client.post("/items/bulk", content=body, headers={"Content-Type": "text/plain"})
        assert plain.status_code == 415
        assert (await client.post("/items/bulk", content=b"\n\n", headers=JSONL)).status_code == 422


async def test_concurrent_uploads_and_changes_all_arrive(tmp_path: Path) -> None:
    async with shop(tmp_path / "s") as (client, service):
        uploads = [
            client.post(
                "/items/bulk",
                content=lines(*({"item_id": f"u{n}-{i}", "title": "t"} for i in range(50))),
                headers=JSONL,
            )
            for n in range(4)
        ]
        single = [client.put(f"/items/p{n}", json={"title": "t"}) for n in range(10)]
        gone = [client.delete(f"/items/item-{n}") for n in range(10)]
        statuses = [each.status_code for each in await asyncio.gather(*uploads, *single, *gone)]
        assert set(statuses) == {200}
        catalogue = loaded_model(service).catalogue
        assert (len(catalogue), int(catalogue.is_hidden.sum())) == (40 + 200 + 10, 10)
        assert loaded_model(service).revision == 220


@pytest.mark.redis
async def test_without_redis_writes_answer_503_and_work_again_afterwards(
    tmp_path: Path, own_redis: RedisServer
) -> None:
    store = RedisStore(own_redis.url, timeout_ms=10_000, breaker_pause_s=0.05)
    async with shop(tmp_path / "s", store=store) as (client, service):
        own_redis.kill()
        calls = [
            client.put("/items/new", json={"title": "t"}),
            client.delete("/items/item-1"),
            client.post("/items/bulk", content=lines({"item_id": "a", "title": "t"}), headers=JSONL),
        ]
        for call in calls:
            response = await call
            assert response.status_code == 503
            assert response.json()["type"] == "urn:etegrec:problem:live-store-unavailable"
            assert "retry-after" in response.headers
        assert (await client.get("/items/item-1")).status_code == 200
        assert "item-1" in await recommended(client, exclude_seen=False)
        own_redis.start()
        await until(lambda: service.store_client.is_up)
        assert (await client.put("/items/new", json={"title": "t"})).status_code == 200
        assert (await client.delete("/items/item-1")).status_code == 200
        assert "item-1" not in await recommended(client, exclude_seen=False)


@pytest.mark.parametrize("title", ["", "   ", "\x00\x1f\u200b", "🎁🎉"])
async def test_a_new_item_of_which_nothing_can_be_read_is_like_no_other(tmp_path: Path, title: str) -> None:
    async with shop(tmp_path / "s") as (client, _):
        for item_id in ("x", "y"):
            put = (await client.put(f"/items/{item_id}", json={"title": title})).json()
            assert (put["says_nothing"], put["nearest"], len(put["codes"])) == (True, [], 3)
            assert (await client.get(f"/items/{item_id}/similar")).json()["items"] == []

        for said in ({"categories": ["Gifts"]}, {"attributes": {"price": 5}}, {"attributes": {"new": True}}):
            put = (await client.put(f"/items/{next(iter(said))}-{len(str(said))}", json={"title": title} | said)).json()
            assert (put["says_nothing"], len(put["nearest"])) == (False, 5)
        trained = (await client.put("/items/item-3", json={"title": title})).json()
        assert (trained["says_nothing"], len(trained["nearest"])) == (False, 5)

        preview = (await client.post("/items/preview?k=5", json={"title": title})).json()
        assert preview["nearest"] == []


async def test_a_bulk_upload_counts_new_items_of_which_nothing_can_be_read(tmp_path: Path) -> None:
    async with shop(tmp_path / "s") as (client, _):
        body = lines(
            {"item_id": "a", "title": "🎁"},
            {"item_id": "b", "title": "", "categories": ["Gifts"]},
            {"item_id": "c", "title": "Boots"},
            {"item_id": "d", "attributes": {"none": None}},
            {"item_id": "item-1", "title": "🎁"},
        )
        headers = {"Content-Type": "application/jsonl"}
        answer = (await client.post("/items/bulk", content=body, headers=headers)).json()
    assert (answer["items"], answer["new"], answer["say_nothing"]) == (5, 4, 2)
