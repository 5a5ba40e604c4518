"""The live store: everything that changes while a model version serves, shared by all replicas.

Two implementations with one contract (``tests/service/test_live_contract.py`` runs on both): Redis, and an in-process
one for a single replica. All methods raise :class:`LiveUnavailable` when the store cannot be reached in time, and
never hang: the caller decides whether to answer degraded. Nothing here computes with a model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.events import Event

ChangeKind = Literal["put", "delete"]


class Recorded(NamedTuple):
    """What became of a batch of events."""

    accepted: int
    duplicates: int


@dataclass(frozen=True)
class Snapshot:
    """A catalogue as packed arrays, at one revision. Arrays are read-only.

    Attributes:
        revision: Changes of this version that are already contained; 0 is the catalogue as trained.
        arrays: Named flat arrays, see :meth:`model_store.trie.Trie.arrays`.
    """

    revision: int
    arrays: Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class ItemChange:
    """A change of the live catalogue, as raw input: never codes, so that the next version can apply it too."""

    revision: int
    item_id: str
    kind: ChangeKind
    payload: bytes  # JSON body of the request in UTF-8, empty for "delete"


class LiveStore(ABC):
    """Histories, events, catalogue snapshots and changes, cached results.

    Attributes:
        corrupt_values: Values skipped since start because they do not decode: history entries, cached results,
            lines of the embedded log. Raised as :class:`LiveCorrupt` instead where skipping would lose meaning.
    """

    corrupt_values: int = 0

    @abstractmethod
    async def ping(self) -> None:
        """Return if the store answers."""

    @abstractmethod
    async def history(self, user_id: str) -> list[str]:
        """Item ids of a user, oldest first, at most the configured cap; empty for an unknown user."""

    @abstractmethod
    async def record(self, events: Sequence[Event]) -> Recorded:
        """Append events to the event log and to their users' histories, each in one atomic step.

        Idempotent by ``event_id`` for at least a day. After it returns, :meth:`history` shows them and a crash of the
        service loses none (a crash of Redis at most what its ``appendfsync`` allows, a second by default). After
        :class:`LiveUnavailable` some may have been recorded: repeat the call with the same events.
        """

    @abstractmethod
    async def forget(self, user_id: str) -> None:
        """Drop the history of a user."""

    @abstractmethod
    async def load_snapshot(self, version: str) -> Snapshot | None:
        """The newest complete snapshot of a model version.

        Returns:
            ``None`` if there is none.

        Raises:
            LiveCorrupt: Chunks are missing or their digest differs.
        """

    @abstractmethod
    async def save_snapshot(self, version: str, snapshot: Snapshot, *, replace: bool = False) -> bool:
        """Store a snapshot, head pointer last, under a lock.

        Args:
            version: Model version.
            snapshot: Its catalogue; the arrays must not change afterwards.
            replace: Store it even over the same or a newer revision: the repair after :class:`LiveCorrupt`.

        Returns:
            ``False`` if another replica holds the lock or the store already has this or a newer revision.

        Raises:
            LiveUnavailable: Also when writing took longer than the lock lasts.
        """

    @abstractmethod
    async def append_change(self, version: str, item_id: str, kind: ChangeKind, payload: bytes) -> int:
        """Append one catalogue change and return its revision (1, 2, 3 … without gaps)."""

    @abstractmethod
    async def changes(self, version: str, after: int, limit: int = 1000) -> list[ItemChange]:
        """Changes with a revision above ``after``, in order.

        Raises:
            LiveCorrupt: A revision is missing or an entry does not decode: load a snapshot instead.
        """

    @abstractmethod
    async def cache_get(self, key: str) -> bytes | None:
        """A cached result, ``None`` when absent or expired."""

    @abstractmethod
    async def cache_put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Cache a result. Of what this interface stores, only cached results ever expire or are evicted."""

    @abstractmethod
    async def close(self) -> None:
        """Flush and disconnect."""
