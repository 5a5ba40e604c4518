"""The feed: reads a batch, checks it, records it, keeps what was refused, and only then confirms it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import structlog

from model_store.attribution.token import Refusal
from model_store.errors import StoreError
from model_store.events.event import Event
from model_store.tracing.interface import Tracing
from service.attribution.recorder import EventRecorder
from service.ingest.checks import Checked, RecordCheck
from service.ingest.dead_letters import DeadLetters
from service.ingest.metrics import IngestMetrics
from service.ingest.source import Batch, Source
from service.store.base import Recorded

log = structlog.get_logger()

IGNORED = frozenset(refusal.value for refusal in Refusal)
"""Results of attributions that do not verify."""

WARN_S = 60.0
"""Seconds between two warnings of attributions that do not verify."""

FIRST_RETRY_S = 0.2
LONGEST_RETRY_S = 5.0
"""Seconds between two attempts to record, while the store takes nothing."""


class FeedReport(NamedTuple):
    """The outcome of a feed."""

    accepted: int
    duplicates: int
    refused: int
    refused_fields: dict[str, int]  # refused records by the field that is wrong
    dropped_fields: dict[str, int]  # records by the field that was left out
    file_failures: int
    attributions: dict[str, int]  # attributions of recorded events by result

    @property
    def ignored_attributions(self) -> int:
        """Attributions that did not verify; their events are recorded as if they came without."""
        return sum(count for result, count in self.attributions.items() if result in IGNORED)

    @property
    def is_clean(self) -> bool:
        """True if every record became an event."""
        return not self.refused and not self.file_failures


class Feed:
    """A feed of one source into one store.

    Args:
        source: Where records come from.
        recorder: Records events as ``POST /events`` does.
        check: Decides what is an event.
        dead_letters: Keeps what is none.
        metrics: Counts.
        tracing: Keeps a span for each batch.
        batch_size: Largest number of records that are recorded together.
    """

    def __init__(
        self,
        source: Source,
        recorder: EventRecorder,
        check: RecordCheck,
        dead_letters: DeadLetters,
        metrics: IngestMetrics,
        tracing: Tracing,
        batch_size: int,
    ) -> None:
        self._source = source
        self._recorder = recorder
        self._check = check
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._tracing = tracing
        self._batch_size = batch_size
        self._stopping = asyncio.Event()

        self._accepted = 0
        self._duplicates = 0
        self._refused = 0
        self._refused_fields: Counter[str] = Counter()
        self._newest: int | None = None  # time of the newest message that was recorded
        self._unreported: Counter[str] = Counter()  # ignored attributions since the last warning
        self._warned_at = -WARN_S

    def stop(self) -> None:
        """End :meth:`run` after the batch that is under way."""
        self._stopping.set()

    async def run(self) -> FeedReport:
        """Feed until the source ends or :meth:`stop` is called.

        Raises:
            StoreError: It was stopped while the store took nothing. What was not recorded was not confirmed.
            EtegrecError: The source cannot be read at all.
            OSError: Dead letters cannot be kept.
        """
        while not self._stopping.is_set():
            batch = await asyncio.to_thread(self._source.read, self._batch_size)
            if batch is None:
                break
            if batch.records:
                await self._take(batch)
            elif batch.position is not None:
                await asyncio.to_thread(self._source.confirm, batch)
            self._newest = _newest(batch) or self._newest
            await asyncio.to_thread(self._show_lag, self._newest)
        return self.report()

    def report(self) -> FeedReport:
        """Return what came of the records so far."""
        return FeedReport(
            self._accepted,
            self._duplicates,
            self._refused,
            dict(self._refused_fields.most_common()),
            dict(self._check.dropped_fields.most_common()),
            self._source.failures,
            dict(self._recorder.attributions.most_common()),
        )

    async def _take(self, batch: Batch) -> None:
        with self._tracing.span("ingest", "consumer") as span:
            span.link(record.traceparent for record in batch.records if record.traceparent)
            dropped = self._check.dropped_fields.total()
            attributed = self._recorder.attributions.copy()
            checked = await asyncio.to_thread(self._check.check, batch.records)

            recorded = await self._record(checked.events, batch)
            await asyncio.to_thread(self._dead_letters.write, checked.refused)
            await asyncio.to_thread(self._source.confirm, batch)

        self._metrics.dropped_fields.inc(self._check.dropped_fields.total() - dropped)
        self._count(recorded, checked)
        self._count_attributions(self._recorder.attributions - attributed)

    async def _record(self, events: Sequence[Event], batch: Batch) -> Recorded:
        """Record events, however long the store takes nothing; repeating the call records none of them twice.

        A value of the store that does not decode is waited for, too: somebody repairs it, and nothing is lost.
        """
        wait_s = FIRST_RETRY_S
        while events:
            try:
                recorded = await self._recorder.record(events)
                self._note_stalled(None)
                return recorded
            except StoreError as failure:
                self._note_stalled(failure)
                if await self._stops_within(wait_s):
                    raise
            await asyncio.to_thread(self._source.keep_alive)
            await asyncio.to_thread(self._show_lag, self._newest or _oldest(batch))
            wait_s = min(2 * wait_s, LONGEST_RETRY_S)
        return Recorded(0, 0)

    async def _stops_within(self, seconds: float) -> bool:
        """Wait so long, or until the feed is to stop; return whether it is."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True

    def _note_stalled(self, failure: StoreError | None) -> None:
        self._metrics.is_stalled.set(failure is not None)
        if failure is not None:
            log.warning("events_wait_for_the_store", cause=str(failure), hint=failure.hint)

    def _count(self, recorded: Recorded, checked: Checked) -> None:
        self._accepted += recorded.accepted
        self._duplicates += recorded.duplicates
        self._refused += len(checked.refused)
        self._metrics.records.labels("accepted").inc(recorded.accepted)
        self._metrics.records.labels("duplicate").inc(recorded.duplicates)
        self._metrics.records.labels("refused").inc(len(checked.refused))
        self._metrics.confirmed_at.set(time.time())

        for refusal in checked.refused:
            for name in refusal.fields:
                if name not in self._refused_fields:  # the first of its kind: records may have changed their shape
                    log.warning("records_refused", field=name, reason=refusal.reason, **_place(refusal.record.place))
                self._refused_fields[name] += 1
                self._metrics.refused.labels(name).inc()

    def _count_attributions(self, results: Counter[str]) -> None:
        """Count the attributions of a batch, and warn of those that do not verify, at most once a minute."""
        for result, count in results.items():
            self._metrics.attributions.labels(result).inc(count)
            if result in IGNORED:
                self._unreported[result] += count

        if self._unreported and time.monotonic() - self._warned_at >= WARN_S:
            self._warned_at = time.monotonic()
            log.warning(
                "attributions_ignored",
                **self._unreported,
                fix="forged: give this process the service's ETEGREC_ATTRIBUTION_KEYS and ETEGREC_NAMESPACE",
            )
            self._unreported.clear()

    def _show_lag(self, newest: int | None) -> None:
        """Show what waits.

        Args:
            newest: Time of the newest message that is recorded; before the first, of the oldest that is to be.
        """
        lag = self._source.lag()
        self._metrics.lag_records.set(lag.records)
        self._metrics.files_waiting.set(lag.files)
        self._metrics.file_failures.set(self._source.failures)
        if not lag.records:
            self._metrics.lag_seconds.set(0)
        elif newest is not None:
            self._metrics.lag_seconds.set(max(0.0, time.time() - newest))


def _newest(batch: Batch) -> int | None:
    """Return the time of the newest record; ``None`` if none has one."""
    return max((each.timestamp for each in batch.records if each.timestamp is not None), default=None)


def _oldest(batch: Batch) -> int | None:
    return min((each.timestamp for each in batch.records if each.timestamp is not None), default=None)


def _place(place: dict[str, str | int]) -> dict[str, Any]:
    return {f"at_{name}": value for name, value in place.items()}
