"""Signatures of manifests: they prove who published a version; a seal proves that its files belong together.

Anyone who may write to the model store can seal whatever he puts there. A signature (Ed25519) needs a private key that
the publisher has and the model store has not. ``manifest.sig`` beside the manifest holds signatures of its bytes. The
name of the version and the SHA-256 of every file are among them, so no file can be exchanged, and no signed version can
be shown under another name. It is JSON with one entry per key, so that a version can carry the signatures of the old
and the new key while keys change::

    {"format": "etegrec-manifest-signature-v1", "signatures": [{"key": "<16 hex>", "signature": "<base64>"}]}

A key's name (:func:`~model_store.bundle.key_files.key_id`) only finds it among the trusted keys. The signed bytes begin
with the name of the format, so that a signature made for anything else never counts.

Not promised: ``LIVE`` is not signed, so whoever may write to the model store can make an older version live again that
a trusted key signed, or none at all. Snapshots and changes of the catalogue, which replicas share in the store, are not
signed either.
"""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_store.bundle.key_files import key_id, read_private_key, read_public_keys
from model_store.bundle.manifest import first_problem
from model_store.errors import ConfigError, SignatureRefused

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNATURE = "manifest.sig"
"""File of a version with the signatures of its manifest."""

SIGNATURE_LIMIT = 16 << 10
"""Size of the largest file of signatures that is read, in bytes."""

MAX_SIGNATURES = 16

TRUSTED_ENV = "ETEGREC_TRUSTED_KEYS_FILE"
"""Variable with the path of the file of trusted public keys, for the service and for all commands."""

SIGNING_ENV = "ETEGREC_SIGNING_KEY_FILE"
"""Variable with the path of the publisher's private key."""

_FORMAT: Final = "etegrec-manifest-signature-v1"
_HINT = "sign it with `etegrec-models sign` and a trusted key, or publish it again with one"


class _Signature(BaseModel):
    """The signature by one key."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    key: str = Field(pattern=r"^[0-9a-f]{16}$", description="name of the key")
    signature: str = Field(max_length=88, description="64 bytes in base64")


class _SignatureFile(BaseModel):
    """The content of ``manifest.sig``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["etegrec-manifest-signature-v1"]
    signatures: tuple[_Signature, ...] = Field(min_length=1, max_length=MAX_SIGNATURES)


@dataclass(frozen=True)
class SigningKey:
    """The private key of a publisher, and its name."""

    name: str
    _private: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Read the key.

        Raises:
            ConfigError: The file cannot be read, is no such key, or every user of this machine can read it.
        """
        private = read_private_key(path)
        return cls(key_id(private.public_key()), private)

    def sign(self, manifest: bytes, signatures: bytes | None = None) -> bytes:
        """Sign the bytes of a manifest.

        Args:
            manifest: The bytes.
            signatures: Content of its ``manifest.sig``, whose signatures by other keys stay; ``None`` if there is none.

        Returns:
            The new content of ``manifest.sig``.

        Raises:
            SignatureRefused: The old content is damaged, or full.
        """
        kept = [] if signatures is None else [one for one in _parse(signatures) if one.key != self.name]
        if len(kept) >= MAX_SIGNATURES:
            raise SignatureRefused(f"{SIGNATURE}: holds {len(kept)} signatures already", f"delete {SIGNATURE} first")

        made = base64.b64encode(self._private.sign(_signed_bytes(manifest))).decode()
        content = _SignatureFile(format=_FORMAT, signatures=(*kept, _Signature(key=self.name, signature=made)))
        return content.model_dump_json(indent=1).encode() + b"\n"


@dataclass(frozen=True)
class Trust:
    """The decision which bundles may be opened: those signed by one of these keys, or every sealed one.

    The file is read whenever a bundle is opened, so a key that is added or removed counts from the next one on.
    """

    keys_file: Path | None
    """File of one or more public keys; ``None`` if every sealed bundle may be opened, signed or not."""

    @classmethod
    def at(cls, path: str) -> Trust:
        """Trust the keys in this file; every sealed bundle if the path is empty."""
        return cls(Path(path)) if path else EVERYONE

    @classmethod
    def configured(cls) -> Trust:
        """Trust the keys in the file that ``ETEGREC_TRUSTED_KEYS_FILE`` names; every sealed bundle if it is not set."""
        return cls.at(os.environ.get(TRUSTED_ENV, ""))

    @property
    def is_limited(self) -> bool:
        """True if a bundle needs a signature."""
        return self.keys_file is not None

    def check(self) -> None:
        """Raise :class:`ConfigError` unless the keys can be read."""
        if self.keys_file is not None:
            read_public_keys(self.keys_file)

    def check_publisher(self, key: SigningKey | None) -> None:
        """Raise :class:`ConfigError` if what this publisher signs could not be opened afterwards."""
        if self.keys_file is None:
            return
        if key is None:
            raise ConfigError(
                "only signed versions are trusted here, and there is no key to sign with",
                f"set {SIGNING_ENV}, or unset {TRUSTED_ENV}",
            )
        if key.name not in read_public_keys(self.keys_file):
            raise ConfigError(
                f"the signing key {key.name} is not among the trusted keys", f"add its .pub file to {self.keys_file}"
            )

    def find_signer(self, manifest: bytes, signatures: bytes | None) -> str:
        """Return the name of the trusted key that signed these bytes; empty if no signature is needed.

        Args:
            manifest: Bytes of the manifest.
            signatures: Content of its ``manifest.sig``; ``None`` if there is none.

        Raises:
            SignatureRefused: A signature is needed, and no trusted key made one of these bytes.
            ConfigError: The keys cannot be read.
        """
        if self.keys_file is None:
            return ""

        from cryptography.exceptions import InvalidSignature

        trusted = read_public_keys(self.keys_file)
        if signatures is None:
            raise SignatureRefused(f"{SIGNATURE}: missing, and only signed versions are trusted here", _HINT)

        found = _parse(signatures)
        for one in found:
            if one.key not in trusted:
                continue
            try:
                trusted[one.key].verify(_decode(one.signature), _signed_bytes(manifest))
            except InvalidSignature:
                raise SignatureRefused(
                    f"{SIGNATURE}: the signature by {one.key} is not of this manifest", _HINT
                ) from None
            return one.key

        names = ", ".join(one.key for one in found)
        raise SignatureRefused(f"{SIGNATURE}: signed by {names}, which is not trusted here", _HINT)


EVERYONE = Trust(None)
"""Trust in every sealed bundle, signed or not."""


def signers(signatures: bytes) -> list[str]:
    """Return the names of the keys that a ``manifest.sig`` claims; whether they signed is not checked.

    Raises:
        SignatureRefused: The content is damaged.
    """
    return [one.key for one in _parse(signatures)]


def _parse(signatures: bytes) -> tuple[_Signature, ...]:
    if len(signatures) > SIGNATURE_LIMIT:
        raise SignatureRefused(f"{SIGNATURE}: larger than {SIGNATURE_LIMIT} bytes", _HINT)
    try:
        return _SignatureFile.model_validate_json(signatures, strict=True).signatures
    except ValidationError as cause:
        raise SignatureRefused(f"{SIGNATURE}: {first_problem(cause)}", _HINT) from cause


def _decode(text: str) -> bytes:
    """Return the bytes of a base64 text; none, which are no signature of anything, if it is not base64."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""


def _signed_bytes(manifest: bytes) -> bytes:
    """Return what is signed: the name of the format, a byte that ends it, and the manifest."""
    return _FORMAT.encode() + b"\0" + manifest
