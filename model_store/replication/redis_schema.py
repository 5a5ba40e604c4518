"""Names of the Redis keys and bytes of their values, as the service and training share them.

    key (below the prefix)                   type    expires             holds
    history:<user>                           list    by setting          newest interactions of a user, oldest first:
                                                                         see :func:`encode_entry`
    shown:<kind>:<id>                        list    yes                 items that a user or a session was shown of
                                                                         late: eight bytes of time, item id
    erased                                   hash    no                  time of erasure by the tombstone of a user
    imports                                  hash    no                  by version, how many users of its histories
                                                                         were imported, and whether all
    imports:lock                             string  yes, renewed        token of the replica that imports histories
    events                                   stream  no, trimmed         field ``event``: see :func:`encode_event`
    events:seen                              zset    no, trimmed         event ids by the second they were recorded
    events:counts:<seconds>                  zset    no, trimmed         decayed counts of events, by item and half-life
    counters:<day>                           hash    no, deleted by age  what answers of that day led to, see
                                                                         :mod:`model_store.attribution.counters`
    counters:names                           hash    no                  names by their hash in those counters
    counters:added:<replica>                 string  yes                 number of the last counts that a replica added
    attribution:key                          string  no                  key that signs attributions, where no setting
                                                                         brings one
    changes                                  stream  no, trimmed         raw catalogue changes, id <revision>-<nonce>
    items                                    hash    no                  latest raw change by item id; a deletion has
                                                                         the payload of the put before it
    placements                               hash    no                  <revision> <JSON> by name, and the newest
                                                                         revision in the field of the empty name
    experiments                              hash    no                  the same of experiments
    canaries                                 hash    no                  the same of canaries that were rolled back
    experiments:<hash>:sums                  hash    no                  sums over the users and sessions of an
                                                                         experiment
    experiments:<hash>:subjects              hash    no, deleted by age  what each of them did, see
                                                                         :mod:`model_store.events.marks`
    <snapshots>:<version>:head               string  no                  a ``snapshots.SnapshotHead``
    <snapshots>:<version>:chunk:<id>:<n>     string  until published     at most 8 MiB of a packed snapshot
    <snapshots>:<version>:lock               string  yes, renewed        token of the replica that writes a snapshot
    probe                                    string  yes                 one byte, written to see if Redis takes writes
    applied                                  string  no                  settings that all keys follow

``<snapshots>`` is ``catalogue:<format>``, see :data:`~model_store.replication.snapshots.SNAPSHOT_FORMAT`.

Redis runs with ``maxmemory-policy volatile-lru``: when memory is short, it drops keys that have an expiry, least
recently used first, and refuses writes once none is left. These keys can be dropped:

- Histories, if ``ETEGREC_USER_TTL_DAYS`` gives them an expiry: those of users who have been away for longest go first.
- Lists of what was shown. Items come again sooner than asked for then.
- Chunks of a snapshot that is being written or was replaced. The writer notices it when it publishes, a reader when it
  reads, and both try again.
- A lock. Its holder notices it when it publishes.

Ids of recorded events deliberately have no expiry. They are one sorted set, trimmed by age, so that a full Redis
refuses a write (503, the client repeats it) instead of forgetting that an event was recorded. Decayed counts have none
either: trends would be the first to go. They are at most 20,000 items each, and deleted if their half-life changes.

Scripts touch several keys at once, which a cluster allows within one slot only. There, what belongs to users is spread
over partitions, each in one slot: ``{etegrec:<partition>}:history:<user>``, and likewise ``shown``, ``erased``,
``events``, ``events:seen``, ``events:counts``, ``counters:<day>`` and ``experiments:<hash>``, which whoever reads them
adds up. All else is in the slot of ``{etegrec}``, see :class:`ClusterKeys`.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeVar

from model_store.catalogue.catalogue import ID_BYTES
from model_store.errors import StoreCorrupt
from model_store.events.event import Event
from model_store.events.history_entry import KNOWN_LETTERS, UNTIMED
from model_store.replication.redis_address import is_cluster
from model_store.replication.snapshots import REPAIR_HINT, SNAPSHOT_FORMAT

T = TypeVar("T")

DEFAULT_PREFIX = "etegrec"
"""Prefix of all keys without a namespace."""
PARTITIONS = 32
"""Partitions of the users in a cluster: several for each of a dozen primaries. To change it is to lose all users."""
SEEN_WINDOW_S = 2 * 24 * 3600
"""Seconds for which a repeated event id is recognised. Clients may repeat an event for a day."""
DRAIN_GROUP = "drain"
"""Consumer group through which retraining reads the event stream."""
EVENT_FIELD = b"event"
TRACEPARENT_FIELD = b"traceparent"  # of the span that an event came with; only where requests are traced
"""Field of a stream entry that holds the event."""
EVENT_FIELDS = 5
"""Fields that every event has; the others stand behind them."""
ENTRY_MARK = 0xFE
"""First byte of an entry of a history. No UTF-8 has it, so no item id begins like this."""
NEWEST_MARK = b"\xff"
"""First byte of the last entry of a history that an earlier release stored: plain item ids, then the newest time."""
ENTRY_HEAD = 7
"""Bytes of an entry before the item id: the mark, a letter for the type, the time in five bytes."""


_GLOB = re.compile(r"[*?\[\]\\]")
_ESCAPED = r"\\\g<0>"


def prefix_of(namespace: str) -> str:
    """Return the prefix of a shop's keys: no namespace's keys can begin like another's, or like those without one."""
    return f"{DEFAULT_PREFIX}-{namespace}" if namespace else DEFAULT_PREFIX


@dataclass(frozen=True)
class Keys:
    """Key names below one prefix; shops share a Redis by different prefixes, see :func:`prefix_of`."""

    prefix: str = DEFAULT_PREFIX

    @property
    def parts(self) -> Sequence[Keys]:
        """Keys of each partition of the users; they are one and the same without a cluster."""
        return (self,)

    def of_user(self, user_id: str) -> Keys:
        """Return the keys of the partition that a user belongs to."""
        return self

    def by_part(self, items: Iterable[T], user_of: Callable[[T], str]) -> dict[Keys, list[T]]:
        """Return things of users by the keys of the user's partition, each partition's in the given order."""
        found: dict[Keys, list[T]] = {}
        for item in items:
            found.setdefault(self.of_user(user_of(item)), []).append(item)
        return found

    def pattern(self, beginning: str) -> str:
        """Return the pattern of ``SCAN`` for the keys of all partitions that begin like this behind the prefix."""
        return f"{_GLOB.sub(_ESCAPED, f'{self.prefix}:{beginning}')}*"

    @property
    def events(self) -> str:
        """Event stream."""
        return f"{self.prefix}:events"

    @property
    def seen(self) -> str:
        """Sorted set of recorded event ids."""
        return f"{self.prefix}:events:seen"

    @property
    def counts_prefix(self) -> str:
        """Beginning of the names of all decayed counts."""
        return f"{self.prefix}:events:counts:"

    def counts(self, half_life_s: int) -> str:
        """Return the sorted set of decayed counts; :mod:`service.store.decayed_counts` explains the scores."""
        return f"{self.counts_prefix}{half_life_s}"

    def counters(self, day: str) -> str:
        """Return the hash of the counters of a day, which is written like 2026-01-05."""
        return f"{self.prefix}:counters:{day}"

    @property
    def counter_names(self) -> str:
        """Hash of names by their hash in counters."""
        return f"{self.prefix}:counters:names"

    def counts_added(self, replica: str) -> str:
        """Return the number of the last counts that a replica added."""
        return f"{self.prefix}:counters:added:{replica}"

    @property
    def attribution_key(self) -> str:
        """Key that signs attributions."""
        return f"{self.prefix}:attribution:key"

    def history(self, user_id: str) -> str:
        """Return the list of a user's interactions."""
        return f"{self.prefix}:history:{user_id}"

    def shown(self, kind: str, subject_id: str) -> str:
        """Return the list of what a user or a session was shown; the kind says which of the two."""
        return f"{self.prefix}:shown:{kind}:{subject_id}"

    @property
    def placements(self) -> str:
        """Hash of all placements."""
        return f"{self.prefix}:placements"

    @property
    def experiments(self) -> str:
        """Hash of all experiments."""
        return f"{self.prefix}:experiments"

    @property
    def canaries(self) -> str:
        """Hash of the canaries that were rolled back."""
        return f"{self.prefix}:canaries"

    def subject_sums(self, experiment: str) -> str:
        """Return the hash of the sums over users and sessions of an experiment, which its hash stands for."""
        return f"{self.prefix}:experiments:{experiment}:sums"

    def subjects(self, experiment: str) -> str:
        """Return the hash of what each user and session of an experiment did."""
        return f"{self.prefix}:experiments:{experiment}:subjects"

    @property
    def erased(self) -> str:
        """Hash of the tombstones of erased users."""
        return f"{self.prefix}:erased"

    @property
    def imports(self) -> str:
        """Hash of the progress of importing the histories of each version."""
        return f"{self.prefix}:imports"

    @property
    def import_lock(self) -> str:
        """Return the lock of the replica that imports histories."""
        return f"{self.prefix}:imports:lock"

    @property
    def _snapshots(self) -> str:
        """Prefix of snapshots in this format. Two releases that run side by side must not replace each other's."""
        return f"{self.prefix}:catalogue:{SNAPSHOT_FORMAT}"

    def head(self, version: str) -> str:
        """Return the pointer to the newest complete snapshot."""
        return f"{self._snapshots}:{version}:head"

    def chunk(self, version: str, snapshot_id: str, number: int) -> str:
        """Return one piece of a packed snapshot."""
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
        """Return the lock of the snapshot writer."""
        return f"{self._snapshots}:{version}:lock"

    @property
    def newest(self) -> str:
        """Hash in which the times of newest events were kept before; it is deleted."""
        return f"{self.prefix}:newest"

    @property
    def probe(self) -> str:
        """Key that is written to see whether Redis takes writes."""
        return f"{self.prefix}:probe"

    @property
    def applied(self) -> str:
        """Settings that were applied to all keys, so that a start need not go through them."""
        return f"{self.prefix}:applied"


@dataclass(frozen=True)
class ClusterKeys(Keys):
    """Key names in a cluster: the users' in :data:`PARTITIONS` slots, all others in the slot of the prefix.

    A user's history, events, event ids, counts and tombstone change together, so they are in one partition.

    Args:
        prefix: Prefix of all keys, with a hash tag around it; see :func:`keys_at`.
    """

    @cached_property
    def parts(self) -> Sequence[Keys]:
        """Keys of each partition of the users."""
        tag = self.prefix.strip("{}")
        return tuple(Keys(f"{{{tag}:{number}}}") for number in range(PARTITIONS))

    def of_user(self, user_id: str) -> Keys:
        """Return the keys of the partition that a user belongs to: the same in every process and release."""
        return self.parts[zlib.crc32(user_id.encode()) % PARTITIONS]

    def pattern(self, beginning: str) -> str:
        """Return the pattern of ``SCAN`` for the keys of all partitions that begin like this behind the prefix."""
        tag = self.prefix.strip("{}")
        return f"{{{_GLOB.sub(_ESCAPED, tag)}:*}}:{_GLOB.sub(_ESCAPED, beginning)}*"


def keys_at(url: str, prefix: str) -> Keys:
    """Return the names of the keys in the Redis at a URL."""
    return ClusterKeys(f"{{{prefix}}}") if is_cluster(url) else Keys(prefix)


_ENTRY_ID = re.compile(rb"([1-9][0-9]{0,15})-([0-9]{1,16})")
_LATEST = re.compile(rb"([1-9][0-9]{0,15}) ([0-9]+-[0-9]+) ([a-z]+) ")


def encode_event(event: Event) -> bytes:
    """Return an event as the stream stores it: a JSON list of its fields in order, because names would double it.

    Fields at the end that are absent are left out, so that an event without them reads as it always did.
    """
    fields = list(event.model_dump().values())
    while fields[-1] is None:
        fields.pop()
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def decode_event(raw: bytes | None) -> Event:
    """Decode what :func:`encode_event` wrote, or an object with names as it was written before; else raise.

    Raises:
        StoreCorrupt: It is neither.
    """
    try:
        fields = json.loads(raw or b"")
        named = fields if isinstance(fields, dict) else _named(fields)
        return Event.model_validate(named)
    except (ValueError, TypeError) as cause:  # pydantic's error is a ValueError, too
        raise StoreCorrupt("an entry of the event stream is not an event") from cause


def _named(values: list[object]) -> dict[str, object]:
    """Return the fields of an event by name; those at the end may be absent."""
    names = list(Event.model_fields)
    if not EVENT_FIELDS <= len(values) <= len(names):
        raise ValueError(f"an event has {EVENT_FIELDS} to {len(names)} fields")
    return dict(zip(names, values, strict=False))


def encode_entry(letter: str, timestamp: int, item_id: str) -> bytes:
    """Return an interaction as histories store it: 7 bytes and the item id.

    Args:
        letter: Type, see :mod:`model_store.events.history_entry`.
        timestamp: Unix seconds, 0 where unknown.
        item_id: The item.
    """
    return b"\xfe" + letter.encode() + timestamp.to_bytes(5, "big") + item_id.encode()


class HistoryEntry(NamedTuple):
    """An interaction of a stored history."""

    letter: int  # code of the letter of its type
    timestamp: int  # Unix seconds, 0 where unknown
    item_id: str


def decode_entry(raw: bytes, newest: int = 0) -> HistoryEntry:
    """Decode the output of :func:`encode_entry`, or an item id alone, which then counts as old as ``newest``.

    Raises:
        StoreCorrupt: It is neither.
    """
    if raw[:1] != bytes([ENTRY_MARK]):
        return HistoryEntry(ord(UNTIMED), newest, decode_item_id(raw))
    if len(raw) <= ENTRY_HEAD or raw[1] not in KNOWN_LETTERS:
        raise StoreCorrupt("a history entry has no type or no item")
    return HistoryEntry(raw[1], int.from_bytes(raw[2:ENTRY_HEAD], "big"), decode_item_id(raw[ENTRY_HEAD:]))


def decode_newest(raw: bytes) -> int:
    """Decode the last entry of a history of an earlier release, a time; or raise :class:`StoreCorrupt`."""
    if not raw[1:].isdigit():
        raise StoreCorrupt("the time of a user's newest event does not decode")
    return int(raw[1:])


def decode_item_id(raw: bytes) -> str:
    """Decode an entry of a history, or raise :class:`StoreCorrupt`."""
    try:
        item_id = raw.decode()
    except UnicodeDecodeError as cause:
        raise StoreCorrupt("a history entry is not UTF-8") from cause
    if not 1 <= len(raw) <= ID_BYTES:
        raise StoreCorrupt(f"a history entry must be 1 to {ID_BYTES} bytes long, got {len(raw)}")
    return item_id


def decode_entry_id(entry_id: bytes) -> tuple[int, int]:
    """Return the revision and nonce in the id of a change entry, or raise :class:`StoreCorrupt`."""
    found = _ENTRY_ID.fullmatch(entry_id)
    if found is None:
        raise StoreCorrupt("an entry of the change stream has no revision as its id", REPAIR_HINT)
    return int(found[1]), int(found[2])


class LatestEntry(NamedTuple):
    """Latest change of an item, as the hash of latest changes stores it."""

    first: int  # revision at which the item changed first
    revision: int
    nonce: int
    kind: bytes
    payload: bytes


def encode_latest(entry: LatestEntry) -> bytes:
    """Return ``<first> <revision>-<nonce> <kind> <payload>``, as the script that appends changes writes it, too."""
    return b"%d %d-%d %b %b" % entry


def decode_latest(raw: bytes) -> LatestEntry:
    """Decode what :func:`encode_latest` wrote, or raise :class:`StoreCorrupt`."""
    found = _LATEST.match(raw)
    if found is None:
        raise StoreCorrupt("the latest change of an item does not decode")
    return LatestEntry(int(found[1]), *decode_entry_id(found[2]), found[3], raw[found.end() :])
