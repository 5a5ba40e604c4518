"""Requests that wait for a batch: who goes next, and who goes together.

Requests of one catalogue, beam width and number of candidates wait in one lane, by age. Lanes take turns by the work
that the engine did for them (start-time fair queueing), so that a rush of wide beams leaves narrow ones their share,
however many they are. Inside a lane the oldest leads and takes along, by age, those whose padding wastes little.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from math import ceil

from service.engines.base import SearchRequest, SearchResult, Shape


@dataclass(eq=False)
class Job:
    """A request on its way to an answer."""

    request: SearchRequest
    shape: Shape
    deadline: float  # time.monotonic(), in seconds
    answer: asyncio.Future[SearchResult]
    since: float = field(default_factory=time.monotonic)
    expected_s: float = 0.0  # from then until its answer, as it seemed at admission
    is_waiting: bool = True

    @property
    def is_gone(self) -> bool:
        """Nobody waits for the answer any more, or it would come too late."""
        return self.answer.done() or time.monotonic() >= self.deadline


@dataclass(eq=False)
class _Lane:
    jobs: deque[Job]
    served: float  # work done for it, and what it missed while it was empty
    count: int = 0  # jobs that still wait; those that left stay in the deque until they come to its front
    work: int = 0  # of these


class RequestQueue:
    """The queue in front of one engine. Used from one event loop.

    Args:
        largest: Requests of the usual shape computed together at most; fewer of wider ones.
        usual: As many as a batch holds while few wait: beyond, it holds half of those that wait. None: ``largest``.
    """

    def __init__(self, largest: int, usual: int | None = None) -> None:
        self._largest, self._usual = largest, min(usual or largest, largest)
        self._lanes: dict[Hashable, _Lane] = {}
        self._reached = 0.0  # work done for the lane that was chosen last
        self.count = 0

    def add(self, job: Job) -> None:
        """Append a request to its lane."""
        lane = self._lanes.get(_key(job))
        if lane is None:
            lane = self._lanes[_key(job)] = _Lane(deque(), self._reached)
        lane.jobs.append(job)
        self._count(lane, job, 1)

    def leave(self, job: Job) -> bool:
        """Take a request out that nobody waits for any more; false if it is no longer here."""
        if not job.is_waiting:
            return False
        job.is_waiting = False
        lane = self._lanes[_key(job)]
        self._count(lane, job, -1)
        if not lane.count:
            del self._lanes[_key(job)]
        return True

    def ahead(self, shape: Shape, request: SearchRequest) -> tuple[float, int, float]:
        """What will be done until a new request is answered.

        Other lanes get the same share as its own, so of theirs counts what stands in front of it there, or their next
        batch if that is more: it may come first.

        Returns:
            Work of the batches before its own, about how many they are, and the work of its own batch: those who share
            it are answered together, and as many may come after it as came before.
        """
        own = self._lanes.get((id(request.catalogue), shape.beam_width, shape.candidates))
        limit = shape.batch_limit(self._max_batch)
        queued, each = (own.count, own.work / own.count) if own else (0, shape.work)
        company = queued % limit
        before = (queued - company) * each
        work = before + sum(
            min(lane.work, max(before + shape.work, self._next_batch(lane)))
            for lane in self._lanes.values()
            if lane is not own
        )
        # Batches get smaller as the queue gets shorter, so most of them will be of the usual size.
        batches = ceil(work / (shape.work * shape.batch_limit(self._usual)))
        return work, batches, company * each + shape.work * min(company + 1, limit - company)

    @property
    def _max_batch(self) -> int:
        return max(self._usual, min(self._largest, self.count // 2))

    @property
    def oldest_since(self) -> float:
        """When the leader of the next batch came, ``time.monotonic()``. Only if anyone waits."""
        return _leader(self._next()[1]).since

    @property
    def is_full(self) -> bool:
        """Whether the next batch cannot grow any more."""
        if not self.count:
            return False
        _, lane = self._next()
        return lane.count >= _leader(lane).shape.batch_limit(self._max_batch)

    def take(self) -> list[Job]:
        """The requests of the next batch; none if nobody waits."""
        if not self.count:
            return []
        key, lane = self._next()
        shape = _leader(lane).shape
        limit = shape.batch_limit(self._max_batch)
        taken: list[Job] = []
        left: deque[Job] = deque()
        for job in lane.jobs:
            if job.is_waiting:
                (taken if len(taken) < limit and shape.takes_in(job.shape) else left).append(job)
        lane.jobs = left
        self._reached = lane.served
        lane.served += len(taken) * shape.work
        for job in taken:
            job.is_waiting = False
            self._count(lane, job, -1)
        if not lane.count:
            del self._lanes[key]
        return taken

    def _next_batch(self, lane: _Lane) -> int:
        """Work of the next batch of a lane, at most."""
        shape = _leader(lane).shape
        return shape.work * shape.batch_limit(self._max_batch)

    def _next(self) -> tuple[Hashable, _Lane]:
        return min(self._lanes.items(), key=lambda entry: (entry[1].served, _leader(entry[1]).since))

    def _count(self, lane: _Lane, job: Job, step: int) -> None:
        self.count += step
        lane.count += step
        lane.work += step * job.shape.work


def _key(job: Job) -> Hashable:
    return id(job.request.catalogue), job.shape.beam_width, job.shape.candidates


def _leader(lane: _Lane) -> Job:
    while not lane.jobs[0].is_waiting:
        lane.jobs.popleft()
    return lane.jobs[0]
