"""Client of the store for the request path, which goes on answering while the store is away."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Literal, NamedTuple

import structlog

from model_store.errors import StoreCorrupt, StoreError, StoreReadOnly
from model_store.events.counts import Counts
from model_store.events.event import Event
from model_store.tracing.interface import Span
from service.async_tasks import repeat_until_cancelled
from service.store.base import History, Recorded, Store
from service.store.read_batching import ReadBatcher
from service.store.shown_answers import ShownAnswer, Subject
from service.telemetry.telemetry import Telemetry

log = structlog.get_logger()


StoreStatus = Literal["up", "read-only", "away"]
"""Status of the store. ``read-only``: it answers but refuses writes, other than deletions."""

_SIGNS: dict[StoreStatus, str] = {"up": "store_is_back", "read-only": "store_is_read_only", "away": "store_is_away"}


class StoredHistory(NamedTuple):
    """History of a user; ``is_missing`` if the store could not be asked."""

    history: History
    is_missing: bool


class StoreClient:
    """Wrapper of the store that remembers whether the store answers and takes writes."""

    def __init__(self, store: Store, telemetry: Telemetry, check_s: float) -> None:
        self.store = store
        self._histories: ReadBatcher[str, History] = ReadBatcher(store.histories)
        self._shown: ReadBatcher[Subject, list[ShownAnswer]] = ReadBatcher(store.shown)
        self._telemetry = telemetry
        self._check_s = check_s
        self._status: StoreStatus = "up"
        self._refusal = ""
        self._is_behind = False
        self._corrupt_values = 0
        self._dropped_events = 0
        telemetry.store_up.set(1)

    @property
    def is_up(self) -> bool:
        """True while the store takes writes, histories can be read and the catalogue follows the changes.

        Answers given at any other time are marked degraded.
        """
        return self._status == "up" and not self._is_behind

    @property
    def status(self) -> StoreStatus:
        """Status for operators; a store whose changes cannot be read counts as away."""
        return "away" if self._is_behind and self._status == "up" else self._status

    @property
    def refusal(self) -> str:
        """Reason why a store that is read-only refuses writes, without addresses; empty otherwise."""
        return self._refusal

    def note_behind(self, *, behind: bool) -> None:
        """Remember whether the catalogue in memory lacks changes that cannot be read now."""
        if behind != self._is_behind:
            log.warning("catalogue_is_behind" if behind else "catalogue_follows_again")
        self._is_behind = behind

    async def watch(self) -> None:
        """Check the store every ``check_s`` seconds, until cancelled."""
        await repeat_until_cancelled(self.check, self._check_s, partial(log.exception, "store_watch_crashed"))

    async def check(self) -> None:
        """Ask the store once whether it answers and takes writes, and show what it left out."""
        try:
            await self.store.check()
            self._note("up")
        except StoreReadOnly as refusal:
            self._note("read-only", refusal)
        except StoreError as failure:
            self._note("away", failure)
        self._count_losses()

    async def history(self, user_id: str) -> StoredHistory:
        """Return the stored history, or an empty one marked missing. Never raises because the store is away."""
        try:
            with self.traced("history"):
                return StoredHistory(await self._histories.read(user_id), is_missing=False)
        except StoreCorrupt:
            log.warning("history_corrupt")
        except StoreError as failure:
            self._note("away", failure)

        return StoredHistory(History.untyped([]), is_missing=True)

    async def shown(self, subject: Subject) -> list[ShownAnswer] | None:
        """Return what a user or a session was shown, ``None`` if it cannot be read. Never raises for the store."""
        try:
            with self.traced("shown"):
                return await self._shown.read(subject)
        except StoreCorrupt:
            log.warning("shown_corrupt")
        except StoreError as failure:
            self._note("away", failure)
        return None

    async def record(self, events: Sequence[Event], counts: Sequence[Counts] = ()) -> Recorded:
        """Record events with the span that they come with; see :meth:`service.store.base.Store.record`."""
        traceparent = self._telemetry.tracing.traceparent()
        with self.traced("record"):
            return await self.store.record(events, traceparent, counts)

    def traced(self, operation: str) -> AbstractContextManager[Span]:
        """Return a span for a call of the store that a request waits for."""
        return self._telemetry.tracing.client_span(operation, self.store.system)

    def _note(self, status: StoreStatus, cause: StoreError | None = None) -> None:
        if status != self._status:
            log.warning(_SIGNS[status], cause=str(cause or ""), hint=cause.hint if cause else "")
        self._status = status
        self._refusal = cause.reason if isinstance(cause, StoreReadOnly) else ""
        self._telemetry.store_up.set(status == "up")
        self._telemetry.store_read_only.set(status == "read-only")

    def _count_losses(self) -> None:
        """Show how many values did not decode, and how many events were dropped before training drained them."""
        corrupt = self.store.corrupt_values + self.store.catalogue.corrupt_values
        self._telemetry.corrupt_values.inc(corrupt - self._corrupt_values)
        self._corrupt_values = corrupt

        dropped = self.store.dropped_events
        if dropped > self._dropped_events:
            log.warning(
                "events_dropped", events=dropped - self._dropped_events, fix="drain events by training more often"
            )
        self._telemetry.events_dropped.inc(dropped - self._dropped_events)
        self._dropped_events = dropped
