"""The endpoint that shows what answers led to."""

from __future__ import annotations

import time

from starlette.requests import Request

from model_store.attribution.counters import days_until
from service.http.endpoints import Endpoint, read_query
from service.schemas.attribution import AttributionQuery, AttributionResponse, build_attribution_response
from service.service import Service


async def get_attribution(service: Service, request: Request) -> AttributionResponse:
    """Show what answers led to: events and their value, by day of the answer, model version and placement.

    Answers are counted about a second after they were given.
    """
    query = read_query(request, AttributionQuery)
    days = days_until(int(time.time()), query.days)
    counters = service.store_client.store.counters
    return build_attribution_response(days, await counters.read(days), await counters.names())


ENDPOINTS = (
    Endpoint("GET", "/attribution", get_attribution, "admin", "operation", problems=(422, 503), query=AttributionQuery),
)
