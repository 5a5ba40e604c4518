"""Items that users and sessions were shown of late, so that later answers leave them out (``exclude_shown``).

An answer is remembered in memory at once and written to the store in the background, many together, so no answer waits
for a write. Until it is written only this replica knows of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple

import structlog

from model_store.errors import StoreError
from service.async_tasks import Expected, repeat_until_cancelled
from service.schemas.recommend import RecommendRequest
from service.schemas.rules import ExcludeShown
from service.store.client import StoreClient
from service.store.shown_answers import ShownAnswer, Subject
from service.telemetry.telemetry import Telemetry

log = structlog.get_logger()

WRITE_S = 0.05
"""Seconds between two writes: how long other replicas may not know of an answer, beside the write itself."""
WRITTEN_AT_ONCE = 500
"""Largest number of answers in one write."""
WAITING_ANSWERS = 20_000
"""Largest number of answers that wait to be written, while the store is away; the oldest are dropped."""


class Shown(NamedTuple):
    """Items that an answer must leave out because they were shown; ``is_missing`` if the store could not be asked."""

    item_ids: Sequence[str]
    is_missing: bool


NOTHING_SHOWN = Shown((), is_missing=False)
"""What was shown as far as a request without the rule is concerned."""


def subject_of(request: RecommendRequest) -> Subject | None:
    """Return whose list a request reads and adds to; ``None`` if it is not known who asks."""
    if request.user_id is not None:
        return Subject("user", request.user_id)
    return None if request.session_id is None else Subject("session", request.session_id)


class ShownTracker:
    """Reads what was shown, and remembers what is. Used from one event loop.

    Args:
        store_client: Client of the store.
        telemetry: Metrics.
        clock: Returns Unix nanoseconds.
    """

    def __init__(
        self, store_client: StoreClient, telemetry: Telemetry, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self._store_client = store_client
        self._telemetry = telemetry
        self._clock = clock
        self._newest = 0  # time of the newest answer
        self._waiting: dict[int, ShownAnswer] = {}  # by time, oldest first
        self._waiting_of: dict[Subject, list[ShownAnswer]] = {}
        self._has_waiting = asyncio.Event()
        self._writing = asyncio.Lock()

    async def read(self, request: RecommendRequest) -> Shown:
        """Return the items that a request must not show again."""
        rule = request.exclude_shown
        subject = subject_of(request)
        if rule is None or subject is None:
            return NOTHING_SHOWN

        # Before the store is asked: an answer that is written meanwhile is in one of both for certain.
        waiting = list(self._waiting_of.get(subject, ()))
        stored = await self._store_client.shown(subject)
        return Shown(shown_items([*(stored or ()), *waiting], rule, self._clock() // 1000), is_missing=stored is None)

    def note(self, request: RecommendRequest, item_ids: Sequence[str]) -> None:
        """Remember the answer to a request that has the rule."""
        subject = subject_of(request)
        if request.exclude_shown is None or subject is None or not item_ids:
            return

        self._newest = max(self._newest + 1, self._clock() // 1000)
        answer = ShownAnswer(subject, self._newest, list(item_ids))
        self._waiting[answer.shown_at] = answer
        self._waiting_of.setdefault(subject, []).append(answer)
        self._has_waiting.set()

        if len(self._waiting) > WAITING_ANSWERS:
            self._drop(next(iter(self._waiting.values())))
            self._telemetry.shown_dropped.inc()

    async def watch(self) -> None:
        """Write what waits, until cancelled."""
        await repeat_until_cancelled(
            self._write_next,
            WRITE_S,
            on_crash=partial(log.exception, "shown_crashed"),
            expected=Expected(StoreError, _log_outage),
        )

    async def _write_next(self) -> None:
        """Wait until an answer waits, then write: most shops have no such rule, and nothing to look for."""
        await self._has_waiting.wait()
        await self.write()

    async def write(self) -> None:
        """Write all answers that wait.

        Raises:
            StoreError: The store is away or full; what is not written goes on waiting.
        """
        async with self._writing:
            while self._waiting:
                answers = list(islice(self._waiting.values(), WRITTEN_AT_ONCE))
                await self._store_client.store.note_shown(answers)
                for answer in answers:
                    self._drop(answer)
            self._has_waiting.clear()

    async def close(self) -> None:
        """Write what waits still, if the store takes it."""
        try:
            await self.write()
        except StoreError as failure:
            log.warning("shown_not_written", cause=str(failure), hint=failure.hint)

    async def forget(self, user_id: str) -> None:
        """Drop what waits of a user; after this returns nothing more of it comes to the store."""
        async with self._writing:
            for answer in self._waiting_of.get(Subject("user", user_id), []):
                self._drop(answer)

    def _drop(self, answer: ShownAnswer) -> None:
        """Let an answer wait no longer; it may be gone already."""
        self._waiting.pop(answer.shown_at, None)
        left = [each for each in self._waiting_of.get(answer.subject, ()) if each is not answer]
        if left:
            self._waiting_of[answer.subject] = left
        else:
            self._waiting_of.pop(answer.subject, None)


def shown_items(answers: Iterable[ShownAnswer], rule: ExcludeShown, now: int) -> list[str]:
    """Return the items of those answers that the rule speaks of, each once.

    Args:
        answers: Answers to one subject, in any order; an answer may stand twice.
        rule: What to leave out: of the newest answers, of the last hours, or of either.
        now: Unix time in microseconds.
    """
    by_time = {answer.shown_at: answer for answer in answers}
    newest_first = sorted(by_time, reverse=True)
    since = now if rule.hours is None else now - rule.hours * 3600e6

    chosen = [
        at for place, at in enumerate(newest_first) if place < (rule.answers or 0) or (rule.hours and at >= since)
    ]
    return list(dict.fromkeys(item_id for at in chosen for item_id in by_time[at].item_ids))


def _log_outage(failure: StoreError, is_first: bool) -> None:
    if is_first:
        log.warning("shown_not_written", cause=str(failure), hint=failure.hint)
