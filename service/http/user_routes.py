"""Endpoints for the stored data of a user: show it, erase it. Both need the scope admin: it is personal data."""

from __future__ import annotations

from starlette.requests import Request

from model_store.errors import StoreError
from service.http.endpoints import Endpoint, read_id
from service.schemas.users import ForgottenResponse, UserResponse, build_user_response
from service.service import Service
from service.store.shown_answers import Subject


async def get_user(service: Service, request: Request) -> UserResponse:
    """Show a user's stored history, the time of the newest event, and recent answers as far as they are noted.

    Noted are answers to requests with `exclude_shown`, for a week. All is empty if nothing is stored.
    """
    user_id = read_id(request, "user_id")
    store = service.store_client.store
    with service.store_client.traced("entries"):
        entries = await store.entries(user_id)
    with service.store_client.traced("shown"):
        [shown] = await store.shown([Subject("user", user_id)])
    if isinstance(shown, StoreError):
        raise shown
    return build_user_response(user_id, entries, shown)


async def delete_user(service: Service, request: Request) -> ForgottenResponse:
    """Erase a user's history, what the user was shown, and events that training has not drained.

    Repeat it after an error.
    """
    user_id = read_id(request, "user_id")
    service.recent_users.forget(user_id)
    await service.shown.forget(user_id)
    with service.store_client.traced("forget"):
        forgotten = await service.store_client.store.forget(user_id)
    return {"history": forgotten.history, "events": forgotten.events}


ENDPOINTS = (
    Endpoint("GET", "/users/{user_id:id}", get_user, "admin", "users", problems=(404, 422, 503)),
    Endpoint("DELETE", "/users/{user_id:id}", delete_user, "admin", "users", problems=(404, 422, 503)),
)
