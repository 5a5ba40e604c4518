"""Answers about a user: the stored history, and what was erased."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from model_store.events.history_entry import TYPES, UNTIMED
from model_store.replication.redis_values import HistoryEntry
from service.store.shown_answers import ShownAnswer


class StoredInteraction(TypedDict):
    """One interaction of a user's stored history."""

    item_id: str
    type: Annotated[
        str | None, Field(description='type of the event, "own" for one of your own types; null if it is not known')
    ]
    timestamp: Annotated[int | None, Field(description="Unix time of the event; null if it is not known")]


class RecentAnswer(TypedDict):
    """One answer that was noted as shown to a user."""

    timestamp: Annotated[int, Field(description="Unix time of the answer")]
    items: Annotated[list[str], Field(description="ids, best first")]


class UserResponse(TypedDict):
    """Answer of `GET /users/{user_id}`."""

    user_id: str
    count: int
    history: Annotated[list[str], Field(description="item ids, oldest first")]
    interactions: Annotated[list[StoredInteraction], Field(description="the same in full")]
    newest_event_at: Annotated[int | None, Field(description="Unix time of the newest event; null if none is known")]
    recent_answers: Annotated[
        list[RecentAnswer],
        Field(description="answers to requests with `exclude_shown`, oldest first; no others are kept"),
    ]


def build_user_response(user_id: str, entries: Sequence[HistoryEntry], answers: Sequence[ShownAnswer]) -> UserResponse:
    """Return what is shown of a user with this history and these noted answers, oldest first."""
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
        "recent_answers": [{"timestamp": each.shown_at // 1_000_000, "items": list(each.item_ids)} for each in answers],
    }


class ForgottenResponse(TypedDict):
    """Answer of `DELETE /users/{user_id}`, sent once everything is erased."""

    history: Annotated[int, Field(description="interactions erased from the history")]
    events: Annotated[int, Field(description="recorded events erased before training saw them")]
