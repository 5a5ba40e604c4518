"""Key files for signatures: private and public Ed25519 keys in PEM, as ``openssl`` reads and writes them, too.

The package ``cryptography`` is imported by the functions that need it: nothing else of the project does.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from model_store.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

KEY_FILE_LIMIT = 64 << 10
"""Size of the largest key file that is read, in bytes."""

_PUBLIC_KEY = re.compile(r"-----BEGIN PUBLIC KEY-----\n[A-Za-z0-9+/=\n]+-----END PUBLIC KEY-----")
_KEYGEN_HINT = "create one with `etegrec-models keygen`"
_TRUSTED_HINT = "put the .pub files that `etegrec-models keygen` wrote into it, one after another"


def key_id(key: Ed25519PublicKey) -> str:
    """Return the name of a key: the first 16 hexadecimal digits of the SHA-256 of its 32 bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def create_keys(private: Path) -> tuple[str, Path]:
    """Create a private key that only this user may read, and the public key ``<private>.pub`` beside it.

    Returns:
        The name of the key, and the path of the public one.

    Raises:
        ConfigError: One of the files exists.
        OSError: A file cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    public = private.with_name(f"{private.name}.pub")
    for path in (private, public):
        if path.exists():
            raise ConfigError(f"{path} exists already; a key is never overwritten", "choose another name")

    key = Ed25519PrivateKey.generate()
    name = key_id(key.public_key())
    shown = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _create(private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)
    _create(public, f"# {name}\n".encode() + shown, mode=0o644)
    return name, public


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key.

    Raises:
        ConfigError: The file cannot be read, is no such key, or every user of this machine can read it.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = _read(path, "the signing key")
    # The group may read it: that is how orchestrators hand a secret to a process that is not root.
    if stat.S_IMODE(path.stat().st_mode) & stat.S_IRWXO:
        raise ConfigError(f"the signing key {path} is open to every user of this machine", f"chmod 600 {path}")

    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as cause:
        raise ConfigError(f"the signing key {path} is no unencrypted private key in PEM", _KEYGEN_HINT) from cause
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"the signing key {path} is of another kind than Ed25519", _KEYGEN_HINT)
    return key


def read_public_keys(path: Path) -> dict[str, Ed25519PublicKey]:
    """Read a file of public keys, one after another, by name; lines that begin with ``#`` may say whose they are.

    Raises:
        ConfigError: The file cannot be read, holds something else, or no key at all.
    """
    text = _read(path, "the file of trusted keys").decode("utf-8", errors="replace").replace("\r\n", "\n")
    blocks = _PUBLIC_KEY.findall(text)

    # A key with a typing error must not be left out in silence.
    others = [line for line in _PUBLIC_KEY.sub("", text).splitlines() if line.strip() and not line.startswith("#")]
    if others:
        raise ConfigError(f"the file of trusted keys {path} holds something that is no public key", _TRUSTED_HINT)
    if not blocks:
        raise ConfigError(f"the file of trusted keys {path} holds no key", _TRUSTED_HINT)
    return {key_id(key): key for key in _public_keys(blocks, path)}


def _public_keys(blocks: Iterable[str], path: Path) -> Iterator[Ed25519PublicKey]:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    for block in blocks:
        try:
            key = load_pem_public_key(block.encode())
        except (ValueError, UnsupportedAlgorithm) as cause:
            raise ConfigError(f"the file of trusted keys {path} holds a damaged key", _TRUSTED_HINT) from cause
        if not isinstance(key, Ed25519PublicKey):
            raise ConfigError(f"the file of trusted keys {path} holds a key that is not Ed25519", _TRUSTED_HINT)
        yield key


def _read(path: Path, what: str) -> bytes:
    """Return the content of a small file, or raise :class:`ConfigError`."""
    try:
        with path.open("rb") as file:
            content = file.read(KEY_FILE_LIMIT + 1)
    except OSError as cause:
        raise ConfigError(f"{what} {path} cannot be read: {cause.strerror}", "correct its path or rights") from cause
    if len(content) > KEY_FILE_LIMIT:
        raise ConfigError(f"{what} {path} is larger than {KEY_FILE_LIMIT} bytes", "name the right file")
    return content


def _create(path: Path, content: bytes, mode: int) -> None:
    """Create a file that has these rights from the first moment on."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
