"""Redis as both sides see it: the names of its keys and the bytes of its values.

    key (below the prefix)                   type    expires             holds
    history:<user>                           list    no                  newest item ids of a user, oldest first
    newest                                   hash    no                  Unix time of the newest event, by user
    events                                   stream  no                  field ``event``: the event as JSON
    events:seen                              zset    no, trimmed         event ids by the second they were recorded
    events:counts:<seconds>                  zset    yes, trimmed        fading counts of events, by item and half-life
    changes                                  stream  no, trimmed         raw catalogue changes, id <revision>-<nonce>
    items                                    hash    no                  latest raw change by item id
    catalogue:<version>:head                 string  no                  a ``snapshots.SnapshotHead``
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
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import ValidationError

from model_store.catalogue.catalogue import ID_BYTES
from model_store.errors import StoreCorrupt
from model_store.events.event import Event
from model_store.replication.snapshots import REFILL, SNAPSHOT_FORMAT

DEFAULT_PREFIX = "etegrec"
HISTORY_CAP = 100
"""Item ids kept per user unless configured otherwise."""
SEEN_WINDOW_S = 2 * 24 * 3600
"""How long a repeated event id is recognised; clients may repeat an event for a day."""
DRAIN_GROUP = "drain"
"""Consumer group through which retraining reads the event stream."""
EVENT_FIELD = b"event"


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
        """Sorted set of fading counts: how :mod:`service.store.decayed_counts` scores them depends on the half-life."""
        return f"{self.prefix}:events:counts:{half_life_s}"

    def history(self, user_id: str) -> str:
        """List of a user's item ids."""
        return f"{self.prefix}:history:{user_id}"

    @property
    def newest(self) -> str:
        """Hash of the time of each user's newest event."""
        return f"{self.prefix}:newest"

    @property
    def _snapshots(self) -> str:
        """Replicas of two releases, while one replaces the other, must not take turns in adopting their snapshots."""
        return f"{self.prefix}:catalogue:{SNAPSHOT_FORMAT}"

    def head(self, version: str) -> str:
        """Pointer to the newest complete snapshot."""
        return f"{self._snapshots}:{version}:head"

    def chunk(self, version: str, snapshot_id: str, number: int) -> str:
        """One piece of a packed snapshot."""
        return f"{self._snapshots}:{version}:chunk:{snapshot_id}:{number}"

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
        return f"{self._snapshots}:{version}:lock"

    @property
    def probe(self) -> str:
        """Written to see whether Redis takes writes."""
        return f"{self.prefix}:probe"

    def cache(self, key: str) -> str:
        """One cached result."""
        return f"{self.prefix}:cache:{key}"


_ENTRY_ID = re.compile(rb"([1-9][0-9]{0,15})-([0-9]{1,16})")
_LATEST = re.compile(rb"([1-9][0-9]{0,15}) ([0-9]+-[0-9]+) ([a-z]+) ")


def encode_event(event: Event) -> bytes:
    """As stored in the event stream."""
    return event.model_dump_json().encode()


def decode_event(raw: bytes | None) -> Event:
    """Read what :func:`encode_event` wrote, or raise :class:`StoreCorrupt`."""
    try:
        return Event.model_validate_json(raw or b"")
    except ValidationError as cause:
        raise StoreCorrupt("an entry of the event stream is no event") from cause


def decode_item_id(raw: bytes) -> str:
    """An entry of a history, or raise :class:`StoreCorrupt`."""
    try:
        item_id = raw.decode()
    except UnicodeDecodeError as cause:
        raise StoreCorrupt("a history entry is not UTF-8") from cause
    if not 1 <= len(raw) <= ID_BYTES:
        raise StoreCorrupt(f"a history entry must be 1 to {ID_BYTES} bytes long, got {len(raw)}")
    return item_id


def decode_entry_id(entry_id: bytes) -> tuple[int, int]:
    """Revision and nonce that a change entry's id stands for, or raise :class:`StoreCorrupt`."""
    found = _ENTRY_ID.fullmatch(entry_id)
    if found is None:
        raise StoreCorrupt("an entry of the change stream has no revision as its id", REFILL)
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
    """Read what :func:`encode_latest` wrote, or raise :class:`StoreCorrupt`."""
    found = _LATEST.match(raw)
    if found is None:
        raise StoreCorrupt("the latest change of an item does not decode")
    return LatestEntry(int(found[1]), *decode_entry_id(found[2]), found[3], raw[found.end() :])


def seal_cached(value: bytes) -> bytes:
    """A cached result with its CRC-32 in front."""
    return struct.pack("<I", zlib.crc32(value)) + value


def open_cached(raw: bytes) -> bytes:
    """The result inside what :func:`seal_cached` made, or raise :class:`StoreCorrupt`."""
    if len(raw) < 4 or struct.unpack_from("<I", raw)[0] != zlib.crc32(raw[4:]):
        raise StoreCorrupt("a cached result fails its checksum")
    return raw[4:]
