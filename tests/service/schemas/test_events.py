"""Events as clients send them: what is left out is made, and times come as Unix seconds or as ISO 8601."""

from __future__ import annotations

import json
import time

import pytest
from pydantic import ValidationError

from model_store.events.event import MAX_TIMESTAMP, Event
from service.schemas.events import EVENTS, ONE_EVENT, TIME_RULE

BARE = {"user_id": "u", "item_id": "i"}


def read_time(value: object) -> int:
    return ONE_EVENT.validate_json(json.dumps({**BARE, "timestamp": value}), strict=True).timestamp


def test_an_id_and_a_time_are_made() -> None:
    before = int(time.time())
    events = EVENTS.validate_json(json.dumps([BARE] * 100), strict=True)
    assert len({event.event_id for event in events}) == 100
    assert all(len(event.event_id) == 32 and before <= event.timestamp <= time.time() for event in events)
    assert Event.model_validate(events[0].model_dump()).model_dump() == events[0].model_dump()


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (0, 0),
        (MAX_TIMESTAMP, MAX_TIMESTAMP),
        ("1970-01-01T00:00:10Z", 10),
        ("1970-01-01T01:00:10+01:00", 10),
        ("1970-01-01T00:00:10", 10),  # UTC
        ("1970-01-01 00:00:10.900", 10),
        ("1970-01-02", 86_400),
        ("2026-01-05T10:00:00Z", 1_767_607_200),
        ("9999-12-31T23:59:59Z", MAX_TIMESTAMP),
    ],
)
def test_times_are_unix_seconds_or_iso(given: int | str, seconds: int) -> None:
    assert read_time(given) == seconds


@pytest.mark.parametrize(
    "given",
    [
        -1,
        MAX_TIMESTAMP + 1,
        1.5,
        True,
        None,
        "",
        "soon",
        "1764316800",
        "1969-12-31T23:59:59Z",
        "9999-12-31T23:59:59-01:00",
    ],
)
def test_other_times_are_refused_with_the_rule(given: object) -> None:
    with pytest.raises(ValidationError) as refused:
        read_time(given)
    assert [(each["loc"], each["msg"]) for each in refused.value.errors()] == [(("timestamp",), TIME_RULE)]
