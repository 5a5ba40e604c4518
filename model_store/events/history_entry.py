"""Entries of stored histories: the letter for an event's type, which Redis and the embedded log write."""

from __future__ import annotations

from typing import NamedTuple

from model_store.events.event import EventType

LETTERS: dict[EventType, str] = {"view": "v", "click": "c", "cart": "b", "purchase": "p", "rating": "r"}
"""Letter by type. Stored histories hold them: a letter never gets another meaning."""

UNKNOWN = "-"
"""Letter of an interaction whose type nobody told."""

UNTIMED = "~"
"""Letter of an entry that an earlier release stored, as an item id alone. Its type is unknown, and its time is that of
the user's newest event then."""

TYPES: dict[int, EventType] = {ord(letter): kind for kind, letter in LETTERS.items()}
"""Type by the code of its letter; no other letter has one."""


class UserInteractions(NamedTuple):
    """Interactions of one user in columns of n, oldest first, as they are imported."""

    user_id: str
    item_ids: list[str]  # [n]
    timestamps: list[int]  # [n], Unix seconds, 0 where unknown
    letters: str  # [n]


def letter_of(kind: EventType | None) -> str:
    """Return the letter of a type, or that of unknown ones."""
    return UNKNOWN if kind is None else LETTERS[kind]
