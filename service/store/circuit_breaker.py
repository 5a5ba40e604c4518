"""A circuit breaker for calls that may fail slowly: after a few failures in a row, the next ones fail at once.

Own code rather than the ``circuitbreaker`` package: that one takes a cancelled call for a success, which closes the
circuit, and when half open it lets every waiting call through, where one probe must do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class CircuitOpen(Exception):
    """The call was not tried."""


class CircuitBreaker:
    """Closed: calls pass. Open: calls are refused. After a pause one call may probe; its success closes the circuit.

    Used from one event loop. Any other error means that the other side answered, and counts as success; a cancelled
    call counts neither way, nor does a failed one if another, begun later or not, was answered meanwhile: then it was
    this process that was slow (a burst of requests), not the other side.

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
        """Whether the other side counts as down, probes included."""
        return self._in_a_row >= self._threshold

    @contextmanager
    def watch(self, *, probes: bool = True) -> Iterator[None]:
        """Wrap one call.

        Raises:
            CircuitOpen: The circuit is open and no probe is due, or this call must not be one.
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
        # the next probe is due a pause later, whatever becomes of this one: nothing to give back if it is cancelled
        self._retry_at = now + self._pause_s
