"""Resemblances of new items: the trained items that say much the same, and their own weightiest words.

Nobody had a new item yet, so it has no neighbours of its own. The trained items that it resembles have, and lend it
theirs: what a request finds of them (:mod:`model_store.search.neighbours`) is found of it by shares. Its words are what
the ranker compares (:mod:`model_store.search.item_words`).

    lent(new) = sum over similar trained items of share * score(similar item)

Each new item is one record of 128 bytes, made once, when it is encoded (:mod:`model_store.new_items.item_encoder`). The
way back, from a trained item to the new ones that resemble it, is an index of sorted keys in a few segments, so that a
new item costs no more in a large catalogue than in a small one.

Shapes: n new items, S items that are similar to one, W words of one, B requests.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from model_store.catalogue.growing_rows import GrowingRows
from model_store.catalogue.ragged import Arrays
from model_store.errors import CatalogueError

RESEMBLED = 16
"""S, most trained items that a new one resembles. With 32 fewer new items are found, with 8 the others lose more
(docs/LOG.md)."""

MOST_WORDS = 8
"""W, words that are kept of an item, trained or new. More of them tell no more (docs/LOG.md)."""

NO_WORD = (1 << 16) - 1
"""Number in the place of a word that an item lacks. Words have lower ones: training knows at most 32,768 of them."""

RESEMBLANCE = np.dtype(
    [
        ("similar", np.int32, RESEMBLED),  # rows of trained items, the most similar first; -1 where there are fewer
        ("share", np.float16, RESEMBLED),  # of each of them; their sum is about 1, or 0 if there are none
        ("word", np.uint16, MOST_WORDS),  # numbers of words, each once; NO_WORD where there are fewer
        ("word_weight", np.float16, MOST_WORDS),  # 0 where there is no word; unit length, or all 0
    ]
)
"""The record of a new item."""

LENDERS = 64
"""Trained items that lend in a request: those with the highest scores. Others would have little to lend."""

MOST_LOANS = 2_048
"""Pairs of a trained and a new item that are looked at for a request; the highest scores come first."""

MOST_BORROWERS = 256
"""A trained item that more new ones resemble lends nothing: what so many items say tells little. Those that are
withdrawn count, until the next version."""

MOST_LENT = 64
"""New items that a request finds by what is lent to them, at most: those that get the most."""

_TIE = 1e-12
"""By how much an equal score counts less with every column further right."""

_NEW_BITS = 31
_NEW_MASK = (1 << _NEW_BITS) - 1
_SLOT_BITS = 4
_ROW_SHIFT = _NEW_BITS + _SLOT_BITS
_LARGEST_SEGMENT = 1 << 20
"""Keys above which segments are not merged any more, so that no change waits for a long sort."""

Records = npt.NDArray[np.void]
Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]


class Lent(NamedTuple):
    """Scores that new items get in B requests, as pairs sorted by both."""

    owner: Int64Array  # numbers of requests
    row: Int64Array  # catalogue rows of new items
    value: Float64Array  # above 0


class Words(NamedTuple):
    """Words of items ``[…]``."""

    word: npt.NDArray[np.uint16]  # [..., W]
    weight: npt.NDArray[np.float16]  # [..., W]


def nothing_known(items: int) -> Records:
    """Return the records of items of which nothing is known."""
    records = np.zeros(items, dtype=RESEMBLANCE)
    records["similar"] = -1
    records["word"] = NO_WORD
    return records


@dataclass(frozen=True, eq=False)
class Resemblances:
    """The records of all new items of a catalogue. Immutable; those of a larger catalogue share the memory.

    Attributes:
        first: Catalogue row of the first new item; -1 of those that belong to no catalogue yet.
        is_hidden: Items that are lent nothing, ``[n]``; empty: none.
    """

    first: int = -1
    is_hidden: npt.NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, dtype=np.bool_))
    _growing: GrowingRows = field(default_factory=lambda: GrowingRows(nothing_known(0)))
    _segments: tuple[Int64Array, ...] = ()

    @classmethod
    def of(cls, first: int, records: Records) -> Self:
        """Return the resemblances of items that follow each other from the row ``first`` on.

        Raises:
            CatalogueError: A record names an item that is no trained one, or holds no possible numbers.
        """
        return cls(first).with_rows(records)

    @classmethod
    def unknown(cls, first: int, end: int) -> Self:
        """Return the resemblances of items of which nothing is known, from a row to before another."""
        return cls(first).with_rows(nothing_known(max(end - first, 0)))

    def __len__(self) -> int:
        return len(self.records)

    @property
    def records(self) -> Records:
        """The records ``[n]``, of type :data:`RESEMBLANCE`."""
        return self._growing.rows

    @property
    def end(self) -> int:
        """Catalogue row after the last new item."""
        return self.first + len(self)

    def with_rows(self, records: Records) -> Self:
        """Return these followed by the records of further new items, none of them hidden.

        Raises:
            CatalogueError: See :meth:`of`.
        """
        _check(self.first, records)
        if not len(records):
            return self
        segments = _added(self._segments, _keys(records, len(self)))
        return type(self)(self.first, _growing=self._growing.with_rows(records), _segments=segments)

    def hiding(self, is_hidden: npt.NDArray[np.bool_]) -> Self:
        """Return the same with items hidden, ``[n]``; they stay where they are."""
        return replace(self, is_hidden=is_hidden)

    def for_rows(self, rows: Int64Array) -> Resemblances:
        """Return the resemblances of some catalogue rows, ascending, numbered anew from 0."""
        place = np.full(self.first, -1, dtype=np.int32)
        old = rows[rows < self.first]
        place[old] = np.arange(len(old))
        records = self.records[rows[rows >= self.first] - self.first]

        similar = records["similar"]
        is_known = similar >= 0
        similar[is_known] = place[similar[is_known]]
        records["share"][records["similar"] < 0] = 0
        return Resemblances.of(len(old), records)

    def words(self, rows: npt.NDArray[np.integer]) -> Words:
        """Return the words of catalogue rows ``[…]``; none of rows that are no new items."""
        known, records = self._of(rows)
        word = np.full((*rows.shape, MOST_WORDS), NO_WORD, dtype=np.uint16)
        weight = np.zeros(word.shape, dtype=np.float16)
        word[known] = records["word"]
        weight[known] = records["word_weight"]
        return Words(word, weight)

    def has_words(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """Return whether catalogue rows ``[…]`` are new items with words."""
        known, records = self._of(rows)
        found = np.zeros(rows.shape, dtype=np.bool_)
        found[known] = records["word"][:, 0] != NO_WORD
        return found

    def lent(self, rows: Int64Array, scores: Float64Array, closed: npt.NDArray[np.integer] | None = None) -> Lent:
        """Return what new items get of scores of trained items, at most :data:`MOST_LENT` items a request.

        Args:
            rows: Trained items of B requests, ``[B, m]``; of padding they mean nothing.
            scores: ``[B, m]``, 0 for padding.
            closed: Catalogue rows ``[B, t]``, new or not, that get nothing; anything below 0 is padding.
        """
        # The highest scores come first; of equal ones the first, on every machine.
        request = np.arange(len(scores))[:, None]
        key = np.arange(scores.shape[1]) * _TIE - scores
        if scores.shape[1] > LENDERS:
            highest = np.argpartition(key, LENDERS - 1, axis=1)[:, :LENDERS]
            rows = rows[request, highest]
            scores = scores[request, highest]
            key = key[request, highest]
        order = key.argsort(axis=1)
        rows = rows[request, order]
        scores = scores[request, order]
        owner, place = np.nonzero(scores)
        row = rows[owner, place]
        score = scores[owner, place]

        # An item's keys are in one segment, so its sum does not depend on how the keys are divided among segments.
        begin, count = self._found(owner, row)
        pairs = [np.empty(0, np.int64)]
        values = [np.empty(0)]
        for keys, first, size in zip(self._segments, begin, count, strict=True):
            key = keys[np.repeat(first - (size.cumsum() - size), size) + np.arange(size.sum())]
            new = key & _NEW_MASK
            pairs.append(np.repeat(owner * len(self), size) + new)
            values.append(np.repeat(score, size) * self.records["share"][new, key >> _NEW_BITS & (RESEMBLED - 1)])

        pair, index = np.unique(np.concatenate(pairs), return_inverse=True)
        total = np.bincount(index, np.concatenate(values), len(pair)).astype(np.float64)
        pair_owner, new = np.divmod(pair, max(len(self), 1))
        is_open = np.ones(len(pair), dtype=np.bool_)
        if len(self.is_hidden):
            is_open &= ~self.is_hidden[new]
        if closed is not None:
            is_open &= ~self._is_closed(pair, closed)

        open_pairs = np.flatnonzero(is_open)
        kept = open_pairs[_largest(pair_owner[open_pairs], total[open_pairs], len(scores))]
        return Lent(pair_owner[kept], new[kept] + self.first, total[kept])

    def _is_closed(self, pair: Int64Array, closed: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """Return which pairs of request and new item are among the closed rows ``[B, t]`` of their request."""
        is_new = closed >= self.first
        if not is_new.any():
            return np.zeros(len(pair), dtype=np.bool_)
        request = np.nonzero(is_new)[0]
        return np.isin(pair, request * len(self) + closed[is_new] - self.first)

    def _found(self, owner: Int64Array, row: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Return where the keys of trained items begin in each segment, and how many are looked at, ``[segments, P]``.

        Args:
            owner: Number of the request, ``[P]``, ascending.
            row: ``[P]``, of a request those with the highest scores first.
        """
        bounds = [np.searchsorted(keys, (row + step) << _ROW_SHIFT) for keys in self._segments for step in (0, 1)]
        begin, end = np.array(bounds, dtype=np.int64).reshape(len(self._segments), 2, len(row)).swapaxes(0, 1)
        count = end - begin
        count[:, count.sum(axis=0) > MOST_BORROWERS] = 0
        total = count.sum(axis=0)
        visited = total.cumsum()
        count[:, visited - (visited - total)[np.searchsorted(owner, owner)] > MOST_LOANS] = 0
        return begin, count

    def _of(self, rows: npt.NDArray[np.integer]) -> tuple[npt.NDArray[np.bool_], Records]:
        """Return which catalogue rows are new items, and the records of those."""
        known = (rows >= self.first) & (rows < self.end)
        return known, self.records[rows[known] - self.first]

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return everything as plain arrays by name; :meth:`from_arrays` takes them back."""
        assert RESEMBLANCE.names is not None
        columns: dict[str, npt.NDArray[Any]] = {
            name: np.ascontiguousarray(self.records[name])  # writers of safetensors take no other
            for name in RESEMBLANCE.names
        }
        return {"first_new": np.array([self.first], dtype=np.int64), **columns}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """Rebuild and check resemblances from :meth:`arrays`.

        Raises:
            CatalogueError: An array is missing, or they do not describe resemblances.
        """
        try:
            first, similar = arrays["first_new"], arrays["similar"]
            if first.shape != (1,) or first.dtype != np.int64 or not similar.ndim:
                raise CatalogueError("first_new must be (1,), int64, and similar a table")
            records = nothing_known(len(similar))
            for name in RESEMBLANCE.names or ():
                if arrays[name].shape != records[name].shape or arrays[name].dtype != records[name].dtype:
                    raise CatalogueError(f"{name} must be {records[name].shape}, {records[name].dtype}")
                records[name] = arrays[name]
        except KeyError as missing:
            raise CatalogueError(f"lacks the array {missing}") from missing
        return cls.of(int(first[0]), records)


def _check(first: int, records: Records) -> None:
    """Raise :class:`CatalogueError` unless records can be of items from the row ``first`` on or later."""
    similar, share, weight = (records[name] for name in ("similar", "share", "word_weight"))
    if first < 0 or similar.min(initial=-1) < -1 or similar.max(initial=-1) >= first:
        raise CatalogueError(f"similar must hold rows of trained items, below {first}, or -1")
    if not (np.isfinite(share) & (share >= 0)).all() or share[similar < 0].any():
        raise CatalogueError("share must be at least 0, and 0 where there is no item")
    if not (np.isfinite(weight) & (weight >= 0)).all() or weight[records["word"] == NO_WORD].any():
        raise CatalogueError("word_weight must be at least 0, and 0 where there is no word")


def _keys(records: Records, before: int) -> Int64Array:
    """Return the keys of records, ascending: trained row, place of that among the similar ones, number of the item.

    Args:
        before: Number of the first of these items.
    """
    new, slot = np.nonzero(records["share"])
    row = records["similar"][new, slot].astype(np.int64)
    return np.sort(row << _ROW_SHIFT | slot << _NEW_BITS | (new + before))


def _added(segments: tuple[Int64Array, ...], keys: Int64Array) -> tuple[Int64Array, ...]:
    """Return sorted segments with one more, merged while the one before is not much larger: few segments, few sorts."""
    if not len(keys):
        return segments
    while segments and len(segments[-1]) <= 2 * len(keys) and len(segments[-1]) + len(keys) <= _LARGEST_SEGMENT:
        keys = np.sort(np.concatenate([segments[-1], keys]), kind="stable")  # two sorted runs are merged in one pass
        segments = segments[:-1]
    return (*segments, keys)


def _largest(owner: Int64Array, value: Float64Array, requests: int) -> Int64Array:
    """Return the places of the :data:`MOST_LENT` largest values of each owner, ascending; of equal ones the first.

    Args:
        owner: Ascending numbers below ``requests``.
        value: Above 0.
        requests: Number of owners.
    """
    count = np.bincount(owner, minlength=requests)
    rank = np.arange(len(owner)) - (count.cumsum() - count)[owner]
    if count.max(initial=0) <= MOST_LENT:
        return np.arange(len(owner))

    values = np.zeros((requests, int(count.max())))
    values[owner, rank] = value
    key = np.arange(values.shape[1]) * _TIE - values
    limit = np.partition(key, MOST_LENT - 1, axis=1)[:, MOST_LENT - 1]
    return np.flatnonzero(key[owner, rank] <= limit[owner])
