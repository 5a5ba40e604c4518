"""Traces of the real app: one request from its header to the stages of its batch and its calls of the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.app import create_app
from service.service import Service
from service.store import open_store
from tests.support.redis_server import RedisServer
from tests.support.service_harness import BrokenEngine, fast_settings, live_store, running, until
from tests.support.traces import CALLER, CALLER_SPAN, CALLER_TRACE, KeptTraces, attributes

pytestmark = pytest.mark.anyio

ASKED = {"user_id": "u1", "k": 3}


async def test_a_request_is_traced_through_queue_stages_and_store(
    tmp_path: Path, redis_server: RedisServer, prefix: str
) -> None:
    version = live_store(tmp_path)
    traces = KeptTraces()
    store = open_store(redis_server.url, tmp_path, prefix=prefix)
    app = create_app(fast_settings(tmp_path), store=store, tracing=traces.tracing)
    service: Service = app.state.service
    async with running(app) as client:
        await until(lambda: service.models.current is not None)
        assert (await client.post("/events", json={"user_id": "u1", "item_id": "item-3"})).status_code == 200
        assert traces.names == ["redis record", "POST /events"]

        headers = {"traceparent": CALLER, "X-Request-ID": "mine"}
        answer = await client.post("/recommend", json=ASKED, headers=headers)
        assert answer.json()["served_by"] == "model"

    request = traces.span("POST /recommend")
    assert request.context.trace_id == CALLER_TRACE
    assert request.parent is not None
    assert request.parent.span_id == CALLER_SPAN
    assert attributes(request) == {
        "http.request.method": "POST",
        "http.route": "/recommend",
        "http.response.status_code": 200,
        "etegrec.request_id": "mine",
    }
    parents = {name: traces.parent_of(name) for name in traces.names if name not in ("POST /events", "POST /recommend")}
    assert parents == {
        "redis record": "POST /events",
        "redis history": "recommend",
        "recommend": "POST /recommend",
        "search": "recommend",
        **dict.fromkeys(("queue", "prepare", "compute", "finish"), "search"),
    }
    assert attributes(traces.span("recommend"))["etegrec.model_version"] == version
    assert attributes(traces.span("compute")) == {"etegrec.batch_size": 1}
    order = [traces.span(name).start_time or 0 for name in ("search", "queue", "prepare", "compute", "finish")]
    assert order == sorted(order)


async def test_no_span_holds_what_a_person_sent(tmp_path: Path) -> None:
    live_store(tmp_path)
    traces = KeptTraces()
    app = create_app(fast_settings(tmp_path), opener=lambda *_: BrokenEngine(), tracing=traces.tracing)
    async with running(app) as client:
        await until(lambda: app.state.service.models.current is not None)
        await client.get("/users/anna@example.org")
        await client.delete("/users/anna@example.org")
        await client.put("/items/anna%2Fbag", json={"title": "Anna's bag"})
        await client.request("ANNA", "/anna/nowhere")
        broken = await client.post("/recommend", json={"history": ["item-1"] * 5, "k": 1})
        await client.post("/recommend", json={"user": "anna"})

    assert broken.status_code == 500
    assert {"GET /users/{user_id:id}", "embedded entries", "PUT /items/{item_id:id}", "_OTHER unmatched"} <= set(
        traces.names
    )
    assert not [span.name for span in traces.spans if "anna" in span.to_json().lower()]
    failed = [span for span in traces.spans if span.name == "POST /recommend"]
    assert [attributes(span)["etegrec.problem"] for span in failed] == ["internal", "invalid-fields"]
    assert [span.status.is_ok for span in failed] == [False, True]
    assert "a secret of the engine" not in failed[0].to_json()


async def test_probes_and_scrapers_leave_no_spans(tmp_path: Path) -> None:
    live_store(tmp_path)
    traces = KeptTraces()
    async with running(create_app(fast_settings(tmp_path), tracing=traces.tracing)) as client:
        for path in ("/health/live", "/health/ready", "/metrics"):
            await client.get(path, headers={"traceparent": CALLER})
    assert traces.names == []


async def test_nothing_is_traced_unless_the_settings_say_so(tmp_path: Path) -> None:
    live_store(tmp_path)
    assert not create_app(fast_settings(tmp_path)).state.service.telemetry.tracing.is_on
