"""Circuit breaker for calls that may fail slowly: after a few failures in a row, the next calls fail at once.

The ``circuitbreaker`` package does not fit: it takes a cancelled call for a success, which closes the circuit, and
when half open it lets every waiting call through, where one probe is enough.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class CircuitOpen(Exception):
    """Refusal: the call was not tried, because the circuit is open."""


class CircuitBreaker:
    """Closed circuit: calls pass. Open: calls are refused. After a pause one call may probe; success closes it.

    Any error that does not count as a failure means that the other side answered, so it counts as success. A cancelled
    call counts neither way. A failed call does not count either if another call was answered while it ran: then this
    process was slow (a burst of requests), not the other side. Used from one event loop.

    Args:
        failures: Exception types that count as failures.
        threshold: Failures in a row that open the circuit.
        pause_s: Seconds until a probe is let through.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        failures: tuple[type[Exception], ...],
        threshold: int = 3,
        pause_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures = failures
        self._threshold = threshold
        self._pause_s = pause_s
        self._clock = clock
        self._in_a_row = 0
        self._answered = 0
        self._retry_at = 0.0

    @property
    def is_open(self) -> bool:
        """True while the other side counts as down, also while a probe runs."""
        return self._in_a_row >= self._threshold

    @contextmanager
    def watch(self, *, probes: bool = True) -> Iterator[None]:
        """Wrap one call.

        Raises:
            CircuitOpen: The circuit is open, and no probe is due or this call must not be the probe.
        """
        if self.is_open:
            if not probes:
                raise CircuitOpen
            self._claim_probe()

        answered_before = self._answered
        try:
            yield
        except self._failures:
            if self._answered == answered_before:
                self._in_a_row += 1
                self._retry_at = self._clock() + self._pause_s
            raise
        except Exception:
            self._note_answer()
            raise

        self._note_answer()

    def _note_answer(self) -> None:
        self._answered += 1
        self._in_a_row = 0

    def _claim_probe(self) -> None:
        now = self._clock()
        if now < self._retry_at:
            raise CircuitOpen

        # the next probe is due one pause later, whatever happens to this one: a cancelled probe needs no clean-up
        self._retry_at = now + self._pause_s
