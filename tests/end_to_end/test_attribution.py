"""From answers to counters, live and from the event log: both count the same, and the log says what it cannot know."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import httpx
import pytest
from typer.testing import CliRunner

from model_store.attribution.keys import KEYS_VARIABLE
from service.app import create_app
from service.service import Service
from tests.support.hash_coder import hash_coder
from tests.support.redis_server import RedisServer
from tests.support.service_harness import Json, fast_settings, live_store, running, until
from training.cli import app as train_app
from training.retraining.attribution_report import NOT_IN_THE_LOG
from training.retraining.drain_events import drain

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

KINDS = ("view", "click", "purchase", "dislike", "impression", "wish_list")


@pytest.fixture(params=["redis", "embedded"])
def redis_url(request: pytest.FixtureRequest) -> str | None:
    if request.param == "embedded":
        return None
    server: RedisServer = request.getfixturevalue("own_redis")
    return server.url


@asynccontextmanager
async def serving(folder: Path, redis_url: str | None) -> AsyncIterator[tuple[httpx.AsyncClient, Service]]:
    app = create_app(fast_settings(folder, redis_url=redis_url), coders=hash_coder)
    service: Service = app.state.service
    async with running(app) as client:
        await until(lambda: service.models.current is not None)
        await service.attribution_upkeep.step()
        yield client, service


async def a_day_of_a_shop(client: httpx.AsyncClient, random: Random) -> None:
    """Ask, show, and send what people did; some events twice, and some with tokens that do not count."""
    for number in range(25):
        user = f"u{number % 7}"
        asked = {"user_id": user, "k": random.choice([1, 5, 40]), "history": [f"item-{number}"]}
        answer = (await client.post("/recommend", json=asked)).json()
        token: str = answer["attribution"]
        events: list[Json] = []
        for each in range(random.randrange(4)):
            kind = random.choice(KINDS)
            event = {
                "event_id": f"{number}-{each}",
                "user_id": user,
                "item_id": random.choice(answer["items"])["item_id"],
                "type": kind,
                "attribution": random.choice([token, token, None, token[:-1]]),
            }
            if kind == "purchase":
                event |= {"value": random.randrange(1, 1000) / 8, "currency": random.choice(["EUR", "USD"])}
            events += [event] * random.choice([1, 2])
        if events:
            assert (await client.post("/events", json=events)).status_code == 200


async def test_the_event_log_counts_to_the_live_counters(
    tmp_path: Path, redis_url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = live_store(tmp_path / "models")
    async with serving(tmp_path / "models", redis_url) as (client, service):
        await a_day_of_a_shop(client, Random(1))
        await service.attribution_upkeep.step()
        live = (await client.get("/attribution", params={"days": 2})).json()["days"]  # midnight may have passed

    drained = tmp_path / "drained"
    drain(redis_url or tmp_path / "models" / "events", drained)
    command = ["attribution", "--events", str(drained), "--store", str(tmp_path / "models"), "--json"]
    done = CliRunner().invoke(train_app, [*command, *(["--redis-url", redis_url] if redis_url else [])])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)

    assert found["not_in_the_log"] == list(NOT_IN_THE_LOG)
    assert found["unverified_events"] == 0
    assert found["attributed_events"] == sum(sum(row["events"].values()) for day in live for row in day["versions"])
    assert found["attributed_events"] > 10
    by_day = {day["day"]: day for day in found["days"]}
    for day in live:
        expected = [
            {"name": row["name"], "clicks": row["clicks"], "events": row["events"], "values": row["values"]}
            for row in day["versions"]
            if row["events"]
        ]
        assert by_day.get(day["day"], {"versions": []})["versions"] == expected
    assert {row["name"] for day in live for row in day["versions"]} == {version}
    assert sum(row["answers"] for day in live for row in day["versions"]) == 25

    monkeypatch.setenv(KEYS_VARIABLE, "a key that signed none of them")
    other = json.loads(CliRunner().invoke(train_app, command).stdout)
    assert (other["attributed_events"], other["unverified_events"]) == (0, found["attributed_events"])


async def test_a_token_of_one_replica_counts_at_another(tmp_path: Path, own_redis: RedisServer) -> None:
    live_store(tmp_path)
    async with (
        serving(tmp_path, own_redis.url) as (first, _),
        serving(tmp_path, own_redis.url) as (second, service),
    ):
        answer = (await first.post("/recommend", json={"history": ["item-1"]})).json()
        event = {"user_id": "u", "item_id": answer["items"][0]["item_id"], "attribution": answer["attribution"]}
        assert (await second.post("/events", json=event)).status_code == 200
        await service.attribution_upkeep.step()
        days = (await first.get("/attribution", params={"days": 2})).json()["days"]
    assert sum(row["clicks"] for day in days for row in day["versions"]) == 1


async def test_tokens_and_counting_go_on_when_redis_comes_back(tmp_path: Path, own_redis: RedisServer) -> None:
    live_store(tmp_path)
    async with serving(tmp_path, own_redis.url) as (client, service):
        own_redis.kill()
        answers = [(await client.post("/recommend", json={"history": ["item-1"]})).json() for _ in range(3)]
        assert all(answer["attribution"] for answer in answers)
        await service.attribution_upkeep.step()

        own_redis.start()
        await until(lambda: service.store_client.is_up)
        await service.attribution_upkeep.step()
        await service.attribution_upkeep.step()
        days = (await client.get("/attribution", params={"days": 2})).json()["days"]
    assert sum(row["answers"] for day in days for row in day["versions"]) == 3
