"""File of keys: read at the start, and again whenever it changes, so that keys are rotated without a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from model_store.errors import ConfigError
from service.access.keys import NAME_PATTERN, Key, Scope, hash_secret
from service.access.limits import Limits

MAX_FILE_BYTES = 1_048_576
"""Size of the largest file, some thousands of keys. It is read every second."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FileLimits(_Strict):
    """Limits of one key; those that are left out are the settings'."""

    requests_per_s: float | None = Field(None, ge=0, le=1e6, allow_inf_nan=False)
    burst: int | None = Field(None, ge=0, le=10_000_000)
    concurrent: int | None = Field(None, ge=0, le=100_000)
    bulk_bytes_per_min: int | None = Field(None, ge=0, le=10**12)

    def over(self, defaults: Limits) -> Limits:
        """Return the limits with defaults in the places of those that are left out."""
        given = self.model_dump(exclude_none=True)
        return Limits(**{**vars(defaults), **given})


def _check_secret(secret: SecretStr) -> SecretStr:
    hash_secret(secret.get_secret_value())
    return secret


class FileKey(_Strict):
    """One key of the file."""

    name: str = Field(pattern=NAME_PATTERN)
    secret: Annotated[SecretStr, AfterValidator(_check_secret)] | None = None
    sha256: str | None = Field(None, pattern=r"^[0-9a-fA-F]{64}$", description="of the secret, in hexadecimal")
    scopes: frozenset[Scope] = Field(min_length=1)
    limits: FileLimits = FileLimits()
    not_after: AwareDatetime | None = Field(None, description="from then on it is refused; ISO 8601 with a time zone")

    @model_validator(mode="after")
    def _check_secret_or_hash(self) -> Self:
        if (self.secret is None) == (self.sha256 is None):
            raise ValueError("needs either a secret or its sha256")
        return self

    def key(self, defaults: Limits) -> Key:
        """Return the key."""
        digest = bytes.fromhex(self.sha256) if self.sha256 else hash_secret(self._secret_value)
        not_after = self.not_after.timestamp() if self.not_after else float("inf")
        return Key(self.name, digest, self.scopes, self.limits.over(defaults), not_after)

    @property
    def _secret_value(self) -> str:
        return self.secret.get_secret_value() if self.secret else ""


_KEYS: TypeAdapter[list[FileKey]] = TypeAdapter(list[FileKey])


def read_file(path: Path) -> bytes:
    """Return the bytes of a keys file.

    Raises:
        ConfigError: It cannot be read, or is too large.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as cause:
        reason = cause.strerror or type(cause).__name__
        raise ConfigError(f"the keys file cannot be read: {reason}", "look at ETEGREC_KEYS_FILE") from cause

    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"the keys file is larger than {MAX_FILE_BYTES} bytes", "remove keys that nobody uses")
    return content


def parse_keys(content: bytes, defaults: Limits) -> list[Key]:
    """Return the keys of a file; an empty list is valid and lets nobody in.

    Raises:
        ConfigError: The content is wrong. The message names the place (keys count from 0), never a secret.
    """
    try:
        entries = _KEYS.validate_json(content)
    except ValidationError as refused:
        problem = refused.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(map(str, problem["loc"])) or "file"
        hint = "docs/OPERATIONS.md, section Keys, shows what it looks like"
        raise ConfigError(f"the keys file is wrong: {where}: {problem['msg']}", hint) from None
    return [entry.key(defaults) for entry in entries]
