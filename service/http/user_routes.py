"""Endpoints for the stored data of a user: show it, erase it. Both need the scope admin: it is personal data."""

from __future__ import annotations

from starlette.requests import Request

from service.http.endpoints import Endpoint, read_id
from service.schemas.users import ForgottenResponse, UserResponse, build_user_response
from service.service import Service


async def get_user(service: Service, request: Request) -> UserResponse:
    """Show a user's stored history and the time of the newest event; empty if nothing is stored."""
    user_id = read_id(request, "user_id")
    return build_user_response(user_id, await service.store_client.store.entries(user_id))


async def delete_user(service: Service, request: Request) -> ForgottenResponse:
    """Erase a user's history, and the user's events that training has not drained yet; repeat it after an error."""
    forgotten = await service.store_client.store.forget(read_id(request, "user_id"))
    return {"history": forgotten.history, "events": forgotten.events}


ENDPOINTS = (
    Endpoint("GET", "/users/{user_id:id}", get_user, "admin", "users", problems=(404, 422, 503)),
    Endpoint("DELETE", "/users/{user_id:id}", delete_user, "admin", "users", problems=(404, 422, 503)),
)
