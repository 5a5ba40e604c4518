"""Tracing by the real SDK: parents, links, failures, steps of other threads, variables; and its absence when off."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from model_store.errors import ConfigError
from model_store.tracing import open_telemetry
from model_store.tracing.interface import NO_TRACING, TimedStep, open_tracing, opened_tracing
from model_store.tracing.open_telemetry import ENDPOINT_VARIABLES, OpenTelemetryTracing, open_otlp
from tests.support.traces import CALLER, CALLER_SPAN, CALLER_TRACE, KeptTraces, attributes


def seconds(span: ReadableSpan) -> float:
    """Return how long a span took."""
    return ((span.end_time or 0) - (span.start_time or 0)) / 1e9


def test_a_span_belongs_to_the_callers_trace_and_carries_it_on() -> None:
    traces = KeptTraces()
    with traces.tracing.span("outer", "server", CALLER), traces.tracing.span("inner") as inner:
        inner.set("etegrec.batch_size", 3)
        sent = traces.tracing.traceparent()

    outer = traces.span("outer")
    assert outer.context.trace_id == CALLER_TRACE
    assert outer.parent is not None
    assert outer.parent.span_id == CALLER_SPAN
    assert traces.parent_of("inner") == "outer"
    assert attributes(traces.span("inner")) == {"etegrec.batch_size": 3}
    assert sent == f"00-{CALLER_TRACE:032x}-{traces.span('inner').context.span_id:016x}-01"


@pytest.mark.parametrize(
    "header", ["", "nonsense", CALLER.upper().replace("00-", "zz-"), f"00-{'0' * 32}-{'0' * 16}-01"]
)
def test_a_malformed_header_begins_a_new_trace(header: str) -> None:
    traces = KeptTraces()
    with traces.tracing.span("request", "server", header):
        pass
    assert traces.span("request").parent is None


def test_a_caller_that_drops_its_trace_is_honoured() -> None:
    traces = KeptTraces()
    with traces.tracing.span("request", "server", CALLER.removesuffix("01") + "00"):
        assert traces.tracing.current() is None
        assert traces.tracing.traceparent() == ""
    assert traces.names == []


def test_a_failure_is_told_by_its_class_alone() -> None:
    traces = KeptTraces()
    with pytest.raises(RuntimeError), traces.tracing.span("work"):
        raise RuntimeError("what a client sent")

    span = traces.span("work")
    assert not span.status.is_ok
    assert attributes(span) == {"error.type": "RuntimeError"}
    assert "client" not in span.to_json()


def test_links_lead_to_other_traces_and_malformed_ones_are_left_out() -> None:
    traces = KeptTraces()
    with traces.tracing.span("other") as _:
        other = traces.tracing.traceparent()
    with traces.tracing.span("retrain") as span:
        span.link([CALLER, "nonsense", other])

    linked = [link.context.span_id for link in traces.span("retrain").links]
    assert linked == [CALLER_SPAN, traces.span("other").context.span_id]
    assert traces.span("retrain").parent is None


def test_steps_of_another_thread_hang_where_the_caller_was() -> None:
    traces = KeptTraces()
    started = time.monotonic()
    with traces.tracing.span("search"):
        parent = traces.tracing.current()
        assert parent is not None
        steps = [TimedStep("queue", started, started + 0.25), TimedStep("compute", started + 0.25, started + 1)]
        thread = threading.Thread(target=traces.tracing.add_steps, args=(parent, steps))
        thread.start()
        thread.join()

    assert traces.names == ["queue", "compute", "search"]
    assert traces.parent_of("compute") == "search"
    queue, compute = traces.span("queue"), traces.span("compute")
    assert [seconds(span) for span in (queue, compute)] == pytest.approx([0.25, 0.75], abs=1e-3)
    assert abs((queue.start_time or 0) - time.time_ns()) < 60e9


def test_calls_of_the_store_are_spans_only_inside_of_others() -> None:
    traces = KeptTraces()
    with traces.tracing.client_span("history", "redis"):
        pass
    assert traces.names == []

    with traces.tracing.span("recommend"), traces.tracing.client_span("history", "redis"):
        pass
    assert attributes(traces.span("redis history")) == {"db.system.name": "redis", "db.operation.name": "history"}


def test_the_name_of_the_program_gives_way_to_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    def name() -> object:
        exporter = InMemorySpanExporter()
        with OpenTelemetryTracing("etegrec-serve", SimpleSpanProcessor(exporter)).span("work"):
            pass
        return exporter.get_finished_spans()[0].resource.attributes["service.name"]

    assert name() == "etegrec-serve"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop-recommender")
    assert name() == "shop-recommender"


def test_a_wrong_variable_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "10")  # less than a batch
    with pytest.raises(ConfigError, match="max_export_batch_size"):
        open_otlp("etegrec-serve")


@pytest.mark.parametrize("variable", ENDPOINT_VARIABLES)
@pytest.mark.parametrize("value", ["garbage", "collector:4318", "ftp://collector", "http://", "http://collector:none"])
def test_an_endpoint_that_is_no_url_is_refused(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"{variable} holds no URL") as refused:
        open_otlp("etegrec-serve")
    assert "http://HOST:4318" in refused.value.hint


@pytest.mark.parametrize(
    "value", ["", "http://collector:4318", "https://otlp.example.com/v1/otlp", "http://[::1]:4318"]
)
def test_an_endpoint_that_is_a_url_is_taken(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", value)
    tracing = open_otlp("etegrec-serve")
    assert tracing.is_on
    tracing.close()


def test_the_end_does_not_wait_for_a_collector_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    is_away = threading.Event()
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(open_telemetry, "LAST_SPANS_S", 0.01)
    monkeypatch.setattr(exporter, "shutdown", is_away.wait)
    tracing = OpenTelemetryTracing("etegrec-serve", SimpleSpanProcessor(exporter))

    closing = threading.Thread(target=tracing.close, daemon=True)
    closing.start()
    closing.join(60)
    has_ended = not closing.is_alive()
    is_away.set()
    assert has_ended


def test_off_costs_no_import_and_missing_packages_are_named() -> None:
    off = "from model_store.tracing.interface import open_tracing; open_tracing('x', is_on=False); import sys; "
    off += "assert not [name for name in sys.modules if name.startswith('opentelemetry')]; "
    without = "sys.modules['opentelemetry'] = None; from model_store.errors import ConfigError\n"
    without += "try:\n open_tracing('x', is_on=True)\nexcept ConfigError as e:\n assert 'etegrec[tracing]' in e.hint\n"
    without += "else:\n raise SystemExit('no error')"
    done = subprocess.run([sys.executable, "-c", off + without], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_tracing_that_is_off_does_nothing() -> None:
    with opened_tracing("etegrec-train", is_on=False) as tracing, tracing.span("retrain", traceparent=CALLER) as span:
        span.set("a", 1)
        span.link([CALLER])
        assert tracing.current() is None
        assert tracing.traceparent() == ""
    assert open_tracing("x", is_on=False) is NO_TRACING
