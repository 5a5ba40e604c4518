"""Slots for bulk uploads: each may take as much memory as its body, so only a few are read at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import TooManyUploads


class UploadSlots:
    """A number of places for bulk uploads. Used from the event loop."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take a place meanwhile.

        Raises:
            TooManyUploads: None is free.
        """
        if self._taken >= self._limit:
            raise TooManyUploads(self._limit)

        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
