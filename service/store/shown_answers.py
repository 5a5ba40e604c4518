"""Lists of what was shown: items of the newest answers to a user or a session."""

from __future__ import annotations

from typing import Literal, NamedTuple

SHOWN_ITEMS = 1000
"""Largest number of shown items that are kept for one user or session; the oldest go first."""
SHOWN_S = 7 * 24 * 3600
"""Seconds for which a list is kept after the last answer that was added to it."""


class Subject(NamedTuple):
    """Whoever gets answers: a user, or a session of somebody who is not known."""

    kind: Literal["user", "session"]
    id: str


class ShownAnswer(NamedTuple):
    """Items that one answer showed."""

    subject: Subject
    shown_at: int  # Unix time in microseconds; it also tells answers to one subject apart
    item_ids: list[str]
