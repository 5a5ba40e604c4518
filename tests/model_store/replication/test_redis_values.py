"""Bytes of the store: every damage is noticed, nothing is guessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.errors import StoreCorrupt
from model_store.events.event import Event
from model_store.replication import redis_values


def test_events_round_trip_and_noise_is_refused() -> None:
    event = Event(event_id="e", user_id="ü", item_id="i", timestamp=1)
    assert redis_values.decode_event(redis_values.encode_event(event)) == event
    for noise in (None, b"", b"{}", b"\xff", redis_values.encode_event(event)[:-1]):
        with pytest.raises(StoreCorrupt):
            redis_values.decode_event(noise)


def test_new_fields_stand_behind_those_that_earlier_releases_know() -> None:
    plain = Event(event_id="e", user_id="u", item_id="i", timestamp=1)
    assert redis_values.encode_event(plain) == b'["e","u","i","click",1]'
    whole = plain.model_copy(update={"attribution": "token", "value": 2.5, "currency": "EUR", "session_id": "s"})
    some = plain.model_copy(update={"value": 3.0})
    for event in (whole, some):
        assert redis_values.decode_event(redis_values.encode_event(event)) == event
    with pytest.raises(StoreCorrupt):
        redis_values.decode_event(b'["e","u","i","click"]')


def test_places_are_read_from_entry_ids() -> None:
    assert redis_values.decode_entry_id(b"17-0") == (17, 0)
    assert redis_values.decode_entry_id(b"17-9007199254740991") == (17, 2**53 - 1)
    for noise in (b"17", b"17-x", b"0-0", b"-1-0", b"x", b"\xff-0", b"17-0\n", b"1" * 17 + b"-0"):
        with pytest.raises(StoreCorrupt):
            redis_values.decode_entry_id(noise)


@given(st.integers(1, 2**53 - 1), st.integers(1, 2**53 - 1), st.integers(0, 2**53 - 1), st.binary(max_size=50))
def test_latest_changes_round_trip(first: int, revision: int, nonce: int, payload: bytes) -> None:
    entry = redis_values.LatestEntry(first, revision, nonce, b"put", payload)
    assert redis_values.decode_latest(redis_values.encode_latest(entry)) == entry


@given(st.binary(max_size=50))
def test_noise_is_no_latest_change(noise: bytes) -> None:
    with pytest.raises(StoreCorrupt):
        redis_values.decode_latest(b"x" + noise)
