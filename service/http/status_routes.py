"""Endpoints for operators: the model that answers, liveness, readiness, metrics."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request

from service.errors import NotReady
from service.http.endpoints import Endpoint
from service.schemas.types import JsonObject, PlainText
from service.service import Service


async def get_model(service: Service, request: Request) -> JsonObject:
    """Show the manifest of the model that answers, its metrics included."""
    model = service.models.current
    if model is None:
        raise NotReady(service.models.problem)

    manifest: JsonObject = model.manifest.model_dump(mode="json")
    return manifest | {"engine": model.engine.name, "items": len(model.catalogue)}


async def health_live(service: Service, request: Request) -> JsonObject:
    """Answer 200 as long as the process runs its event loop."""
    return {"status": "live"}


async def health_ready(service: Service, request: Request) -> JsonObject:
    """Answer 200 while requests should be sent here, else 503 with the reason."""
    if service.unready_reason:
        raise NotReady(service.unready_reason)

    model = service.models.current
    return {
        "status": "ready",
        "model_version": model.version if model else "",
        "live_store": service.store_client.status,
        "live_store_problem": service.store_client.refusal,
        "problem": service.problem,
    }


async def metrics(service: Service, request: Request) -> PlainText:
    """Return Prometheus metrics."""
    return service.telemetry.render()


ENDPOINTS = (
    Endpoint("GET", "/model", get_model, "read", "operation", problems=(503,)),
    Endpoint("GET", "/health/live", health_live, "open", "operation"),
    Endpoint("GET", "/health/ready", health_ready, "open", "operation", problems=(503,)),
    Endpoint("GET", "/metrics", metrics, "open", "operation", answer_media=CONTENT_TYPE_LATEST),
)
