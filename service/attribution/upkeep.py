"""Upkeep of attribution in the background: the key, the counts of answers, and old counters."""

from __future__ import annotations

import time
from functools import partial

import structlog

from model_store.attribution.counters import day_of, days_until
from model_store.errors import StoreError
from service.async_tasks import repeat_until_cancelled
from service.attribution.answer_counts import AnswerCounts
from service.attribution.key_ring import KeyRing
from service.settings import MAX_COUNTERS_DAYS
from service.store.counter_store import CounterStore

log = structlog.get_logger()

SEND_S = 1.0
"""Seconds between two sendings of counts."""


class AttributionUpkeep:
    """What attribution does while nobody waits for it.

    Args:
        keys: Keys of this shop.
        counts: Counts of answers.
        counters: Counters in the store.
        counters_days: Days for which counters are kept.
    """

    def __init__(self, keys: KeyRing, counts: AnswerCounts, counters: CounterStore, counters_days: int) -> None:
        self._keys = keys
        self._counts = counts
        self._counters = counters
        self._counters_days = counters_days
        self._cleaned_on = ""

    async def watch(self) -> None:
        """Look after everything each second, until cancelled."""
        await repeat_until_cancelled(self.step, SEND_S, partial(log.exception, "attribution_upkeep_crashed"))

    async def step(self) -> None:
        """Look after everything once."""
        if self._keys.current is None:
            await self._keys.try_to_find()
        await self._counts.try_to_send()
        await self.delete_old_counters(int(time.time()))

    async def delete_old_counters(self, now: int) -> None:
        """Delete the counters of days that are not kept any more, once a day. While the store is away, try again."""
        today = day_of(now)
        if today == self._cleaned_on:
            return

        last_kept = now - 86_400 * self._counters_days
        try:
            await self._counters.delete(days_until(last_kept, MAX_COUNTERS_DAYS))
        except StoreError as failure:
            log.debug("old_counters_not_deleted", cause=str(failure), hint=failure.hint)
            return
        self._cleaned_on = today

    async def close(self) -> None:
        """Send the last counts."""
        await self._counts.close()
