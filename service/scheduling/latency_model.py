"""How long batches take, learnt from those that ran."""

from __future__ import annotations

FORGET = 0.05
"""By how much each batch lowers the weight of all before it: the pace follows a machine whose load changes."""


LEAST_CAUTION, MOST_CAUTION = 1.2, 4.0
CAUTION_STEP = 0.05
MISSES = 0.001
"""Share of admitted requests that may take longer than was expected with caution."""


class LatencyModel:
    """``seconds = per_batch + per_work * work``, fitted by exponentially forgetting least squares.

    Before the first batch everything is expected to take no time.

    Attributes:
        caution: By how much expectations must be multiplied so that hardly any request takes longer. It follows what
            became of those that were admitted: a busy machine, the event loop's delays, batches that grew.
    """

    def __init__(self) -> None:
        self._batches = 0
        self._work = 0.0  # weighted means from here on
        self._seconds = 0.0
        self._work_work = 0.0
        self._work_seconds = 0.0
        self._per_batch = self._per_work = 0.0
        self.caution = LEAST_CAUTION

    def learn(self, work: int, seconds: float) -> None:
        """Take in a batch: its work (see :attr:`service.engines.base.Shape.work`) and how long it was computed."""
        self._batches += 1
        share = max(1 / self._batches, FORGET)  # a plain mean at first
        self._work += share * (work - self._work)
        self._seconds += share * (seconds - self._seconds)
        self._work_work += share * (work * work - self._work_work)
        self._work_seconds += share * (work * seconds - self._work_seconds)
        self._per_batch, self._per_work = self._fit()

    def learn_wait(self, expected_s: float, took_s: float) -> None:
        """Take in how long an admitted request took after all, or how long it waited until it was given up."""
        if took_s > expected_s * self.caution:
            self.caution = min(MOST_CAUTION, self.caution * (1 + CAUTION_STEP))
        else:
            self.caution = max(LEAST_CAUTION, self.caution * (1 - CAUTION_STEP * MISSES))

    def seconds(self, work: float, batches: int = 1) -> float:
        """Expected seconds of computation of this much work in so many batches."""
        return self._per_batch * batches + self._per_work * work

    def _fit(self) -> tuple[float, float]:
        spread = self._work_work - self._work**2
        slope = (self._work_seconds - self._work * self._seconds) / spread if spread > 1e-9 * self._work_work else -1.0
        intercept = self._seconds - slope * self._work
        if slope <= 0 or intercept < 0:  # all batches alike, or noise: in proportion
            return 0.0, self._work_seconds / self._work_work
        return intercept, slope
