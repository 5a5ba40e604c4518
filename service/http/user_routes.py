"""What is stored of a user: seeing it and forgetting it. Both need a write key, since a history is personal data."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from service.http.endpoints import Endpoint, check_key, id_of, json_answer
from service.service import Service


async def show_user(service: Service, request: Request) -> Response:
    """The stored history of a user and when the newest event was; empty if nothing is stored. Needs a write key."""
    check_key(service, request, write=True)
    user_id = id_of(request, "user_id")
    history = await service.store_client.store.history(user_id)
    newest = await service.store_client.store.newest_event(user_id)
    return json_answer({"user_id": user_id, "count": len(history), "history": history, "newest_event_at": newest})


async def forget_user(service: Service, request: Request) -> Response:
    """Erase a user's history, and the user's events that training has not drained yet; repeat it after an error."""
    check_key(service, request, write=True)
    forgotten = await service.store_client.store.forget(id_of(request, "user_id"))
    return json_answer({"history": forgotten.history, "events": forgotten.events})


ENDPOINTS = (
    Endpoint("GET", "/users/{user_id:id}", show_user),
    Endpoint("DELETE", "/users/{user_id:id}", forget_user),
)
