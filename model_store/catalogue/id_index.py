"""A hash index of item ids to row numbers, in flat arrays.

The buckets of the hash table are slices of one array of rows: bucket b holds ``rows[starts[b]:starts[b + 1]]``, one or
two rows each. The ids themselves stay in the packed column and are compared there, so an item costs 4 bytes for its row
and 2 to 8 for the buckets. Ids that join later stand in a dict beside the table, until there are so many that the table
is built anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from threading import Lock

import numpy as np
import numpy.typing as npt

from model_store.catalogue.packed import PackedStrings, row_blocks
from model_store.catalogue.ragged import Ragged, Rows

_FEW = 100
"""Most ids that are looked up one by one; for more, array operations are faster."""

_CACHED = 50_000
"""Most ids that are cached in a dict with their rows: all ids of a small catalogue, else those looked up recently. A
dict of strings is ten times as fast, but also ten times as large."""

_ADDED_SHARE = 16
"""The table is built anew when ids were added for a sixteenth of its rows, and more than :data:`_CACHED`."""

_SEED = 0x9E3779B97F4A7C15
_FACTOR = 0xD6E8FEB86659FD93
_WORD = 2**64 - 1
_KEPT_BYTES = np.array([(1 << 8 * kept) - 1 for kept in range(9)], dtype=np.uint64)
"""Masks that keep the first 0 … 8 bytes of a little-endian word."""


class IdIndex(Mapping[str, int]):
    """Rows by item id. Immutable; reads like a dict. Thread-safe.

    Args:
        ids: Distinct ids, in the order of rows.
    """

    def __init__(self, ids: PackedStrings) -> None:
        self.ids = ids
        self._added = _AddedIds({}, len(ids))
        self._cache = {item_id: row for row, item_id in enumerate(ids)} if len(ids) <= _CACHED else {}
        self._bits = _bucket_bits(len(ids))

        # Hash and row are sorted as one number, so that the rows of a bucket are in order and next to each other.
        keys = (hash_ids(ids) & np.uint64(0xFFFFFFFF00000000)) | np.arange(len(ids), dtype=np.uint64)
        keys.sort()
        self._rows = keys.astype(np.uint32).astype(np.int32)
        self._starts = _bucket_starts(keys >> np.uint64(64 - self._bits), self._bits)
        self.repeated = self._count_repeated(keys >> np.uint64(32))
        """Ids that an earlier row has already; the index is only valid if there are none."""

    def with_ids(self, ids: PackedStrings) -> IdIndex:
        """Return the index of a longer column: it begins with the ids of this index, and the others must be new."""
        built = len(self._rows)
        if len(ids) > built + max(_CACHED, built // _ADDED_SHARE):
            return IdIndex(ids)

        longer = copy(self)  # shares the table, and the cache: rows never change
        longer.ids = ids
        longer._added = self._added.extend(len(self.ids), [ids[row] for row in range(len(self.ids), len(ids))])
        if longer._added is not self._added:
            longer._cache = {}  # another index has grown from this one, and its new rows have other ids
        return longer

    @property
    def nbytes(self) -> int:
        """Memory of the index in bytes, without the ids."""
        return self._rows.nbytes + self._starts.nbytes

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __contains__(self, item_id: object) -> bool:
        return isinstance(item_id, str) and self.row(item_id) is not None

    def __getitem__(self, item_id: str) -> int:
        row = self.row(item_id)
        if row is None:
            raise KeyError(item_id)
        return row

    def row(self, item_id: str) -> int | None:
        """Return the row of an id, ``None`` if it is unknown."""
        row = self._cache.get(item_id)
        if row is None:
            row = self._look_up(item_id)
            if row is None:
                return None
            if len(self._cache) >= _CACHED:
                self._cache.clear()
            self._cache[item_id] = row
        return row if row < len(self.ids) else None  # the cache is shared with longer columns

    def find(self, item_ids: Sequence[str]) -> Rows:
        """Return the row of each id, -1 where it is unknown."""
        if len(item_ids) <= _FEW:
            return self._find_few(item_ids)

        asked = PackedStrings.of(item_ids)
        bucket = (hash_ids(asked) >> np.uint64(64 - self._bits)).astype(np.int64)
        place = self._starts[bucket].astype(np.int64)
        end = self._starts[bucket + 1].astype(np.int64)

        # Compare all ids with the first row of their bucket, those that differ with the second row, and so on.
        rows = np.full(len(asked), -1, dtype=np.int64)
        pending = np.flatnonzero(place < end)
        while len(pending):
            candidates = self._rows[place[pending]].astype(np.int64)
            is_same = _compare(asked, pending, self.ids, candidates)
            rows[pending[is_same]] = candidates[is_same]
            place[pending] += 1
            pending = pending[~is_same & (place[pending] < end[pending])]

        for at in np.flatnonzero(rows < 0).tolist():
            row = self._find_added(item_ids[at])
            rows[at] = -1 if row is None else row
        return rows

    def _find_few(self, item_ids: Sequence[str]) -> Rows:
        known = self._cache
        count = len(self.ids)
        found = [known.get(item_id, count) for item_id in item_ids]
        if max(found, default=0) < count:
            return np.array(found, dtype=np.int64)
        looked_up = (self.row(item_id) for item_id in item_ids)
        return np.array([-1 if row is None else row for row in looked_up], dtype=np.int64)

    def _look_up(self, item_id: str) -> int | None:
        """Read an id's bucket, without the cache."""
        raw = item_id.encode("utf-8", "surrogatepass")  # no stored id has a surrogate: it is unknown, no error
        bucket = _hash_one(raw) >> (64 - self._bits)
        starts = self._starts.data
        rows = self._rows.data
        for at in range(starts[bucket], starts[bucket + 1]):
            if self.ids.raw(rows[at]) == raw:
                return int(rows[at])
        return self._find_added(item_id)

    def _find_added(self, item_id: str) -> int | None:
        """Return the row of an id that joined after the table was built."""
        row = self._added.rows.get(item_id)
        return row if row is not None and row < len(self.ids) else None  # longer indices share the dict

    def _count_repeated(self, hashes: npt.NDArray[np.uint64]) -> int:
        """Count the ids that occur before, from ascending hashes; only neighbours with equal hashes are compared."""
        is_twin = hashes[1:] == hashes[:-1]
        suspects = np.flatnonzero(np.append(is_twin, False) | np.append(False, is_twin))
        ids = self.ids.take(self._rows[suspects])
        return len(suspects) - len(set(ids))


class _AddedIds:
    """Ids that joined after a table was built, with their rows; shared by all indices that grow one from another.

    Args:
        rows: By id.
        end: Row that the next id gets.
    """

    def __init__(self, rows: dict[str, int], end: int) -> None:
        self.rows = rows
        self._end = end
        self._lock = Lock()

    def extend(self, begin: int, ids: Sequence[str]) -> _AddedIds:
        """Return these ids with more of them, from row ``begin`` on.

        The first index that grows from another one shares its dict, others get a copy.
        """
        with self._lock:
            if begin == self._end:
                self.rows.update(zip(ids, range(begin, begin + len(ids)), strict=True))
                self._end += len(ids)
                return self
            known = {item_id: row for item_id, row in self.rows.items() if row < begin}
        return _AddedIds(known, begin).extend(begin, ids)


def hash_ids(ids: PackedStrings) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash of every id, computed by array operations; its highest bits are the best ones."""
    hashes = np.empty(len(ids), dtype=np.uint64)
    ragged = ids.ragged
    for block in row_blocks(len(ids)):
        hashes[block] = _hash_block(ragged, block)
    return hashes


def _hash_block(ids: Ragged, block: slice) -> npt.NDArray[np.uint64]:
    """Hash a few thousand ids, eight bytes of all of them at a time."""
    bounds = ids.offsets[block.start : block.stop + 1].astype(np.int64)
    start = bounds[:-1] - bounds[0]
    length = np.diff(bounds)

    size = int(bounds[-1] - bounds[0])
    padded = np.zeros(size // 8 * 8 + 24, dtype=np.uint8)  # two words may be read past the last byte
    padded[:size] = ids.values[bounds[0] : bounds[-1]]
    words = padded.view("<u8")

    value = (length.astype(np.uint64) ^ np.uint64(_SEED)) * np.uint64(_FACTOR)
    value ^= value >> np.uint64(32)
    for read in range(0, int(length.max(initial=0)), 8):
        longer = np.flatnonzero(length > read)
        place = start[longer] + read

        # An unaligned word is the end of one aligned word and the beginning of the next.
        low = (place & 7).astype(np.uint64) << np.uint64(3)
        high = (words[(place >> 3) + 1] << np.uint64(1)) << (np.uint64(63) - low)
        word = (words[place >> 3] >> low) | high

        kept = word & _KEPT_BYTES[np.minimum(length[longer] - read, 8)]
        mixed = (value[longer] ^ kept) * np.uint64(_FACTOR)
        value[longer] = mixed ^ (mixed >> np.uint64(32))
    return value * np.uint64(_FACTOR)


def _hash_one(raw: bytes) -> int:
    """Return the hash that :func:`hash_ids` gives to one id."""
    value = (len(raw) ^ _SEED) * _FACTOR & _WORD
    value ^= value >> 32
    for read in range(0, len(raw), 8):
        value = (value ^ int.from_bytes(raw[read : read + 8], "little")) * _FACTOR & _WORD
        value ^= value >> 32
    return value * _FACTOR & _WORD


def _compare(left: PackedStrings, left_rows: Rows, right: PackedStrings, right_rows: Rows) -> npt.NDArray[np.bool_]:
    """Return whether strings are equal, pair by pair."""
    ours = left.take(left_rows).ragged
    theirs = right.take(right_rows).ragged
    is_same = ours.lengths == theirs.lengths

    # The bytes of pairs of one length stand at the same places, so they are compared as two flat arrays.
    candidates = np.flatnonzero(is_same)
    our_bytes = ours.take(candidates)
    their_bytes = theirs.take(candidates)
    differing = np.append(0, np.cumsum(our_bytes.values != their_bytes.values))
    is_same[candidates] = differing[our_bytes.offsets[1:]] == differing[our_bytes.offsets[:-1]]
    return np.asarray(is_same, dtype=np.bool_)


def _bucket_bits(ids: int) -> int:
    """Return the bits of a bucket's number that give one to two ids a bucket."""
    return max(1, ids.bit_length() - 1)


def _bucket_starts(buckets: npt.NDArray[np.uint64], bits: int) -> npt.NDArray[np.uint32]:
    """Return where each bucket begins, from the bucket of every row in ascending order: ``[2^bits + 1]``."""
    starts = np.zeros((1 << bits) + 1, dtype=np.uint32)
    held = np.bincount(buckets.astype(np.int64), minlength=1 << bits)
    np.cumsum(held.astype(np.uint32), out=starts[1:])
    return starts
