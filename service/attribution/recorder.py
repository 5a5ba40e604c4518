"""Recorder of events: verifies the attributions that they carry, and counts what answers led to."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from model_store.attribution.code_counters import amounts_of_event_by_code, is_counted
from model_store.attribution.counters import counts_of_event
from model_store.attribution.experiment_counters import mark_of_event
from model_store.attribution.keys import AttributionKeys
from model_store.attribution.token import Attribution, Refusal, hash_subject, subject_of, verify
from model_store.events.counts import NO_COUNTS, Counts
from model_store.events.event import KNOWN_TYPES, OWN_TYPE, Event
from service.attribution.key_ring import KeyRing
from service.store.base import Recorded
from service.store.client import StoreClient
from service.telemetry.telemetry import Telemetry

VALID = "valid"
OTHER_ITEM = "other_item"
"""Results of a token that verifies: with the event's item, or without it."""

_AT_ONCE = 50
"""Events that are verified on the event loop; more take a millisecond or longer, and go to a thread."""


class _Checked(NamedTuple):
    """An event as it is recorded, what it adds to counters, and what its attribution was."""

    event: Event
    counts: Counts
    result: str | None = None  # None without an attribution


class Codes(Protocol):
    """Codes of items in versions of the model."""

    def first_code(self, version: int, item_id: str) -> int | None:
        """Return the first code of an item in a version, named by its hash; ``None`` if it is not known."""


class EventRecorder:
    """Recorder of events, from whichever way they come.

    Args:
        store_client: Where they go.
        keys: Keys of this shop.
        ttl_s: Seconds after an answer for which events count.
        telemetry: Metrics.
        codes: Codes of items; ``None`` where none can be known.

    Attributes:
        attributions: Attributions of recorded events, by result.
    """

    def __init__(
        self,
        store_client: StoreClient,
        keys: KeyRing,
        ttl_s: int,
        telemetry: Telemetry,
        codes: Codes | None = None,
    ) -> None:
        self._store_client = store_client
        self._keys = keys
        self._ttl_s = ttl_s
        self._telemetry = telemetry
        self._codes = codes
        self.attributions: Counter[str] = Counter()

    async def record(self, events: Sequence[Event]) -> Recorded:
        """Record events; see :meth:`service.store.base.Store.record`.

        An attribution that does not verify is counted and left out. One that does is recorded with the event, so that
        all counts can be computed again from the event log.
        """
        if all(event.attribution is None for event in events):
            return await self._store_client.record(events)

        keys = await self._keys.find()
        if len(events) <= _AT_ONCE:
            checked = self._check(events, keys)
        else:
            checked = await asyncio.to_thread(self._check, events, keys)

        recorded = await self._store_client.record([each.event for each in checked], [each.counts for each in checked])
        self._count(checked)
        return recorded

    def _check(self, events: Sequence[Event], keys: AttributionKeys) -> list[_Checked]:
        return [self._check_one(event, keys) for event in events]

    def _check_one(self, event: Event, keys: AttributionKeys) -> _Checked:
        if event.attribution is None:
            return _Checked(event, NO_COUNTS)

        found = verify(event.attribution, keys, self._ttl_s, event.timestamp)
        if isinstance(found, Refusal):
            return _Checked(event.model_copy(update={"attribution": None}), NO_COUNTS, found.value)

        is_other = not found.is_cut and found.rank(event.item_id) is None
        mark = mark_of_event(event, found, is_asker=_is_asker(event, found, keys))
        counts = counts_of_event(event, found)._replace(mark=mark)
        if not is_other and is_counted(event, found):
            code = None if self._codes is None else self._codes.first_code(found.version, event.item_id)
            counts = counts._replace(amounts={**counts.amounts, **amounts_of_event_by_code(event, found, code)})
        return _Checked(event, counts, OTHER_ITEM if is_other else VALID)

    def _count(self, checked: Sequence[_Checked]) -> None:
        for result, count in Counter(each.result for each in checked if each.result is not None).items():
            self.attributions[result] += count
            self._telemetry.attributions.labels(result).inc(count)
        attributed = [_label(each.event.type) for each in checked if each.result in (VALID, OTHER_ITEM)]
        for label, count in Counter(attributed).items():
            self._telemetry.attributed_events.labels(label).inc(count)


def _is_asker(event: Event, found: Attribution, keys: AttributionKeys) -> bool:
    """Tell whether the user of an event is who got the answer."""
    asker = subject_of(event.user_id, None)
    return any(hash_subject(asker, key) == found.subject for key in keys.all)


def _label(kind: str) -> str:
    """Return the label of a type in metrics: a client may send any number of own ones."""
    return kind if kind in KNOWN_TYPES else OWN_TYPE
