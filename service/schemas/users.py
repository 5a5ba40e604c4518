"""Answers about a user: the stored history, and what was erased."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from model_store.events.event import EventType
from model_store.events.history_entry import TYPES, UNTIMED
from model_store.replication.redis_schema import HistoryEntry


class StoredInteraction(TypedDict):
    """One interaction of a user's stored history."""

    item_id: str
    type: Annotated[EventType | None, Field(description="type of the event; null if it is not known")]
    timestamp: Annotated[int | None, Field(description="Unix time of the event; null if it is not known")]


class UserResponse(TypedDict):
    """Answer of `GET /users/{user_id}`."""

    user_id: str
    count: int
    history: Annotated[list[str], Field(description="item ids, oldest first")]
    interactions: Annotated[list[StoredInteraction], Field(description="the same in full")]
    newest_event_at: Annotated[int | None, Field(description="Unix time of the newest event; null if none is known")]


def build_user_response(user_id: str, entries: Sequence[HistoryEntry]) -> UserResponse:
    """Return what is shown of a user with this history, oldest first."""
    return {
        "user_id": user_id,
        "count": len(entries),
        "history": [each.item_id for each in entries],
        "interactions": [
            {
                "item_id": each.item_id,
                "type": TYPES.get(each.letter),
                "timestamp": None if each.letter == ord(UNTIMED) else each.timestamp or None,
            }
            for each in entries
        ],
        "newest_event_at": entries[-1].timestamp or None if entries else None,
    }


class ForgottenResponse(TypedDict):
    """Answer of `DELETE /users/{user_id}`, sent once everything is erased."""

    history: Annotated[int, Field(description="interactions erased from the history")]
    events: Annotated[int, Field(description="recorded events erased before training saw them")]
