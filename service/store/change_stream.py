"""Interface of the change stream: raw catalogue changes that all replicas read, and snapshots of each version.

There is one stream for all model versions. Changes are numbered 1, 2, 3 … without gaps and kept as raw input: every
version computes its own codes from them. Beside the stream, the store keeps the latest change of every item, so that
the stream can be trimmed and the next version can still apply everything that ever happened. There, a deletion keeps
the content that the item had.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.errors import StoreUnavailable

ChangeKind = Literal["put", "delete", "restart"]
"""Kind of a change. ``restart`` changes no item: it is the first entry after the store had lost changes."""

READ_LIMIT = 1000
"""Largest number of changes read at once, unless the caller asks otherwise."""

APPEND_LIMIT = 256
"""Largest number of changes appended in one atomic step, which blocks Redis for everyone: about two milliseconds."""


class Position(NamedTuple):
    """Place in the stream: a reader here has read every change up to ``revision``.

    The nonce is a random number drawn when that change was appended. If the store loses its last changes and goes on,
    the same revisions stand for other changes, but their nonces differ: a reader notices instead of mixing the two.
    """

    revision: int = 0
    nonce: int = 0


START = Position()
"""Place before the first change."""


class RawChange(NamedTuple):
    """Change as a writer appends it, without a place."""

    item_id: str
    kind: ChangeKind
    payload: bytes  # canonical JSON of what the client sent; of a "delete", empty or what the item held before


@dataclass(frozen=True)
class ItemChange:
    """Change as a reader gets it. It holds raw input and never codes, so that the next version can apply it, too."""

    at: Position
    item_id: str
    kind: ChangeKind
    payload: bytes


class Head(NamedTuple):
    """Place and lineage of a version's newest snapshot: what a replica compares itself with.

    Attributes:
        at: Place of the last change that the snapshot contains.
        lineage: Name of the computation that gave new items their codes. Catalogues are comparable only within one
            lineage: another one may have given the same items other codes.
    """

    at: Position
    lineage: str


@dataclass(frozen=True)
class Snapshot:
    """Whole catalogue of a version as flat arrays, which are read-only.

    Attributes:
        at: Place of the last change that it contains.
        lineage: See :class:`Head`.
        origin: SHA-256 of the bundle's catalogue file, from which it was made.
        arrays: See :meth:`model_store.catalogue.catalogue.Catalogue.arrays`.
    """

    at: Position
    lineage: str
    origin: str
    arrays: Mapping[str, npt.NDArray[np.generic]]

    @property
    def head(self) -> Head:
        """Place and lineage, with which replicas compare themselves."""
        return Head(self.at, self.lineage)


@dataclass(frozen=True)
class Tail:
    """Part of the stream after a reader's place, as one read returns it.

    Attributes:
        latest_revision: Revision of the newest change that the store holds, 0 for none.
        is_unbroken: True if the stream still holds the change at the reader's place and all changes after it.
        changes: Changes after that place, in order without gaps, at most as many as asked for; none if broken.
        head: Newest snapshot of the reader's version, ``None`` if there is none.
    """

    latest_revision: int
    is_unbroken: bool
    changes: Sequence[ItemChange]
    head: Head | None


@dataclass(frozen=True)
class LatestChanges:
    """Latest change of every item that ever changed. A deletion has the payload of the put before it, if there was one.

    Attributes:
        at: Place of the newest change when reading began. Some of the changes may be newer: after them, apply the
            changes of the stream after ``at``, too, to be at an exact place again.
        changes: One change per item, in the order in which the items changed first.
    """

    at: Position
    changes: Sequence[ItemChange]


class ChangeStore(ABC):
    """Stream of catalogue changes, and the snapshots of each version.

    Every method raises :class:`~model_store.errors.StoreUnavailable` when the store cannot be reached in time.

    Attributes:
        corrupt_values: Values left out since start because they do not decode.
    """

    corrupt_values: int = 0

    @abstractmethod
    async def append(self, changes: Sequence[RawChange], known: int = 0) -> Position:
        """Append changes in order and return the place of the last one.

        The caller has read up to revision ``known``. A store that holds less has lost changes. It appends nothing and
        raises :class:`StoreUnavailable`, because a :meth:`restart` is near, which would drop the new changes. Changes
        that only delete are appended to a full store, too.

        Up to :data:`APPEND_LIMIT` changes are one atomic step; more are several steps. A crash or
        :class:`StoreUnavailable` can leave the first steps appended, and even the step that failed. It is harmless to
        repeat all changes, because the last change of an item wins.
        """

    @abstractmethod
    async def read_tail(self, version: str, after: Position, limit: int = READ_LIMIT) -> Tail:
        """Read the changes after a place and the head of the version's newest snapshot, in one atomic step.

        Raises:
            StoreCorrupt: An entry does not decode.
        """

    @abstractmethod
    async def read_latest(self) -> LatestChanges:
        """Read the latest change of every item; entries that do not decode are left out and counted.

        Takes seconds where a million items changed.
        """

    @abstractmethod
    async def trim(self, before: int) -> None:
        """Drop changes below a revision from the stream; its newest change and each item's latest change stay."""

    @abstractmethod
    async def restart(self, after: int, changes: Sequence[RawChange]) -> Position | None:
        """Start the stream anew after revision ``after``, because the store holds less than the caller has read.

        Args:
            after: Last revision that the caller has read.
            changes: Latest change of each item that the caller knows, in the order of first changes. They are kept
                for items of which the store knows nothing.

        Returns:
            The place to go on from, or ``None`` if another replica was faster and the store is not behind any more.
        """

    @abstractmethod
    async def has_snapshot(self, version: str) -> bool:
        """Tell whether a snapshot of the version is stored. It may be damaged."""

    @abstractmethod
    async def load_snapshot(self, version: str) -> Snapshot | None:
        """Load the newest complete snapshot of a model version, ``None`` if there is none.

        Raises:
            StoreCorrupt: Chunks are missing, or their digest differs.
        """

    @abstractmethod
    async def save_snapshot(self, version: str, make: Callable[[], Awaitable[Snapshot | None]]) -> Snapshot | None:
        """Take the version's lock, make a snapshot and store it in place of any older one, its head last.

        Args:
            version: Model version.
            make: Called while the lock is held. It should look again whether a snapshot is still needed, and return
                ``None`` if not: then nothing is stored. Its errors pass through. The arrays must not change afterwards.

        Returns:
            The stored snapshot; ``None`` if there was nothing to store, or another replica holds the lock or took it
            over meanwhile.

        Raises:
            StoreUnavailable: The store cannot be reached in time, or the lock expired meanwhile.
        """


def lost_changes() -> StoreUnavailable:
    """Return the error for a store that holds less than this replica has read."""
    return StoreUnavailable(
        "the store lost changes that this replica has",
        "the replica gives them back within seconds: repeat the write then",
    )
