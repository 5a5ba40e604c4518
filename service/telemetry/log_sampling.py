"""Log lines that clients can cause: each kind at most once a second, with the number of lines left out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

log = structlog.get_logger()

EVERY_S = 1.0
"""Shortest time between two lines of one kind, in seconds."""


@dataclass
class _Kind:
    logged_at: float
    suppressed: int = 0


class SampledLog:
    """Logger for what anyone may cause as often as they like: a flood of requests must not become a flood of lines.

    Whoever logs also counts in a metric: the number of lines left out shows only on the next line of that kind.

    Args:
        clock: Returns seconds, as :func:`time.monotonic` does.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kinds: dict[str, _Kind] = {}

    def warning(self, event: str, **fields: object) -> None:
        """Log a warning, or count it as ``suppressed`` if one of the same event was logged less than a second ago.

        Args:
            event: Name of the event. Each takes memory for good, so it is a constant, never made from input.
            fields: Fields of the line.
        """
        now = self._clock()
        kind = self._kinds.get(event)
        if kind is not None and now - kind.logged_at < EVERY_S:
            kind.suppressed += 1
            return

        self._kinds[event] = _Kind(now)
        log.warning(event, suppressed=0 if kind is None else kind.suppressed, **fields)
