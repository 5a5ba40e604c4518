"""Prepared interactions: the sequence of every user, and the split into training, validation and test.

A user's interactions are sorted by timestamp; those with equal timestamps keep the order of the input. A log is written
as things happen, so its order is the best evidence there is. Sorting ties by item id would plant a pattern (the next id
is higher) that a model learns although no user has it. Inputs that are themselves sorted by item have the same flaw;
their ties can be shuffled (``PrepareOptions.ties``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from model_store.catalogue.catalogue import ID_BYTES
from model_store.errors import DataError
from model_store.new_items.features import says_something
from training.data.event_types import UNKNOWN, Int8Array, event_numbers
from training.data.filters import UNFILTERED, FilterOptions
from training.data.numbering import Int32Array, Int64Array, number_ids, stable_order
from training.data.set_aside import Interactions, nothing
from training.data.split import LEAVE_ONE_OUT, Cuts, Division, SplitOptions
from training.data.untrained_items import NO_ITEMS, UntrainedItems

Float32Array = npt.NDArray[np.float32]

_HASHED_AT_ONCE = 1 << 20  # ids


@dataclass(frozen=True)
class ItemInfo:
    """Title, categories and attributes of an item."""

    title: str = ""
    categories: tuple[str, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    vector: Float32Array | None = field(default=None, compare=False)  # [w], brought by the user


class Split(NamedTuple):
    """One held-out interaction for each of n users, with the history before it."""

    histories: list[Int32Array]  # n times [at least 1], oldest first
    targets: Int32Array  # [n], item rows
    users: Int64Array  # [n], user rows


class Sequences(NamedTuple):
    """Sequences of all users in one flat array: user u owns ``items[offsets[u]:offsets[u + 1]]``."""

    items: Int32Array  # [sum of lengths], item rows, oldest first within a user
    offsets: Int64Array  # [users + 1]


@dataclass(frozen=True)
class Dataset:
    """Interactions that training and evaluation see, in compressed rows by user; and what the filters left out.

    Inside, items and users are row numbers; ids appear only at the interfaces.
    """

    name: str
    user_ids: pl.Series  # [users], String; a list of ten million Python strings would take 0.7 GB more
    item_ids: list[str]
    offsets: Int64Array  # [users + 1], user u owns items[offsets[u]:offsets[u + 1]]
    items: Int32Array  # [interactions], item rows, oldest first within a user
    timestamps: Int64Array  # [interactions], Unix seconds, 0 where unknown
    event_types: Int8Array  # [interactions], places in EVENT_TYPES, -1 where unknown
    titles: list[str]  # "" where unknown
    categories: list[tuple[str, ...]]
    attributes: list[dict[str, Any]]
    notes: tuple[str, ...] = ()  # where it came from and what was dropped, for people
    split: SplitOptions = LEAVE_ONE_OUT
    filters: FilterOptions = UNFILTERED
    untrained_items: UntrainedItems = NO_ITEMS  # further items of the items file, none of them in item_ids
    set_aside: pl.DataFrame = field(default_factory=nothing)  # see training.data.set_aside.SCHEMA
    own_vectors: Float32Array | None = None  # [items, w], brought by the user; zeros where an item has none

    @classmethod
    def from_frame(
        cls,
        name: str,
        frame: pl.DataFrame,
        info: Mapping[str, ItemInfo],
        notes: Sequence[str] = (),
        split: SplitOptions = LEAVE_ONE_OUT,
    ) -> Self:
        """Number users and items by first appearance and sort each user's interactions by time, ties in input order.

        Args:
            name: Name of the data in reports.
            frame: Columns ``user`` and ``item`` (String or Categorical) and ``timestamp`` (Int64, Unix seconds), in
                input order; and ``event`` (see :mod:`training.data.event_types`), if types are known.
            info: Item information by item id. Items without interactions are left out; items that are not in it get an
                empty entry.
            notes: See :attr:`notes`.
            split: The part that is held out of training.

        Raises:
            DataError: There are no interactions, or an id is empty or too long.
        """
        if frame.is_empty():
            raise DataError(f"{name}: no interactions are left", "check the input, or lower min_user and min_item")

        user_row, user_ids = number_ids(frame["user"])
        item_row, ids = number_ids(frame["item"])
        item_ids = ids.to_list()

        # Both sorts are stable: ties keep the input order.
        timestamps = frame["timestamp"].to_numpy()
        order = stable_order(user_row) if frame["timestamp"].is_sorted() else np.lexsort((timestamps, user_row))

        known = [info.get(item_id, ItemInfo()) for item_id in item_ids]
        dataset = cls(
            name=name,
            user_ids=user_ids,
            item_ids=item_ids,
            offsets=row_offsets(user_row, len(user_ids)),
            items=item_row[order],
            timestamps=timestamps[order],
            event_types=event_numbers(frame)[order],
            titles=[item.title for item in known],
            categories=[item.categories for item in known],
            attributes=[item.attributes for item in known],
            own_vectors=_stack([item.vector for item in known]),
            notes=tuple(notes),
            split=split,
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
        """Interactions per user-item pair; above 1 only if most interactions repeat earlier ones."""
        return self.interactions / (self.users * self.n_items)

    @cached_property
    def has_content(self) -> bool:
        """True if title, categories or attributes of any trained item say something: a content model can learn."""
        return any(map(says_something, self.titles, self.categories, self.attributes))

    @cached_property
    def lengths(self) -> Int64Array:
        """Interactions of each user, [users]."""
        return np.diff(self.offsets)

    @cached_property
    def item_row(self) -> dict[str, int]:
        """Row by item id."""
        return {item_id: row for row, item_id in enumerate(self.item_ids)}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content and the split, hexadecimal; name, notes and filters are not part of it."""
        digest = _Digest(json.dumps(self.cuts).encode() + b"\n")
        digest.add_ids(self.user_ids)
        for column in (self.item_ids, self.titles, self.categories, self.attributes):
            digest.add(json.dumps(column, sort_keys=True).encode() + b"\n")
        for array in (self.offsets, self.items, self.timestamps):
            digest.add_array(array)
        if self.own_vectors is not None:
            digest.add_array(self.own_vectors)
        if (self.event_types != UNKNOWN).any():
            digest.add_array(self.event_types)
        if self._has_weights:
            digest.add_array(self.filters.weights_by_number)

        if len(self.untrained_items):
            for name, packed in sorted(self.untrained_items.arrays().items()):
                digest.add(f"{name} {packed.dtype.str} {len(packed)}\n".encode())
                digest.add_array(packed)
        if len(self.set_aside):
            for ids in (number_ids(self.set_aside["user"]), number_ids(self.set_aside["item"])):
                digest.add_ids(ids.ids)
                digest.add_array(ids.rows)
            digest.add_array(self.set_aside["timestamp"].to_numpy())
            digest.add_array(self.set_aside["place"].to_numpy())
            digest.add_array(self.set_aside["event"].to_numpy())
        return digest.hexdigest()

    @cached_property
    def cuts(self) -> Cuts | None:
        """Starts of the periods of a time split (see :meth:`SplitOptions.cuts`); ``None`` for leave-one-out."""
        return self.split.cuts(self.timestamps) if self.split.split == "time" else None

    def sequence(self, user: int) -> Int32Array:
        """Return all items of a user row, oldest first."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    @property
    def training_lengths(self) -> Int64Array:
        """Length of each of :meth:`training_sequences`, [users]."""
        return self._division.training_lengths

    def training_sequences(self) -> list[Int32Array]:
        """Return the part of each user's sequence that training may see, [users] times [length], oldest first.

        Leave-one-out: all but the last two interactions. A user with fewer than three is not evaluated, and all of them
        are for training. Time split: all interactions before the validation cut; some users have none.
        """
        return [self.sequence(user)[:end] for user, end in enumerate(self._division.training_lengths.tolist())]

    def training_csr(self) -> Sequences:
        """Return :meth:`training_sequences` as flat arrays, which suit millions of users."""
        offsets = np.concatenate([[0], np.cumsum(self._division.training_lengths)]).astype(np.int64)
        return Sequences(self.items[self._division.is_training], offsets)

    def training_weights(self) -> list[Float32Array] | None:
        """Return the weights of the interactions of :meth:`training_sequences` as targets; ``None`` if all weigh 1.

        They are scaled so that targets, all interactions but the first of each sequence, weigh 1 on average: step sizes
        that suit losses without weights suit these, too.
        """
        if not self._has_weights:
            return None

        weights = self.filters.weights_by_number[self.event_types]
        sequences = [
            weights[start : start + length]
            for start, length in zip(self.offsets.tolist(), self._division.training_lengths.tolist(), strict=False)
        ]
        targets = np.concatenate([sequence[1:] for sequence in sequences])
        mean = float(targets.mean()) if len(targets) else 1.0
        return [sequence / np.float32(mean) for sequence in sequences]

    def validation(self) -> Split:
        """Return the validation targets, one per user; models are chosen by them.

        Of very many users a sample is evaluated, see ``data.evaluated_users``, here and in :meth:`test`.

        Leave-one-out: the last but one interaction of each user with at least three; the history is the training
        sequence. Time split: the first interaction of each user between the two cuts; the history is all that the user
        did before the first cut. There is one target per user, so that a busy user weighs no more than others. It is
        the first one, because a model that is trained at the cut would be asked for it with exactly this history. Users
        without interactions before the cut have no history and are left out.
        """
        return self._held_out(self._division.validation_targets)

    def test(self) -> Split:
        """Return the test targets, one per user; reports show the metrics on them.

        Leave-one-out: the last interaction of each user with at least three; the history is everything before it.
        Time split: the first interaction of each user from the second cut on; the history is everything before that
        cut.
        """
        return self._held_out(self._division.test_targets)

    def popularity(self, part: Literal["training", "all"] = "training") -> Int64Array:
        """Count the interactions of each item, [items], in the training sequences, or with those held out of them."""
        if part == "all":
            return np.bincount(self.items, minlength=self.n_items).astype(np.int64)
        return np.bincount(self.items[self._division.is_training], minlength=self.n_items).astype(np.int64)

    def count_set_aside(self, item_ids: pl.Series) -> Int64Array:
        """Count the interactions with each of these items [n] that the filters set aside, [n]."""
        counts = self.set_aside.group_by("item").len("n").with_columns(pl.col("item").cast(pl.String))
        found = item_ids.alias("item").to_frame().join(counts, on="item", how="left", maintain_order="left")
        return found["n"].fill_null(0).to_numpy().astype(np.int64)

    def placeable_items(self) -> UntrainedItems:
        """Return the untrained items that a content model can place: those with content."""
        if not self.has_content:
            return NO_ITEMS
        return self.untrained_items.take(np.flatnonzero(self.untrained_items.has_content))

    def unplaceable_items(self) -> pl.Series:
        """Return the ids of all items that are neither trained nor can be placed by their content, String."""
        bare = self.set_aside["item"].unique(maintain_order=True).cast(pl.String)
        others = self.untrained_items.ids
        known = pl.concat([pl.Series("item", self.item_ids, dtype=pl.String), others])
        if self.has_content:
            others = others.filter(pl.Series(~self.untrained_items.has_content))
        return pl.concat([others, bare.filter(~bare.is_in(known.implode()))])

    def flat(self) -> Interactions:
        """Return all interactions as flat arrays, ordered by user and time; those set aside are not among them."""
        owner = np.repeat(np.arange(self.users, dtype=np.int32), self.lengths)
        return Interactions(owner, self.items, self.timestamps, self.event_types)

    def check_integrity(self) -> None:
        """Raise :class:`DataError` unless all columns agree, ids are unique and each user's times ascend."""
        if len({len(self.item_ids), len(self.titles), len(self.categories), len(self.attributes)}) != 1:
            raise DataError(f"{self.name}: item columns differ in length")
        if self.own_vectors is not None and len(self.own_vectors) != len(self.item_ids):
            raise DataError(f"{self.name}: {len(self.own_vectors)} vectors for {len(self.item_ids)} items")
        items = pl.concat([pl.Series("item", self.item_ids, dtype=pl.String), self.untrained_items.ids])
        for kind, ids in (("user", self.user_ids), ("item", items)):
            _check_ids(self.name, kind, ids)

        ends = (self.offsets[0], self.offsets[-1]) if len(self.offsets) else ()
        if len(self.offsets) != self.users + 1 or ends != (0, self.interactions) or (self.lengths < 1).any():
            raise DataError(f"{self.name}: offsets do not divide the interactions among the {self.users} users")
        for name, column in (("timestamps", self.timestamps), ("types of events", self.event_types)):
            if len(column) != self.interactions:
                raise DataError(f"{self.name}: {len(column)} {name} for {self.interactions} interactions")
        if self.items.min() < 0 or self.items.max() >= self.n_items:
            raise DataError(f"{self.name}: an item row lies outside 0 … {self.n_items - 1}")

        backwards = np.diff(self.timestamps) < 0
        backwards[self.offsets[1:-1] - 1] = False  # steps from one user to the next
        if backwards.any():
            raise DataError(f"{self.name}: interactions of a user are not sorted by time")

    @property
    def _has_weights(self) -> bool:
        """True if some interactions weigh more than others."""
        return bool((self.filters.weights_by_number[np.unique(self.event_types)] != 1).any())

    @cached_property
    def _division(self) -> Division:
        return Division(self.offsets, self.timestamps, self.cuts)

    def _held_out(self, target_at: Int64Array) -> Split:
        """Return the interactions at the given positions [users], -1 where a user has no target."""
        users = self.split.draw_users(np.flatnonzero(target_at >= 0))
        ends = target_at[users]
        bounds = zip(self.offsets[users].tolist(), ends.tolist(), strict=True)
        return Split([self.items[start:end] for start, end in bounds], self.items[ends], users)


class _Digest:
    """A SHA-256 that grows column by column.

    Args:
        begin: The first bytes.
    """

    def __init__(self, begin: bytes) -> None:
        self._digest = hashlib.sha256(begin)

    def add(self, data: bytes) -> None:
        """Add bytes."""
        self._digest.update(data)

    def add_array(self, array: npt.NDArray[np.generic]) -> None:
        """Add the values of an array in little-endian order."""
        self._digest.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data)

    def add_ids(self, ids: pl.Series) -> None:
        """Add a column of ids with their lengths, a part at a time, which saves memory."""
        for start in range(0, len(ids), _HASHED_AT_ONCE):
            part = ids[start : start + _HASHED_AT_ONCE]
            self.add(part.str.len_bytes().to_numpy().astype("<u4").tobytes() + part.str.join("").item().encode())

    def hexdigest(self) -> str:
        """Return the digest of everything that was added."""
        return self._digest.hexdigest()


def _stack(vectors: Sequence[Float32Array | None]) -> Float32Array | None:
    """Return vectors as rows, zeros for those that are missing; ``None`` if all are."""
    width = next((len(vector) for vector in vectors if vector is not None), 0)
    if not width:
        return None
    stacked = np.zeros((len(vectors), width), dtype=np.float32)
    for row, vector in enumerate(vectors):
        if vector is not None:
            stacked[row] = vector
    return stacked


def row_offsets(user_row: Int32Array | Int64Array, users: int) -> Int64Array:
    """Return where the interactions of each user begin if they are ordered by user, [users + 1]."""
    return np.concatenate([[0], np.cumsum(np.bincount(user_row, minlength=users))]).astype(np.int64)


def _check_ids(name: str, kind: str, ids: pl.Series) -> None:
    if repeated := len(ids) - ids.n_unique():
        raise DataError(f"{name}: {repeated} repeated {kind} ids")
    bytes_long = ids.str.len_bytes()
    bad = (bytes_long < 1) | (bytes_long > ID_BYTES)
    if bad.any():
        raise DataError(
            f"{name}: the {kind} id {ids.filter(bad)[0][:40]!r} must be 1 to {ID_BYTES} bytes long in UTF-8",
            "shorten the ids, or check that the right column is mapped",
        )
