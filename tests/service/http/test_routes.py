from __future__ import annotations

from pathlib import Path

import pytest

from model_store.bundle.registry import ModelStore
from tests.support.service_harness import live_store, metric, serving, until

pytestmark = pytest.mark.anyio

FIELDS = {
    *("request_id", "model_version", "served_by", "degraded", "took_ms"),
    *("attribution", "placement", "experiment", "ignored_rules", "unknown_items", "items"),
}


async def test_an_answer_has_exactly_the_documented_fields(tmp_path: Path) -> None:
    version = live_store(tmp_path)
    catalogue = ModelStore(tmp_path).bundle().catalogue()
    async with serving(tmp_path) as (client, _):
        response = await client.post("/recommend", json={"history": ["item-1", "nobody-knows"], "k": 4})
    body = response.json()
    assert response.status_code == 200
    assert body.keys() == FIELDS
    assert body["model_version"] == version
    assert body["served_by"] == "model"
    assert body["degraded"] is False
    assert body["unknown_items"] == ["nobody-knows"]
    assert response.headers["x-request-id"] == body["request_id"]
    assert [len(body["items"]), *body["items"][0]] == [4, "item_id", "score", "log_prob", "codes", "title"]
    for item in body["items"]:
        row = catalogue.row_of[item["item_id"]]
        assert item["codes"] == catalogue.codes[row].tolist()
        assert item["title"] == catalogue.titles[row]


async def test_an_event_is_in_the_history_at_once_and_counts_once(tmp_path: Path) -> None:
    live_store(tmp_path)
    event = {"event_id": "e1", "user_id": "u", "item_id": "item-7", "timestamp": 5}
    async with serving(tmp_path) as (client, _):
        before = (await client.post("/recommend", json={"user_id": "u"})).json()
        first = (await client.post("/events", json=event)).json()
        again = (await client.post("/events", json=[event, {**event, "event_id": "e2"}])).json()
        after = (await client.post("/recommend", json={"user_id": "u"})).json()
        inline = (await client.post("/recommend", json={"history": ["item-7"]})).json()
    assert before["served_by"] == "popular"
    assert (first, again) == ({"accepted": 1, "duplicates": 0}, {"accepted": 1, "duplicates": 1})
    assert after["served_by"] == "model"
    assert after["items"] == inline["items"]


async def test_a_batch_answers_like_single_requests(tmp_path: Path) -> None:
    live_store(tmp_path)
    asked = [{"history": [f"item-{n}", f"item-{n + 1}"], "k": n + 1} for n in range(8)] + [{}]
    async with serving(tmp_path) as (client, _):
        together = (await client.post("/recommend/batch", json=asked)).json()
        alone = [(await client.post("/recommend", json=each)).json() for each in asked]
    assert [each["items"] for each in together] == [each["items"] for each in alone]
    assert [each["served_by"] for each in together] == ["model"] * 8 + ["popular"]


async def test_model_health_and_description(tmp_path: Path) -> None:
    version = live_store(tmp_path)
    async with serving(tmp_path) as (client, service):
        model = (await client.get("/model")).json()
        ready = (await client.get("/health/ready")).json()
        live = await client.get("/health/live")
        docs = await client.get("/docs")
        metrics = await client.get("/metrics")
        schema = (await client.get("/openapi.json")).json()
        assert metric(service, "etegrec_model_info", version=version, engine="fake") == 1
    assert (model["version"], model["engine"], model["items"]) == (version, "fake", 40)
    assert model["metrics"]["generative"]["ndcg@10"] == 0.25
    store = {"live_store": "up", "live_store_problem": ""}
    assert ready == {"status": "ready", "model_version": version, "problem": "", **store}
    assert [live.status_code, docs.status_code] == [200, 200]
    assert f'etegrec_model_info{{engine="fake",version="{version}"}} 1.0' in metrics.text
    assert schema["components"]["schemas"]["RecommendRequest"]["properties"]["k"]["maximum"] == 100


async def test_without_a_model_the_process_waits_for_one(tmp_path: Path) -> None:
    from service.app import create_app
    from tests.support.service_harness import fast_settings, running

    app = create_app(fast_settings(tmp_path))
    async with running(app) as client:
        await until(lambda: app.state.service.models.problem == "no model is live yet")
        assert (await client.get("/health/live")).status_code == 200
        for response in (await client.get("/health/ready"), await client.post("/recommend", json={})):
            assert response.status_code == 503
            assert response.json()["detail"] == "no model is live yet"
        live_store(tmp_path)
        await until(lambda: app.state.service.models.current is not None)
        assert (await client.get("/health/ready")).status_code == 200


async def test_a_well_formed_request_id_is_kept_and_any_other_replaced(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        kept = await client.get("/health/live", headers={"X-Request-ID": "abc-1.2_3"})
        replaced = await client.get("/health/live", headers={"X-Request-ID": "<script>"})
    assert kept.headers["x-request-id"] == "abc-1.2_3"
    assert replaced.headers["x-request-id"].isalnum()
