"""The endpoints: read, check, ask the parts, write JSON. No logic of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from model_store.events.event import Event
from service.answers.explanations import explanation_documents
from service.async_tasks import all_of
from service.errors import ClientGone, NotReady, problem_of_status
from service.http import browse_routes, item_routes, user_routes
from service.http.body import parse_aside
from service.http.endpoints import Endpoint, Handler, body_of, check_key, json_answer
from service.http.limits import check_events, check_request, check_requests
from service.http.middleware import Direct, problem_response
from service.http.openapi import Documented, documented
from service.recommender import Recommendation
from service.schemas.recommend import Events, RecommendRequest, Requests
from service.service import Service

T = TypeVar("T")

WATCHED_AFTER_S = 0.005
"""Requests that take longer are given up when their client leaves. Most refusals are sooner and save the watching."""


def add_routes(app: FastAPI, service: Service) -> None:
    """Register every endpoint, and the handler of the framework's own errors."""
    own = [
        Endpoint("POST", "/recommend", recommend),
        Endpoint("POST", "/recommend/batch", recommend_batch),
        Endpoint("POST", "/events", record_events),
        Endpoint("GET", "/model", show_model),
        Endpoint("GET", "/health/live", live),
        Endpoint("GET", "/health/ready", ready),
        Endpoint("GET", "/metrics", metrics),
    ]
    for method, path, handler in (*own, *user_routes.ENDPOINTS, *browse_routes.ENDPOINTS, *item_routes.ENDPOINTS):
        docs: Documented = documented(method, path, handler.__doc__ or "")
        app.add_api_route(path, _bound(handler, service), methods=[method], name=handler.__name__, **docs)
    app.add_exception_handler(HTTPException, _framework_problem)


def direct_routes(service: Service) -> Direct:
    """The endpoints that are asked thousands of times a second; :func:`add_routes` describes them."""
    hot = [("/recommend", recommend), ("/recommend/batch", recommend_batch), ("/events", record_events)]
    return {("POST", path): _bound(handler, service) for path, handler in hot}


async def recommend(service: Service, request: Request) -> Response:
    """Recommend items to one user, by inline or stored history."""
    check_key(service, request, write=False)
    body = await body_of(service, request)
    asked = await parse_aside(body, partial(RecommendRequest.model_validate_json, strict=True))
    check_request(asked, service.settings)
    answer = await _unless_gone(request, service.recommender.recommend(asked))
    explanations = await _explanations(service, answer)
    return json_answer(_document(answer, request.state.request_id, explanations))


async def recommend_batch(service: Service, request: Request) -> Response:
    """Answer a list of requests with a list of answers in the same order; the first problem answers for all."""
    check_key(service, request, write=False)
    asked = await parse_aside(await body_of(service, request), partial(Requests.validate_json, strict=True))
    check_requests(asked, service.settings)
    answers = await _unless_gone(request, all_of([service.recommender.recommend(each) for each in asked]))
    return json_answer([_document(answer, request.state.request_id) for answer in answers])


async def record_events(service: Service, request: Request) -> Response:
    """Record one event or a list of events; repeating an `event_id` records it once."""
    check_key(service, request, write=True)
    with service.telemetry.counting_refused_events():
        events = await _events_of(service, request)
        recorded = await service.store_client.store.record(events)
    service.telemetry.events.labels("accepted").inc(recorded.accepted)
    service.telemetry.events.labels("duplicate").inc(recorded.duplicates)
    return json_answer({"accepted": recorded.accepted, "duplicates": recorded.duplicates})


async def _events_of(service: Service, request: Request) -> list[Event]:
    body = await body_of(service, request)
    if body.lstrip()[:1] == b"[":
        events = await parse_aside(body, partial(Events.validate_json, strict=True))
    else:
        events = [await parse_aside(body, partial(Event.model_validate_json, strict=True))]
    check_events(events, service.settings)
    return events


async def show_model(service: Service, request: Request) -> Response:
    """The manifest of the model that answers, its metrics included."""
    check_key(service, request, write=False)
    model = service.models.current
    if model is None:
        raise NotReady(service.models.problem)
    described = {"engine": model.engine.name, "items": len(model.catalogue)}
    return json_answer(model.manifest.model_dump(mode="json") | described)


async def live(_: Service, __: Request) -> Response:
    """200 as long as the process runs its event loop."""
    return json_answer({"status": "live"})


async def ready(service: Service, _: Request) -> Response:
    """200 while requests should be sent here, else 503 with the reason."""
    if service.unready_because:
        raise NotReady(service.unready_because)
    model = service.models.current
    return json_answer(
        {
            "status": "ready",
            "model_version": model.version if model else "",
            "live_store": "up" if service.store_client.is_up else "away",
            "problem": service.models.problem,
        }
    )


async def metrics(service: Service, _: Request) -> Response:
    """Prometheus metrics."""
    return Response(service.telemetry.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _bound(handler: Handler, service: Service) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return await handler(service, request)

    return endpoint


async def _framework_problem(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    headers = error.headers
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers = {"Allow": ", ".join(_methods_of(request))}
    return problem_response(problem_of_status(error.status_code, headers), request.state.request_id)


def _methods_of(request: Request) -> list[str]:
    """All methods of a path: the framework names those of its first route only."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    path = request.scope["path"]
    return sorted({method for route in routes if route.path_regex.match(path) for method in route.methods or ()})


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run the work, but give it up when the client closes its connection."""
    here, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert here is not None
    gone: asyncio.Future[Any] | None = None
    is_over = False

    def watch() -> None:
        nonlocal gone
        gone = asyncio.ensure_future(request.receive())  # the body is read: the next message is the disconnection
        gone.add_done_callback(lambda _: is_over or here.cancel())

    timer = loop.call_later(WATCHED_AFTER_S, watch)
    try:
        return await work
    except asyncio.CancelledError:
        if gone is None or not gone.done() or here.uncancel():
            raise
        raise ClientGone("the client closed the connection") from None
    finally:
        is_over = True
        timer.cancel()
        if gone is not None:
            gone.cancel()


async def _explanations(service: Service, answer: Recommendation) -> list[dict[str, object]] | None:
    if answer.explanations is None:
        return None
    work = partial(explanation_documents, answer.model.catalogue, answer.found.rows, answer.explanations)
    return await service.lookups.run(work)


def _document(
    answer: Recommendation, request_id: str, explanations: list[dict[str, object]] | None = None
) -> dict[str, object]:
    catalogue = answer.model.catalogue
    rows = answer.found.rows.tolist()
    items = [
        {
            "item_id": catalogue.item_ids[row],
            "score": score,
            "log_prob": log_prob,
            "codes": codes,
            "title": catalogue.titles[row] or None,
        }
        for row, score, log_prob, codes in zip(
            rows,
            answer.found.score.tolist(),
            answer.found.log_prob.tolist(),
            catalogue.codes[rows].tolist() if rows else [],
            strict=True,
        )
    ]
    if explanations is not None:
        items = [item | {"explanation": why} for item, why in zip(items, explanations, strict=True)]
    return {
        "request_id": request_id,
        "model_version": answer.model.version,
        "served_by": answer.served_by,
        "degraded": answer.is_degraded,
        "took_ms": round(answer.took_ms, 3),
        "unknown_items": answer.unknown_items,
        "items": items,
    }
