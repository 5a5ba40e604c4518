"""The endpoint that records events."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import Request

from service.http.body import parse_aside, read_body
from service.http.endpoints import Endpoint
from service.http.limits import check_events, events_bounds
from service.http.problems import problem_of
from service.schemas.events import EVENTS, ONE_EVENT, EventBody, EventsResponse
from service.schemas.types import NonEmpty
from service.service import Service


async def record_events(service: Service, request: Request) -> EventsResponse:
    """Record one event or a list of events; repeating an `event_id` records it once.

    An event without an `event_id` or a `timestamp` gets a random id and the service's time; the answer then says the
    ids and times of all events.
    """
    with _count_refusals(service):
        events = await _read_events(service, request)
        recorded = await service.recorder.record(events)

    service.telemetry.events.labels("accepted").inc(recorded.accepted)
    service.telemetry.events.labels("duplicate").inc(recorded.duplicates)
    answer: EventsResponse = {"accepted": recorded.accepted, "duplicates": recorded.duplicates}
    if not all("event_id" in event.model_fields_set for event in events):
        answer["event_ids"] = [event.event_id for event in events]
    if not all("timestamp" in event.model_fields_set for event in events):
        answer["timestamps"] = [event.timestamp for event in events]
    return answer


async def _read_events(service: Service, request: Request) -> list[EventBody]:
    body = await read_body(request, service.settings)
    bounds = events_bounds(service.settings)
    if body.lstrip()[:1] == b"[":
        events = await parse_aside(body, EVENTS, bounds)
    else:
        events = [await parse_aside(body, ONE_EVENT, bounds)]
    check_events(events, service.settings)
    return events


@contextmanager
def _count_refusals(service: Service) -> Iterator[None]:
    """Count why events were refused."""
    try:
        yield
    except Exception as failure:
        service.telemetry.events_rejected.labels(problem_of(failure).slug).inc()
        raise


ENDPOINTS = (
    Endpoint(
        "POST",
        "/events",
        record_events,
        "events",
        "events",
        problems=(400, 503),
        body=EventBody | NonEmpty[EventBody],
        max_entries="max_events",
    ),
)
