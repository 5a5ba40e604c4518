"""Settings of a running service, read from ``ETEGREC_*`` variables, or from files that are named like them.

Defaults are defined here and nowhere else: the command line reads its own from this class, and docs/OPERATIONS.md lists
every field (a test compares them).
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from model_store.errors import ConfigError
from model_store.events.event import EVENT_TYPES, EventType
from model_store.namespace import check_namespace, place_of
from model_store.secret_files import read_secrets
from service.engines.base import BEAM_WIDTHS

EngineName = Literal["onnx", "torch", "fake"]

ENV_PREFIX = "ETEGREC_"
"""Beginning of the name of every variable."""

MAX_COUNTERS_DAYS = 1000
"""Largest number of days for which counters can be kept."""


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


class Settings(BaseSettings):
    """Frozen settings of one service process; units are part of the names."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore")

    store: str = Field("./models", description="model store: a folder or an fsspec URL")
    namespace: str = Field(
        "",
        description="name of the shop, where several share one Redis and one model store; see *Several shops*",
    )
    redis_url: SecretStr | None = Field(
        None, description="address of Redis, by TLS, Sentinel or Cluster, too: see *Redis*; unset: the embedded store"
    )
    redis_ca_file: str = Field(
        "",
        description="PEM file of the authorities that Redis' TLS certificate may come from; empty: those of the system",
    )
    redis_cert_file: str = Field("", description="PEM file of this client's certificate, if Redis asks for one")
    redis_key_file: str = Field("", description="PEM file of that certificate's private key, without a password")
    events_folder: str = Field(
        "", description="folder of the embedded store's event log; empty: `events` in the model store"
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65_535, description="port to listen on; 0 takes a free one")
    max_connections: int = Field(
        4096,
        ge=1,
        le=1_000_000,
        description="connections open at the same time, as far as the limit of open files allows; one more replaces the"
        " one that waits longest for its client",
    )
    max_connections_per_address: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="the same for one client address (IPv6: 64 bits of it); 0: no limit, as behind a proxy, where all"
        " clients share its address",
    )
    read_keys: SecretStr = Field(
        SecretStr(""), description="API keys for reading, comma-separated; `name:secret` gives a key a name"
    )
    write_keys: SecretStr = Field(
        SecretStr(""), description="API keys for everything that no admin key is needed for, comma-separated"
    )
    admin_keys: SecretStr = Field(
        SecretStr(""),
        description="API keys for users' stored data and all else, comma-separated; unset: write keys do that, too",
    )
    keys_file: str = Field("", description="JSON file with more API keys, see *Keys*; it is read again when it changes")
    keys_reload_s: float = Field(1.0, gt=0, le=3600, description="how often the keys file is read, in seconds")
    key_requests_per_s: float = Field(
        0.0,
        ge=0,
        le=1e6,
        allow_inf_nan=False,
        description="requests a second that each API key may send; 0: any number",
    )
    key_burst: int = Field(
        0,
        ge=0,
        le=10_000_000,
        description="requests that a key may send at once after a pause; 0: those of two seconds",
    )
    key_concurrent: int = Field(
        0, ge=0, le=100_000, description="requests of each API key that are answered at the same time; 0: any number"
    )
    key_bulk_bytes_per_min: int = Field(
        0, ge=0, le=10**12, description="bytes of POST /items/bulk that each API key may send a minute; 0: any number"
    )
    wrong_keys_per_min: int = Field(
        60, ge=0, le=1_000_000, description="wrong API keys a minute that one address may send; 0: any number"
    )
    secrets_dir: str = Field(
        "",
        description="folder with files of secret settings, named like the variables in small letters; variables win",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="lowest level that is logged")
    tracing: bool = Field(
        False, description="whether requests are traced by OpenTelemetry, see *Traces*; needs the extra `tracing`"
    )

    engine: EngineName = Field("onnx", description="onnx (CPU), torch (GPU) or fake (no weights, for trying the API)")
    threads: int = Field(0, ge=0, le=256, description="cores that compute a batch; 0: all that the process may use")
    searches: int = Field(
        1, ge=1, le=256, description="batches that the onnx engine computes at the same time; they share its cores"
    )
    onnx_precision: Literal["fp32", "int8"] = Field(
        "fp32", description="weights of the onnx engine; int8 must answer 99% of the goldens' items"
    )
    torch_precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="products inside the torch engine's layers; bf16 must answer 99% of the goldens' items"
    )
    max_batch: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="largest number of requests computed together; unset: 16 per core on the onnx engine, else 32",
    )
    batch_wait_ms: float = Field(
        1.0,
        ge=0,
        le=1000,
        description="how long an idle engine waits for more requests to join a batch, in milliseconds",
    )
    queue_size: int = Field(
        256, ge=1, le=100_000, description="largest number of waiting requests; one more is answered 429"
    )
    deadline_ms: float = Field(
        1000, gt=0, le=60_000, description="time budget of a request that brings no `budget_ms`; also its upper bound"
    )
    fresh_boost: float = Field(
        0.0,
        ge=-20,
        le=20,
        allow_inf_nan=False,
        description="nats added to the `score` of new items, to show them more often (below 0: less often)",
    )
    result_cache_entries: int = Field(
        10_000,
        ge=0,
        le=10_000_000,
        description="answers of each loaded model cached for requests that repeat, about 1 KiB each, 16 KiB at most;"
        " 0: none",
    )
    result_cache_s: float = Field(300, gt=0, le=86_400, description="how long a cached answer may be used, in seconds")
    rule_cache_entries: int = Field(
        64,
        ge=1,
        le=100_000,
        description="compiled filters kept per model, each of about 6 bytes per item; a quarter as many sets of boosts,"
        " each of up to four times that",
    )
    reload_s: float = Field(
        5.0, gt=0, le=3600, description="how often the model store is asked for a newly promoted model, in seconds"
    )
    trusted_keys_file: str = Field(
        "", description="file of public keys that versions must be signed with; empty: signed or not, all are loaded"
    )
    load_trial: bool = Field(
        True, description="whether a process of its own tries a version, with limits, before this one loads it"
    )
    load_timeout_s: float = Field(
        300.0, gt=0, le=86_400, description="longest time that trying a version may take, in seconds"
    )
    load_memory_mb: int = Field(
        0,
        ge=0,
        le=16_777_216,
        description="memory that trying a version may take, in MB; 0: 2048 and 8 times the version's files",
    )
    second_models_mb: int = Field(
        1024,
        ge=0,
        le=16_777_216,
        description="memory that the models of the aliases `candidate` and `shadow` may take together, in MB; 0: none"
        " is loaded beside the live one",
    )
    live_check_s: float = Field(
        2.0, gt=0, le=3600, description="how often the store is asked whether it answers, in seconds"
    )

    catalogue_poll_s: float = Field(
        0.1, gt=0, le=60, description="how often catalogue changes of other replicas are read, in seconds"
    )
    catalogue_wait_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="longest wait for a change to be applied, or for a snapshot that is being made, in seconds",
    )
    compact_changes: int = Field(
        10_000, ge=10, le=10_000_000, description="catalogue changes after which a new snapshot replaces the last"
    )

    max_k: int = Field(BEAM_WIDTHS[-1], ge=1, le=BEAM_WIDTHS[-1], description="largest `k` a request may ask for")
    max_history_ids: int = Field(1000, ge=1, le=5000, description="item ids accepted in one `history`")
    max_filter_ids: int = Field(10_000, ge=1, le=10_000, description="entries accepted in each list of a `filter`")
    max_batch_requests: int = Field(32, ge=1, le=1000, description="requests accepted in one POST /recommend/batch")
    max_events: int = Field(1000, ge=1, le=10_000, description="events accepted in one POST /events")
    max_body_bytes: int = Field(1_048_576, ge=1024, le=67_108_864, description="largest request body, in bytes")
    max_bulk_bytes: int = Field(
        134_217_728,
        ge=1024,
        le=2_147_483_647,
        description="largest body of POST /items/bulk, in bytes; it is kept in memory",
    )
    max_bulk_uploads: int = Field(
        4, ge=1, le=1000, description="bulk uploads that are in memory at the same time; one more is answered 429"
    )
    bulk_timeout_s: float = Field(
        120.0, gt=0, le=3600, description="longest time for a client to send a bulk body, in seconds"
    )
    body_timeout_s: float = Field(
        10.0, gt=0, le=600, description="longest time for a client to send any other body, in seconds"
    )
    history_cap: int = Field(200, ge=1, le=5000, description="newest interactions of a user that are stored")
    exclude_seen_types: str = Field(
        "purchase,rating",
        description="types of events after which an item is not recommended to the user again, comma-separated;"
        " empty: all may come again",
    )
    import_histories: bool = Field(
        True, description="whether users of a version's training data get their history when it is first served"
    )
    user_ttl_days: int = Field(
        0, ge=0, le=36_500, description="days without an event after which a user is forgotten; 0: never"
    )
    max_undrained_events: int = Field(
        1_000_000,
        ge=0,
        le=1_000_000_000,
        description="events that may wait for training; above it the oldest are dropped; 0: any number",
    )

    attribution_keys: SecretStr = Field(
        SecretStr(""),
        description="keys that sign the `attribution` of answers, comma-separated, at least 16 characters each; the"
        " first signs, all verify; unset: the store keeps a random one",
    )
    attribution_ttl_s: int = Field(
        604_800, ge=60, le=7_776_000, description="seconds after an answer for which events count as led to by it"
    )
    counters_days: int = Field(
        400,
        ge=1,
        le=MAX_COUNTERS_DAYS,
        description="days for which the counters of GET /attribution are kept",
    )
    implicit_impressions: bool = Field(
        True, description="whether answered items count as shown; false: only those that an `impression` event names"
    )

    popular_half_life_h: float = Field(
        720, ge=0.01, le=100_000, description="hours after which an event counts half for popular items"
    )
    trending_half_life_h: float = Field(24, ge=0.01, le=100_000, description="the same for trending items, in hours")
    popular_prior_events: float = Field(
        1000, gt=0, le=1e12, description="number of events that training popularity counts as, for popular items"
    )
    trends_s: float = Field(
        10.0, gt=0, le=3600, description="how often counts of events are read from the store, in seconds"
    )

    shutdown_delay_s: float = Field(
        1.0, ge=0, le=300, description="after SIGTERM: how long readiness says 503 before the port closes, in seconds"
    )
    shutdown_grace_s: float = Field(
        30.0,
        gt=0,
        le=600,
        description="after the port closed: how long accepted requests may take to finish, in seconds",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return where values come from: what is given, the environment, files of secrets; the first one wins.

        Raises:
            ConfigError: The files of secrets cannot be read.
        """
        folder = {**env_settings(), **init_settings()}.get("secrets_dir", "")
        secrets = {name.removeprefix(ENV_PREFIX).lower(): value for name, value in read_secrets(folder).items()}
        return init_settings, env_settings, InitSettingsSource(settings_cls, secrets)

    @classmethod
    def load(cls, **given: object) -> Self:
        """Read the environment and the files of secrets; ``given`` values, from the command line, win over both.

        Raises:
            ConfigError: A value is wrong, or a file cannot be read. The message names the variable, never its content.
        """
        try:
            return cls(**given)  # type: ignore[arg-type]
        except ValidationError as refused:
            problem = refused.errors(include_input=False, include_url=False)[0]
            name = ENV_PREFIX + str(problem["loc"][0]).upper()
            hint = f"correct {name} or the option of the same name; `etegrec-serve --help` lists them"
            raise ConfigError(f"{name}: {problem['msg']}", hint) from None

    @field_validator("namespace")
    @classmethod
    def _check_namespace(cls, value: str) -> str:
        return check_namespace(value)

    @field_validator("exclude_seen_types")
    @classmethod
    def _check_types(cls, value: str) -> str:
        unknown = [name for name in _split(value) if name not in EVENT_TYPES]
        if unknown:
            raise ValueError(f"{unknown[0][:40]!r} is no type of event; choose from {', '.join(EVENT_TYPES)}")
        return value

    @property
    def exclude_seen_event_types(self) -> tuple[EventType, ...]:
        """Types of events after which an item is not recommended again."""
        names = _split(self.exclude_seen_types)
        return tuple(kind for kind in EVENT_TYPES if kind in names)

    @property
    def events_path(self) -> str:
        """Folder of the embedded event log."""
        return self.events_folder or f"{place_of(self.namespace, self.store).rstrip('/')}/events"
