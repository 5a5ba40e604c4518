"""Batch runs of a trained model on ONNX Runtime give the answers of POST /recommend."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from model_store.bundle.registry import ModelStore
from tests.end_to_end.test_whole_catalogue import write_shop
from tests.support.batch_runs import Rows, answers, batch, write_users
from tests.support.redis_server import RedisServer
from tests.support.service_harness import serving
from tests.support.tiny import ITEMS, OVERRIDES
from training.config import load_config
from training.export.bundle import publish_run
from training.loop.progress import SilentProgress
from training.pipeline import Pipeline
from training.run_folder import RunFolder

TOLERANCE = 1e-3
"""Largest difference of a score, as of goldens; items whose scores are that close may change places."""

RULES: dict[str, dict[str, Any]] = {
    "plain": {"k": 5},
    "wide": {"k": 25, "exclude_seen": False},
    "filtered": {"k": 10, "filter": {"categories": ["section-1", "section-2"], "deny": ["i7", "i8"]}},
    "spread": {"k": 6, "max_per_prefix": 1, "filter": {"deny": [f"i{n}" for n in range(12)]}},
    "ranked": {
        "k": 6,
        "boosts": [{"nats": 1.5, "categories": ["section-1"]}, {"nats": -2, "items": ["i3"]}],
        "max_per_prefix": {"1": 3, "2": 1},
        "steer": {"0": 1.0},
    },
    "none left": {"k": 3, "filter": {"allow": ["i3"], "deny": ["i3"]}},
}

HISTORIES: dict[str, list[str]] = {
    **{f"walker{n}": [f"i{(n * 5 + step) % ITEMS}" for step in range(1 + n % 12)] for n in range(40)},
    "new": [],
    "stranger": ["no-such-item"],
    "half known": ["no-such-item", "i4"],
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store whose live version was trained on the shop's data, histories included."""
    folder = tmp_path_factory.mktemp("shop")
    log, table = write_shop(folder)
    config = load_config("demo", [*OVERRIDES, f'data.items_file="{table}"'])
    pipeline = Pipeline(RunFolder.create_or_resume(folder / "run", config, str(log)), SilentProgress())
    store = ModelStore(folder / "models")
    store.promote(publish_run(pipeline, store))
    return folder / "models"


def options(rules: dict[str, Any]) -> list[str]:
    """Return the rules of a request as options of the command."""
    found = ["--k", str(rules["k"])]
    if "filter" in rules:
        found += ["--filter", json.dumps(rules["filter"])]
    if "exclude_seen" in rules:
        found += ["--exclude-seen", json.dumps(rules["exclude_seen"])]
    if "boosts" in rules:
        found += ["--rules", json.dumps({name: rules[name] for name in ("boosts", "max_per_prefix", "steer")})]
    elif "max_per_prefix" in rules:
        found += ["--max-per-prefix", str(rules["max_per_prefix"])]
    return found


def assert_same(rows: Rows, by_http: dict[str, Any]) -> None:
    assert {row["user"] for row in rows} == by_http.keys()
    for row in rows:
        answer = by_http[row["user"]]
        assert (row["version"], row["served_by"]) == (answer["model_version"], answer["served_by"]), row["user"]
        assert row["scores"] == sorted(row["scores"], reverse=True)
        scores = dict(zip(row["items"], row["scores"], strict=True))
        expected = {item["item_id"]: item["score"] for item in answer["items"]}
        assert scores == pytest.approx(expected, abs=TOLERANCE), row["user"]
        codes = dict(zip(row["items"], row["codes"], strict=True))
        assert codes == {item["item_id"]: item["codes"] for item in answer["items"]}


async def ask(models: Path, bodies: dict[str, dict[str, Any]], **given: Any) -> dict[str, Any]:
    async with serving(models, engine="onnx", threads=1, **given) as (client, _):
        return {name: (await client.post("/recommend", json=body)).json() for name, body in bodies.items()}


async def patiently(call: Callable[[], Awaitable[httpx.Response]]) -> Any:
    """Repeat a call until it succeeds undegraded: Redis shares the cores with other tests. Return the answer."""
    async with asyncio.timeout(60):
        while True:
            response = await call()
            if response.is_success and not response.json().get("degraded"):
                return response.json()
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("name", RULES)
def test_histories_of_a_file(models: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETEGREC_ENGINE", "onnx")
    rules = RULES[name]
    users = write_users(tmp_path / "users.parquet", HISTORIES)
    given = ["--users", str(users), "--shard-size", "17", *options(rules)]
    assert batch("recommend", models, tmp_path / "out", *given) == 0

    bodies = {user: {"history": history, **rules} for user, history in HISTORIES.items()}
    found = asyncio.run(ask(models, bodies, events_folder=str(tmp_path / "events"), import_histories=False))
    assert_same(answers(tmp_path / "out"), found)
    if name != "none left":
        assert {row["served_by"] for row in answers(tmp_path / "out")} == {"model", "popular"}


def test_histories_of_the_training_data(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETEGREC_ENGINE", "onnx")
    given = ["--histories", "training", "--k", "5"]
    assert batch("recommend", models, tmp_path / "out", *given) == 0
    rows = answers(tmp_path / "out")
    assert len(rows) >= 80

    async def ask_when_imported() -> dict[str, Any]:
        async with serving(models, engine="onnx", threads=1, events_folder=str(tmp_path / "events")) as (client, _):
            for row in rows:  # the service imports the same histories in the background
                while not (await client.get(f"/users/{row['user']}")).json()["count"]:
                    await asyncio.sleep(0.02)
            bodies = {row["user"]: {"user_id": row["user"], "k": 5} for row in rows}
            return {user: (await client.post("/recommend", json=body)).json() for user, body in bodies.items()}

    assert_same(rows, asyncio.run(ask_when_imported()))


@pytest.mark.redis
def test_histories_and_catalogue_of_the_store(
    models: Path, tmp_path: Path, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETEGREC_ENGINE", "onnx")
    monkeypatch.setenv("ETEGREC_REDIS_URL", own_redis.url)
    users = write_users(tmp_path / "users.parquet", {"buyer": None, "viewer": None, "nobody": None})
    given = ["--users", str(users), "--k", "40", "--histories", "store"]
    events = [
        {"event_id": f"{user}{n}", "user_id": user, "item_id": f"i{n}", "type": kind, "timestamp": n + 1}
        for user, kind in (("buyer", "purchase"), ("viewer", "view"))
        for n in range(5)
    ]

    async def change_and_ask() -> dict[str, Any]:
        live: dict[str, Any] = {"engine": "onnx", "threads": 1, "redis_url": own_redis.url, "import_histories": False}
        async with serving(models, **live) as (client, service):
            await patiently(lambda: client.post("/events", json=events))
            body = {"title": "Thing of section 3", "categories": ["section-3"]}
            await patiently(lambda: client.put("/items/brand-new", json=body))
            await patiently(lambda: client.delete("/items/i9"))
            await service.trends.read()
            return {
                user: await patiently(partial(client.post, "/recommend", json={"user_id": user, "k": 40}))
                for user in ("buyer", "viewer", "nobody")
            }

    found = asyncio.run(change_and_ask())
    assert batch("recommend", models, tmp_path / "out", *given) == 0
    rows = {row["user"]: row for row in answers(tmp_path / "out")}
    for user in ("buyer", "viewer"):
        assert "brand-new" in rows[user]["items"]
        assert "i9" not in rows[user]["items"]
    assert "i1" in rows["viewer"]["items"]
    assert "i1" not in rows["buyer"]["items"]

    # Counts of events fade between the two readings, so scores of popular items differ a little.
    nobody = rows.pop("nobody")
    assert nobody["items"] == [item["item_id"] for item in found.pop("nobody")["items"]]
    assert nobody["served_by"] == "popular"
    assert_same(list(rows.values()), found)


@pytest.mark.redis
def test_a_store_that_is_away_is_said(
    models: Path, tmp_path: Path, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("ETEGREC_REDIS_URL", own_redis.url)
    own_redis.kill()
    users = write_users(tmp_path / "users.parquet", {"u": None})
    given = ["--users", str(users), "--histories", "store"]
    assert batch("recommend", models, tmp_path / "out", *given) == 8
    assert "error: " in capsys.readouterr().err
    assert not (tmp_path / "out" / "plan.json").exists()


def test_similar_items(models: Path, tmp_path: Path) -> None:
    assert batch("similar", models, tmp_path / "out", "--k", "4", "--shard-size", "9") == 0
    rows = {row["item"]: row for row in answers(tmp_path / "out", key="item")}

    async def ask_all() -> dict[str, Any]:
        async with serving(models, engine="onnx", events_folder=str(tmp_path / "events")) as (client, _):
            return {item: (await client.get(f"/items/{item}/similar?k=4")).json() for item in rows}

    for item, answer in asyncio.run(ask_all()).items():
        assert rows[item]["items"] == [each["item_id"] for each in answer["items"]]
        assert rows[item]["scores"] == pytest.approx([each["similarity"] for each in answer["items"]], abs=TOLERANCE)
        assert rows[item]["shared_codes"] == [each["shared_codes"] for each in answer["items"]]
