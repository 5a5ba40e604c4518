"""A catalogue snapshot as bytes: named arrays in one block, cut into chunks, under a head that proves them whole.

The head alone has a digest of the block, so that reading hashes every byte once: booting from a snapshot must be
quicker than from the store. A block is therefore only unpacked once it was held against its head.
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
REFILL = "delete the catalogue keys of this version: a replica writes them again from the store"

SNAPSHOT_FORMAT = 2
"""Of packed catalogues; releases with another one neither read nor replace each other's snapshots."""

_MAGIC = f"ETGSNAP{SNAPSHOT_FORMAT}".encode()
_ALIGN = 64  # so that arrays read in place are aligned for every dtype


class SnapshotHead(BaseModel):
    """Which chunks make up the newest complete snapshot of a version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    snapshot_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    revision: int = Field(ge=0, description="changes of the stream that are contained")
    nonce: int = Field(ge=0, description="second half of the last contained change's entry id")
    lineage: str = Field(pattern=r"^[0-9a-f]{32}$", description="computation that the codes of live items come from")
    origin: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the bundle's catalogue file")
    chunks: int = Field(ge=1)
    size: int = Field(ge=1, description="bytes of all chunks together")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @classmethod
    def of(cls, block: bytes, revision: int, nonce: int, lineage: str, origin: str) -> SnapshotHead:
        """The head of a packed snapshot, under a new snapshot id."""
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
        """As stored."""
        return self.model_dump_json()

    @classmethod
    def decode(cls, raw: bytes) -> SnapshotHead:
        """Read what :meth:`encode` wrote, or raise :class:`StoreCorrupt`."""
        try:
            return cls.model_validate_json(raw)
        except ValidationError as cause:
            raise StoreCorrupt("the head of a catalogue snapshot does not decode", REFILL) from cause


class _ArraySpec(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    dtype: Literal["|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8"]
    shape: tuple[Annotated[int, Field(ge=0)], ...] = Field(max_length=8)

    @property
    def nbytes(self) -> int:
        count = 1
        for size in self.shape:  # Python integers: a hostile shape cannot overflow
            count *= size
        return count * np.dtype(self.dtype).itemsize


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid")

    arrays: list[_ArraySpec]


def pack_arrays(arrays: Mapping[str, npt.NDArray[np.generic]]) -> bytes:
    """Named arrays as one self-describing block.

    Layout: 8 bytes of magic, the header's length (uint32), the header (JSON: names, dtypes, shapes), then each array
    little-endian in C order. Every array starts at a multiple of 64 bytes.

    Raises:
        ValueError: A dtype that is not a plain number or boolean.
    """
    specs, parts = [], list[bytes | memoryview]()
    for name, array in arrays.items():
        plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(array.shape)
        specs.append(_ArraySpec.model_validate({"name": name, "dtype": plain.dtype.str, "shape": plain.shape}))
        parts += [plain.reshape(-1).view(np.uint8).data, bytes(-plain.nbytes % _ALIGN)]
    header = _Header(arrays=specs).model_dump_json().encode()
    header += b" " * (-(len(_MAGIC) + 4 + len(header)) % _ALIGN)
    return b"".join([_MAGIC, struct.pack("<I", len(header)), header, *parts])


def unpack_arrays(block: bytes | memoryview) -> dict[str, npt.NDArray[np.generic]]:
    """Read-only views on what :func:`pack_arrays` wrote; the block stays in memory as long as they do.

    Args:
        block: Read-only, out of a :class:`Joining`, which has seen that it is the one that its head names.

    Raises:
        StoreCorrupt: The block is cut, or no such block.
    """
    start = len(_MAGIC) + 4
    if len(block) < start or block[: len(_MAGIC)] != _MAGIC:
        raise StoreCorrupt("a catalogue snapshot does not start with its magic bytes", REFILL)
    at = start + int(struct.unpack_from("<I", block, len(_MAGIC))[0])
    try:
        header = _Header.model_validate_json(bytes(block[start:at]))
    except ValidationError as cause:
        raise StoreCorrupt("the header of a catalogue snapshot does not decode", REFILL) from cause
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for spec in header.arrays:
        if at + spec.nbytes > len(block):
            raise StoreCorrupt(f"the array {spec.name!r} of a catalogue snapshot is cut short", REFILL)
        count = spec.nbytes // np.dtype(spec.dtype).itemsize
        arrays[spec.name] = np.frombuffer(block, dtype=spec.dtype, count=count, offset=at).reshape(spec.shape)
        at += spec.nbytes + -spec.nbytes % _ALIGN
    return arrays


def split_chunks(block: bytes) -> Iterator[bytes]:
    """Pieces of at most 8 MiB, in order."""
    for at in range(0, len(block), CHUNK_BYTES):
        yield block[at : at + CHUNK_BYTES]


class Joining:
    """Puts chunks together again. Each is hashed and copied as it comes: the next one travels meanwhile."""

    def __init__(self, head: SnapshotHead) -> None:
        self._head = head
        self._digest = sha256()
        self._joined = bytearray()

    def add(self, chunk: bytes) -> None:
        """Take the next chunk. Takes milliseconds: not for the event loop."""
        self._digest.update(chunk)
        self._joined += chunk

    def block(self) -> memoryview:
        """The whole, read-only, once every chunk was added.

        Raises:
            StoreCorrupt: Size or digest differ from the head's.
        """
        if len(self._joined) != self._head.size or self._digest.hexdigest() != self._head.sha256:
            raise StoreCorrupt(f"the snapshot of revision {self._head.revision} differs from its digest", REFILL)
        return memoryview(self._joined).toreadonly()
