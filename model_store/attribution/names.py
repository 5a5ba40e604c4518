"""Hashes of names in tokens and counters: four bytes for a model version, a placement or an experiment."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache

NO_NAME = 0
"""Hash that stands for no name."""


@lru_cache(maxsize=4096)
def hash_of(name: str | None) -> int:
    """Return the hash of a name, 1 to 2^32 - 1, or :data:`NO_NAME` for none; the same in every process and release."""
    if not name:
        return NO_NAME
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big") or 1


def label_of(hashed: int) -> str:
    """Return a hash as counters write it: eight hexadecimal digits."""
    return f"{hashed:08x}"


def names_by_label(names: Iterable[str]) -> dict[str, str]:
    """Return names by the label of their hash, so that those in counters are found again."""
    return {label_of(hash_of(name)): name for name in names}
