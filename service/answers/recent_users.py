"""Users whom the model answered of late on this replica: the audience of previews."""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice

KEPT = 512
"""Users that are remembered, those who asked last."""


class RecentUsers:
    """Ids of users, each once, in the order in which they asked last. They are kept in memory and nowhere else.

    Their histories are read from the store when they are wanted, so that of a forgotten user nothing is left.
    """

    def __init__(self) -> None:
        self._users: OrderedDict[str, None] = OrderedDict()  # who asked last comes last

    def note(self, user_id: str) -> None:
        """Remember that a user was answered."""
        self._users[user_id] = None
        self._users.move_to_end(user_id)
        if len(self._users) > KEPT:
            self._users.popitem(last=False)

    def forget(self, user_id: str) -> None:
        """Leave a user out from now on."""
        self._users.pop(user_id, None)

    def newest(self, count: int) -> list[str]:
        """Return so many users, who asked last first."""
        return list(islice(reversed(self._users), count))
