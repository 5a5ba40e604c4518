"""Upkeep of experiments in the background: deletes what is kept of each user and session of those that ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import structlog

from model_store.errors import StoreError
from service.async_tasks import Expected, repeat_until_cancelled
from service.experiments.experiments import Experiments, counted_as
from service.store.subject_store import SubjectStore

log = structlog.get_logger()

LOOK_S = 60.0
"""Seconds between two looks."""

DAY_S = 86_400
"""Seconds for which subjects are kept after the last event that can count."""


class ExperimentUpkeep:
    """What experiments need while nobody waits for it.

    Args:
        experiments: All experiments.
        subjects: Users and sessions in them.
        ttl_s: Seconds after an answer for which events count.
        clock: Returns Unix seconds.
    """

    def __init__(
        self, experiments: Experiments, subjects: SubjectStore, ttl_s: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._experiments = experiments
        self._subjects = subjects
        self._ttl_s = ttl_s
        self._clock = clock
        self._deleted: set[str] = set()

    async def watch(self) -> None:
        """Look after everything each minute, until cancelled."""
        await repeat_until_cancelled(
            self.step,
            LOOK_S,
            on_crash=partial(log.exception, "experiment_upkeep_crashed"),
            expected=Expected(StoreError, _log_outage),
        )

    async def step(self) -> None:
        """Delete the subjects of experiments that ended; the sums over them stay for the report.

        Raises:
            StoreError: The store is away; the next look tries again.
        """
        if not self._experiments.is_read:
            return

        for each in self._experiments.all():
            label = counted_as(each)
            ends = each.content.ends
            is_over = ends is not None and ends + self._ttl_s + DAY_S <= self._clock()
            if is_over and label not in self._deleted:
                await self._subjects.delete(label, with_sums=False)
                self._deleted.add(label)


def _log_outage(failure: StoreError, _: bool) -> None:
    log.debug("subjects_not_deleted", cause=str(failure), hint=failure.hint)
