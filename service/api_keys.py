"""API keys: who may read and who may write."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from model_store.errors import ConfigError
from service.errors import KeyForbidden, KeyMissing
from service.settings import Settings

HEADER = "X-API-Key"
"""Header of a request that carries its key."""

MIN_KEY_LENGTH = 8
"""Length of the shortest key, in bytes."""


@dataclass(frozen=True)
class Keys:
    """The known keys. Without any, everything is open; as soon as one exists, each request needs one.

    A write key may read as well. With read keys only, nobody may write.
    """

    read: tuple[bytes, ...] = ()
    write: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, settings: Settings) -> Keys:
        """Split the comma-separated settings into keys.

        Raises:
            ConfigError: A key is too short to protect anything, or a setting is given but holds no key.
        """
        return cls(
            _split_keys("ETEGREC_READ_KEYS", settings.read_keys.get_secret_value()),
            _split_keys("ETEGREC_WRITE_KEYS", settings.write_keys.get_secret_value()),
        )

    @property
    def is_open(self) -> bool:
        """True where nobody needs a key."""
        return not self.read and not self.write

    def check(self, given: str | None, *, write: bool) -> None:
        """Return if the key of a request allows it. Every wrong key takes the same time.

        Raises:
            KeyMissing: There is no key, or an unknown one.
            KeyForbidden: The key only allows reading.
        """
        if self.is_open:
            return

        key = (given or "").encode("latin-1")  # gives the bytes as they came: headers are decoded as Latin-1
        may_write = _matches_any(key, self.write)
        may_read = _matches_any(key, self.read)
        if not may_write and not may_read:
            raise KeyMissing
        if write and not may_write:
            raise KeyForbidden("this key may read only; use one of ETEGREC_WRITE_KEYS")


def _split_keys(name: str, value: str) -> tuple[bytes, ...]:
    keys = tuple(key.strip().encode() for key in value.split(",") if key.strip())
    if value.strip() and not keys:
        raise ConfigError(f"{name} is set but holds no key", "write keys separated by commas, or leave it empty")
    if any(len(key) < MIN_KEY_LENGTH for key in keys):
        raise ConfigError(f"{name} holds a key shorter than {MIN_KEY_LENGTH} bytes", "use long random keys")
    return keys


def _matches_any(key: bytes, known: tuple[bytes, ...]) -> bool:
    found = False
    for each in known:  # no early end: the time taken must not tell which key came close
        found |= hmac.compare_digest(key, each)
    return found
