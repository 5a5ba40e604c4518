"""The interaction event, which ``POST /events`` records, the store queues and retraining drains."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

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
"""Type of an interaction that speaks for an item."""

EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)

IMPRESSION = "impression"
"""Type of an event that says what was shown to a user. It is no interaction: histories and trends never have it."""

NEGATIVE_TYPES = ("dislike", "hide")
"""Types that speak against an item: it leaves the user's answers, and the model does not read it in the history."""

KNOWN_TYPES = (*EVENT_TYPES, IMPRESSION, *NEGATIVE_TYPES)
"""Types with a meaning of their own; every other name is a shop's own type, an interaction that speaks for an item."""

OWN_TYPE = "own"
"""Stands for all own types where they are not told apart."""

_TYPE = re.compile(r"[a-z][a-z0-9_]{0,31}")
_CURRENCY = re.compile(r"[A-Z]{3}")


def _check_type(value: str) -> str:
    if not _TYPE.fullmatch(value):
        raise ValueError(
            f"must be {', '.join(KNOWN_TYPES)}, or a name of your own: at most 32 small letters (a-z), digits and _,"
            " beginning with a letter"
        )
    return value


def _check_currency(value: str) -> str:
    if not _CURRENCY.fullmatch(value):
        raise ValueError("must be three capital letters, such as EUR")
    return value


EventName = Annotated[str, AfterValidator(_check_type), Field(json_schema_extra={"pattern": f"^{_TYPE.pattern}$"})]
"""Name of a type: one of :data:`KNOWN_TYPES` or a shop's own."""

Currency = Annotated[
    str, AfterValidator(_check_currency), Field(json_schema_extra={"pattern": f"^{_CURRENCY.pattern}$"})
]
"""Currency of a value, such as EUR."""

MAX_VALUE = 1e12
"""Largest value of an event, in either direction."""

_NAMES: dict[str, str] = {
    **{name: name for name in KNOWN_TYPES},
    "impressions": IMPRESSION,
    "thumbsdown": "dislike",
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


def event_type_of(name: str) -> str | None:
    """Return the known type that a shop's own name means, such as ``Add to cart``; ``None`` if it means none."""
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
    """Something that a user did with an item, or was shown.

    New fields stand last and may be absent: the event stream stores fields by their place.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    event_id: Id = Field(description="chosen by the client; a repeated id is recorded once")
    user_id: Id
    item_id: Id
    type: EventName = Field(
        "click",
        description="view, click, cart, purchase, rating; impression: it was shown; dislike, hide: it leaves the user's"
        " answers; or a type of your own",
    )
    timestamp: Annotated[int, AfterValidator(_check_seconds)] = Field(
        description="Unix time in seconds, at most the year 9999",
        json_schema_extra={"minimum": 0, "maximum": MAX_TIMESTAMP},
    )
    attribution: str | None = Field(
        None,
        description="the `attribution` of the answer that led to this event, as it came; one that is forged, expired or"
        " not ours is counted and ignored",
    )
    value: Annotated[float, Field(ge=-MAX_VALUE, le=MAX_VALUE, allow_inf_nan=False)] | None = Field(
        None, description="what the event was worth: money, stars, seconds; summed up by type"
    )
    currency: Currency | None = Field(None, description="currency of `value`, three capital letters such as EUR")
    session_id: Id | None = Field(None, description="session in which it happened")

    @model_validator(mode="after")
    def _check_value(self) -> Self:
        if self.currency is not None and self.value is None:
            raise ValueError("a currency needs a value: send both, or none")
        return self
