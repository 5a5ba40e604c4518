"""Aliases: versions that a service loads beside the live one, and what share of the traffic each of them gets.

``aliases.json`` beside ``LIVE`` holds them. ``candidate`` answers a share of the users and sessions (a canary);
``shadow`` searches a share of the requests again, and nobody sees its answers. The live version has a file of its own.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from model_store.bundle.manifest import VERSION, first_problem
from model_store.bundle.storage import Folder
from model_store.errors import ConfigError, ModelStoreError

ALIASES = "aliases.json"

ALIASES_LIMIT = 1 << 16
"""Size of the largest file that is read, in bytes."""

CANDIDATE: Final = "candidate"
SHADOW: Final = "shadow"
AliasName = Literal["candidate", "shadow"]
ALIAS_NAMES: tuple[AliasName, ...] = get_args(AliasName)

DEFAULT_SHARE = 0.05
"""Share of an alias if none is given."""

LARGEST_CANARY = 0.5
"""Largest share of a candidate: the others are whom it is compared with."""

_FORMAT: Final = "etegrec-aliases-v1"


class Alias(BaseModel):
    """A version under an alias."""

    model_config = ConfigDict(frozen=True)

    version: str = Field(pattern=f"^{VERSION.pattern}$", description="name of the version")
    share: float = Field(
        ge=0, le=1, description="share of users and sessions that it answers, or of requests that it searches again"
    )
    since: AwareDatetime = Field(description="when it got the alias, UTC; a later time is another trial")

    @classmethod
    def now(cls, name: AliasName, version: str, share: float) -> Alias:
        """Describe a version that gets an alias now.

        Raises:
            ConfigError: The share is too large for this alias, or below 0.
        """
        most = LARGEST_CANARY if name == CANDIDATE else 1.0
        if not 0 <= share <= most:
            hint = "0.05 is one of twenty; to give a version everybody, promote it"
            raise ConfigError(f"the share of a {name} is {share:g}, it must be between 0 and {most:g}", hint)
        return cls(version=version, share=share, since=datetime.now(UTC))

    @property
    def key(self) -> str:
        """Name of this trial: the same version with another share, or at another time, is another one."""
        return f"{self.version}@{self.since.timestamp():.6f}"

    @property
    def words(self) -> str:
        """Share and time, to be read after the name of the alias."""
        return f"{self.share:.4g} of the traffic since {self.since:%Y-%m-%d %H:%M} UTC"


class _AliasFile(BaseModel):
    """The content of ``aliases.json``."""

    model_config = ConfigDict(frozen=True)

    format: Literal["etegrec-aliases-v1"]
    aliases: dict[AliasName, Alias]


def check_alias_name(name: str) -> AliasName:
    """Return an alias that exists.

    Raises:
        ConfigError: There is none of this name; the message lists those that exist.
    """
    for known in ALIAS_NAMES:
        if name == known:
            return known
    hint = f"choose from {', '.join(ALIAS_NAMES)}"
    if name == "live":
        hint = f"`etegrec-models promote` makes a version live; other aliases are {', '.join(ALIAS_NAMES)}"
    raise ConfigError(f"{name[:40]!r} is no alias that can be set", hint)


def read_aliases(store: Folder) -> dict[AliasName, Alias]:
    """Read the aliases of a model store.

    Raises:
        ModelStoreError: The file is damaged.
    """
    data = store.read(ALIASES, limit=ALIASES_LIMIT)
    if data is None:
        return {}
    try:
        if len(data) > ALIASES_LIMIT:
            raise _damaged(store, f"it is larger than {ALIASES_LIMIT} bytes")
        return _AliasFile.model_validate_json(data).aliases
    except ValidationError as cause:
        raise _damaged(store, first_problem(cause)) from cause


def write_aliases(store: Folder, aliases: dict[AliasName, Alias]) -> None:
    """Replace the aliases of a model store; the caller holds its lock."""
    content = _AliasFile(format=_FORMAT, aliases=aliases)
    store.write(ALIASES, content.model_dump_json(indent=1).encode() + b"\n")


def _damaged(store: Folder, problem: str) -> ModelStoreError:
    return ModelStoreError(
        f"{ALIASES} in {store.path} is damaged: {problem}",
        f"delete {ALIASES}, then set the aliases again with `etegrec-models alias`",
    )
