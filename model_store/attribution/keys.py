"""Keys that sign attributions: from ``ETEGREC_ATTRIBUTION_KEYS``, or a random one that the store keeps."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Self

from model_store.errors import ConfigError

KEYS_VARIABLE = "ETEGREC_ATTRIBUTION_KEYS"
"""Variable with the keys."""

MIN_CHARACTERS = 16
"""Length of the shortest key."""

STORED_BYTES = 32
"""Length of a key that the store keeps."""

STORED_NAME = "attribution.key"
"""File of that key, in the folder of an embedded event log."""


_BLOCK_BYTES = 64
"""Block of SHA-256, to which HMAC fills a key up."""


@dataclass(frozen=True)
class AttributionKey:
    """One key, bound to a shop."""

    secret: bytes = field(repr=False)  # [32]

    def mac(self, body: bytes) -> bytes:
        """Return the HMAC-SHA256 of some bytes, ``[32]`` (RFC 2104).

        The key is hashed once and not for every body. And ``hmac.digest`` lets other threads run meanwhile: while an
        engine is busy, waiting for one's turn then costs more than the hash.
        """
        inner, outer = self._begun
        inner = inner.copy()
        inner.update(body)
        outer = outer.copy()
        outer.update(inner.digest())
        return outer.digest()

    def hash(self, text: str) -> bytes:
        """Return a short keyed hash of a text, ``[6]``: only who has the key can tell whose it is."""
        begun = self._begun_short.copy()
        begun.update(text.encode())
        return begun.digest()

    @cached_property
    def _begun_short(self) -> hashlib.blake2b:
        """The hash of texts, which has read the key."""
        return hashlib.blake2b(digest_size=6, key=self.secret)

    @cached_property
    def _begun(self) -> tuple[hashlib._Hash, hashlib._Hash]:
        """The two hashes of HMAC, which have read the key."""
        block = self.secret.ljust(_BLOCK_BYTES, b"\0")
        return (
            hashlib.sha256(bytes(byte ^ 0x36 for byte in block)),
            hashlib.sha256(bytes(byte ^ 0x5C for byte in block)),
        )


class AttributionKeys(NamedTuple):
    """Keys of a shop: the first signs, all verify, so that keys can be replaced one after the other."""

    all: Sequence[AttributionKey]

    @property
    def signing(self) -> AttributionKey:
        """Key that signs."""
        return self.all[0]

    @classmethod
    def configured(cls, value: str, namespace: str) -> Self | None:
        """Return the keys in a comma-separated setting, ``None`` if it is empty.

        Raises:
            ConfigError: A key is too short.
        """
        texts = [text.strip() for text in value.split(",") if text.strip()]
        for place, text in enumerate(texts, 1):
            if len(text) < MIN_CHARACTERS:
                raise ConfigError(
                    f"{KEYS_VARIABLE}: key {place} has {len(text)} characters, but needs at least {MIN_CHARACTERS}",
                    "make one with `openssl rand -hex 32`",
                )
        return cls.of([text.encode() for text in texts], namespace) if texts else None

    @classmethod
    def of(cls, secrets: Sequence[bytes], namespace: str) -> Self:
        """Return keys bound to a shop: shops that share their secrets do not accept each other's tokens."""
        return cls([AttributionKey(_bind(secret, namespace)) for secret in secrets])


def new_secret() -> bytes:
    """Return a random key for the store to keep."""
    return os.urandom(STORED_BYTES)


def _bind(secret: bytes, namespace: str) -> bytes:
    """Derive the key of a shop; of a secret of any length, since BLAKE2 takes keys of up to 64 bytes only."""
    digest = hashlib.sha256(secret).digest()
    return hashlib.blake2b(namespace.encode(), digest_size=32, key=digest, person=b"etegrec-attr").digest()
