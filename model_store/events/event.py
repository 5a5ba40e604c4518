"""The interaction event, which ``POST /events`` records, the store queues and retraining drains."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from model_store.catalogue.catalogue import ID_BYTES


def _check_size(value: str) -> str:
    try:
        size = len(value.encode())
    except UnicodeEncodeError as cause:
        raise ValueError("must be valid Unicode, without lone surrogates") from cause
    if not 1 <= size <= ID_BYTES:
        raise ValueError(f"must be 1 to {ID_BYTES} bytes long in UTF-8")
    return value


Id = Annotated[str, AfterValidator(_check_size)]
"""An item, user or event id."""


EventType = Literal["view", "click", "cart", "purchase", "rating"]
"""Type of an event."""

EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)

_NAMES: dict[str, EventType] = {
    **{name: name for name in EVENT_TYPES},
    "impression": "view",
    "pageview": "view",
    "addtocart": "cart",
    "basket": "cart",
    "buy": "purchase",
    "order": "purchase",
    "transaction": "purchase",
    "review": "rating",
}

MAX_TIMESTAMP = 253_402_300_799
"""End of the year 9999 in Unix seconds."""


def event_type_of(name: str) -> EventType | None:
    """Return the type that a shop's own name means, such as ``Add to cart``; ``None`` if it is none of those known."""
    return _NAMES.get(name.lower().replace(" ", "").replace("_", "").replace("-", ""))


def parse_moment(text: str) -> datetime:
    """Return the moment that a date or a time in ISO 8601 means; it is UTC unless it has an offset.

    Raises:
        ValueError: It is neither.
    """
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _check_seconds(value: int) -> int:
    if not 0 <= value <= MAX_TIMESTAMP:
        raise ValueError(f"must be Unix time in seconds, not milliseconds: 0 to {MAX_TIMESTAMP}")
    return value


class Event(BaseModel):
    """One interaction of a user with an item."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    event_id: Id = Field(description="chosen by the client; a repeated id is recorded once")
    user_id: Id
    item_id: Id
    type: EventType = "click"
    timestamp: Annotated[int, AfterValidator(_check_seconds)] = Field(
        description="Unix time in seconds, at most the year 9999",
        json_schema_extra={"minimum": 0, "maximum": MAX_TIMESTAMP},
    )
