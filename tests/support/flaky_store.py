"""Embedded store that tests can take away."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from model_store.errors import StoreError, StoreUnavailable
from model_store.events.counts import Counts
from model_store.events.event import Event
from model_store.events.event_queue import EventBacklog
from service.store.base import History, Recorded
from service.store.counter_store import Addition, CounterStore
from service.store.embedded_changes import EmbeddedChanges
from service.store.embedded_documents import EmbeddedDocuments
from service.store.embedded_store import EmbeddedStore
from service.store.shown_answers import ShownAnswer, Subject
from service.store.subject_store import Exposure, SubjectStore


class FlakyStore(EmbeddedStore):
    """An embedded store that can be as far away as Redis: then every call of a running service fails."""

    is_away = False

    def _reach(self) -> None:
        if self.is_away:
            raise StoreUnavailable("away")

    @property
    def catalogue(self) -> EmbeddedChanges:
        self._reach()
        return super().catalogue

    @property
    def counters(self) -> CounterStore:
        return FlakyCounters(super().counters, self._reach)

    @property
    def placements(self) -> EmbeddedDocuments:
        self._reach()
        return super().placements

    @property
    def experiments(self) -> EmbeddedDocuments:
        self._reach()
        return super().experiments

    @property
    def canaries(self) -> EmbeddedDocuments:
        self._reach()
        return super().canaries

    @property
    def subjects(self) -> SubjectStore:
        return FlakySubjects(super().subjects, self._reach)

    async def shown(self, subjects: Sequence[Subject]) -> list[list[ShownAnswer] | StoreError]:
        self._reach()
        return await super().shown(subjects)

    async def note_shown(self, answers: Sequence[ShownAnswer]) -> None:
        self._reach()
        await super().note_shown(answers)

    async def ping(self) -> None:
        self._reach()
        await super().ping()

    async def check(self) -> None:
        self._reach()
        await super().check()

    async def history(self, user_id: str) -> History:
        self._reach()
        return await super().history(user_id)

    async def record(self, events: Sequence[Event], traceparent: str = "", counts: Sequence[Counts] = ()) -> Recorded:
        self._reach()
        return await super().record(events, traceparent, counts)

    async def backlog(self) -> EventBacklog:
        self._reach()
        return await super().backlog()

    async def counts(self, half_life_s: int) -> dict[str, float]:
        self._reach()
        return await super().counts(half_life_s)


class FlakyCounters(CounterStore):
    """Counters of a store that can be away."""

    def __init__(self, counters: CounterStore, reach: Callable[[], None]) -> None:
        self._counters = counters
        self._reach = reach

    async def add(self, addition: Addition) -> None:
        self._reach()
        await self._counters.add(addition)

    async def read(self, days: Sequence[str]) -> list[dict[str, float]]:
        self._reach()
        return await self._counters.read(days)

    async def names(self) -> dict[str, str]:
        self._reach()
        return await self._counters.names()

    async def delete(self, days: Sequence[str]) -> None:
        self._reach()
        await self._counters.delete(days)

    async def key(self, proposed: bytes) -> bytes:
        self._reach()
        return await self._counters.key(proposed)


class FlakySubjects(SubjectStore):
    """Subjects of a flaky store."""

    def __init__(self, subjects: SubjectStore, reach: Callable[[], None]) -> None:
        self._subjects = subjects
        self._reach = reach

    async def expose(self, exposures: Sequence[Exposure]) -> None:
        self._reach()
        await self._subjects.expose(exposures)

    async def sums(self, experiment: str) -> dict[str, float]:
        self._reach()
        return await self._subjects.sums(experiment)

    async def delete(self, experiment: str, *, with_sums: bool) -> None:
        self._reach()
        await self._subjects.delete(experiment, with_sums=with_sums)
