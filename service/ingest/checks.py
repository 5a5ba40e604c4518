"""Checks of records: the same as of events that are sent to ``POST /events``, with the same limits."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from model_store.events.event import Event
from service.errors import BadJson, InvalidFields
from service.http.body import parse
from service.http.limits import events_bounds
from service.ingest.source import Record
from service.schemas.events import ONE_EVENT, EventBody
from service.settings import Settings

FIELDS = tuple(EventBody.model_fields)
"""Fields of an event."""

WHOLE_RECORD = "record"
"""In place of a field: the record is no JSON object, or too long."""

OTHER_FIELD = "other"
"""In place of a field: one that events do not have."""

MAX_NAMES = 50
"""Names of dropped fields that are told apart."""

_OBJECT: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


class Refusal(NamedTuple):
    """A record that is no event, and why."""

    record: Record
    reason: str
    fields: frozenset[str]  # of FIELDS, WHOLE_RECORD and OTHER_FIELD


class Checked(NamedTuple):
    """The records of a batch, sorted."""

    events: Sequence[Event]
    refused: Sequence[Refusal]


@dataclass(frozen=True)
class FieldRules:
    """How fields of records become fields of events.

    Attributes:
        renames: Fields of events by their names in records.
        drops_unknown: Whether fields that events do not have are left out; otherwise such a record is refused.
    """

    renames: Mapping[str, str] = field(default_factory=dict)
    drops_unknown: bool = False


class RecordCheck:
    """Checks of records.

    Args:
        settings: Limits, as of ``POST /events``.
        rules: How fields are read.

    Attributes:
        dropped_fields: Fields that were left out, by name, with the number of records.
    """

    def __init__(self, settings: Settings, rules: FieldRules) -> None:
        self.dropped_fields: Counter[str] = Counter()
        self._max_bytes = settings.max_body_bytes
        self._bounds = events_bounds(settings)
        self._rules = rules

    def check(self, records: Sequence[Record]) -> Checked:
        """Sort records into events and refusals, both in order."""
        events: list[Event] = []
        refused: list[Refusal] = []
        for record in records:
            try:
                events.append(self._read(record))
            except InvalidFields as refusal:
                reason = "; ".join(f"{each.field or 'the record'} {each.message}" for each in refusal.fields)
                refused.append(Refusal(record, reason, frozenset(_known(each.field) for each in refusal.fields)))
            except BadJson as refusal:
                refused.append(Refusal(record, str(refusal), frozenset([WHOLE_RECORD])))
        return Checked(events, refused)

    def _read(self, record: Record) -> EventBody:
        if record.is_too_long:
            raise BadJson(f"must be at most {self._max_bytes} bytes long (max_body_bytes)")

        event = parse(self._translated(record.raw), ONE_EVENT, self._bounds)
        made: dict[str, object] = {}
        if record.event_id and "event_id" not in event.model_fields_set:
            made["event_id"] = record.event_id
        if record.timestamp is not None and "timestamp" not in event.model_fields_set:
            made["timestamp"] = record.timestamp
        return event.model_copy(update=made) if made else event

    def _translated(self, raw: bytes) -> bytes:
        """Return a record in the names of events."""
        rules = self._rules
        if not rules.renames and not rules.drops_unknown:
            return raw

        given = {rules.renames.get(name, name): value for name, value in parse(raw, _OBJECT, self._bounds).items()}
        if rules.drops_unknown:
            unknown = [name for name in given if name not in EventBody.model_fields]
            for name in unknown:
                del given[name]
            self._count_dropped(unknown)
        return json.dumps(given).encode()  # of integers beyond 64 bits as well, about which the schema decides

    def _count_dropped(self, names: Sequence[str]) -> None:
        """Count fields by name, while there are few names: a feed could bring a new one with every record."""
        for name in names:
            is_counted = name in self.dropped_fields or len(self.dropped_fields) < MAX_NAMES
            self.dropped_fields[name if is_counted else OTHER_FIELD] += 1


def _known(path: str) -> str:
    """Return the field of an event that a path of a refusal names; or what else it is."""
    name = path.partition(".")[0]
    if not name:
        return WHOLE_RECORD
    return name if name in EventBody.model_fields else OTHER_FIELD
