"""The endpoints that show what answers led to: by version and placement, and by code of the items."""

from __future__ import annotations

import time
from functools import partial

from starlette.requests import Request

from model_store.attribution.counters import days_until
from model_store.events.counts import codes_of_day
from service.answers.code_interest import build_code_attribution
from service.http.endpoints import Endpoint, read_query
from service.schemas.attribution import (
    AttributionQuery,
    AttributionResponse,
    CodeAttributionResponse,
    build_attribution_response,
)
from service.service import Service


async def get_attribution(service: Service, request: Request) -> AttributionResponse:
    """Show what answers led to: events and their value, by day of the answer, model version and placement.

    Answers are counted about a second after they were given.
    """
    query = read_query(request, AttributionQuery)
    days = days_until(int(time.time()), query.days)
    counters = service.store_client.store.counters
    return build_attribution_response(days, await counters.read(days), await counters.names())


async def get_code_attribution(service: Service, request: Request) -> CodeAttributionResponse:
    """Show what the live version's answers showed and what was clicked, by first code of the items, and their drift.

    Drift compares the codes of recent events, whatever led to them, with those of the interactions in training. Items
    of answers are counted about half a minute after they were given, clicks at once.
    """
    query = read_query(request, AttributionQuery)
    with service.models.lease() as serving:
        model = serving.model
        days = [codes_of_day(day) for day in days_until(int(time.time()), query.days)]
        counters = await service.store_client.store.counters.read(days)
        events = await service.trends.popular_counts(model.catalogue)
        return await service.lookups.run(partial(build_code_attribution, model, query.days, counters, events))


ENDPOINTS = (
    Endpoint(
        "GET",
        "/attribution/codes",
        get_code_attribution,
        "admin",
        "operation",
        problems=(422, 503),
        query=AttributionQuery,
    ),
    Endpoint("GET", "/attribution", get_attribution, "admin", "operation", problems=(422, 503), query=AttributionQuery),
)
