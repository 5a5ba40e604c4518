"""Traces of real processes: from the header of a request, over Redis, to the drain of training; and out by OTLP."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from model_store.replication.redis_keys import DEFAULT_PREFIX
from tests.support.redis_server import RedisServer
from tests.support.service_harness import live_store
from tests.support.service_process import process, wait_for
from tests.support.traces import CALLER, CALLER_TRACE
from training.retraining.drain_events import drain


class Collector:
    """A collector that keeps what it is sent."""

    def __init__(self) -> None:
        self.received: list[ExportTraceServiceRequest] = []
        self.paths: set[str] = set()
        received, paths = self.received, self.paths

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.append(ExportTraceServiceRequest.FromString(body))
                paths.add(self.path)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def spans(self) -> dict[str, str]:
        """Return the trace of each span that was received, in hexadecimal, by the name of the span."""
        scopes = [scope for sent in self.received for part in sent.resource_spans for scope in part.scope_spans]
        return {span.name: span.trace_id.hex() for scope in scopes for span in scope.spans}

    def services(self) -> set[str]:
        """Return the names of the programs that sent spans."""
        parts = [part.resource.attributes for sent in self.received for part in sent.resource_spans]
        return {each.value.string_value for part in parts for each in part if each.key == "service.name"}


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        collector.server.shutdown()
        thread.join()
        collector.server.server_close()


def test_a_process_sends_its_spans_and_training_learns_where_events_came_from(
    tmp_path: Path, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_store(tmp_path / "models")
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        given = {"REDIS_URL": own_redis.url, "TRACING": "true", "SHUTDOWN_DELAY_S": "0"}
        with process(tmp_path / "models", "-m", "service", **given) as (started, url):
            wait_for(f"{url}/health/ready", 200)
            event = {"user_id": "u", "item_id": "item-1"}
            assert httpx.post(f"{url}/events", json=event, headers={"traceparent": CALLER}).status_code == 200
            started.send_signal(signal.SIGTERM)
            assert started.wait(60) == 0  # what is left is sent before the end

        assert collector.paths == {"/v1/traces"}
        assert collector.services() == {"etegrec-serve"}
        assert collector.spans()["POST /events"] == f"{CALLER_TRACE:032x}"

    drained = drain(own_redis.url, tmp_path / "drained", prefix=DEFAULT_PREFIX)
    assert drained.events == 1
    [traceparent] = drained.traceparents
    assert traceparent.split("-")[1] == f"{CALLER_TRACE:032x}"
    assert traceparent != CALLER  # the span of the request itself


def test_a_process_ends_although_the_collector_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    live_store(tmp_path / "models")
    given = {"TRACING": "true", "SHUTDOWN_DELAY_S": "0"}
    with process(tmp_path / "models", "-m", "service", **given) as (started, url):
        wait_for(f"{url}/health/ready", 200)
        assert httpx.post(f"{url}/recommend", json={"user_id": "u", "k": 1}).status_code == 200
        started.send_signal(signal.SIGTERM)
        assert started.wait(60) == 0
