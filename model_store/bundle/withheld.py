"""Withheld versions: rolled back by a person or a failed canary, or held back by the gate of retraining.

``withheld.json`` beside ``LIVE`` remembers them, newest first, with the data and settings that they were made from, so
that retraining does not bring the same model back under another name. It outlives the versions themselves.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from model_store.bundle.manifest import VERSION, Origin, first_problem
from model_store.bundle.storage import Folder
from model_store.errors import ConfigError, ModelStoreError

WITHHELD = "withheld.json"

WITHHELD_LIMIT = 1 << 20
"""Size of the largest file that is read, in bytes; the largest that is written takes less than half of it."""

MAX_WITHHELD = 200
"""Most versions that are remembered; the oldest are forgotten first."""

MAX_REASON = 500
"""Longest reason, in characters."""

ROLLED_BACK: Final = "rolled back"
HELD_BACK: Final = "held back"
State = Literal["rolled back", "held back"]

_FORMAT: Final = "etegrec-withheld-v1"


class Withheld(BaseModel):
    """A version that retraining may neither promote nor make again, until a person promotes it."""

    model_config = ConfigDict(frozen=True)

    version: str = Field(pattern=f"^{VERSION.pattern}$", description="name of the version")
    state: State = Field(
        description="rolled back by a person or a failed canary, or held back by the gate of retraining"
    )
    at: AwareDatetime = Field(description="when, UTC")
    reason: str = Field("", max_length=MAX_REASON, description="why; empty if nobody said it")
    data: str | None = Field(None, description="hash of its data; not known if the version could not be opened")
    training: str | None = Field(None, description="hash of its training settings, where it is known")

    @classmethod
    def now(cls, version: str, state: State, reason: str, origin: Origin | None) -> Withheld:
        """Describe a version that is withheld from now on.

        Raises:
            ConfigError: The reason is too long.
        """
        words = " ".join("".join(letter if letter.isprintable() else " " for letter in reason).split())
        if len(words) > MAX_REASON:
            raise ConfigError(f"the reason has {len(words)} characters, it may have {MAX_REASON}", "shorten it")
        data, training = origin or (None, None)
        at = datetime.now(UTC).replace(microsecond=0)
        return cls(version=version, state=state, at=at, reason=words, data=data, training=training)

    def is_from(self, origin: Origin) -> bool:
        """Tell whether it was made from these data and settings, as far as that is known."""
        return self.data is not None and Origin(self.data, self.training).matches(origin)

    @property
    def words(self) -> str:
        """State, time and reason, to be read after the name of the version."""
        because = f" ({self.reason})" if self.reason else ""
        return f"{self.state} on {self.at:%Y-%m-%d %H:%M} UTC{because}"


class _WithheldFile(BaseModel):
    """The content of ``withheld.json``."""

    model_config = ConfigDict(frozen=True)

    format: Literal["etegrec-withheld-v1"]
    versions: tuple[Withheld, ...] = Field(max_length=MAX_WITHHELD)


def read_withheld(store: Folder) -> tuple[Withheld, ...]:
    """Read the withheld versions of a model store, newest first.

    Raises:
        ModelStoreError: The file is damaged.
    """
    data = store.read(WITHHELD, limit=WITHHELD_LIMIT)
    if data is None:
        return ()
    try:
        if len(data) > WITHHELD_LIMIT:
            raise _damaged(store, f"it is larger than {WITHHELD_LIMIT} bytes")
        return _WithheldFile.model_validate_json(data).versions
    except ValidationError as cause:
        raise _damaged(store, first_problem(cause)) from cause


def write_withheld(store: Folder, versions: tuple[Withheld, ...]) -> None:
    """Replace the withheld versions of a model store; the caller holds its lock."""
    content = _WithheldFile(format=_FORMAT, versions=versions[:MAX_WITHHELD])
    store.write(WITHHELD, content.model_dump_json(indent=1).encode() + b"\n")


def _damaged(store: Folder, problem: str) -> ModelStoreError:
    return ModelStoreError(
        f"{WITHHELD} in {store.path} is damaged: {problem}",
        f"restore it from a backup, or delete {WITHHELD}: retraining then forgets what was rolled back",
    )
