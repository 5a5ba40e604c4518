"""The gate in front of all endpoints: keys, scopes, limits, rotation and the brake on guessing, over the real app."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from model_store.errors import ConfigError
from service.access.gate import Gate
from service.access.keys import Key
from service.app import create_app
from service.errors import KeyForbidden, KeyMissing, RateLimited
from service.http.routes import ENDPOINTS
from service.service import Service
from service.settings import Settings
from service.telemetry.telemetry import Telemetry
from tests.service.access.test_limits import Clock
from tests.support.hash_coder import hash_coder
from tests.support.service_harness import GatedEngine, fast_settings, live_store, metric, running, serving, until

pytestmark = pytest.mark.anyio

READER, WRITER, SECOND, ADMIN = "reader-key-1", "writer-key-1", "reader-key-ü2", "admin-key-1"
EVENT = {"event_id": "e", "user_id": "u", "item_id": "item-1", "timestamp": 1}
HERE = "192.0.2.1"


def with_key(key: str) -> dict[bytes, bytes]:
    return {b"X-API-Key": key.encode()}


def gate(clock: Clock | None = None, wall: Clock | None = None, **given: Any) -> tuple[Gate, Telemetry]:
    telemetry = Telemetry()
    return Gate(Settings.model_validate(given), telemetry, clock or Clock(), wall or Clock()), telemetry


def write_keys(file: Path, *entries: dict[str, Any]) -> Path:
    file.write_text(json.dumps(entries))
    return file


def entry(name: str, secret: str, scopes: Sequence[str] = ("read",), **more: Any) -> dict[str, Any]:
    return {"name": name, "secret": secret, "scopes": list(scopes), **more}


async def test_each_key_may_do_its_part(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path, read_keys=f"{READER}, {SECOND}", write_keys=WRITER) as (client, _):
        for key, read, write in (
            (READER, 200, 403),
            (SECOND, 200, 403),
            (WRITER, 200, 200),
            ("wrong", 401, 401),
            ("", 401, 401),
        ):
            headers = with_key(key)
            assert (await client.post("/recommend", json={}, headers=headers)).status_code == read
            assert (await client.post("/recommend/batch", json=[{}], headers=headers)).status_code == read
            assert (await client.get("/model", headers=headers)).status_code == read
            assert (await client.post("/events", json=EVENT, headers=headers)).status_code == write
        missing = await client.post("/recommend", json={})
    assert missing.status_code == 401
    assert missing.headers["www-authenticate"].startswith("ApiKey")
    assert missing.headers["content-type"] == "application/problem+json"


async def test_every_endpoint_asks_for_its_own_scope_and_no_other(tmp_path: Path) -> None:
    scopes = ("read", "events", "catalogue", "admin")
    file = write_keys(tmp_path / "keys.json", *(entry(scope, f"only-{scope}-key", [scope]) for scope in scopes))
    expected = {
        ("POST", "/recommend"): "read",
        ("POST", "/recommend/batch"): "read",
        ("POST", "/recommend/why-not"): "read",
        ("POST", "/events"): "events",
        ("GET", "/attribution"): "admin",
        ("GET", "/attribution/codes"): "admin",
        ("POST", "/placements/preview"): "read",
        ("POST", "/items/preview"): "read",
        ("GET", "/placements"): "read",
        ("GET", "/placements/{name}"): "read",
        ("PUT", "/placements/{name}"): "catalogue",
        ("DELETE", "/placements/{name}"): "catalogue",
        ("GET", "/experiments"): "read",
        ("GET", "/experiments/{name}"): "read",
        ("GET", "/experiments/{name}/report"): "admin",
        ("PUT", "/experiments/{name}"): "catalogue",
        ("DELETE", "/experiments/{name}"): "catalogue",
        ("GET", "/model"): "read",
        ("GET", "/models"): "admin",
        ("GET", "/users/{user_id:id}"): "admin",
        ("DELETE", "/users/{user_id:id}"): "admin",
        ("GET", "/items/{item_id:id}/similar"): "read",
        ("GET", "/codes"): "read",
        ("GET", "/codes/{prefix}"): "read",
        ("GET", "/popular"): "read",
        ("GET", "/trending"): "read",
        ("POST", "/items/bulk"): "catalogue",
        ("PUT", "/items/{item_id:id}"): "catalogue",
        ("PATCH", "/items/{item_id:id}"): "catalogue",
        ("DELETE", "/items/{item_id:id}"): "catalogue",
        ("GET", "/items"): "read",
        ("GET", "/items/{item_id:id}"): "read",
    }
    assert {(each.method, each.path): each.access for each in ENDPOINTS if each.access != "open"} == expected
    live_store(tmp_path)
    async with serving(tmp_path, keys_file=str(file)) as (client, _):
        for (method, path), needed in expected.items():
            url = path.replace("{item_id:id}", "i").replace("{user_id:id}", "u").replace("{prefix}", "1")
            url = url.replace("{name}", "home")
            for scope in scopes:
                answer = await client.request(method, url, headers=with_key(f"only-{scope}-key"))
                assert (answer.status_code == 403) == (scope != needed), (path, scope)
                if scope != needed:
                    assert f"lacks the scope {needed}" in answer.json()["detail"]


async def test_health_metrics_and_docs_stay_open(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path, read_keys=READER) as (client, _):
        for path in ("/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json"):
            assert (await client.get(path)).status_code == 200


async def test_with_read_keys_only_nobody_writes(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path, read_keys=READER) as (client, _):
        assert (await client.post("/events", json=EVENT, headers=with_key(READER))).status_code == 403
        assert (await client.post("/events", json=EVENT)).status_code == 401


async def test_a_key_is_checked_before_the_body_is_read(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path, read_keys=READER, max_body_bytes=1024) as (client, _):
        assert (await client.post("/recommend", content=b" " * 5000)).status_code == 401


async def test_openapi_names_the_scope_of_each_operation(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path, read_keys=READER) as (client, _):
        document = (await client.get("/openapi.json")).json()
    assert document["paths"]["/events"]["post"]["security"] == [{}, {"key": ["events"]}]
    assert document["paths"]["/users/{user_id}"]["delete"]["security"] == [{}, {"key": ["admin"]}]
    assert {"401", "403", "429"} <= document["paths"]["/popular"]["get"]["responses"].keys()
    assert "security" not in document["paths"]["/metrics"]["get"]


async def test_the_use_of_keys_is_shown_by_name(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path, read_keys=f"{READER},shop:{SECOND}", write_keys=WRITER) as (client, service):
        for _ in range(3):
            await client.get("/model", headers=with_key(SECOND))
        await client.post("/events", json=EVENT, headers=with_key(SECOND))  # may not, and is a use all the same
        shown = (await client.get("/metrics")).text
        assert metric(service, "etegrec_key_requests_total", key="shop") == 4
        assert metric(service, "etegrec_key_last_use_seconds", key="shop") > 1.7e9
        assert metric(service, "etegrec_key_last_use_seconds", key="read-1") == 0
    for secret in (READER, SECOND, WRITER):
        assert secret not in shown


async def test_keys_are_rotated_without_a_restart(tmp_path: Path) -> None:
    live_store(tmp_path)
    file = write_keys(tmp_path / "keys.json", entry("old", "old-secret"))
    async with serving(tmp_path, keys_file=str(file), keys_reload_s=0.01, read_keys=READER) as (client, service):

        async def status(secret: str) -> int:
            return (await client.get("/model", headers=with_key(secret))).status_code

        assert [await status(each) for each in ("old-secret", "new-secret", READER)] == [200, 401, 200]
        write_keys(file, entry("old", "old-secret"), entry("new", "new-secret"))
        await _until_status(client, "new-secret", 200)
        assert [await status(each) for each in ("old-secret", READER)] == [200, 200]
        write_keys(file, entry("new", "new-secret"))
        await _until_status(client, "old-secret", 401)
        assert [await status(each) for each in ("new-secret", READER)] == [200, 200]
        assert metric(service, "etegrec_key_requests_total", key="new") >= 2
        assert service.telemetry.registry.get_sample_value("etegrec_key_requests_total", {"key": "old"}) is None


async def _until_status(client: httpx.AsyncClient, secret: str, status: int) -> None:
    async with asyncio.timeout(30):
        while (await client.get("/model", headers=with_key(secret))).status_code != status:
            await asyncio.sleep(0.01)


async def test_a_broken_keys_file_keeps_the_keys_and_says_so(tmp_path: Path) -> None:
    live_store(tmp_path)
    file = write_keys(tmp_path / "keys.json", entry("old", "old-secret"))
    async with serving(tmp_path, keys_file=str(file), keys_reload_s=0.01) as (client, service):

        async def problem() -> str:
            return str((await client.get("/health/ready")).json()["problem"])

        assert await problem() == ""
        for break_it in (lambda: file.write_text('[{"name": "new"'), file.unlink):
            break_it()
            await until(lambda: metric(service, "etegrec_keys_file_ok") == 0)
            assert await problem() == "the keys file cannot be used; the keys read before stay valid"
            assert str(file) not in await problem()
            assert (await client.get("/model", headers=with_key("old-secret"))).status_code == 200
            write_keys(file, entry("old", "old-secret"))
            await until(lambda: metric(service, "etegrec_keys_file_ok") == 1)
            assert await problem() == ""


def test_trouble_with_the_file_is_logged_once_a_change_not_once_a_look() -> None:
    here, _ = gate(read_keys=READER)
    with structlog.testing.capture_logs() as lines:
        for content in (b"[", b"[", b"[]", b"[]", b"[", b"{}"):
            here.use_file(content)
    assert [line["event"] for line in lines] == [
        "keys_file_refused",
        "keys_file_read",
        "keys_file_refused",
        "keys_file_refused",
    ]


def test_a_file_with_a_name_that_the_settings_have_is_refused() -> None:
    here, _ = gate(read_keys=f"shop:{READER}")
    here.use_file(json.dumps([entry("shop", "another-secret")]).encode())
    assert here.problem
    assert here.enter(READER, HERE, "read")
    with pytest.raises(KeyMissing):
        here.enter("another-secret", HERE, "read")


def test_a_wrong_file_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("no json")
    for file in ("keys.json", "none.json"):
        with pytest.raises(ConfigError, match="the keys file"):
            gate(keys_file=str(tmp_path / file))


def test_an_empty_keys_file_lets_nobody_in(tmp_path: Path) -> None:
    here, _ = gate(keys_file=str(write_keys(tmp_path / "keys.json")))
    assert not here.is_open
    with pytest.raises(KeyMissing):
        here.enter("whatever-it-is", HERE, "read")
    here.use_file(json.dumps([entry("first", "first-secret")]).encode())
    here.enter("first-secret", HERE, "read")
    here.use_file(b"[]")  # every key is revoked
    with pytest.raises(KeyMissing):
        here.enter("first-secret", HERE, "read")


def test_without_any_key_everything_is_open() -> None:
    assert gate()[0].is_open
    assert not gate(admin_keys=ADMIN)[0].is_open


def test_a_key_expires(tmp_path: Path) -> None:
    wall = Clock()
    wall.now = 1_796_079_599.0
    file = write_keys(tmp_path / "keys.json", entry("old", "old-secret", not_after="2026-11-30T23:00:00Z"))
    here, telemetry = gate(wall=wall, keys_file=str(file))
    here.enter("old-secret", HERE, "read")
    wall.now += 1
    with pytest.raises(KeyMissing, match="expired"):
        here.enter("old-secret", HERE, "read")
    assert telemetry.registry.get_sample_value("etegrec_wrong_keys_total") == 1


def test_a_key_that_stays_keeps_its_use_and_a_changed_limit_holds_at_once() -> None:
    here, telemetry = gate(read_keys=READER)

    def use_limit(concurrent: int) -> None:
        here.use_file(json.dumps([entry("shop", "shop-secret", limits={"concurrent": concurrent})]).encode())

    use_limit(5)
    running = [here.enter("shop-secret", HERE, "read") for _ in range(3)]
    use_limit(3)
    with pytest.raises(RateLimited, match="concurrent"):
        here.enter("shop-secret", HERE, "read")
    running.pop().end()
    here.enter("shop-secret", HERE, "read")
    counted = {"key": "shop", "limit": "concurrent"}
    assert telemetry.registry.get_sample_value("etegrec_key_refusals_total", counted) == 1


def test_a_missing_scope_takes_none_of_the_keys_limits() -> None:
    here, _ = gate(read_keys=READER, key_requests_per_s=1, key_burst=1, key_concurrent=1)
    for _ in range(3):
        with pytest.raises(KeyForbidden):
            here.enter(READER, HERE, "events")
    here.enter(READER, HERE, "read")


async def test_the_limits_of_the_settings_answer_429(tmp_path: Path) -> None:
    live_store(tmp_path)
    keys = f"{READER},{SECOND}"
    async with serving(tmp_path, read_keys=keys, key_requests_per_s=0.01, key_burst=2) as (client, service):
        answers = [await client.post("/recommend", json={}, headers=with_key(READER)) for _ in range(3)]
        other = await client.post("/recommend", json={}, headers=with_key(SECOND))
        assert metric(service, "etegrec_key_refusals_total", key="read-1", limit="requests_per_s") == 1
        assert metric(service, "etegrec_rejected_total", slug="rate-limited") == 1
    assert [each.status_code for each in answers] == [200, 200, 429]
    assert answers[2].json()["type"] == "urn:etegrec:problem:rate-limited"
    assert 90 <= int(answers[2].headers["retry-after"]) <= 100
    assert other.status_code == 200


async def test_requests_of_one_key_at_the_same_time_are_limited_until_they_are_answered(tmp_path: Path) -> None:
    live_store(tmp_path)
    engine = GatedEngine()
    engine.gate.set()
    asked = {"history": ["item-1"]}
    async with serving(tmp_path, engine.opened, read_keys=READER, key_concurrent=1) as (client, _):
        first = await client.post("/recommend", json=asked, headers=with_key(READER))
        engine.gate.clear()
        waiting = asyncio.create_task(client.post("/recommend", json=asked, headers=with_key(READER)))
        async with asyncio.timeout(30):
            while (await client.get("/model", headers=with_key(READER))).status_code != 429:
                await asyncio.sleep(0.01)
        engine.gate.set()
        assert first.status_code == (await waiting).status_code == 200
        failing = await client.post("/recommend", json={"k": 0}, headers=with_key(READER))
        assert failing.status_code == 422  # a request that fails is over, too
        assert (await client.get("/model", headers=with_key(READER))).status_code == 200


@asynccontextmanager
async def shop(folder: Path, **given: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Service]]:
    """A service that can place new items."""
    live_store(folder)
    app = create_app(fast_settings(folder, catalogue_poll_s=0.01, **given), coders=hash_coder)
    async with running(app) as client:
        await until(lambda: app.state.service.models.current is not None)
        yield client, app.state.service


async def test_bytes_of_bulk_uploads_are_limited_a_minute(tmp_path: Path) -> None:
    line = b'{"item_id": "item-1", "title": "%s"}' % (b"x" * 500)
    headers = {**with_key(WRITER), b"Content-Type": b"application/jsonl"}
    async with shop(tmp_path, write_keys=WRITER, key_bulk_bytes_per_min=1000) as (client, service):
        answers = [await client.post("/items/bulk", content=line, headers=headers) for _ in range(3)]
        single = await client.put("/items/item-1", json={"title": "t"}, headers=with_key(WRITER))
        assert metric(service, "etegrec_key_refusals_total", key="write-1", limit="bulk_bytes_per_min") == 1
    assert [each.status_code for each in answers] == [200, 200, 429]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 10
    assert "(bulk_bytes_per_min)" in answers[2].json()["detail"]
    assert single.status_code == 200


async def test_guesses_are_braked_and_sampled_in_the_log_while_valid_keys_pass(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path, read_keys=READER, wrong_keys_per_min=5) as (client, service):
        with structlog.testing.capture_logs() as lines:
            guesses = [await client.get("/model", headers=with_key(f"guess-number-{n}")) for n in range(200)]
            valid = await client.get("/model", headers=with_key(READER))
            none = await client.get("/model")
        assert metric(service, "etegrec_wrong_keys_total") == 200
    assert [each.status_code for each in guesses[:5]] == [401] * 5
    late = [each.status_code for each in guesses[10:]]
    assert late.count(429) >= len(late) - 10  # one more is answered 401 every twelve seconds
    assert 1 <= int(guesses[5].headers["retry-after"]) <= 12
    assert guesses[5].json()["type"] == "urn:etegrec:problem:rate-limited"
    assert (valid.status_code, none.status_code) == (200, 401)
    refused = [line for line in lines if line["event"] == "key_refused"]
    assert 1 <= len(refused) <= 60  # at most one a second
    assert refused[0]["address"] == "127.0.0.1"
    assert "guess-number" not in str(lines)


def test_a_valid_key_passes_from_an_address_that_guesses() -> None:
    here, _ = gate(read_keys=READER, wrong_keys_per_min=1)
    with pytest.raises(KeyMissing):
        here.enter("a-wrong-key", HERE, "read")
    for _ in range(100):
        with pytest.raises(RateLimited, match="wrong_keys_per_min"):
            here.enter("a-wrong-key", HERE, "read")
        here.enter(READER, HERE, "read").end()
    with pytest.raises(KeyMissing):
        here.enter("a-wrong-key", "192.0.2.2", "read")
    with pytest.raises(KeyMissing):
        here.enter(None, HERE, "read")  # no key is a mistake, not a guess


def test_a_key_says_nothing_about_its_secret() -> None:
    assert "digest" not in repr(Key("a", b"secret digest", frozenset()))
