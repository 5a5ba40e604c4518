from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from service.answers.popular import FallbackReason
from service.app import create_app
from service.engines.base import Engine
from service.engines.fake_engine import FakeEngine
from service.scheduling.latency_model import LatencyModel
from service.schemas.recommend import RecommendRequest
from service.service import Service
from tests.support.bundles import NOON, bundle_files, description, small_catalogue
from tests.support.flaky_store import FlakyStore
from tests.support.service_harness import (
    GatedEngine,
    fast_settings,
    live_store,
    loaded_model,
    metric,
    running,
    serving,
    until,
)

pytestmark = pytest.mark.anyio


async def test_an_inline_history_wins_over_the_stored_one(tmp_path: Path) -> None:
    live_store(tmp_path)
    event = {"event_id": "e", "user_id": "u", "item_id": "item-9", "timestamp": 1}
    async with serving(tmp_path) as (client, _):
        await client.post("/events", json=event)
        inline = (await client.post("/recommend", json={"user_id": "u", "history": ["item-2"]})).json()
        alone = (await client.post("/recommend", json={"history": ["item-2"]})).json()
        emptied = (await client.post("/recommend", json={"user_id": "u", "history": []})).json()
    assert inline["items"] == alone["items"]
    assert emptied["served_by"] == "popular"


async def test_unknown_histories_get_popular_items_under_the_same_rules(tmp_path: Path) -> None:
    live_store(tmp_path)
    catalogue = ModelStore(tmp_path).bundle().catalogue()
    order = [catalogue.item_ids[row] for row in catalogue.by_popularity.tolist()]
    in_category = [each for each in order if "category-1" in catalogue.categories[catalogue.row_of[each]]]
    rules = {"categories": ["category-1"], "deny": [in_category[0]]}
    async with serving(tmp_path) as (client, _):
        plain = (await client.post("/recommend", json={"history": ["x", "y", "x"], "k": 5})).json()
        ruled = (await client.post("/recommend", json={"k": 5, "filter": rules})).json()
    assert plain["unknown_items"] == ["x", "y"]
    assert plain["served_by"] == ruled["served_by"] == "popular"
    assert [each["item_id"] for each in plain["items"]] == order[:5]
    assert [each["item_id"] for each in ruled["items"]] == in_category[1:6]


async def test_seen_items_come_only_on_request(tmp_path: Path) -> None:
    live_store(tmp_path)
    seen = [f"item-{n}" for n in range(38)]
    async with serving(tmp_path) as (client, _):
        without = (await client.post("/recommend", json={"history": seen, "k": 10})).json()
        with_seen = (await client.post("/recommend", json={"history": seen, "k": 10, "exclude_seen": False})).json()
    assert {each["item_id"] for each in without["items"]} == {"item-38", "item-39"}
    assert len(with_seen["items"]) == 10


async def test_a_rule_that_leaves_nothing_is_an_empty_answer(tmp_path: Path) -> None:
    live_store(tmp_path)
    nothing = [{"allow": ["unknown"]}, {"categories": ["unknown"]}, {"allow": []}, {"allow": ["a"], "deny": ["a"]}]
    one_denied = {"allow": ["item-3"], "deny": ["item-3"]}
    async with serving(tmp_path) as (client, _):
        for rules in [*nothing, one_denied]:
            for history in ([], ["item-1"]):
                response = await client.post("/recommend", json={"history": history, "filter": rules})
                assert response.status_code == 200
                assert response.json()["items"] == []


async def test_away_live_store_degrades_and_recovers(tmp_path: Path) -> None:
    live_store(tmp_path)
    store = FlakyStore(tmp_path / "events")
    store.is_away = True
    app = create_app(fast_settings(tmp_path), store=store)
    service = app.state.service
    async with running(app) as client:
        await until(lambda: service.models.current is not None and not service.store_client.is_up)
        inline = (await client.post("/recommend", json={"history": ["item-1"]})).json()
        stored = (await client.post("/recommend", json={"user_id": "u"})).json()
        events = [{"event_id": "e", "user_id": "u", "item_id": "item-1", "timestamp": 1}]
        refused = await client.post("/events", json=events)
        ready = await client.get("/health/ready")
        assert metric(service, "etegrec_live_up") == 0
        assert metric(service, "etegrec_degraded_answers_total") == 2
        assert metric(service, "etegrec_snapshots_total", result="unavailable") >= 1
        store.is_away = False
        await until(lambda: service.store_client.is_up)
        assert (await client.post("/events", json=events)).json()["accepted"] == 1
        after = (await client.post("/recommend", json={"user_id": "u"})).json()
    assert (inline["served_by"], inline["degraded"]) == ("model", True)
    assert (stored["served_by"], stored["degraded"]) == ("popular", True)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert ready.json()["live_store"] == "away"
    assert (after["served_by"], after["degraded"]) == ("model", False)


async def test_a_missed_deadline_and_a_full_queue_are_problems(tmp_path: Path) -> None:
    live_store(tmp_path)
    engine = GatedEngine()
    engine.gate.set()
    async with serving(tmp_path, engine.opened, queue_size=1, max_batch=1) as (client, service):
        with service.models.lease() as lease:
            batcher = lease.batcher
        engine.gate.clear()
        ask = {"history": ["item-1"]}
        computed = len(engine.batches)
        waiting = [asyncio.create_task(client.post("/recommend", json=ask))]
        await until(lambda: len(engine.batches) > computed)
        prepared = metric(service, "etegrec_stage_seconds_count", stage="prepare")
        waiting.append(asyncio.create_task(client.post("/recommend", json=ask)))
        await until(lambda: metric(service, "etegrec_stage_seconds_count", stage="prepare") > prepared)
        waiting.append(asyncio.create_task(client.post("/recommend", json=ask)))
        await until(lambda: batcher.queued == 1)
        full = await client.post("/recommend", json=ask)
        engine.gate.set()
        assert [each.status_code for each in await asyncio.gather(*waiting)] == [200] * 3
    assert (full.status_code, full.json()["type"]) == (429, "urn:etegrec:problem:queue-full")
    assert int(full.headers["retry-after"]) >= 1


async def test_a_deadline_that_nothing_predicted_is_a_problem_and_one_of_its_own_gets_popular_items(
    tmp_path: Path,
) -> None:
    live_store(tmp_path)
    engine = GatedEngine()
    engine.gate.set()
    ask = {"history": ["item-1"], "k": 5}
    async with serving(tmp_path, engine.opened, deadline_ms=80) as (client, service):
        engine.gate.clear()
        late = await client.post("/recommend", json=ask)
        mine = await client.post("/recommend", json={**ask, "budget_ms": 40})
        assert metric(service, "etegrec_rejected_total", slug="deadline-missed") == 1
        assert metric(service, "etegrec_answers_total", served_by="popular") == 1
        missed = [metric(service, "etegrec_deadline_misses_total", at=place) for place in ("queue", "compute")]
        engine.gate.set()
        model = service.models.current
        assert model is not None
        order = model.catalogue.by_popularity.tolist()
    assert (late.status_code, late.json()["type"]) == (504, "urn:etegrec:problem:deadline-missed")
    assert "budget_ms" in late.json()["detail"]
    assert sum(missed) == 2
    assert (mine.status_code, mine.json()["served_by"]) == (200, "popular")
    popular = [f"item-{row}" for row in order if row != 1]
    assert [each["item_id"] for each in mine.json()["items"]] == popular[:5]


def slow_latency() -> LatencyModel:
    """A tenth of a second for each place: eight history items beside 20, 10 and 5 beams."""
    latency = LatencyModel()
    for places in (28, 18, 13):
        latency.learn(places, places / 10)
    return latency


@asynccontextmanager
async def busy(client: httpx.AsyncClient, engine: GatedEngine) -> AsyncIterator[None]:
    """One request is under way and does not end."""
    while engine.entered.acquire(blocking=False):
        pass
    engine.gate.clear()
    first = asyncio.create_task(client.post("/recommend", json={"history": ["item-30", "item-31"]}))
    await asyncio.to_thread(engine.entered.acquire)
    yield
    engine.gate.set()
    assert (await first).status_code == 200


async def test_tight_budgets_narrow_the_beam_then_ask_the_cache_and_then_give_popular_items(tmp_path: Path) -> None:
    live_store(tmp_path)
    engine = GatedEngine()
    engine.gate.set()
    async with serving(tmp_path, engine.opened, result_cache_entries=10) as (client, service):
        with service.models.lease() as lease:
            batcher = lease.batcher

        async def ask(number: int, k: int, budget_s: float) -> tuple[str, float, float]:
            batcher.admission.latency = slow_latency()
            before = [metric(service, "etegrec_narrowed_total", beam_width=width) for width in ("10", "5")]
            body = {"history": [f"item-{number}"], "k": k, "budget_ms": budget_s * 1000}
            answer = (await client.post("/recommend", json=body)).json()
            assert len(answer["items"]) == k
            after = [metric(service, "etegrec_narrowed_total", beam_width=width) for width in ("10", "5")]
            return answer["served_by"], after[0] - before[0], after[1] - before[1]

        assert await ask(1, 5, 5) == ("model", 0, 0)
        assert await ask(2, 5, 3) == ("model", 1, 0)
        assert await ask(3, 5, 2) == ("model", 0, 1)
        assert await ask(7, 5, 0.5) == ("model", 0, 0)  # an idle engine is tried, or it would never prove faster
        async with busy(client, engine):
            assert await ask(4, 10, 2) == ("popular", 0, 0)
            assert await ask(1, 5, 1) == ("cache", 0, 0)
            assert await ask(2, 5, 1) == ("popular", 0, 0)  # narrowed answers are not kept
        assert metric(service, "etegrec_result_cache_lookups_total", result="hit") == 1


async def test_who_cannot_be_answered_in_time_is_told_at_once(tmp_path: Path) -> None:
    live_store(tmp_path)
    engine = GatedEngine()
    engine.gate.set()
    async with serving(tmp_path, engine.opened, deadline_ms=4000) as (client, service):
        with service.models.lease() as lease:
            lease.batcher.admission.latency = slow_latency()
        async with busy(client, engine):
            refused = await client.post("/recommend", json={"history": ["item-6"]})
        assert metric(service, "etegrec_deadline_misses_total", at="admission") == 1
    assert (refused.status_code, refused.json()["type"]) == (429, "urn:etegrec:problem:queue-full")
    assert int(refused.headers["retry-after"]) >= 3


async def test_kept_answers_are_those_of_the_model_under_the_same_rules(tmp_path: Path) -> None:
    live_store(tmp_path)
    asked = [
        {"history": ["item-1", "item-2"], "k": 5},
        {"history": ["item-2", "item-1"], "k": 5},
        {"history": ["item-1", "item-2"], "k": 6},
        {"history": ["item-1", "item-2"], "k": 5, "exclude_seen": False},
        {"history": ["item-1", "item-2"], "k": 5, "max_per_prefix": 1},
        {"history": ["item-1", "item-2"], "k": 5, "filter": {"categories": ["category-1"]}},
        {"history": ["item-1", "item-2"], "k": 5, "filter": {"deny": ["item-3"]}},
    ]
    async with serving(tmp_path, result_cache_entries=100) as (client, _):
        first = [(await client.post("/recommend", json=each)).json() for each in asked]
        again = [(await client.post("/recommend", json=each)).json() for each in asked]
        why = (await client.post("/recommend", json={**asked[0], "explain": True})).json()
    assert [each["served_by"] for each in first] == ["model"] * len(asked)
    assert [each["served_by"] for each in again] == ["cache"] * len(asked)
    assert [each["items"] for each in again] == [each["items"] for each in first]
    assert why["served_by"] == "model"


def popular_reasons(service: Service) -> dict[str, float]:
    """Answers by popular items so far, by reason; reasons that never occurred are left out."""
    counts = {why.value: metric(service, "etegrec_popular_answers_total", reason=why.value) for why in FallbackReason}
    return {reason: count for reason, count in counts.items() if count}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "no_history"),
        ({"user_id": "nobody"}, "no_history"),
        ({"history": []}, "no_history"),
        ({"history": ["x", "y"]}, "unknown_items"),
        ({"filter": {"allow": []}}, "empty_rule"),
        ({"history": ["x"], "filter": {"categories": ["unknown"]}}, "empty_rule"),
    ],
)
async def test_the_reason_for_popular_items_is_counted_and_logged(
    tmp_path: Path, body: dict[str, object], reason: str
) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, service):
        with capture_logs() as logs:
            answer = (await client.post("/recommend", json=body)).json()
        assert popular_reasons(service) == {reason: 1}
        assert metric(service, "etegrec_answers_total", served_by="popular") == 1
        recommended = await service.recommender.recommend(RecommendRequest.model_validate(body))
    assert answer["served_by"] == "popular"
    assert [each["reason"] for each in logs if each["event"] == "popular_items_answered"] == [reason]
    assert recommended.fallback_reason == reason


async def test_answers_of_the_model_have_no_reason_for_popular_items(tmp_path: Path) -> None:
    live_store(tmp_path)
    nothing: dict[str, object] = {"allow": []}
    async with serving(tmp_path, result_cache_entries=10) as (client, service):
        with capture_logs() as logs:
            for rules, served_by in ((None, "model"), (None, "cache"), (nothing, "model")):
                body = {"history": ["item-1", "x"], "filter": rules}
                assert (await client.post("/recommend", json=body)).json()["served_by"] == served_by
        assert popular_reasons(service) == {}
    assert "popular_items_answered" not in [each["event"] for each in logs]


async def test_a_stored_history_that_cannot_be_read_is_a_reason_for_popular_items(tmp_path: Path) -> None:
    live_store(tmp_path)
    store = FlakyStore(tmp_path / "events")
    app = create_app(fast_settings(tmp_path), store=store)
    service = app.state.service
    async with running(app) as client:
        await until(lambda: service.models.current is not None)
        store.is_away = True
        answer = (await client.post("/recommend", json={"user_id": "u"})).json()
        assert popular_reasons(service) == {"store_away": 1}
        await client.post("/recommend", json={"user_id": "u", "filter": {"allow": []}})
        assert popular_reasons(service) == {"store_away": 1, "empty_rule": 1}
        store.is_away = False
    assert (answer["served_by"], answer["degraded"]) == ("popular", True)


async def test_a_budget_that_the_search_cannot_keep_is_a_reason_for_popular_items(tmp_path: Path) -> None:
    live_store(tmp_path)
    engine = GatedEngine()
    engine.gate.set()
    async with serving(tmp_path, engine.opened) as (client, service):
        async with busy(client, engine):
            missed = await client.post("/recommend", json={"history": ["item-1"], "budget_ms": 40})
            assert popular_reasons(service) == {"budget": 1}
            with service.models.lease() as lease:
                lease.batcher.admission.latency = slow_latency()
            refused = await client.post("/recommend", json={"history": ["item-1"], "budget_ms": 2000})
            assert popular_reasons(service) == {"budget": 2}
        places = ("admission", "queue", "compute")
        assert sum(metric(service, "etegrec_deadline_misses_total", at=place) for place in places) == 2
    assert [each.json()["served_by"] for each in (missed, refused)] == ["popular"] * 2


async def test_an_item_that_is_hidden_while_its_answer_is_computed_is_left_out(tmp_path: Path) -> None:
    live_store(tmp_path)
    engine = GatedEngine()
    engine.gate.set()
    ask = {"history": ["item-1"], "k": 5}
    async with serving(tmp_path, engine.opened, catalogue_poll_s=0.01) as (client, _):
        before = [each["item_id"] for each in (await client.post("/recommend", json=ask)).json()["items"]]
        engine.gate.clear()
        computed = len(engine.batches)
        asked = asyncio.create_task(client.post("/recommend", json=ask))
        await until(lambda: len(engine.batches) > computed)
        assert (await client.delete(f"/items/{before[1]}")).status_code == 200
        engine.gate.set()
        answer = (await asked).json()
    assert answer["served_by"] == "model"
    assert [each["item_id"] for each in answer["items"]] == [before[0], *before[2:]]


def publish_reordered(store: ModelStore) -> str:
    """Publish a version whose rows hold other items than those of the first one, and that lacks ``item-0``."""
    catalogue = small_catalogue(1)
    ids = ["other", *list(catalogue.item_ids)[1:]]
    version = publish(store, bundle_files(1, replace(catalogue, item_ids=ids[::-1])), description(), NOON)
    store.promote(version)
    return version


async def test_an_item_that_is_hidden_after_a_promotion_is_left_out_of_answers_under_way(tmp_path: Path) -> None:
    live_store(tmp_path)
    old_engine = GatedEngine()
    old_engine.gate.set()
    engines: list[Engine] = [old_engine, FakeEngine()]
    ask = {"history": ["item-1"], "k": 39}
    async with serving(tmp_path, lambda *_: engines.pop(0), catalogue_poll_s=0.01) as (client, service):
        before = [each["item_id"] for each in (await client.post("/recommend", json=ask)).json()["items"]]
        old_engine.gate.clear()
        computed = len(old_engine.batches)
        asked = asyncio.create_task(client.post("/recommend", json=ask))
        await until(lambda: len(old_engine.batches) > computed)
        newer = publish_reordered(ModelStore(tmp_path))
        await until(lambda: loaded_model(service).version == newer)
        for item_id in ("item-7", "other"):
            assert (await client.delete(f"/items/{item_id}")).status_code == 200
        old_engine.gate.set()
        answer = (await asked).json()
    assert answer["model_version"] != newer
    assert [each["item_id"] for each in answer["items"]] == [item_id for item_id in before if item_id != "item-7"]
    assert "item-0" in before  # the newer version does not have it, which is no reason to leave it out
