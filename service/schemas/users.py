"""Answers about a user: the stored history, and what was erased."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict


class UserResponse(TypedDict):
    """Answer of `GET /users/{user_id}`."""

    user_id: str
    count: int
    history: Annotated[list[str], Field(description="item ids, oldest first")]
    newest_event_at: Annotated[int | None, Field(description="Unix time of the newest event; null if none is known")]


class ForgottenResponse(TypedDict):
    """Answer of `DELETE /users/{user_id}`, sent once everything is erased."""

    history: Annotated[int, Field(description="item ids erased")]
    events: Annotated[int, Field(description="recorded events erased before training saw them")]
