"""Fingerprints of items inside one token: two bytes each, keyed by the answer, so clashes differ."""

from __future__ import annotations

import struct
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
    return np.frombuffer(pack_fingerprints(item_ids, answer_id), dtype="<u2")


def pack_fingerprints(item_ids: Sequence[str], answer_id: bytes) -> bytes:
    """Return the same as bytes of a token, ``[2 n]``; of so few numbers Python makes them sooner than NumPy."""
    factor = (int.from_bytes(answer_id, "little") * _SPREAD & _WORD) | 1
    # the CRC alone has 32 bits, and the upper ones of the product's lower 64 depend on all of them
    found = [(zlib.crc32(item_id.encode()) * factor >> 48) & 0xFFFF for item_id in item_ids]
    return struct.pack(f"<{len(found)}H", *found)


def rank_of(item_id: str, found: Fingerprints, answer_id: bytes) -> int | None:
    """Return the rank of an item among fingerprints, from 1; ``None`` if none of them is its own."""
    [wanted] = fingerprints([item_id], answer_id)
    places = np.flatnonzero(found == wanted)
    return int(places[0]) + 1 if len(places) else None
