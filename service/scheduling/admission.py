"""Admission: the 429 rule, which refuses requests that cannot be answered in time.

A request is refused if the queue is full, or if its expected wait, times a safety factor, exceeds its budget. The
expected wait comes from the backlog, from the batches under way and from the latency model. The safety factor is
learned from how long admitted requests took after all: it covers a busy machine, delays of the event loop and batches
that grew. Once the engine was idle, or some seconds after the last miss, it fades: while everything is refused nothing
is learned, so a factor that an overload has raised would refuse the same requests for minutes after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import ceil

from service.engines.base import Engine, SearchRequest, Shape
from service.errors import DeadlineMissed, QueueFull, QueueTooLong
from service.scheduling.latency_model import LatencyModel
from service.scheduling.queue import Batch, Job, RequestQueue
from service.telemetry.telemetry import Telemetry

MIN_SAFETY_FACTOR = 1.2
MAX_SAFETY_FACTOR = 4.0

SAFETY_STEP = 0.05
"""Relative increase of the safety factor after a request that took longer than allowed for."""

MISS_SHARE = 0.001
"""Share of admitted requests that may take longer than their expected wait times the safety factor."""

HOLD_S = 10.0
"""Seconds after a miss in which the safety factor does not fade, unless the engine is idle: while misses go on, it is
needed. Without this pause, twice as many answers come too late under twice the load that the engine can carry."""

HALF_LIFE_S = 3.0
"""Seconds in which the safety factor then loses half of what it has above :data:`MIN_SAFETY_FACTOR`."""

INFORMATIVE_SHARE = 0.5
"""Only requests whose expected wait exceeded this share of their budget update the safety factor."""


class Admission:
    """Admission rule of one queue and its engine. Used from the event loop.

    Args:
        engine: Computes what the queue holds.
        queue: Requests that wait for a batch.
        running: Batches that were taken from the queue and are not answered yet; the batcher keeps it up to date.
        queue_size: Requests that may wait.
        telemetry: Counts refusals by the budget.
        clock: Returns seconds that never go back; by default ``time.monotonic``.

    Attributes:
        latency: Compute time of batches, learned by the batcher.
    """

    def __init__(
        self,
        engine: Engine,
        queue: RequestQueue,
        running: Sequence[Batch],
        queue_size: int,
        telemetry: Telemetry,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.latency = LatencyModel()
        self._clock = clock or time.monotonic
        self._safety_factor = MIN_SAFETY_FACTOR  # until _fades_from
        self._fades_from = 0.0
        self._engine = engine
        self._queue = queue
        self._running = running
        self._queue_size = queue_size
        self._telemetry = telemetry

    @property
    def safety_factor(self) -> float:
        """Multiplier of expected waits, so that hardly any admitted request takes longer; without misses it fades."""
        excess = self._safety_factor - MIN_SAFETY_FACTOR
        if excess <= 0:
            return MIN_SAFETY_FACTOR
        faded_s = max(0.0, self._clock() - self._fades_from)
        return MIN_SAFETY_FACTOR + float(excess * 0.5 ** (faded_s / HALF_LIFE_S))

    def admit(self, request: SearchRequest, shape: Shape, budget_s: float) -> float:
        """Return the expected wait in seconds, or refuse the request.

        Raises:
            QueueFull: As many requests wait as may.
            QueueTooLong: The request and those before it take longer than the budget.
            DeadlineMissed: There is no budget left.
        """
        if self._queue.count >= self._queue_size:
            raise QueueFull(self._queue_size, _retry_after_s(self._expected_s(request, shape)))
        if budget_s <= 0:
            self._telemetry.deadline_misses.labels("admission").inc()
            raise DeadlineMissed

        expected_s = self._expected_s(request, shape)
        if self._is_idle:
            self._fades_from = min(self._fades_from, self._clock())  # whatever caused the last misses is over
        elif expected_s * self.safety_factor > budget_s:
            self._telemetry.deadline_misses.labels("admission").inc()
            raise QueueTooLong(_retry_after_s(expected_s))
        return expected_s

    def can_answer(self, request: SearchRequest, budget_s: float) -> bool:
        """Return whether an answer is expected within the budget, safety factor included."""
        return self._expected_s(request, self._engine.shape(request)) * self.safety_factor <= budget_s

    def remaining_s(self) -> float:
        """Return the expected seconds of computation left in the batches under way."""
        now = self._clock()
        return sum(
            max(0.0, self.latency.seconds(batch.work) - (now - batch.started if batch.started else 0.0))
            for batch in self._running
        )

    def learn_wait(self, job: Job) -> None:
        """Update the safety factor when an admitted request is answered or given up."""
        if job.expected_s * self.safety_factor >= INFORMATIVE_SHARE * (job.deadline - job.arrived):
            self.update_safety_factor(job.expected_s, self._clock() - job.arrived)

    def update_safety_factor(self, expected_s: float, took_s: float) -> None:
        """Raise the safety factor after a wait that was longer than allowed for, else lower it a little.

        One step up outweighs ``1 / MISS_SHARE`` steps down: under a steady load of many requests the factor settles
        where about that share of waits is longer. Under fewer requests it settles lower, as it fades between misses.
        """
        factor = self.safety_factor
        now = self._clock()
        if took_s > expected_s * factor:
            self._safety_factor = min(MAX_SAFETY_FACTOR, factor * (1 + SAFETY_STEP))
            self._fades_from = now + HOLD_S
        else:
            self._safety_factor = max(MIN_SAFETY_FACTOR, factor * (1 - SAFETY_STEP * MISS_SHARE))
            self._fades_from = max(now, self._fades_from)

    @property
    def _is_idle(self) -> bool:
        """True if there is nothing to do. Every request is tried then, or a wrong estimate would never be corrected."""
        return not self._queue.count and not self._running

    def _expected_s(self, request: SearchRequest, shape: Shape) -> float:
        """Return the seconds until the request would be answered if it came now; 0 before the first batch."""
        backlog = self._queue.backlog(request, shape)
        before_s = self.remaining_s() + self.latency.seconds(backlog.work, backlog.batches)
        return before_s / self._engine.searches + self.latency.seconds(backlog.own_work)


def _retry_after_s(expected_s: float) -> int:
    """Return the value of ``Retry-After``: the expected wait in whole seconds, at least one."""
    return max(1, ceil(expected_s))
