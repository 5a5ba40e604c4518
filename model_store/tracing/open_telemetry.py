"""Tracing by OpenTelemetry's SDK; spans leave by OTLP over HTTP. Imported only where tracing is on.

All that OpenTelemetry's own variables settle is left to them: where spans go (``OTEL_EXPORTER_OTLP_ENDPOINT``), which
are kept (``OTEL_TRACES_SAMPLER``), how many wait (``OTEL_BSP_*``), what this program is called (``OTEL_SERVICE_NAME``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from threading import Thread
from urllib.parse import urlsplit

from model_store.errors import ConfigError
from model_store.tracing.interface import NO_TRACING, Kind, Span, TimedStep, Tracing, Value

try:
    from opentelemetry import context, trace
    from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError as _missing:
    raise ConfigError(
        f"traces need OpenTelemetry, and {_missing.name} is not installed", "pip install 'etegrec[tracing]'"
    ) from _missing

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Variables that name the collector. The exporter takes any text, and would drop each span when it is sent."""

LAST_SPANS_S = 2.0
"""Longest time in seconds that the end of a program waits for the collector; the exporter alone tries for ten."""

_HEADER = "traceparent"
_KINDS: dict[Kind, trace.SpanKind] = {
    "internal": trace.SpanKind.INTERNAL,
    "server": trace.SpanKind.SERVER,
    "client": trace.SpanKind.CLIENT,
    "consumer": trace.SpanKind.CONSUMER,
}
_PROPAGATOR = TraceContextTextMapPropagator()


def open_otlp(service_name: str) -> Tracing:
    """Return tracing that sends spans to the collector that OpenTelemetry's variables name, in the background.

    Raises:
        ConfigError: The exporter is not installed, or a variable is wrong.
    """
    for variable in ENDPOINT_VARIABLES:
        _check_endpoint(variable, os.environ.get(variable, ""))

    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ModuleNotFoundError as missing:
        raise ConfigError(
            f"traces need OpenTelemetry's exporter, and {missing.name} is not installed",
            "pip install 'etegrec[tracing]'",
        ) from missing

    try:
        return OpenTelemetryTracing(service_name, BatchSpanProcessor(OTLPSpanExporter()))
    except ValueError as refused:
        raise ConfigError(
            f"a variable of OpenTelemetry is wrong: {refused}", "correct the variables OTEL_*, see docs/OPERATIONS.md"
        ) from refused


class OpenTelemetryTracing(Tracing):
    """Tracing with a provider of its own: nothing global is set.

    Args:
        service_name: See :func:`model_store.tracing.interface.open_tracing`.
        processor: Takes the spans that are over.
    """

    is_on = True

    def __init__(self, service_name: str, processor: SpanProcessor) -> None:
        self._provider = TracerProvider(resource=_resource(service_name), shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("etegrec")

    def span(self, name: str, kind: Kind = "internal", traceparent: str = "") -> AbstractContextManager[Span]:
        """Begin a span."""
        return self._span(name, kind, traceparent)

    def client_span(self, name: str, system: str) -> AbstractContextManager[Span]:
        """Begin a span, unless there is none around it."""
        if self.current() is None:
            return NO_TRACING.client_span(name, system)
        return self._span(f"{system} {name}", "client", "", {"db.system.name": system, "db.operation.name": name})

    def current(self) -> object | None:
        """Return the context of the span that is under way here."""
        span = trace.get_current_span()
        return context.get_current() if span.is_recording() else None

    def add_steps(self, parent: object, steps: Sequence[TimedStep], **attributes: Value) -> None:
        """Add spans that are over; the clock of spans is the wall's."""
        if not isinstance(parent, context.Context):
            raise TypeError("the parent of steps is what Tracing.current() returned")

        since = time.time_ns() - time.monotonic_ns()
        for step in steps:
            span = self._tracer.start_span(
                step.name, context=parent, start_time=since + int(step.started * 1e9), attributes=attributes
            )
            span.end(end_time=since + int(step.ended * 1e9))

    def traceparent(self) -> str:
        """Return the header of the span that is under way here."""
        if not trace.get_current_span().is_recording():
            return ""
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier)
        return carrier.get(_HEADER, "")

    def close(self) -> None:
        """Send what is left and end the sender's thread; a collector that is away costs the spans, not the time."""
        sender = Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        sender.start()
        sender.join(LAST_SPANS_S)

    @contextmanager
    def _span(
        self, name: str, kind: Kind, traceparent: str, attributes: dict[str, Value] | None = None
    ) -> Iterator[Span]:
        caller = _PROPAGATOR.extract({_HEADER: traceparent}) if traceparent else None
        with self._tracer.start_as_current_span(
            name,
            context=caller,
            kind=_KINDS[kind],
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as started:
            span = _KeptSpan(started)
            try:
                yield span
            except BaseException as failure:
                span.fail(type(failure).__name__)
                raise


class _KeptSpan(Span):
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def set(self, name: str, value: Value) -> None:
        self._span.set_attribute(name, value)

    def fail(self, kind: str) -> None:
        self._span.set_attribute("error.type", kind)
        self._span.set_status(trace.StatusCode.ERROR)

    def link(self, traceparents: Iterable[str]) -> None:
        for traceparent in traceparents:
            linked = trace.get_current_span(_PROPAGATOR.extract({_HEADER: traceparent}, context=context.Context()))
            if linked.get_span_context().is_valid:
                self._span.add_link(linked.get_span_context())


def _check_endpoint(variable: str, value: str) -> None:
    """Raise :class:`ConfigError` if a variable is set and holds no URL of a collector."""
    try:
        address = urlsplit(value.strip())
        is_url = address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
    except ValueError:  # such as a port that is no number
        is_url = False
    if value and not is_url:
        raise ConfigError(
            f"{variable} holds no URL of a collector",
            "give it as http://HOST:4318, or https://, or unset it; see docs/OPERATIONS.md, Traces",
        )


def _resource(service_name: str) -> Resource:
    """Return what spans say of this program; a name in OpenTelemetry's variables wins."""
    is_named = SERVICE_NAME in OTELResourceDetector().detect().attributes
    return Resource.create({} if is_named else {SERVICE_NAME: service_name})
