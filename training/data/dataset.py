"""Interactions of users with items, prepared for training: sequences by user, and the leave-one-out split.

Order inside a user is by timestamp; interactions with equal timestamps keep the order of the input. A log is written
as things happen, so its order is the best evidence there is. Sorting ties by item id instead would plant a pattern
(the next id is higher) that a model learns and no user has. Inputs that are themselves sorted by item, where the input
order has just that flaw, can have their ties shuffled (``PrepareOptions.ties``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from model_store.catalogue import ID_BYTES
from model_store.errors import DataError

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]

HELD_OUT = 2
"""Interactions at the end of a user's sequence that training never sees: validation target, then test target."""


@dataclass(frozen=True)
class ItemInfo:
    """What is known of an item besides its interactions."""

    title: str = ""
    categories: tuple[str, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)


class Split(NamedTuple):
    """One held-out interaction for each of n users, with what the user did before."""

    histories: list[Int32Array]  # n times [at least 1], oldest first
    targets: Int32Array  # [n], item rows
    users: Int64Array  # [n], user rows


class Merged(NamedTuple):
    """A data set with further interactions, and what became of those."""

    dataset: Dataset
    accepted: int
    rejected: int  # of unknown items


@dataclass(frozen=True)
class Dataset:
    """All interactions, in compressed rows by user. Items and users are numbered by row; ids are for the outside."""

    name: str
    user_ids: list[str]
    item_ids: list[str]
    offsets: Int64Array  # [users + 1], user u owns items[offsets[u]:offsets[u + 1]]
    items: Int32Array  # [interactions], item rows, oldest first within a user
    timestamps: Int64Array  # [interactions], Unix seconds, 0 where unknown
    titles: list[str]  # "" where unknown
    categories: list[tuple[str, ...]]
    attributes: list[dict[str, Any]]
    notes: tuple[str, ...] = ()  # where it came from and what was dropped, for people

    @classmethod
    def from_frame(
        cls, name: str, frame: pl.DataFrame, info: Mapping[str, ItemInfo], notes: Sequence[str] = ()
    ) -> Self:
        """Number users and items by first appearance and sort each user's interactions by time, ties in input order.

        Args:
            name: What reports call the data.
            frame: Columns ``user`` and ``item`` (text) and ``timestamp`` (Int64, Unix seconds), in input order.
            info: By item id; items without interactions are left out, unknown ones get an empty entry.
            notes: See :attr:`notes`.

        Raises:
            DataError: There are no interactions, or an id is empty or too long.
        """
        if frame.is_empty():
            raise DataError(f"{name}: no interactions are left", "check the input, or lower min_user and min_item")
        user_row, user_ids = _numbered(frame["user"])
        item_row, item_ids = _numbered(frame["item"])
        timestamps = frame["timestamp"].to_numpy()
        order = np.lexsort((timestamps, user_row))  # stable: ties keep the input order
        known = [info.get(item_id, ItemInfo()) for item_id in item_ids]
        dataset = cls(
            name=name,
            user_ids=user_ids,
            item_ids=item_ids,
            offsets=_offsets(user_row, len(user_ids)),
            items=item_row[order].astype(np.int32),
            timestamps=timestamps[order].astype(np.int64),
            titles=[item.title for item in known],
            categories=[item.categories for item in known],
            attributes=[item.attributes for item in known],
            notes=tuple(notes),
        )
        dataset.check_integrity()
        return dataset

    @property
    def users(self) -> int:
        """Number of users."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.item_ids)

    @property
    def interactions(self) -> int:
        """Number of interactions."""
        return len(self.items)

    @property
    def density(self) -> float:
        """Interactions by user-item pair; above 1 only where most interactions repeat."""
        return self.interactions / (self.users * self.n_items)

    @cached_property
    def lengths(self) -> Int64Array:
        """Interactions of each user, [users]."""
        return np.diff(self.offsets)

    @cached_property
    def item_row(self) -> dict[str, int]:
        """Row by item id."""
        return {item_id: row for row, item_id in enumerate(self.item_ids)}

    @cached_property
    def user_row(self) -> dict[str, int]:
        """Row by user id."""
        return {user_id: row for row, user_id in enumerate(self.user_ids)}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content, hexadecimal; name and notes do not count."""
        digest = hashlib.sha256()
        for column in (self.user_ids, self.item_ids, self.titles, self.categories, self.attributes):
            digest.update(json.dumps(column, sort_keys=True).encode() + b"\n")
        for array in (self.offsets, self.items, self.timestamps):
            digest.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()

    def sequence(self, user: int) -> Int32Array:
        """All items of a user row, oldest first."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def training_sequences(self) -> list[Int32Array]:
        """What training may see of each user, [users] times [length], oldest first.

        All but the last two interactions; everything of a user with fewer than three, who is not evaluated.
        """
        return [self.sequence(user)[:end] for user, end in enumerate(self._training_lengths.tolist())]

    def validation(self) -> Split:
        """The last but one interaction of each user with at least three, after the user's training sequence."""
        return self._held_out(2)

    def test(self) -> Split:
        """The last interaction of each user with at least three, after everything before it."""
        return self._held_out(1)

    def popularity(self, part: Literal["training", "all"] = "training") -> Int64Array:
        """Interactions of each item, [items]: of the training sequences, or of everything."""
        if part == "all":
            return np.bincount(self.items, minlength=self.n_items).astype(np.int64)
        position = np.arange(self.interactions) - np.repeat(self.offsets[:-1], self.lengths)
        seen = self.items[position < np.repeat(self._training_lengths, self.lengths)]
        return np.bincount(seen, minlength=self.n_items).astype(np.int64)

    def with_interactions(self, user_ids: Sequence[str], item_ids: Sequence[str], timestamps: Sequence[int]) -> Merged:
        """Add interactions with known items; new users are welcome, unknown items are counted and left out.

        Args:
            user_ids: [n].
            item_ids: [n].
            timestamps: [n], Unix seconds. At equal times those of this data set come first, then the given order.

        Raises:
            DataError: A new user's id is empty or too long.
        """
        events = list(zip(user_ids, item_ids, timestamps, strict=True))
        known = [event for event in events if event[1] in self.item_row]
        if not known:
            return Merged(self, 0, len(events))
        user_row = dict(self.user_row)
        added = np.array([user_row.setdefault(user, len(user_row)) for user, _, _ in known], dtype=np.int64)
        owner = np.concatenate([np.repeat(np.arange(self.users), self.lengths), added])
        items = np.concatenate([self.items, np.array([self.item_row[item] for _, item, _ in known], dtype=np.int32)])
        times = np.concatenate([self.timestamps, np.array([time for _, _, time in known], dtype=np.int64)])
        order = np.lexsort((times, owner))
        dataset = replace(
            self,
            user_ids=list(user_row),
            offsets=_offsets(owner, len(user_row)),
            items=items[order],
            timestamps=times[order],
            notes=(*self.notes, f"{len(known)} interactions were added later"),
        )
        dataset.check_integrity()
        return Merged(dataset, len(known), len(events) - len(known))

    def check_integrity(self) -> None:
        """Raise :class:`DataError` unless all columns agree, ids are unique and every user's time runs forward."""
        if len({len(self.item_ids), len(self.titles), len(self.categories), len(self.attributes)}) != 1:
            raise DataError(f"{self.name}: item columns differ in length")
        for kind, ids in (("user", self.user_ids), ("item", self.item_ids)):
            _check_ids(self.name, kind, ids)
        ends = (self.offsets[0], self.offsets[-1]) if len(self.offsets) else ()
        if len(self.offsets) != self.users + 1 or ends != (0, self.interactions) or (self.lengths < 1).any():
            raise DataError(f"{self.name}: offsets do not divide the interactions among the {self.users} users")
        if len(self.timestamps) != self.interactions:
            raise DataError(f"{self.name}: {len(self.timestamps)} timestamps for {self.interactions} interactions")
        if self.items.min() < 0 or self.items.max() >= self.n_items:
            raise DataError(f"{self.name}: an item row lies outside 0 … {self.n_items - 1}")
        backwards = np.diff(self.timestamps) < 0
        backwards[self.offsets[1:-1] - 1] = False
        if backwards.any():
            raise DataError(f"{self.name}: interactions of a user are not sorted by time")

    @cached_property
    def _training_lengths(self) -> Int64Array:
        return np.where(self.lengths > HELD_OUT, self.lengths - HELD_OUT, self.lengths)

    def _held_out(self, from_end: int) -> Split:
        users = np.flatnonzero(self.lengths > HELD_OUT)
        target_at = self.offsets[users + 1] - from_end
        bounds = zip(self.offsets[users].tolist(), target_at.tolist(), strict=True)
        return Split([self.items[start:end] for start, end in bounds], self.items[target_at], users)


def _numbered(ids: pl.Series) -> tuple[Int64Array, list[str]]:
    """Rows by first appearance [n], and the distinct ids in that order."""
    distinct = ids.unique(maintain_order=True)
    rows = pl.DataFrame({"id": distinct, "row": np.arange(len(distinct))})
    numbered = ids.to_frame("id").join(rows, on="id", how="left", maintain_order="left")
    return numbered["row"].to_numpy(), distinct.to_list()


def _offsets(user_row: Int64Array, users: int) -> Int64Array:
    return np.concatenate([[0], np.cumsum(np.bincount(user_row, minlength=users))]).astype(np.int64)


def _check_ids(name: str, kind: str, ids: Sequence[str]) -> None:
    if len(set(ids)) != len(ids):
        raise DataError(f"{name}: {len(ids) - len(set(ids))} repeated {kind} ids")
    for one in ids:
        if not one or len(one.encode(errors="surrogatepass")) > ID_BYTES:
            raise DataError(
                f"{name}: the {kind} id {one[:40]!r} must be 1 to {ID_BYTES} bytes long in UTF-8",
                "shorten the ids, or check that the right column is mapped",
            )
