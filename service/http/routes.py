"""All endpoints in one list, and how the app finds them: by the framework's routing, or directly."""

from __future__ import annotations

import inspect
from http import HTTPStatus

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from service.http import (
    attribution_routes,
    browse_routes,
    event_routes,
    experiment_routes,
    item_routes,
    model_routes,
    placement_routes,
    preview_routes,
    recommend_routes,
    status_routes,
    user_routes,
)
from service.http.middleware import DirectHandlers
from service.http.problems import problem_of_status
from service.service import Service

HOT_ENDPOINTS = (*recommend_routes.ENDPOINTS, *event_routes.ENDPOINTS)
"""Endpoints that are asked thousands of times a second; their paths hold no parameters."""

ENDPOINTS = (
    *HOT_ENDPOINTS,
    *status_routes.ENDPOINTS,
    *model_routes.ENDPOINTS,
    *attribution_routes.ENDPOINTS,
    *user_routes.ENDPOINTS,
    *preview_routes.ENDPOINTS,
    *placement_routes.ENDPOINTS,
    *experiment_routes.ENDPOINTS,
    *browse_routes.ENDPOINTS,
    *item_routes.ENDPOINTS,
)
"""All endpoints, in the order in which they are matched."""


def add_routes(app: FastAPI, service: Service) -> None:
    """Register every endpoint, and the handler of the framework's own errors."""
    for endpoint in ENDPOINTS:
        app.add_api_route(
            endpoint.path,
            endpoint.bind(service),
            methods=[endpoint.method],
            name=endpoint.operation_id,
            operation_id=endpoint.operation_id,
            tags=[endpoint.tag],
            description=inspect.getdoc(endpoint.handler) or "",
            response_model=None,
        )
    app.add_exception_handler(HTTPException, _answer_framework_error)


def direct_routes(service: Service) -> DirectHandlers:
    """Return the handlers of hot endpoints by method and path."""
    return {(endpoint.method, endpoint.path): endpoint.bind(service) for endpoint in HOT_ENDPOINTS}


async def _answer_framework_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error

    headers = error.headers
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers = {"Allow": ", ".join(_methods_of(request))}
    return problem_of_status(error.status_code, headers).response(request.state.request_id)


def _methods_of(request: Request) -> list[str]:
    """Return all methods of a path: the framework names those of its first route only."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    path = request.scope["path"]
    methods = {method for route in routes if route.path_regex.match(path) for method in route.methods or ()}
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)
