"""Plan of a batch run: what decides its answers, fixed when it begins, so that a resumed run goes on with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from model_store.errors import ConfigError
from service.schemas.recommend import RecommendRequest
from service.settings import Settings

Kind = Literal["recommend", "probabilities", "audience", "similar"]
HistorySource = Literal["file", "store", "training"]

DECIDING_SETTINGS = {
    "store",
    "trusted_keys_file",
    "engine",
    "onnx_precision",
    "torch_precision",
    "max_batch",
    "fresh_boost",
    "history_cap",
    "max_history_ids",
    "exclude_seen_types",
    "popular_prior_events",
}
"""Settings that decide answers. They are those of the run, on whatever machine a shard is computed."""

_NAMES = {
    "kind": "the command",
    "version": "--version",
    "request": "--k, --filter, --exclude-seen, --max-per-prefix, --rules, --placement or --placement-file",
    "histories": "--histories",
    "users_sha256": "the content of --users",
    "items": "--item",
    "shard_size": "--shard-size",
    "is_live": "ETEGREC_REDIS_URL",
    "settings": "the settings of the service (ETEGREC_*, --store)",
}


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Asked(_Record):
    """The question that a person asked of a run. A run can be resumed only by asking the same again."""

    kind: Kind
    version: str = Field(description="asked for by name; empty: the live one when the run began")
    request: RecommendRequest = Field(
        description="`k`, `filter`, `exclude_seen`, ranking rules and `placement` of every answer"
    )
    histories: HistorySource | None = Field(None, description="where histories come from; none are needed if unset")
    users_sha256: str = Field("", description="SHA-256 of the users file; empty without one")
    items: tuple[str, ...] = Field((), description="items whose audience is asked for")
    shard_size: int = Field(ge=1, description="users or items of a shard")
    is_live: bool = Field(False, description="whether catalogue changes and counts of events came from the store")
    settings: dict[str, Any] = Field(description="the settings that decide answers")

    def require_same(self, other: Asked, folder: Path) -> None:
        """Refuse to go on with a run of which something else was asked.

        Raises:
            ConfigError: Names the first thing that differs.
        """
        for name in type(self).model_fields:
            if getattr(self, name) != getattr(other, name):
                raise ConfigError(
                    f"{folder} holds a run of which something else was asked: {_NAMES[name]} differs",
                    "repeat the run as it was to finish it, or give another --out",
                )


class LiveCatalogue(_Record):
    """Description of the catalogue that was read from the store when the run began."""

    sha256: str
    revision: int
    nonce: int
    lineage: str
    origin: str


class Plan(_Record):
    """A run whose inputs are written: shard i of n has the users, or the items, number i * shard_size and on."""

    asked: Asked
    request: RecommendRequest = Field(description="what was asked, with the rules that the placement had")
    version: str
    digest: str = Field(description="SHA-256 of the version's manifest")
    rows: int = Field(ge=0, description="users or items of all shards")
    notes: tuple[str, ...] = Field((), description="what is unusual about the input, for people")
    live: LiveCatalogue | None = None
    began_at: int = Field(0, ge=0, description="Unix time of all answers, by which boosts apply or not")

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.rows // self.asked.shard_size)

    def rows_of(self, shard: int) -> range:
        """Return the numbers of a shard's users or items."""
        start = shard * self.asked.shard_size
        return range(start, min(start + self.asked.shard_size, self.rows))

    def settings(self) -> Settings:
        """Return the settings with which a process computes shards: those of the run, on one core."""
        return Settings.load(**self.asked.settings, threads=1, searches=1)


def deciding_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings that decide answers, with the model store's absolute path: other processes need it, too."""
    found: dict[str, Any] = settings.model_dump(mode="json", include=DECIDING_SETTINGS)
    if "://" not in settings.store:
        found["store"] = str(Path(settings.store).resolve())
    if settings.trusted_keys_file:
        found["trusted_keys_file"] = str(Path(settings.trusted_keys_file).resolve())
    return found
