"""From item ids to rows, in flat arrays: a hash table whose buckets are stretches of one list of rows.

Bucket b holds ``rows[starts[b]:starts[b + 1]]``; about one row each. Ids themselves stay in the packed column and are
compared there, so an item costs 4 bytes for its row and 2 to 8 for the buckets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from model_store.catalogue.packed import PackedStrings, Rows, batches

_FEW = 100
"""Up to so many ids are faster looked up one by one."""

_REMEMBERED = 50_000
"""Ids that are remembered with their rows, all of a small catalogue, else those looked up lately: a dict of strings is
ten times as fast, and as large."""

_SEED, _FACTOR = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93
_WORD = 2**64 - 1
_KEPT_BYTES = np.array([(1 << 8 * kept) - 1 for kept in range(9)], dtype=np.uint64)


class IdIndex(Mapping[str, int]):
    """Row by item id. Immutable; reads like a dict.

    Args:
        ids: Distinct ids, in the order of rows.
    """

    def __init__(self, ids: PackedStrings) -> None:
        self.ids = ids
        self._remembered = {item_id: row for row, item_id in enumerate(ids)} if len(ids) <= _REMEMBERED else {}
        self._bits = _bits(len(ids))
        hashes = hash_ids(ids)
        # Sorting hash and row together keeps rows of one bucket in order and next to each other.
        keys = (hashes & np.uint64(0xFFFFFFFF00000000)) | np.arange(len(ids), dtype=np.uint64)
        keys.sort()
        self._rows = keys.astype(np.uint32).astype(np.int32)
        self._starts = _starts(keys >> np.uint64(64 - self._bits), self._bits)
        self.repeated = self._count_repeated(keys >> np.uint64(32))
        """Ids that an earlier row has already; the index is only valid if there are none."""

    def with_ids(self, ids: PackedStrings) -> IdIndex:
        """The index of a column that begins with the ids of this one; the new ones must be new."""
        known = len(self.ids)
        if _bits(len(ids)) != self._bits:
            return IdIndex(ids)
        rows = np.arange(known, len(ids))
        bucket = (hash_ids(ids.take(rows)) >> np.uint64(64 - self._bits)).astype(np.int64)
        order = np.argsort(bucket, kind="stable")
        grown = object.__new__(IdIndex)
        grown.ids, grown._bits, grown.repeated, grown._remembered = ids, self._bits, 0, self._remembered
        grown._rows = np.insert(self._rows, self._starts[bucket[order] + 1].astype(np.int64), rows[order])
        added = np.bincount(bucket, minlength=len(self._starts) - 1)
        grown._starts = self._starts.copy()
        grown._starts[1:] += np.cumsum(added, dtype=np.uint32)
        return grown

    @property
    def nbytes(self) -> int:
        """Memory of the index without the ids."""
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
        """Row of an id, ``None`` if it is unknown."""
        row = self._remembered.get(item_id)
        if row is None:
            row = self._look_up(item_id)
            if row is None:
                return None
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            self._remembered[item_id] = row
        return row if row < len(self.ids) else None  # a longer column shares what is remembered

    def _look_up(self, item_id: str) -> int | None:
        raw = item_id.encode("utf-8", "surrogatepass")  # no stored id has a surrogate: it is unknown, no error
        bucket = _hash_one(raw) >> (64 - self._bits)
        starts, rows = self._starts.data, self._rows.data
        for at in range(starts[bucket], starts[bucket + 1]):
            if self.ids.raw(rows[at]) == raw:
                return int(rows[at])
        return None

    def find(self, item_ids: Sequence[str]) -> Rows:
        """Row of each id, -1 where it is unknown."""
        if len(item_ids) <= _FEW:
            known, count = self._remembered, len(self.ids)
            found = [known.get(item_id, count) for item_id in item_ids]
            if max(found, default=0) < count:
                return np.array(found, dtype=np.int64)
            looked_up = (self.row(item_id) for item_id in item_ids)
            return np.array([-1 if row is None else row for row in looked_up], dtype=np.int64)
        asked = PackedStrings.of(item_ids)
        bucket = (hash_ids(asked) >> np.uint64(64 - self._bits)).astype(np.int64)
        at, end = self._starts[bucket].astype(np.int64), self._starts[bucket + 1].astype(np.int64)
        rows = np.full(len(asked), -1, dtype=np.int64)
        open_ = np.flatnonzero(at < end)
        while len(open_):
            candidates = self._rows[at[open_]].astype(np.int64)
            is_same = _same(asked, open_, self.ids, candidates)
            rows[open_[is_same]] = candidates[is_same]
            at[open_] += 1
            open_ = open_[~is_same & (at[open_] < end[open_])]
        return rows

    def _count_repeated(self, hashes: npt.NDArray[np.uint64]) -> int:
        """Ids that occur before; only neighbours with equal hashes are read."""
        twin = hashes[1:] == hashes[:-1]
        suspects = np.flatnonzero(np.append(twin, False) | np.append(False, twin))
        ids = self.ids.take(self._rows[suspects])
        return len(suspects) - len(set(ids))


def hash_ids(ids: PackedStrings) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of every id, vectorised; its highest bits are the best."""
    hashes = np.empty(len(ids), dtype=np.uint64)
    for block in batches(len(ids)):
        hashes[block] = _hash_block(ids, block)
    return hashes


def _hash_block(ids: PackedStrings, block: slice) -> npt.NDArray[np.uint64]:
    bounds = ids.ragged.offsets[block.start : block.stop + 1].astype(np.int64)
    size = int(bounds[-1] - bounds[0])
    padded = np.zeros(size // 8 * 8 + 24, dtype=np.uint8)  # two words may be read behind the last byte
    padded[:size] = ids.ragged.values[bounds[0] : bounds[-1]]
    words = padded.view("<u8")
    start, length = bounds[:-1] - bounds[0], np.diff(bounds)
    value = (length.astype(np.uint64) ^ np.uint64(_SEED)) * np.uint64(_FACTOR)
    value ^= value >> np.uint64(32)
    for read in range(0, int(length.max(initial=0)), 8):
        longer = np.flatnonzero(length > read)
        place = start[longer] + read
        low = (place & 7).astype(np.uint64) << np.uint64(3)
        # An unaligned word is the end of one aligned word and the beginning of the next.
        high = (words[(place >> 3) + 1] << np.uint64(1)) << (np.uint64(63) - low)
        word = (words[place >> 3] >> low) | high
        mixed = (value[longer] ^ (word & _KEPT_BYTES[np.minimum(length[longer] - read, 8)])) * np.uint64(_FACTOR)
        value[longer] = mixed ^ (mixed >> np.uint64(32))
    return value * np.uint64(_FACTOR)


def _hash_one(raw: bytes) -> int:
    """The same hash of one id."""
    value = (len(raw) ^ _SEED) * _FACTOR & _WORD
    value ^= value >> 32
    for read in range(0, len(raw), 8):
        value = (value ^ int.from_bytes(raw[read : read + 8], "little")) * _FACTOR & _WORD
        value ^= value >> 32
    return value * _FACTOR & _WORD


def _same(left: PackedStrings, left_rows: Rows, right: PackedStrings, right_rows: Rows) -> npt.NDArray[np.bool_]:
    """Whether strings are equal, pair by pair."""
    ours, theirs = left.ragged, right.ragged
    is_same = np.equal(ours.lengths[left_rows], theirs.offsets[right_rows + 1] - theirs.offsets[right_rows])
    alike = np.flatnonzero(is_same)
    pairs, others = ours.take(left_rows[alike]), theirs.take(right_rows[alike])
    differing = np.append(0, np.cumsum(pairs.values != others.values))
    is_same[alike] = differing[pairs.offsets[1:]] == differing[pairs.offsets[:-1]]
    return np.asarray(is_same, dtype=np.bool_)


def _bits(ids: int) -> int:
    """Bits of a bucket's number: one to two ids a bucket."""
    return max(1, ids.bit_length() - 1)


def _starts(buckets: npt.NDArray[np.uint64], bits: int) -> npt.NDArray[np.uint32]:
    starts = np.zeros((1 << bits) + 1, dtype=np.uint32)
    held = np.bincount(buckets.astype(np.int64), minlength=1 << bits)
    np.cumsum(held.astype(np.uint32), out=starts[1:])
    return starts
