"""Bytes of the store: every damage is noticed, nothing is guessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.errors import StoreCorrupt
from model_store.events.event import Event
from model_store.replication import redis_schema
from model_store.replication.redis_errors import redis_place


def test_events_round_trip_and_noise_is_refused() -> None:
    event = Event(event_id="e", user_id="ü", item_id="i", timestamp=1)
    assert redis_schema.decode_event(redis_schema.encode_event(event)) == event
    for noise in (None, b"", b"{}", b"\xff", redis_schema.encode_event(event)[:-1]):
        with pytest.raises(StoreCorrupt):
            redis_schema.decode_event(noise)


def test_places_are_read_from_entry_ids() -> None:
    assert redis_schema.decode_entry_id(b"17-0") == (17, 0)
    assert redis_schema.decode_entry_id(b"17-9007199254740991") == (17, 2**53 - 1)
    for noise in (b"17", b"17-x", b"0-0", b"-1-0", b"x", b"\xff-0", b"17-0\n", b"1" * 17 + b"-0"):
        with pytest.raises(StoreCorrupt):
            redis_schema.decode_entry_id(noise)


@given(st.integers(1, 2**53 - 1), st.integers(1, 2**53 - 1), st.integers(0, 2**53 - 1), st.binary(max_size=50))
def test_latest_changes_round_trip(first: int, revision: int, nonce: int, payload: bytes) -> None:
    entry = redis_schema.LatestEntry(first, revision, nonce, b"put", payload)
    assert redis_schema.decode_latest(redis_schema.encode_latest(entry)) == entry


@given(st.binary(max_size=50))
def test_noise_is_no_latest_change(noise: bytes) -> None:
    with pytest.raises(StoreCorrupt):
        redis_schema.decode_latest(b"x" + noise)


def test_keys_of_different_prefixes_versions_and_users_differ() -> None:
    keys = redis_schema.Keys("p")
    names = [keys.events, keys.seen, keys.history("u"), keys.head("v"), keys.head("w"), keys.changes, keys.items]
    names += [keys.lock("v"), keys.chunk("v", "s", 0), keys.chunk("v", "s", 1)]
    assert len(set(names)) == len(names)
    assert all(name.startswith("p:") for name in names)


def test_places_hold_no_secrets() -> None:
    assert redis_place("redis://user:secret@host:1234/2") == "host:1234/2"
    assert redis_place("unix:///run/redis.sock?password=secret") == "/run/redis.sock"
