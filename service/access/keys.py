"""API keys: a name, the hash of a secret, and the scopes that say what the key may do."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Literal, get_args

from model_store.errors import ConfigError
from service.access.limits import Limits
from service.settings import ENV_PREFIX, Settings

HEADER = "X-API-Key"
"""Header of a request that carries its key."""

MIN_KEY_LENGTH = 8
"""Length of the shortest secret, in bytes."""

MAX_KEY_LENGTH = 1024
"""Length of the longest secret, in bytes: no more is ever hashed."""

NAME_PATTERN = r"^[A-Za-z0-9._-]{1,64}$"
"""Pattern of a key's name, which metrics show."""

Scope = Literal["read", "events", "catalogue", "admin"]
"""Permission: recommendations and items to read; events to record; items to change; users' stored data."""

SCOPES: frozenset[Scope] = frozenset(get_args(Scope))
"""All scopes."""

SCOPES_OF_SETTING: dict[str, frozenset[Scope]] = {
    "read_keys": frozenset({"read"}),
    "write_keys": SCOPES - {"admin"},
    "admin_keys": SCOPES,
}
"""Scopes of the keys in each setting. While there are no admin keys, those for writing have all scopes."""

_NAME = re.compile(NAME_PATTERN)


@dataclass(frozen=True)
class Key:
    """A key. Its secret is not kept: nothing that reads memory or logs can give it away.

    Attributes:
        name: Unique; shown in metrics.
        digest: SHA-256 of the secret.
        scopes: Permissions.
        limits: Limits of this key alone.
        not_after: Unix time from which on it is refused.
    """

    name: str
    digest: bytes = field(repr=False)
    scopes: frozenset[Scope]
    limits: Limits = field(default_factory=Limits)
    not_after: float = float("inf")


class KeyRing:
    """The keys that are valid now, found by what a request sends.

    The time that a search takes tells nothing about any secret. Only hashes are compared, whole and in constant time;
    nobody can choose how a hash begins, and the table's own hash function has a key that changes with each process.
    """

    def __init__(self, keys: Iterable[Key]) -> None:
        """Check the keys.

        Raises:
            ConfigError: Two keys have the same name or the same secret.
        """
        self.keys = tuple(keys)
        self._by_digest: dict[bytes, Key] = {}

        names: set[str] = set()
        for key in self.keys:
            if key.name in names:
                raise ConfigError(f"two API keys have the name {key.name}", "give each key a name of its own")
            if key.digest in self._by_digest:
                other = self._by_digest[key.digest].name
                raise ConfigError(f"the API keys {other} and {key.name} have the same secret", "make a new secret")
            names.add(key.name)
            self._by_digest[key.digest] = key

    def find(self, given: str) -> Key | None:
        """Return the key with this secret; ``None`` if there is none.

        Args:
            given: Value of the header, decoded as Latin-1 as headers are.
        """
        secret = given.encode("latin-1")[: MAX_KEY_LENGTH + 1]
        digest = sha256(secret).digest()
        key = self._by_digest.get(digest, _NOBODY)
        return key if hmac.compare_digest(digest, key.digest) else None


def hash_secret(secret: str) -> bytes:
    """Return the SHA-256 of a secret.

    Raises:
        ValueError: It is too short to protect anything, or longer than a request may send.
    """
    encoded = secret.encode()
    if not MIN_KEY_LENGTH <= len(encoded) <= MAX_KEY_LENGTH:
        raise ValueError(f"must be {MIN_KEY_LENGTH} to {MAX_KEY_LENGTH} bytes long")
    return sha256(encoded).digest()


def keys_of_settings(settings: Settings, limits: Limits) -> list[Key]:
    """Return the keys in ``ETEGREC_READ_KEYS``, ``ETEGREC_WRITE_KEYS`` and ``ETEGREC_ADMIN_KEYS``.

    A secret that occurs twice is one key, with the name of its first mention and the scopes of all. Keys for writing
    may do everything until there are admin keys: a service that names only readers and writers needs no third kind.

    Args:
        settings: Settings of the service.
        limits: Limits of each key.

    Raises:
        ConfigError: A key is too short to protect anything, a name is wrong, or a setting is given but holds no key.
    """
    scopes_of = dict(SCOPES_OF_SETTING)
    if not settings.admin_keys.get_secret_value().strip():
        scopes_of["write_keys"] = SCOPES

    found: dict[bytes, Key] = {}
    for setting, scopes in scopes_of.items():
        for name, digest in _split_keys(setting, getattr(settings, setting).get_secret_value()):
            key = found.get(digest) or Key(name, digest, frozenset(), limits)
            found[digest] = replace(key, scopes=key.scopes | scopes)
    return list(found.values())


def _split_keys(setting: str, value: str) -> list[tuple[str, bytes]]:
    """Return name and hash of each key in a comma-separated setting; those without a name are numbered."""
    variable = ENV_PREFIX + setting.upper()
    entries = [entry.strip() for entry in value.split(",") if entry.strip()]
    if value.strip() and not entries:
        raise ConfigError(f"{variable} is set but holds no key", "write keys separated by commas, or leave it empty")

    found = []
    for number, entry in enumerate(entries, 1):
        name, colon, secret = entry.partition(":")
        if not colon:
            name = f"{setting.removesuffix('_keys')}-{number}"
            secret = entry

        if not _NAME.match(name):
            hint = "write name:secret; a name has 1 to 64 letters, digits, dots, hyphens or underscores"
            raise ConfigError(f"{variable} holds a key whose name is wrong (entry {number})", hint)
        try:
            found.append((name, hash_secret(secret)))
        except ValueError as wrong:
            hint = "use long random keys"
            raise ConfigError(f"{variable} holds a key whose secret {wrong} (entry {number})", hint) from None
    return found


_NOBODY = Key("nobody", bytes(32), frozenset())
"""Key that is compared with where no other is found, so that both cases take the same steps."""
