"""Fingerprints of items inside one token: two bytes each, keyed by the answer, so clashes differ."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Fingerprints = npt.NDArray[np.uint16]

_SPREAD = 0x9E3779B97F4A7C15  # 2 ** 64 over the golden ratio: neighbouring answer ids get unlike factors
_WORD = 0xFFFF_FFFF_FFFF_FFFF


def fingerprints(item_ids: Sequence[str], answer_id: bytes) -> Fingerprints:
    """Return the fingerprint of each item, ``[n]``.

    It is the upper end of a product of the item's CRC-32 and an odd factor that the answer id chooses: multiply-shift
    hashing (Dietzfelbinger et al., 1997). Two items of an answer have the same one in about 1 of 65,536 cases.

    Args:
        item_ids: The items.
        answer_id: Six random bytes.
    """
    factor = (int.from_bytes(answer_id, "little") * _SPREAD & _WORD) | 1
    checksums = np.array([zlib.crc32(item_id.encode()) for item_id in item_ids], dtype=np.uint64)
    # the CRC alone has 32 bits, and the product's upper bits depend on all of them
    return ((checksums * np.uint64(factor)) >> np.uint64(48)).astype("<u2")


def rank_of(item_id: str, found: Fingerprints, answer_id: bytes) -> int | None:
    """Return the rank of an item among fingerprints, from 1; ``None`` if none of them is its own."""
    [wanted] = fingerprints([item_id], answer_id)
    places = np.flatnonzero(found == wanted)
    return int(places[0]) + 1 if len(places) else None
