"""Bodies that lie about their size or never end, and the bounds that operators set."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.schemas.recommend import RecommendRequest
from service.settings import Settings
from tests.support.service_harness import live_store, metric, serving

pytestmark = pytest.mark.anyio

JSON = {"Content-Type": "application/json"}


async def _pieces(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b" " * 1000


async def test_a_body_is_counted_with_and_without_its_length(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path, max_body_bytes=2048) as (client, service):
        declared = await client.post("/recommend", content=b" " * 3000, headers=JSON)
        chunked = await client.post("/recommend", content=_pieces(3), headers=JSON)
        fits = await client.post("/recommend", content=b"{}".ljust(2048), headers=JSON)
        assert metric(service, "etegrec_rejected_total", slug="body-too-large") == 2
    assert [declared.status_code, chunked.status_code, fits.status_code] == [413, 413, 200]
    assert "2048" in declared.json()["detail"]
    assert declared.headers["connection"] == "close"


async def test_a_body_that_never_ends_is_given_up(tmp_path: Path) -> None:
    live_store(tmp_path)
    never = asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        yield b"{"
        await never.wait()

    async with serving(tmp_path, body_timeout_s=0.05) as (client, _):
        response = await client.post("/recommend", content=stuck(), headers=JSON)
    assert response.status_code == 408


async def test_lists_of_requests_and_events_are_bounded(tmp_path: Path) -> None:
    live_store(tmp_path)
    event = {"user_id": "u", "item_id": "item-1", "timestamp": 1}
    async with serving(tmp_path, max_batch_requests=2, max_events=2) as (client, _):
        requests = await client.post("/recommend/batch", json=[{}] * 3)
        events = await client.post("/events", json=[{**event, "event_id": str(n)} for n in range(3)])
        nested = await client.post("/recommend/batch", json=[{}, {"k": 101}])
    assert [requests.status_code, events.status_code] == [422, 422]
    assert "1 to 2 entries (max_batch_requests)" in requests.json()["detail"]
    assert "1 to 2 entries (max_events)" in events.json()["detail"]
    assert nested.json()["errors"][0]["field"] == "1.k"


async def test_every_limit_of_the_settings_is_enforced(tmp_path: Path) -> None:
    live_store(tmp_path)
    bodies = [
        {"k": 4},
        {"history": ["a"] * 3},
        {"filter": {"allow": ["a"] * 2}},
        {"filter": {"deny": ["a"] * 2}},
        {"filter": {"categories": ["a"] * 2}},
    ]
    async with serving(tmp_path, max_k=3, max_history_ids=2, max_filter_ids=1) as (client, _):
        found = [await client.post("/recommend", json=body) for body in bodies]
        largest = await client.post("/recommend", json={"k": 3, "history": ["a"] * 2, "filter": {"deny": ["a"]}})
    assert [response.status_code for response in found] == [422] * 5
    assert largest.status_code == 200


def test_the_defaults_fit_the_search() -> None:
    settings = Settings()
    assert RecommendRequest().k <= settings.max_k
    bounds = {name: Settings.model_fields[name].metadata[1].le for name in ("max_history_ids", "max_filter_ids")}
    nodes = (bounds["max_history_ids"] + bounds["max_filter_ids"]) * 2  # a leaf and one node above it
    assert nodes <= 65_536
