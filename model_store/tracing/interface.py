"""Tracing: what the code that is traced calls, and the tracing that does nothing.

The words are OpenTelemetry's. A *span* is a named piece of work with a start and an end. Spans of one request form a
*trace*, also across services: the header ``traceparent`` (W3C Trace Context) carries the trace and the caller's span.
A span may *link* to spans of other traces, as a training pass links to the requests whose events it trains on.

Tracing is off unless it was asked for. Then :class:`Tracing` itself is used, whose spans are one shared object, and
OpenTelemetry is not even imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, NamedTuple

Value = str | int | float | bool
"""Value of an attribute."""

Kind = Literal["internal", "server", "client", "consumer"]
"""Role of a span in a call: it answers one, makes one, reads a message, or does neither."""

MAX_LINKS = 128
"""Links of one span, as OpenTelemetry limits them by default (OTEL_SPAN_LINK_COUNT_LIMIT)."""


class Span:
    """A span that is under way; this one is not kept."""

    def rename(self, name: str) -> None:
        """Give the span another name, when only its end knows a good one."""

    def set(self, name: str, value: Value) -> None:
        """Set an attribute. No attribute may hold an id of a user, or anything else that a person sent."""

    def fail(self, kind: str) -> None:
        """Mark the work as failed, with the kind of the failure."""

    def link(self, traceparents: Iterable[str]) -> None:
        """Link to spans of other traces, by their ``traceparent``; those that are malformed are left out."""


class TimedStep(NamedTuple):
    """A step of some work that is over, in seconds of ``time.monotonic()``."""

    name: str
    started: float
    ended: float


class Tracing:
    """Tracing that is off: no call does anything.

    Attributes:
        is_on: Whether spans are kept at all.
    """

    is_on = False

    def span(self, name: str, kind: Kind = "internal", traceparent: str = "") -> AbstractContextManager[Span]:
        """Return a span for a ``with`` block. Spans that begin inside it are its children.

        An exception that leaves the block marks it as failed, by the exception's class: messages may hold what a client
        sent.

        Args:
            name: One of few names; details are attributes.
            kind: Role in a call.
            traceparent: Span of the caller, as a header names it. Default: the span around this one, if there is one.
        """
        return _NO_SPAN

    def client_span(self, name: str, system: str) -> AbstractContextManager[Span]:
        """Return a span for a call of a database, if there is a span around it; background work is not traced.

        Args:
            name: Operation.
            system: Name of the database system.
        """
        return _NO_SPAN

    def current(self) -> object | None:
        """Return the span that is under way here if it is kept, for :meth:`add_steps`; ``None`` otherwise."""
        return None

    def add_steps(self, parent: object, steps: Sequence[TimedStep], **attributes: Value) -> None:
        """Add steps that are over as children of a span that :meth:`current` returned, from any thread."""

    def traceparent(self) -> str:
        """Return the span that is under way here as the header says it; empty if it is not kept."""
        return ""

    def close(self) -> None:
        """Send what was not sent yet, for a few seconds at most. Blocks."""


_NO_SPAN = nullcontext(Span())

NO_TRACING = Tracing()
"""Tracing that is off."""


@contextmanager
def opened_tracing(service_name: str, *, is_on: bool) -> Iterator[Tracing]:
    """Yield tracing for the time of a command, and send what is left at its end.

    Args:
        service_name: See :func:`open_tracing`.
        is_on: False: nothing is traced.
    """
    tracing = open_tracing(service_name, is_on=is_on)
    try:
        yield tracing
    finally:
        tracing.close()


def open_tracing(service_name: str, *, is_on: bool) -> Tracing:
    """Return tracing by OpenTelemetry, or none.

    Args:
        service_name: Name of this program in traces, unless ``OTEL_SERVICE_NAME`` or ``OTEL_RESOURCE_ATTRIBUTES`` says
            another one.
        is_on: False: nothing is traced.

    Raises:
        ConfigError: OpenTelemetry is not installed, or its variables are wrong.
    """
    if not is_on:
        return NO_TRACING

    from model_store.tracing.open_telemetry import open_otlp

    return open_otlp(service_name)
