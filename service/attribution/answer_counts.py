"""Counts of the answers that this replica gave: added up in memory, and sent to the store every second."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

import structlog

from model_store.attribution.counters import amounts_of_answers, day_of
from model_store.attribution.names import hash_of, label_of
from model_store.attribution.token import Answered
from model_store.errors import StoreError
from model_store.events.counts import Counts
from service.attribution.code_counts import CodeCounts
from service.attribution.variant_counts import VariantCounts
from service.store.counter_store import Addition, CounterStore
from service.store.subject_store import SubjectStore

log = structlog.get_logger()

LAST_SEND_S = 2.0
"""Longest wait for the store when the service ends."""

_Group = tuple[str, str, str | None]  # day, version, placement


class AnswerCounts:
    """Counts of answers that the store does not have yet: at most a few numbers for each day, version and placement.

    No answer waits for the store. While it is away the counts stay here; a crash loses those of the last second, by
    code those of the last :data:`~service.attribution.code_counts.SEND_S`.

    Args:
        counters: Where they go.
        subjects: Where users and sessions of experiments go.

    Attributes:
        variants: Counts of experiments.
        codes: Counts of items by code.
    """

    def __init__(self, counters: CounterStore, subjects: SubjectStore) -> None:
        self._counters = counters
        self._subjects = subjects
        self._replica = os.urandom(8).hex()
        self._number = 0
        self._waiting: dict[_Group, list[int]] = {}  # answers and items shown
        self._sending: Addition | None = None  # perhaps the store has it already: it is repeated as it is
        self._sent_names: set[str] = set()
        self.variants = VariantCounts()
        self.codes = CodeCounts()
        self._turn = asyncio.Lock()

    def note(self, answer: Answered) -> None:
        """Count an answer."""
        group = (day_of(answer.seconds), answer.version, answer.placement)
        sums = self._waiting.setdefault(group, [0, 0])
        sums[0] += 1
        sums[1] += len(answer.item_ids) if answer.is_implicit else 0

    async def send(self) -> None:
        """Send what waits.

        Raises:
            StoreError: It stays here, for the next call.
        """
        self.codes.add_up()
        async with self._turn:
            if self._sending is None:
                self._sending = self._take()
            if self._sending is not None:
                await self._counters.add(self._sending)
                self._sent_names |= self._sending.names.keys()
                self._sending = None

            exposures = self.variants.exposures()
            if exposures:
                await self._subjects.expose(exposures)
                self.variants.forget_exposures(exposures)

    async def try_to_send(self) -> None:
        """Do the same; while the store is away or full, keep what waits."""
        try:
            await self.send()
        except StoreError as failure:
            log.debug("answer_counts_wait", cause=str(failure), hint=failure.hint)

    async def close(self) -> None:
        """Send the rest, if the store takes it in time: both what may have been sent before, and what came since."""
        self.codes.hurry()
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_SEND_S):
                await self.try_to_send()
                await self.try_to_send()

    def _take(self) -> Addition | None:
        """Turn what waits into an addition; ``None`` if nothing does."""
        if not self._waiting and self.variants.is_empty and not self.codes.is_due:
            return None

        waiting = self._waiting
        self._waiting = {}
        self._number += 1
        counts = [
            Counts(day, amounts_of_answers(version, placement, answers, shown))
            for (day, version, placement), (answers, shown) in waiting.items()
        ]
        of_variants, keys = self.variants.take_counts()
        counts += of_variants
        counts += self.codes.take_counts()
        used = keys | {name for _, version, placement in waiting for name in (version, placement) if name}
        names = {label: name for name in used if (label := label_of(hash_of(name))) not in self._sent_names}
        return Addition(self._replica, self._number, counts, names)
