"""Sources of events: what the feed asks of Kafka, of files and of standard input."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

WAIT_S = 0.5
"""Seconds that a source waits for records at most, so that a signal is noticed soon."""

Place = dict[str, str | int]
"""Where a record stands: topic, partition and offset, or file and line, or line."""


class Record(NamedTuple):
    """One record of a source, not checked yet."""

    raw: bytes  # JSON; of one that is too long, its beginning
    place: Place
    event_id: str = ""  # for an event that brings none; the same if the record is read again. Empty: a random one
    timestamp: int | None = None  # Unix seconds, likewise; None: the time of reading
    traceparent: str = ""
    is_too_long: bool = False


class Batch(NamedTuple):
    """Records that are recorded together.

    Attributes:
        records: The records; none if nothing came, or if only the position moved.
        position: Where the source goes on once they are recorded, in its own terms; ``None``: where it is.
    """

    records: Sequence[Record]
    position: Any = None


class Lag(NamedTuple):
    """What waits in a source, as far as it can tell."""

    records: int = 0
    files: int = 0


class Source(ABC):
    """A source of records. All methods block, and are called one at a time."""

    failures = 0
    """Parts of the source, such as files, that could not be read."""

    @abstractmethod
    def read(self, limit: int) -> Batch | None:
        """Return the next records, at most ``limit``.

        Returns:
            An empty batch if none came within :data:`WAIT_S`; ``None`` if none will come any more.

        Raises:
            EtegrecError: The source cannot be read at all.
        """

    @abstractmethod
    def confirm(self, batch: Batch) -> None:
        """Remember that the store holds everything up to this batch: after a restart, :meth:`read` goes on behind it.

        What was read and not confirmed comes again after a restart.
        """

    @abstractmethod
    def keep_alive(self) -> None:
        """Say that this process lives on; called while it waits for the store."""

    def lag(self) -> Lag:
        """Return what waits; what was read and not confirmed waits, too. Called while the feed waits as well."""
        return Lag()

    @abstractmethod
    def close(self) -> None:
        """Leave the source; no other method is called afterwards."""


def made_id(*place: object) -> str:
    """Return the id of an event that brings none, by its place: read twice, it is recorded once."""
    return hashlib.sha256("\0".join(map(str, place)).encode()).hexdigest()[:32]
