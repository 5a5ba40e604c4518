"""The embedded event log on disk: append-only segments that the service writes and retraining drains.

    events/
        .lock                        held by the one process that writes
        00000000000000000007.log     a segment; the highest number is the one being written
        00000000000000000006.state   the result of all segments up to 6: histories, event ids, changes, erased users
        drained.json                 the place up to which retraining has drained
        attribution.key              key that signs attributions, where no setting brings one
        reserve                      disk space for deletions, see :mod:`model_store.events.disk_reserve`
        probe                        empty; written to see whether the disk takes writes

Segments and states consist of lines ``<CRC-32, 8 hex digits> <JSON>\\n``. A writer never reopens a segment: each start
begins the next one, so only the last line of a segment can be torn by a crash. A segment may be deleted once it is
drained *and* covered by a state, because histories are rebuilt from the state and later segments.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from model_store.durable_files import write_durably
from model_store.events.counts import Counts
from model_store.events.event import Event, Id

CURSOR_NAME = "drained.json"


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EventLine(_Line):
    """An event, with the second at which it was recorded (clock of the service), and the span that it came with.

    ``counts`` is what it adds to the counters of a day.
    """

    kind: Literal["event"] = "event"
    recorded_at: int
    event: Event
    traceparent: str | None = None
    counts: Counts | None = None


class ForgetLine(_Line):
    """The deletion of a user's history, and when it was; earlier releases did not note the time."""

    kind: Literal["forget"] = "forget"
    user_id: Id
    erased_at: int | None = None


class TombstoneLine(_Line):
    """An erased user, see :mod:`model_store.events.tombstones`; in states only."""

    kind: Literal["tombstone"] = "tombstone"
    user: str
    erased_at: int


class ChangeLine(_Line):
    """A catalogue change as raw input; ``payload`` is the JSON that the client sent."""

    kind: Literal["change"] = "change"
    revision: int = Field(ge=1)
    item_id: Id
    change: Literal["put", "delete", "restart"]
    payload: str


class ItemLine(_Line):
    """The latest change of an item, and the revision of its first change; in states only."""

    kind: Literal["item"] = "item"
    first: int = Field(ge=1)
    revision: int = Field(ge=1)
    item_id: Id
    change: Literal["put", "delete", "restart"]
    payload: str


class DocumentLine(_Line):
    """A named document, or without a payload its deletion; ``payload`` is its JSON.

    States begin with the deletion of the empty name, which no document has: it says how many writes there were.
    """

    revision: int = Field(ge=1)
    name: str
    payload: str | None = None


class PlacementLine(DocumentLine):
    """A placement."""

    kind: Literal["placement"] = "placement"


class ExperimentLine(DocumentLine):
    """An experiment."""

    kind: Literal["experiment"] = "experiment"


class CanaryLine(DocumentLine):
    """A canary that was rolled back."""

    kind: Literal["canary"] = "canary"


class ExposuresLine(_Line):
    """Users and sessions who got answers of a variant of an experiment; see :mod:`model_store.events.marks`."""

    kind: Literal["exposures"] = "exposures"
    experiment: str
    variant: int
    subjects: tuple[str, ...]


class SubjectLine(_Line):
    """What one user or session did in an experiment; in states only."""

    kind: Literal["subject"] = "subject"
    experiment: str
    subject: str
    is_exposed: bool
    marks: dict[str, float]


class SubjectSumsLine(_Line):
    """The sums over users and sessions of an experiment; in states only."""

    kind: Literal["subject_sums"] = "subject_sums"
    experiment: str
    sums: dict[str, float]


class DroppedSubjectsLine(_Line):
    """The deletion of what is kept of the users and sessions of an experiment, and if so of the sums over them."""

    kind: Literal["drop_subjects"] = "drop_subjects"
    experiment: str
    with_sums: bool


class HistoryLine(_Line):
    """The history of one user, oldest first; in states only.

    ``timestamps`` and ``letters`` say when each interaction was, and its type by
    :mod:`model_store.events.history_entry`. States of earlier releases have neither, but ``newest``: the newest
    timestamp of the user's events. ``recorded_at`` is the Unix time at which the last event came. It is kept only where
    idle users expire.
    """

    kind: Literal["history"] = "history"
    user_id: Id
    item_ids: tuple[Id, ...]
    timestamps: tuple[int, ...] | None = None
    letters: str | None = None
    newest: int | None = None
    recorded_at: int | None = None

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        for column in (self.timestamps, self.letters):
            if column is not None and len(column) != len(self.item_ids):
                raise ValueError("the columns of a history differ in length")
        return self


class ImportLine(_Line):
    """Interactions of one user that were imported, oldest first, in the columns of :class:`HistoryLine`."""

    kind: Literal["import"] = "import"
    recorded_at: int
    user_id: Id
    item_ids: tuple[Id, ...]
    timestamps: tuple[int, ...]
    letters: str


class ImportedLine(_Line):
    """The progress of importing the histories of a model version: how many of its users are done, and whether all."""

    kind: Literal["imported"] = "imported"
    version: str
    users: int = Field(ge=0)
    is_complete: bool


class CountLine(_Line):
    """The decayed count of events of an item; in states only. See :mod:`service.store.decayed_counts` for ``score``."""

    kind: Literal["count"] = "count"
    item_id: Id
    half_life_s: int = Field(ge=1)
    score: float = Field(allow_inf_nan=False)


class CounterLine(_Line):
    """Amounts that are added to the counters of a day, see :mod:`model_store.attribution.counters`."""

    kind: Literal["counter"] = "counter"
    counts: Counts


class CounterNamesLine(_Line):
    """Names by the hash that stands for them in counters."""

    kind: Literal["names"] = "names"
    names: dict[str, str]


class DroppedCountersLine(_Line):
    """The deletion of the counters of days."""

    kind: Literal["drop_counters"] = "drop_counters"
    days: tuple[str, ...]


class SeenLine(_Line):
    """The id of a recorded event; in states, and in a segment where the event itself was erased."""

    kind: Literal["seen"] = "seen"
    event_id: Id
    recorded_at: int


class ErasedLine(_Line):
    """Nothing: the place of a user's history in a state that could not be written anew, because the disk was full."""

    kind: Literal["erased"] = "erased"


LogLine = (
    EventLine
    | ForgetLine
    | TombstoneLine
    | ChangeLine
    | ItemLine
    | PlacementLine
    | ExperimentLine
    | CanaryLine
    | ExposuresLine
    | SubjectLine
    | SubjectSumsLine
    | DroppedSubjectsLine
    | HistoryLine
    | ImportLine
    | ImportedLine
    | CountLine
    | CounterLine
    | CounterNamesLine
    | DroppedCountersLine
    | SeenLine
    | ErasedLine
)
_LINE: TypeAdapter[LogLine] = TypeAdapter(Annotated[LogLine, Field(discriminator="kind")])


class Cursor(BaseModel):
    """The place in the log up to which everything has been drained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    segment: int = Field(0, ge=0, description="number of the segment")
    offset: int = Field(0, ge=0, description="offset in that segment, in bytes")


@dataclass
class SegmentContent:
    """The content of a segment from some offset on.

    Attributes:
        lines: Lines that decode.
        rejected: Complete lines that fail checksum or schema, as found.
        end: Offset just past the last complete line; the rest is torn, or still being written.
    """

    lines: list[LogLine] = field(default_factory=list)
    rejected: list[bytes] = field(default_factory=list)
    end: int = 0


def encode_line(line: LogLine, length: int = 0) -> bytes:
    """Encode one line with its checksum, filled up with blanks to ``length`` bytes."""
    text = line.model_dump_json(exclude_none=True).encode()
    text = text.ljust(length - len(b"00000000 \n"))
    return b"%08x %s\n" % (zlib.crc32(text), text)


def read_lines(path: Path, offset: int = 0) -> SegmentContent:
    """Read a segment or state from ``offset``, which must be the start of a line. A missing file reads as empty."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return SegmentContent(end=offset)

    complete = data[: data.rfind(b"\n") + 1]
    content = SegmentContent(end=offset + len(complete))
    for raw in complete.split(b"\n")[:-1]:
        line = decode_line(raw)
        if line is None:
            content.rejected.append(raw)
        else:
            content.lines.append(line)
    return content


def decode_line(raw: bytes) -> LogLine | None:
    """Decode the output of :func:`encode_line` without its line feed; ``None`` if checksum or schema fail."""
    checksum, _, text = raw.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    try:
        return _LINE.validate_json(text)
    except ValidationError:
        return None


def segment_path(folder: Path, number: int) -> Path:
    """Return the file of a segment."""
    return folder / f"{number:020d}.log"


def state_path(folder: Path, number: int) -> Path:
    """Return the file of the state that covers segments up to ``number``."""
    return folder / f"{number:020d}.state"


def segment_numbers(folder: Path) -> list[int]:
    """Return the numbers of the existing segments, ascending; only the last one can still grow."""
    return sorted(int(path.stem) for path in folder.glob("*.log") if path.stem.isdecimal())


def newest_state(folder: Path) -> int:
    """Return the number of the newest state, 0 if there is none."""
    return max((int(path.stem) for path in folder.glob("*.state") if path.stem.isdecimal()), default=0)


def read_cursor(folder: Path) -> Cursor:
    """Read the place up to which the log is drained; an unreadable cursor starts over.

    Nothing is counted twice then, because readers of drained events remove repeated ids.
    """
    try:
        return Cursor.model_validate_json((folder / CURSOR_NAME).read_bytes())
    except (FileNotFoundError, ValidationError):
        return Cursor()


def write_cursor(folder: Path, cursor: Cursor) -> None:
    """Move the cursor, atomically and durably."""
    write_durably(folder / CURSOR_NAME, cursor.model_dump_json().encode())
