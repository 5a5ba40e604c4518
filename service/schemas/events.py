"""Events as clients send them to ``POST /events``, and the answer.

What a client leaves out, the service makes: a random id, and its own time. Either way an :class:`EventBody` is a whole
event, as the store records it.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema, PydanticCustomError, core_schema
from typing_extensions import TypedDict

from model_store.events.event import MAX_TIMESTAMP, Event, parse_moment
from model_store.random_bytes import RandomBytes
from service.schemas.ids import ShortId
from service.schemas.types import Listed

_EVENT_IDS = RandomBytes(16)

TIME_ERROR = "invalid_time"
"""Type of the validation error for what is no time."""

TIME_RULE = (
    f"must be Unix time in seconds, an integer of 0 to {MAX_TIMESTAMP} (not milliseconds), or text in ISO 8601 such as "
    "2026-01-05T10:00:00Z, which is UTC unless it has an offset"
)
"""The rule, as errors say it."""


def _check_seconds(value: int) -> int:
    if not 0 <= value <= MAX_TIMESTAMP:
        raise PydanticCustomError(TIME_ERROR, TIME_RULE)
    return value


def _parse_iso(text: str) -> int:
    """Return the Unix time, in whole seconds, of a date or a time in ISO 8601."""
    try:
        return int(parse_moment(text).timestamp() // 1)
    except ValueError:
        raise PydanticCustomError(TIME_ERROR, TIME_RULE) from None


class _Time:
    """Annotation of a time: Unix seconds, or text in ISO 8601."""

    def __get_pydantic_core_schema__(self, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        text = core_schema.str_schema(min_length=8, max_length=40, strict=True)
        either = core_schema.union_schema(
            [core_schema.int_schema(strict=True), core_schema.no_info_after_validator_function(_parse_iso, text)],
            mode="left_to_right",
            custom_error_type=TIME_ERROR,
            custom_error_message=TIME_RULE,
        )
        return core_schema.no_info_after_validator_function(_check_seconds, either)

    def __get_pydantic_json_schema__(self, _: CoreSchema, __: GetJsonSchemaHandler) -> dict[str, Any]:
        seconds = {"type": "integer", "minimum": 0, "maximum": MAX_TIMESTAMP}
        return {"anyOf": [seconds, {"type": "string", "format": "date-time"}]}


Moment = Annotated[int, _Time()]
"""A time in a body, as Unix seconds."""


def new_event_id() -> str:
    """Return a new, random event id."""
    return _EVENT_IDS.take().hex()


def _now() -> int:
    return int(time.time())


class EventBody(Event):
    """One interaction of a user with an item, as clients send it."""

    model_config = ConfigDict(strict=True)

    event_id: ShortId = Field(
        default_factory=new_event_id,
        description="chosen by the client, so that a repeated event is recorded once; made by the service if left out: "
        "then a repeated request counts twice",
    )
    user_id: ShortId
    item_id: ShortId
    timestamp: Moment = Field(
        default_factory=_now,
        description="Unix time in seconds, or text in ISO 8601, which is UTC unless it has an offset; "
        "the service's time if left out",
    )
    session_id: ShortId | None = Field(None, description="session in which it happened")


ONE_EVENT: TypeAdapter[EventBody] = TypeAdapter(EventBody)
"""Body of `POST /events` that is a single event."""

EVENTS: TypeAdapter[list[EventBody]] = TypeAdapter(Listed[EventBody])
"""Body of `POST /events` that is a list."""


class EventsResponse(TypedDict):
    """Answer of `POST /events`, sent once the events are stored safely."""

    accepted: int
    duplicates: Annotated[int, Field(description="events whose id was recorded before")]
    event_ids: NotRequired[
        Annotated[list[str], Field(description="of all events, in the order of the request, if the service made any")]
    ]
    timestamps: NotRequired[
        Annotated[list[int], Field(description="Unix times of all events, likewise, if the service made any")]
    ]
