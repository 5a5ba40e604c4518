"""Watch over events that wait for training: metrics, and a warning well before the oldest are dropped."""

from __future__ import annotations

import time

import structlog

from model_store.events.event_queue import EventBacklog
from service.telemetry.telemetry import Telemetry

log = structlog.get_logger()

WARNS_AT = 0.8
"""Share of the limit from which a warning is logged."""
CALMS_AT = 0.7
"""Share of the limit below which the next warning may come. Lower than :data:`WARNS_AT`: it must not flap."""


class BacklogWatch:
    """Watch over the event stream, which keeps the newest ``limit`` events: if nobody drains it, the oldest go.

    Args:
        limit: Events that may wait for training, 0 for any number.
        telemetry: Metrics to show.
    """

    def __init__(self, limit: int, telemetry: Telemetry) -> None:
        self._limit = limit
        self._telemetry = telemetry
        self._has_warned = False
        telemetry.event_stream_limit.set(limit)

    def note(self, backlog: EventBacklog) -> None:
        """Show the backlog, and warn once each time that it comes close to the limit."""
        self._telemetry.show_waiting(backlog.events, backlog.oldest)
        if not self._limit:
            return

        share = backlog.events / self._limit
        if share >= WARNS_AT and not self._has_warned:
            log.warning(
                "event_stream_nearly_full",
                events=backlog.events,
                limit=self._limit,
                full_in_h=self._hours_left(backlog),
                consequence="beyond the limit the oldest events are dropped, and training never sees them",
                fix="see why retraining does not drain them (`etegrec-train retrain`), or raise"
                " ETEGREC_MAX_UNDRAINED_EVENTS if Redis has the memory",
            )
            self._has_warned = True
        elif share < CALMS_AT and self._has_warned:
            log.info("event_stream_has_room", events=backlog.events, limit=self._limit)
            self._has_warned = False

    def _hours_left(self, backlog: EventBacklog) -> float:
        """Return the hours until the limit is reached, if events go on coming as fast as those that wait came."""
        age_s = max(0.0, time.time() - backlog.oldest) if backlog.oldest else 0.0
        left = max(0, self._limit - backlog.events)
        return round(left * age_s / backlog.events / 3600, 1)
