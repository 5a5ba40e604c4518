"""Settings of the console: command line, environment (``ETEGREC_CONSOLE_…``) or files of secrets."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from console.errors import ConsoleError

ENV_PREFIX = "ETEGREC_CONSOLE_"
"""Beginning of the names of all variables."""

SECRETS_DIR = f"{ENV_PREFIX}SECRETS_DIR"
"""Variable that names a folder of files, each named like a variable in small letters."""

SHORTEST_PASSWORD = 12
"""Characters that a password must have: a console on a public address is found by machines that guess."""


class Settings(BaseSettings):
    """Frozen settings of one console."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore")

    service: str = Field("http://127.0.0.1:8000", description="address of the service")
    host: str = Field("127.0.0.1", description="address to listen on; one that others reach demands a password")
    port: int = Field(8088, ge=1, le=65535, description="port to listen on")
    key: SecretStr | None = Field(
        None, description="API key for looking (scope `read`); none if the service needs none"
    )
    write_key: SecretStr | None = Field(
        None,
        description="API key for changes, reports, models and users (scope `admin`); without it nothing can be changed",
    )
    allow_changes: bool = Field(False, description="allow changes without a key, for a service that needs none")
    password: SecretStr | None = Field(
        None, description=f"password that browsers ask for, at least {SHORTEST_PASSWORD} characters; any user name"
    )
    names: str = Field(
        "", description="host names, separated by commas, by which browsers reach the console besides its address"
    )
    sample_s: float = Field(5, gt=0, le=600, description="seconds between two readings of the service's metrics")

    @field_validator("key", "write_key", "password")
    @classmethod
    def _empty_is_none(cls, secret: SecretStr | None) -> SecretStr | None:
        """An empty variable takes away what a file holds."""
        return secret if secret is not None and secret.get_secret_value() else None

    @classmethod
    def load(cls, secrets_dir: str = "", **given: object) -> Self:
        """Read the environment and the files of secrets; ``given`` values, from the command line, win over both.

        Raises:
            ConsoleError: A value is wrong; the message names the setting, never a secret.
        """
        if secrets_dir and not Path(secrets_dir).is_dir():
            raise ConsoleError(f"{SECRETS_DIR}: there is no folder {secrets_dir}", "mount it, or unset the variable")

        try:
            settings = cls(_secrets_dir=secrets_dir or None, **given)  # type: ignore[arg-type]
        except ValidationError as refused:
            first = refused.errors(include_url=False, include_input=False)[0]
            name = str(first["loc"][0])
            raise ConsoleError(
                f"{ENV_PREFIX}{name.upper()}: {first['msg']}", "see docs/CONSOLE.md for its meaning"
            ) from None
        settings.check()
        return settings

    @property
    def can_change(self) -> bool:
        """Whether pages offer changes."""
        return self.write_key is not None or self.allow_changes

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine reach the console."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def check(self) -> None:
        """Raise :class:`ConsoleError` if the console must not start like this."""
        address = urlsplit(self.service)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ConsoleError(
                f"{ENV_PREFIX}SERVICE: {self.service!r} is no address of a service",
                "give it as in --service http://127.0.0.1:8000",
            )

        password = "" if self.password is None else self.password.get_secret_value()
        if password and len(password) < SHORTEST_PASSWORD:
            raise ConsoleError(
                f"{ENV_PREFIX}PASSWORD: it has {len(password)} characters, at least {SHORTEST_PASSWORD} are needed",
                "choose a longer one, for example by: openssl rand -base64 24",
            )
        if not password and not self.is_local:
            raise ConsoleError(
                f"{ENV_PREFIX}HOST: others can reach {self.host}, and there is no password",
                f"set {ENV_PREFIX}PASSWORD, or listen on 127.0.0.1 and come by an ssh tunnel",
            )
