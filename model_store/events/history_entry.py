"""Entries of stored histories: the letter for an event's type, which Redis and the embedded log write."""

from __future__ import annotations

from typing import NamedTuple

from model_store.events.event import IMPRESSION, NEGATIVE_TYPES, OWN_TYPE

LETTERS: dict[str, str] = {
    "view": "v",
    "click": "c",
    "cart": "b",
    "purchase": "p",
    "rating": "r",
    "dislike": "d",
    "hide": "h",
}
"""Letter by type. Stored histories hold them: a letter never gets another meaning."""

OWN = "o"
"""Letter of an interaction of a shop's own type."""

UNKNOWN = "-"
"""Letter of an interaction whose type nobody told."""

UNTIMED = "~"
"""Letter of an entry that an earlier release stored, as an item id alone. Its type is unknown, and its time is that of
the user's newest event then."""

TYPES: dict[int, str] = {**{ord(letter): kind for kind, letter in LETTERS.items()}, ord(OWN): OWN_TYPE}
"""Type by the code of its letter; no other letter has one."""

KNOWN_LETTERS = frozenset([*TYPES, ord(UNKNOWN), ord(UNTIMED)])
"""Codes of all letters that an entry may have."""

NEGATIVE_LETTERS = "".join(LETTERS[kind] for kind in NEGATIVE_TYPES).encode()
"""Codes of the letters of interactions that speak against an item."""


class UserInteractions(NamedTuple):
    """Interactions of one user in columns of n, oldest first, as they are imported."""

    user_id: str
    item_ids: list[str]  # [n]
    timestamps: list[int]  # [n], Unix seconds, 0 where unknown
    letters: str  # [n]


def letter_of(kind: str | None) -> str:
    """Return the letter of a type: that of own types for a name that is not known, that of unknown ones for ``None``.

    Raises:
        ValueError: It is an impression, which is no interaction: no history has it.
    """
    if kind == IMPRESSION:
        raise ValueError("an impression is no interaction")
    return UNKNOWN if kind is None else LETTERS.get(kind, OWN)
