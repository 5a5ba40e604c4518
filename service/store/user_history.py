"""History of one user in the memory of the embedded store, in columns: a million users must fit."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from model_store.events.history_entry import UNTIMED


class Interaction(NamedTuple):
    """An interaction as the columns of a history hold it."""

    timestamp: int  # Unix seconds, 0 where unknown
    letter: str  # type, see model_store/events/history_entry.py
    item_id: str


class UserHistory:
    """The newest interactions of one user, ascending by time."""

    __slots__ = ("item_ids", "letters", "timestamps")

    def __init__(self, interactions: Sequence[Interaction] = ()) -> None:
        self.item_ids = [each.item_id for each in interactions]
        self.timestamps = array("q", [each.timestamp for each in interactions])
        self.letters = bytearray("".join(each.letter for each in interactions), "ascii")

    def __len__(self) -> int:
        return len(self.item_ids)

    def interactions(self) -> list[Interaction]:
        """Return the interactions, oldest first."""
        columns = zip(self.timestamps, self.letters.decode("ascii"), self.item_ids, strict=True)
        return [Interaction(*row) for row in columns]

    def insert(self, added: Interaction, cap: int) -> None:
        """Insert an interaction behind all of the same time or an earlier one; beyond the cap the oldest one goes."""
        at = bisect_right(self.timestamps, added.timestamp)
        self.item_ids.insert(at, added.item_id)
        self.timestamps.insert(at, added.timestamp)
        self.letters.insert(at, ord(added.letter))
        if len(self) > cap:
            del self.item_ids[0]
            del self.timestamps[0]
            del self.letters[0]

    def merged(self, imported: Sequence[Interaction], cap: int) -> tuple[UserHistory, int]:
        """Return the newest of these interactions and the imported ones, and how many of the latter are among them.

        Imported ones are left out that are here already: the same item at the same time, or an item that an earlier
        release stored without its time. At equal times imported ones come first.
        """
        stored = self.interactions()
        known = {(each.timestamp, each.item_id) for each in stored}
        untimed = {each.item_id for each in stored if each.letter == UNTIMED}
        came = [
            each for each in imported if (each.timestamp, each.item_id) not in known and each.item_id not in untimed
        ]

        origins = [True] * len(came) + [False] * len(stored)
        rows = sorted(zip([*came, *stored], origins, strict=True), key=lambda row: row[0].timestamp)[-cap:]
        return UserHistory([each for each, _ in rows]), sum(is_imported for _, is_imported in rows)
