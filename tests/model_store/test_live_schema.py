"""Bytes of the live store: every damage is noticed, nothing is guessed."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store import live
from model_store.errors import LiveCorrupt
from model_store.events import Event
from model_store.redis_errors import redis_place

ARRAYS = {
    "empty": np.zeros((0, 3), dtype=np.int16),
    "scalar": np.array(7, dtype=np.int64),
    "big_endian": np.arange(5, dtype=">i4"),
    "transposed": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    "bits": np.array([True, False]),
}


def test_arrays_come_back_equal_aligned_and_read_only() -> None:
    found = live.unpack_arrays(live.pack_arrays(ARRAYS))
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].shape == array.shape
        assert found[name].dtype == array.dtype.newbyteorder("<")
        assert found[name].flags.aligned
        assert not found[name].flags.writeable


def test_objects_are_never_packed() -> None:
    with pytest.raises(ValueError, match="dtype"):
        live.pack_arrays({"a": np.array([{}], dtype=object)})


@given(st.data())
def test_any_flipped_or_missing_byte_is_noticed_or_harmless(data: st.DataObject) -> None:
    block = live.pack_arrays(ARRAYS)
    at = data.draw(st.integers(0, len(block) - 1))
    flipped = block[:at] + bytes([block[at] ^ data.draw(st.integers(1, 255))]) + block[at + 1 :]
    head = live.SnapshotHead.of(block, 0, 0, "a" * 32, "b" * 64)
    for damaged in (flipped, block[:at]):
        with pytest.raises(LiveCorrupt):
            live.join_chunks(head, list(live.split_chunks(damaged)))
    with pytest.raises(LiveCorrupt):
        live.unpack_arrays(block[:at])
    if at >= block.rindex(b"}") + 1 and block[at] != ord(" "):
        with pytest.raises(LiveCorrupt):
            live.unpack_arrays(flipped)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_as_a_snapshot(noise: bytes) -> None:
    for block in (noise, b"ETGSNAP1" + noise, b"ETGSNAP1" + struct.pack("<I", len(noise)) + noise):
        with pytest.raises(LiveCorrupt):
            live.unpack_arrays(block)
    with pytest.raises(LiveCorrupt):
        live.SnapshotHead.decode(noise)


def test_header_that_asks_for_more_than_there_is() -> None:
    block = live.pack_arrays({"a": np.zeros(1000, dtype=np.int32)}).replace(b"[1000]", b"[9999]")
    with pytest.raises(LiveCorrupt, match="cut short"):
        live.unpack_arrays(block)


def test_events_round_trip_and_noise_is_refused() -> None:
    event = Event(event_id="e", user_id="ü", item_id="i", timestamp=1)
    assert live.decode_event(live.encode_event(event)) == event
    for noise in (None, b"", b"{}", b"\xff", live.encode_event(event)[:-1]):
        with pytest.raises(LiveCorrupt):
            live.decode_event(noise)


def test_places_are_read_from_entry_ids() -> None:
    assert live.decode_entry_id(b"17-0") == (17, 0)
    assert live.decode_entry_id(b"17-9007199254740991") == (17, 2**53 - 1)
    for noise in (b"17", b"17-x", b"0-0", b"-1-0", b"x", b"\xff-0", b"17-0\n", b"1" * 17 + b"-0"):
        with pytest.raises(LiveCorrupt):
            live.decode_entry_id(noise)


@given(st.integers(1, 2**53 - 1), st.integers(1, 2**53 - 1), st.integers(0, 2**53 - 1), st.binary(max_size=50))
def test_latest_changes_round_trip(first: int, revision: int, nonce: int, payload: bytes) -> None:
    entry = live.LatestEntry(first, revision, nonce, b"put", payload)
    assert live.decode_latest(live.encode_latest(entry)) == entry


@given(st.binary(max_size=50))
def test_noise_is_no_latest_change(noise: bytes) -> None:
    with pytest.raises(LiveCorrupt):
        live.decode_latest(b"x" + noise)


@given(st.binary(max_size=50), st.integers(0, 53), st.integers(1, 255))
def test_cached_results_are_checked(value: bytes, at: int, flip: int) -> None:
    sealed = live.seal_cached(value)
    assert live.open_cached(sealed) == value
    damaged = bytearray(sealed)
    damaged[at % len(sealed)] ^= flip
    with pytest.raises(LiveCorrupt):
        live.open_cached(bytes(damaged))


def test_keys_of_different_prefixes_versions_and_users_differ() -> None:
    keys = live.Keys("p")
    names = [keys.events, keys.seen, keys.history("u"), keys.head("v"), keys.head("w"), keys.changes, keys.items]
    names += [keys.lock("v"), keys.chunk("v", "s", 0), keys.chunk("v", "s", 1), keys.cache("u")]
    assert len(set(names)) == len(names)
    assert all(name.startswith("p:") for name in names)


def test_places_hold_no_secrets() -> None:
    assert redis_place("redis://user:secret@host:1234/2") == "host:1234/2"
    assert redis_place("unix:///run/redis.sock?password=secret") == "/run/redis.sock"
