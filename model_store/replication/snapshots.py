"""Bytes of a catalogue snapshot: named arrays in one block, cut into chunks, with a head that has the digest.

Only the head has a digest of the block, so reading hashes every byte once: a start from a snapshot must be quicker
than a start from the bundle. A block is therefore unpacked only after it was compared with its head.

The layout is like that of safetensors, whose reader copies every array and whose writer copies the block once more.
Here arrays are views of the block, and a catalogue of a million items needs half the memory and half the time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Annotated, Literal
from uuid import uuid4

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_store.errors import StoreCorrupt

CHUNK_BYTES = 8 * 1024 * 1024
"""Largest size of one chunk."""
REPAIR_HINT = "delete the catalogue keys of this version: a replica writes them again"
"""Advice for damaged snapshots and change entries."""

SNAPSHOT_FORMAT = 3
"""Version of the layout. Releases with different formats neither read nor replace each other's snapshots."""

BLOCK_MAGIC = f"ETGSNAP{SNAPSHOT_FORMAT}".encode()
"""First bytes of every block; they name its format."""

_ALIGN = 64  # so that arrays read in place are aligned for every dtype


class SnapshotHead(BaseModel):
    """Description of a version's newest complete snapshot, and the digest of its chunks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    snapshot_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    revision: int = Field(ge=0, description="number of the last change that the snapshot contains")
    nonce: int = Field(ge=0, description="second half of the entry id of that change")
    lineage: str = Field(pattern=r"^[0-9a-f]{32}$", description="computation that gave new items their codes")
    origin: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the bundle's catalogue file")
    chunks: int = Field(ge=1)
    size: int = Field(ge=1, description="bytes of all chunks together")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @classmethod
    def of(cls, block: bytes, revision: int, nonce: int, lineage: str, origin: str) -> SnapshotHead:
        """Describe a packed snapshot under a new snapshot id."""
        return cls(
            snapshot_id=uuid4().hex,
            revision=revision,
            nonce=nonce,
            lineage=lineage,
            origin=origin,
            chunks=-(-len(block) // CHUNK_BYTES),
            size=len(block),
            sha256=sha256(block).hexdigest(),
        )

    def encode(self) -> str:
        """Return the JSON that is stored."""
        return self.model_dump_json()

    @classmethod
    def decode(cls, raw: bytes) -> SnapshotHead:
        """Read what :meth:`encode` wrote, or raise :class:`StoreCorrupt`."""
        try:
            return cls.model_validate_json(raw)
        except ValidationError as cause:
            raise StoreCorrupt("the head of a catalogue snapshot does not decode", REPAIR_HINT) from cause


class _ArraySpec(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    dtype: Literal["|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8"]
    shape: tuple[Annotated[int, Field(ge=0)], ...] = Field(max_length=8)

    @property
    def nbytes(self) -> int:
        """Size of the array in bytes."""
        count = 1
        for size in self.shape:  # Python integers: a hostile shape cannot overflow
            count *= size
        return count * np.dtype(self.dtype).itemsize


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid")

    arrays: list[_ArraySpec]


def pack_arrays(arrays: Mapping[str, npt.NDArray[np.generic]]) -> bytes:
    """Pack named arrays into one block that describes itself.

    Layout: 8 bytes of magic, the header's length (uint32), the header (JSON: names, dtypes, shapes), then each array
    little-endian in C order. Every array starts at a multiple of 64 bytes.

    Raises:
        ValueError: A dtype that is not a plain number or boolean.
    """
    specs: list[_ArraySpec] = []
    parts: list[bytes | memoryview] = []

    for name, array in arrays.items():
        plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(array.shape)
        specs.append(_ArraySpec.model_validate({"name": name, "dtype": plain.dtype.str, "shape": plain.shape}))
        parts += [plain.reshape(-1).view(np.uint8).data, bytes(-plain.nbytes % _ALIGN)]

    header = _Header(arrays=specs).model_dump_json().encode()
    header += b" " * (-(len(BLOCK_MAGIC) + 4 + len(header)) % _ALIGN)
    return b"".join([BLOCK_MAGIC, struct.pack("<I", len(header)), header, *parts])


def unpack_arrays(block: bytes | memoryview) -> dict[str, npt.NDArray[np.generic]]:
    """Return read-only views of the arrays that :func:`pack_arrays` wrote. They keep the block in memory.

    Args:
        block: Read-only, from a :class:`ChunkJoiner`, which has compared it with the digest in its head.

    Raises:
        StoreCorrupt: The block is cut short, or is not a packed snapshot.
    """
    start = len(BLOCK_MAGIC) + 4
    if len(block) < start or block[: len(BLOCK_MAGIC)] != BLOCK_MAGIC:
        raise StoreCorrupt("a catalogue snapshot does not start with its magic bytes", REPAIR_HINT)

    at = start + int(struct.unpack_from("<I", block, len(BLOCK_MAGIC))[0])
    try:
        header = _Header.model_validate_json(bytes(block[start:at]))
    except ValidationError as cause:
        raise StoreCorrupt("the header of a catalogue snapshot does not decode", REPAIR_HINT) from cause

    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for spec in header.arrays:
        if at + spec.nbytes > len(block):
            raise StoreCorrupt(f"the array {spec.name!r} of a catalogue snapshot is cut short", REPAIR_HINT)

        count = spec.nbytes // np.dtype(spec.dtype).itemsize
        arrays[spec.name] = np.frombuffer(block, dtype=spec.dtype, count=count, offset=at).reshape(spec.shape)
        at += spec.nbytes + -spec.nbytes % _ALIGN
    return arrays


def split_chunks(block: bytes) -> Iterator[bytes]:
    """Yield pieces of at most :data:`CHUNK_BYTES`, in order."""
    for at in range(0, len(block), CHUNK_BYTES):
        yield block[at : at + CHUNK_BYTES]


class ChunkJoiner:
    """Joins chunks into a block. Each chunk is hashed and copied as it arrives, while the next one is on its way."""

    def __init__(self, head: SnapshotHead) -> None:
        self._head = head
        self._digest = sha256()
        self._joined = bytearray()

    def add(self, chunk: bytes) -> None:
        """Append the next chunk. Takes milliseconds, so call it in a thread."""
        self._digest.update(chunk)
        self._joined += chunk

    def block(self) -> memoryview:
        """Return the whole block, read-only, after the last chunk was added.

        Raises:
            StoreCorrupt: The size or the digest differs from the head's.
        """
        if len(self._joined) != self._head.size or self._digest.hexdigest() != self._head.sha256:
            raise StoreCorrupt(f"the snapshot of revision {self._head.revision} differs from its digest", REPAIR_HINT)
        return memoryview(self._joined).toreadonly()
