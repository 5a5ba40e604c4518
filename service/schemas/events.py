"""Events as clients send them to ``POST /events``, and the answer."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from model_store.events.event import Event
from service.schemas.types import Listed

ONE_EVENT: TypeAdapter[Event] = TypeAdapter(Event)
"""Body of `POST /events` that is a single event."""

EVENTS: TypeAdapter[list[Event]] = TypeAdapter(Listed[Event])
"""Body of `POST /events` that is a list."""


class EventsResponse(TypedDict):
    """Answer of `POST /events`, sent once the events are stored safely."""

    accepted: int
    duplicates: Annotated[int, Field(description="events whose id was recorded before")]
