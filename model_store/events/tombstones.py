"""Tombstones of erased users: a hash of the user's id, and the time up to which nothing is imported any more."""

from __future__ import annotations

import hashlib

_PURPOSE = b"etegrec erased user\0"  # so that the hash is found in no table made for other purposes


def tombstone_of(user_id: str) -> str:
    """Return the name under which an erased user is remembered: 128 bits of a SHA-256, hexadecimal.

    Who has a list of ids can find out which of them were erased, as for any hash without a secret.
    """
    return hashlib.sha256(_PURPOSE + user_id.encode()).hexdigest()[:32]
