"""Bytes of values in Redis, as the service and training share them; ``redis_keys`` says which key holds what."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from model_store.catalogue.catalogue import ID_BYTES
from model_store.errors import StoreCorrupt
from model_store.events.event import Event
from model_store.events.history_entry import KNOWN_LETTERS, UNTIMED
from model_store.replication.snapshots import REPAIR_HINT

EVENT_FIELD = b"event"
"""Field of a stream entry that holds the event."""
TRACEPARENT_FIELD = b"traceparent"
"""Field of the span that an event came with; only where requests are traced."""
EVENT_FIELDS = 5
"""Fields that every event has; the others stand behind them."""
ENTRY_MARK = 0xFE
"""First byte of an entry of a history. No UTF-8 has it, so no item id begins like this."""
NEWEST_MARK = b"\xff"
"""First byte of the last entry of a history that an earlier release stored: plain item ids, then the newest time."""
ENTRY_HEAD = 7
"""Bytes of an entry before the item id: the mark, a letter for the type, the time in five bytes."""

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
