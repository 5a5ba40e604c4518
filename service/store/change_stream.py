"""The live catalogue as replicas share it: one stream of raw changes for the shop, and snapshots per model version.

Changes are numbered 1, 2, 3 … without gaps, whichever version is live, and kept as raw input: every version computes
its own codes from them. Beside the stream the store keeps the latest change of every item, so that the stream can be
trimmed and the next version can apply everything that ever happened.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

ChangeKind = Literal["put", "delete", "restart"]
"""``restart`` changes no item: it begins a stream anew after the store had lost changes."""

READ_LIMIT = 1000
"""Changes read at once."""


class Position(NamedTuple):
    """A place in the stream: everything up to ``revision`` was read.

    The nonce was drawn when that change was appended. Two streams that share revisions but not changes, because the
    store lost its last ones and went on, differ in it, so that a reader notices instead of mixing the two.
    """

    revision: int = 0
    nonce: int = 0


START = Position()
"""Before the first change."""


class RawChange(NamedTuple):
    """What is appended."""

    item_id: str
    kind: ChangeKind
    payload: bytes  # canonical JSON of what the client sent; empty but for "put"


@dataclass(frozen=True)
class ItemChange:
    """A change as raw input: never codes, so that the next version can apply it too."""

    at: Position
    item_id: str
    kind: ChangeKind
    payload: bytes


class Head(NamedTuple):
    """Which snapshot of a version is the newest.

    Attributes:
        at: Changes up to here are contained.
        lineage: Names the computation that the codes of live items come from. Replicas may only compare, or follow
            the same changes, within one lineage: another one may have placed the same items elsewhere.
    """

    at: Position
    lineage: str


@dataclass(frozen=True)
class Snapshot:
    """The whole catalogue of a version as flat arrays. Arrays are read-only.

    Attributes:
        at: Changes up to here are contained.
        lineage: See :class:`Head`.
        origin: SHA-256 of the bundle's catalogue file that it descends from.
        arrays: See :meth:`model_store.catalogue.catalogue.Catalogue.arrays`.
    """

    at: Position
    lineage: str
    origin: str
    arrays: Mapping[str, npt.NDArray[np.generic]]

    @property
    def head(self) -> Head:
        """What readers compare themselves with."""
        return Head(self.at, self.lineage)


@dataclass(frozen=True)
class Tail:
    """What one read of the stream found.

    Attributes:
        latest: Revision of the newest change that the store holds, 0 for none.
        is_unbroken: Whether the stream still holds what follows the reader's place, and that place itself.
        changes: What follows, in order without gaps, at most as many as asked for; none if broken.
        head: Newest snapshot of the reader's version, ``None`` if there is none.
    """

    latest: int
    is_unbroken: bool
    changes: Sequence[ItemChange]
    head: Head | None


@dataclass(frozen=True)
class Latest:
    """The latest change of every item that ever changed.

    Attributes:
        at: The newest change when reading began. Entries may be younger: apply the stream's changes after ``at``
            once more to know exactly where one stands.
        changes: One an item, in the order in which the items changed first.
    """

    at: Position
    changes: Sequence[ItemChange]


class ChangeStore(ABC):
    """The stream of catalogue changes and the snapshots of each version.

    Every method raises :class:`~model_store.errors.StoreUnavailable` when the store cannot be reached in time.
    """

    @abstractmethod
    async def append(self, changes: Sequence[RawChange], known: int = 0) -> Position:
        """Append changes in order and return the place of the last one.

        A store that holds less than revision ``known``, up to which the caller has read, lost changes and is about to
        be begun anew (:meth:`restart`), which would drop what is appended meanwhile: it raises
        :class:`StoreUnavailable` and appends nothing.

        At most :data:`APPEND_LIMIT` of them are one atomic step; more are several steps. A crash or
        :class:`StoreUnavailable` can leave the first steps appended: repeating all changes is harmless, as the last
        one of an item wins. After :class:`StoreUnavailable` even the failed step may have been appended.
        """

    @abstractmethod
    async def read(self, version: str, after: Position, limit: int = READ_LIMIT) -> Tail:
        """What happened after a place, together with the newest snapshot of the version, in one atomic step.

        Raises:
            StoreCorrupt: An entry does not decode.
        """

    @abstractmethod
    async def latest(self) -> Latest:
        """The latest change of every item; entries that do not decode are left out and counted.

        Reads for seconds where a million items changed.
        """

    @abstractmethod
    async def trim(self, before: int) -> None:
        """Drop changes below a revision from the stream; the newest and each item's latest change stay."""

    @abstractmethod
    async def restart(self, after: int, changes: Sequence[RawChange]) -> Position | None:
        """Begin the stream anew behind ``after``, because the store holds less than the caller has read.

        Args:
            after: Last revision that the caller has read.
            changes: The latest change of each item as far as the caller knows, first ones first; they fill in for
                items of which the store knows nothing.

        Returns:
            The place to go on from, or ``None`` if someone else was faster: the store is not behind any more.
        """

    @abstractmethod
    async def has_snapshot(self, version: str) -> bool:
        """Whether something is kept as the snapshot of a version, be it damaged."""

    @abstractmethod
    async def load_snapshot(self, version: str) -> Snapshot | None:
        """The newest complete snapshot of a model version, ``None`` if there is none.

        Raises:
            StoreCorrupt: Chunks are missing or their digest differs.
        """

    @abstractmethod
    async def save_snapshot(self, version: str, make: Callable[[], Awaitable[Snapshot | None]]) -> Snapshot | None:
        """Take the version's lock, make a snapshot and store it, head pointer last, in place of any older one.

        Args:
            version: Model version.
            make: Called while the lock is held, so look again there whether a snapshot is still needed: ``None`` is
                not stored. What it raises comes through. The arrays must not change afterwards.

        Returns:
            What was stored; ``None`` if another replica holds the lock, or took it over meanwhile.

        Raises:
            StoreUnavailable: Also when the lock expired meanwhile.
        """


APPEND_LIMIT = 256
"""Changes appended in one atomic step: it blocks Redis for everyone, about two milliseconds."""

LOST = "the live store lost changes that this replica has"
REFILLED = "the replica gives them back within seconds: repeat the write then"
