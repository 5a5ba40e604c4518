"""Latency model: a fit of compute time by work, learned from the batches that ran."""

from __future__ import annotations

FADE = 0.05
"""Weight of the newest batch in every mean; the fit follows a machine whose load changes."""


class LatencyModel:
    """Least squares for ``seconds = per_batch + per_work * work``, in which old batches fade exponentially.

    Before the first batch every estimate is 0.
    """

    def __init__(self) -> None:
        self._batches = 0

        # Weighted means of work, seconds and their products.
        self._work = 0.0
        self._seconds = 0.0
        self._work_work = 0.0
        self._work_seconds = 0.0

        self._per_batch = 0.0
        self._per_work = 0.0

    def learn(self, work: int, seconds: float) -> None:
        """Update the fit with one batch.

        Args:
            work: Sum over its requests, see :attr:`service.engines.base.Shape.work`.
            seconds: Time that the engine spent on it.
        """
        self._batches += 1
        share = max(1 / self._batches, FADE)  # a plain mean at first

        self._work += share * (work - self._work)
        self._seconds += share * (seconds - self._seconds)
        self._work_work += share * (work * work - self._work_work)
        self._work_seconds += share * (work * seconds - self._work_seconds)

        self._per_batch, self._per_work = self._fit()

    def seconds(self, work: float, batches: int = 1) -> float:
        """Return the expected compute time of this much work, divided into so many batches."""
        return self._per_batch * batches + self._per_work * work

    def _fit(self) -> tuple[float, float]:
        """Return the intercept and the slope; neither is ever negative."""
        variance = self._work_work - self._work**2
        covariance = self._work_seconds - self._work * self._seconds
        slope = covariance / variance if variance > 1e-9 * self._work_work else -1.0
        intercept = self._seconds - slope * self._work

        # If all batches are alike, or noise hides the slope, time is taken to be proportional to work.
        if slope <= 0 or intercept < 0:
            return 0.0, self._work_seconds / self._work_work
        return intercept, slope
