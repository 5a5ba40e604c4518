"""Tracing that tests can look at: OpenTelemetry's own exporter into memory, each span as soon as it is over."""

from __future__ import annotations

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from model_store.tracing.open_telemetry import OpenTelemetryTracing

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
"""Header of a caller that keeps its trace; the example of the W3C recommendation."""

CALLER_TRACE = int("4bf92f3577b34da6a3ce929d0e0e4736", 16)
CALLER_SPAN = int("00f067aa0ba902b7", 16)


class KeptTraces:
    """Tracing that keeps spans in memory.

    Attributes:
        tracing: What the code under test is given.
    """

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracing = OpenTelemetryTracing("tests", SimpleSpanProcessor(self._exporter))

    @property
    def spans(self) -> list[ReadableSpan]:
        """Spans that are over, in the order of their ends."""
        return list(self._exporter.get_finished_spans())

    @property
    def names(self) -> list[str]:
        """Names of these spans."""
        return [span.name for span in self.spans]

    def span(self, name: str) -> ReadableSpan:
        """Return the one span of a name; fail the test if there is none, or more."""
        [found] = [span for span in self.spans if span.name == name]
        return found

    def parent_of(self, name: str) -> str:
        """Return the name of the span that a span is the child of."""
        parent = self.span(name).parent
        assert parent is not None
        [found] = [span.name for span in self.spans if span.context.span_id == parent.span_id]
        return found


def attributes(span: ReadableSpan) -> dict[str, object]:
    """Return the attributes of a span."""
    return dict(span.attributes or {})
