"""Packed snapshots: every damage is noticed, nothing is guessed."""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.errors import StoreCorrupt
from model_store.replication.snapshots import (
    BLOCK_MAGIC,
    ChunkJoiner,
    SnapshotHead,
    pack_arrays,
    split_chunks,
    unpack_arrays,
)

ARRAYS: dict[str, npt.NDArray[np.generic]] = {
    "empty": np.zeros((0, 3), dtype=np.int16),
    "scalar": np.array(7, dtype=np.int64),
    "big_endian": np.arange(5, dtype=">i4"),
    "transposed": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    "bits": np.array([True, False]),
}


def joined(head: SnapshotHead, chunks: list[bytes]) -> memoryview:
    joining = ChunkJoiner(head)
    for chunk in chunks:
        joining.add(chunk)
    return joining.block()


def head_of(block: bytes) -> SnapshotHead:
    return SnapshotHead.of(block, 0, 0, "a" * 32, "b" * 64)


def test_arrays_come_back_equal_aligned_and_read_only() -> None:
    block = pack_arrays(ARRAYS)
    found = unpack_arrays(joined(head_of(block), [block[:70], block[70:]]))
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].shape == array.shape
        assert found[name].dtype == array.dtype.newbyteorder("<")
        assert found[name].flags.aligned
        assert not found[name].flags.writeable


def test_objects_are_never_packed() -> None:
    with pytest.raises(ValueError, match="dtype"):
        pack_arrays({"a": np.array([{}], dtype=object)})


@given(st.data())
def test_any_flipped_or_missing_byte_is_noticed(data: st.DataObject) -> None:
    block = pack_arrays(ARRAYS)
    at = data.draw(st.integers(0, len(block) - 1))
    flipped = block[:at] + bytes([block[at] ^ data.draw(st.integers(1, 255))]) + block[at + 1 :]
    for damaged in (flipped, block[:at], block + b"\0"):
        with pytest.raises(StoreCorrupt):
            joined(head_of(block), list(split_chunks(damaged)))


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_as_a_snapshot(noise: bytes) -> None:
    for block in (noise, BLOCK_MAGIC + noise, BLOCK_MAGIC + struct.pack("<I", len(noise)) + noise):
        with pytest.raises(StoreCorrupt):
            unpack_arrays(block)
    with pytest.raises(StoreCorrupt):
        SnapshotHead.decode(noise)


def test_header_that_asks_for_more_than_there_is() -> None:
    block = pack_arrays({"a": np.zeros(1000, dtype=np.int32)}).replace(b"[1000]", b"[9999]")
    with pytest.raises(StoreCorrupt, match="cut short"):
        unpack_arrays(block)
