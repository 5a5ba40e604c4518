"""Events of users, and what is stored of a user."""

from typing import NotRequired, Required, TypedDict

from etegrec_client.types.fields import Id


class Event(TypedDict, total=False):
    """One interaction of a user with an item. The client makes the `event_id`, so that it can safely repeat itself."""

    event_id: Id
    user_id: Required[Id]
    item_id: Required[Id]
    type: str
    timestamp: int | str
    attribution: str | None
    value: float | None
    currency: str | None
    session_id: Id | None


class EventsResponse(TypedDict):
    """Result of recording events."""

    accepted: int
    duplicates: int
    event_ids: NotRequired[list[str]]
    timestamps: NotRequired[list[int]]


class StoredInteraction(TypedDict):
    """One interaction of a user's stored history."""

    item_id: str
    type: str | None
    timestamp: int | None


class RecentAnswer(TypedDict):
    """One answer that was noted as shown to a user."""

    timestamp: int
    items: list[str]


class UserResponse(TypedDict):
    """Stored history of a user."""

    user_id: str
    count: int
    history: list[str]
    interactions: list[StoredInteraction]
    newest_event_at: int | None
    recent_answers: list[RecentAnswer]


class ForgottenResponse(TypedDict):
    """Amount of data that was erased of a user."""

    history: int
    events: int
