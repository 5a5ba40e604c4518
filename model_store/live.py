"""Redis as both sides see it: the names of its keys and the bytes of its values.

    key (below the prefix)                   type    expires             holds
    history:<user>                           list    no                  newest item ids of a user, oldest first
    newest                                   hash    no                  Unix time of the newest event, by user
    events                                   stream  no                  field ``event``: the event as JSON
    events:seen                              zset    no, trimmed         event ids by the second they were recorded
    events:counts:<seconds>                  zset    yes, trimmed        fading counts of events, by item and half-life
    changes                                  stream  no, trimmed         raw catalogue changes, id <revision>-<nonce>
    items                                    hash    no                  latest raw change by item id
    catalogue:<version>:head                 string  no                  :class:`SnapshotHead`, what readers start from
    catalogue:<version>:chunk:<snapshot>:<n> string  unless published    8 MiB of a packed snapshot
    catalogue:<version>:lock                 string  with its holder     token of the replica that writes a snapshot
    cache:<key>                              string  yes                 one cached result with its checksum
    probe                                    string  yes                 whether Redis takes writes

Redis runs with ``maxmemory-policy volatile-lru``: short of memory it drops keys that have an expiry, least recently
used first, and refuses writes once none is left. Cached results go first and cost a recomputation; chunks of a
snapshot that is being written or was replaced may go too, which the writer notices when it publishes and a reader when
it reads.
Fading counts expire 30 half-lives after the last event; losing them costs popularity of late, not correctness.
Markers of recorded events deliberately carry no expiry: they are one sorted set, trimmed by age, so that memory
pressure refuses a write (503, the client repeats it) rather than forgetting that an event was recorded.

Scripts touch several keys at once. For Redis Cluster, give a prefix with a hash tag, such as ``{etegrec}``.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Literal, NamedTuple
from uuid import uuid4

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_store.catalogue import ID_BYTES
from model_store.errors import LiveCorrupt
from model_store.events import Event

DEFAULT_PREFIX = "etegrec"
HISTORY_CAP = 100
"""Item ids kept per user unless configured otherwise."""
SEEN_WINDOW_S = 2 * 24 * 3600
"""How long a repeated event id is recognised; clients may repeat an event for a day."""
CHUNK_BYTES = 8 * 1024 * 1024
DRAIN_GROUP = "drain"
"""Consumer group through which retraining reads the event stream."""
EVENT_FIELD = b"event"

_MAGIC = b"ETGSNAP1"
_ALIGN = 64  # so that arrays read in place are aligned for every dtype


@dataclass(frozen=True)
class Keys:
    """Key names below one prefix; several installations can share a Redis by different prefixes."""

    prefix: str = DEFAULT_PREFIX

    @property
    def events(self) -> str:
        """Event stream."""
        return f"{self.prefix}:events"

    @property
    def seen(self) -> str:
        """Sorted set of recorded event ids."""
        return f"{self.prefix}:events:seen"

    def counts(self, half_life_s: int) -> str:
        """Sorted set of fading counts: how :mod:`service.live.decayed` scores them depends on the half-life."""
        return f"{self.prefix}:events:counts:{half_life_s}"

    def history(self, user_id: str) -> str:
        """List of a user's item ids."""
        return f"{self.prefix}:history:{user_id}"

    @property
    def newest(self) -> str:
        """Hash of the time of each user's newest event."""
        return f"{self.prefix}:newest"

    def head(self, version: str) -> str:
        """Pointer to the newest complete snapshot."""
        return f"{self.prefix}:catalogue:{version}:head"

    def chunk(self, version: str, snapshot_id: str, number: int) -> str:
        """One piece of a packed snapshot."""
        return f"{self.prefix}:catalogue:{version}:chunk:{snapshot_id}:{number}"

    @property
    def changes(self) -> str:
        """Stream of catalogue changes, of all versions."""
        return f"{self.prefix}:changes"

    @property
    def items(self) -> str:
        """Hash of the latest change of every item that ever changed."""
        return f"{self.prefix}:items"

    def lock(self, version: str) -> str:
        """Lock of the snapshot writer."""
        return f"{self.prefix}:catalogue:{version}:lock"

    @property
    def probe(self) -> str:
        """Written to see whether Redis takes writes."""
        return f"{self.prefix}:probe"

    def cache(self, key: str) -> str:
        """One cached result."""
        return f"{self.prefix}:cache:{key}"


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
        """Read what :meth:`encode` wrote, or raise :class:`LiveCorrupt`."""
        try:
            return cls.model_validate_json(raw)
        except ValidationError as cause:
            raise LiveCorrupt("the head of a catalogue snapshot does not decode", _REFILL) from cause


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
    sha256: str


_REFILL = "delete the catalogue keys of this version: a replica writes them again from the store"
_ENTRY_ID = re.compile(rb"([1-9][0-9]{0,15})-([0-9]{1,16})")
_LATEST = re.compile(rb"([1-9][0-9]{0,15}) ([0-9]+-[0-9]+) ([a-z]+) ")


def pack_arrays(arrays: Mapping[str, npt.NDArray[np.generic]]) -> bytes:
    """Named arrays as one self-describing block.

    Layout: 8 bytes of magic, the header's length (uint32), the header (JSON: names, dtypes, shapes, SHA-256 of what
    follows), then each array little-endian in C order. Every array starts at a multiple of 64 bytes.

    Raises:
        ValueError: A dtype that is not a plain number or boolean.
    """
    specs, parts = [], []
    for name, array in arrays.items():
        plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(array.shape)
        specs.append(_ArraySpec.model_validate({"name": name, "dtype": plain.dtype.str, "shape": plain.shape}))
        parts += [plain.tobytes(), bytes(-plain.nbytes % _ALIGN)]
    body = b"".join(parts)
    header = _Header(arrays=specs, sha256=sha256(body).hexdigest()).model_dump_json().encode()
    header += b" " * (-(len(_MAGIC) + 4 + len(header)) % _ALIGN)
    return b"".join([_MAGIC, struct.pack("<I", len(header)), header, body])


def unpack_arrays(block: bytes) -> dict[str, npt.NDArray[np.generic]]:
    """Read-only views on what :func:`pack_arrays` wrote; the block stays in memory as long as they do.

    Raises:
        LiveCorrupt: The block is cut, altered, or no such block.
    """
    start = len(_MAGIC) + 4
    if len(block) < start or block[: len(_MAGIC)] != _MAGIC:
        raise LiveCorrupt("a catalogue snapshot does not start with its magic bytes", _REFILL)
    body_at = start + struct.unpack_from("<I", block, len(_MAGIC))[0]
    try:
        header = _Header.model_validate_json(block[start:body_at])
    except ValidationError as cause:
        raise LiveCorrupt("the header of a catalogue snapshot does not decode", _REFILL) from cause
    if sha256(memoryview(block)[body_at:]).hexdigest() != header.sha256:
        raise LiveCorrupt("the SHA-256 of a catalogue snapshot differs from its header", _REFILL)
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    at = body_at
    for spec in header.arrays:
        if at + spec.nbytes > len(block):
            raise LiveCorrupt(f"the array {spec.name!r} of a catalogue snapshot is cut short", _REFILL)
        count = spec.nbytes // np.dtype(spec.dtype).itemsize
        arrays[spec.name] = np.frombuffer(block, dtype=spec.dtype, count=count, offset=at).reshape(spec.shape)
        at += spec.nbytes + -spec.nbytes % _ALIGN
    return arrays


def split_chunks(block: bytes) -> Iterator[bytes]:
    """Pieces of at most 8 MiB, in order."""
    for at in range(0, len(block), CHUNK_BYTES):
        yield block[at : at + CHUNK_BYTES]


def join_chunks(head: SnapshotHead, chunks: Sequence[bytes]) -> bytes:
    """Put the pieces together again and hold them against the head.

    Raises:
        LiveCorrupt: Size or digest differ.
    """
    block = b"".join(chunks)
    if len(block) != head.size or sha256(block).hexdigest() != head.sha256:
        raise LiveCorrupt(f"the snapshot of revision {head.revision} differs from its digest", _REFILL)
    return block


def encode_event(event: Event) -> bytes:
    """As stored in the event stream."""
    return event.model_dump_json().encode()


def decode_event(raw: bytes | None) -> Event:
    """Read what :func:`encode_event` wrote, or raise :class:`LiveCorrupt`."""
    try:
        return Event.model_validate_json(raw or b"")
    except ValidationError as cause:
        raise LiveCorrupt("an entry of the event stream is no event") from cause


def decode_item_id(raw: bytes) -> str:
    """An entry of a history, or raise :class:`LiveCorrupt`."""
    try:
        item_id = raw.decode()
    except UnicodeDecodeError as cause:
        raise LiveCorrupt("a history entry is not UTF-8") from cause
    if not 1 <= len(raw) <= ID_BYTES:
        raise LiveCorrupt(f"a history entry must be 1 to {ID_BYTES} bytes long, got {len(raw)}")
    return item_id


def decode_entry_id(entry_id: bytes) -> tuple[int, int]:
    """Revision and nonce that a change entry's id stands for, or raise :class:`LiveCorrupt`."""
    found = _ENTRY_ID.fullmatch(entry_id)
    if found is None:
        raise LiveCorrupt("an entry of the change stream has no revision as its id", _REFILL)
    return int(found[1]), int(found[2])


class LatestEntry(NamedTuple):
    """A value of the hash of latest changes."""

    first: int  # revision at which the item changed first
    revision: int
    nonce: int
    kind: bytes
    payload: bytes


def encode_latest(entry: LatestEntry) -> bytes:
    """As stored; the script that appends changes writes the same: ``<first> <revision>-<nonce> <kind> <payload>``."""
    return b"%d %d-%d %b %b" % entry


def decode_latest(raw: bytes) -> LatestEntry:
    """Read what :func:`encode_latest` wrote, or raise :class:`LiveCorrupt`."""
    found = _LATEST.match(raw)
    if found is None:
        raise LiveCorrupt("the latest change of an item does not decode")
    return LatestEntry(int(found[1]), *decode_entry_id(found[2]), found[3], raw[found.end() :])


def seal_cached(value: bytes) -> bytes:
    """A cached result with its CRC-32 in front."""
    return struct.pack("<I", zlib.crc32(value)) + value


def open_cached(raw: bytes) -> bytes:
    """The result inside what :func:`seal_cached` made, or raise :class:`LiveCorrupt`."""
    if len(raw) < 4 or struct.unpack_from("<I", raw)[0] != zlib.crc32(raw[4:]):
        raise LiveCorrupt("a cached result fails its checksum")
    return raw[4:]
