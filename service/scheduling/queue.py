"""Request queue: lanes of similar requests that share one engine fairly, batch by batch.

Only requests of one catalogue, beam width and number of candidates can share a batch, so each such group waits in a
lane of its own, oldest first. Inside a lane the oldest request leads the next batch. It takes along, by age, those that
waste little padding.

Lanes take turns by start-time fair queueing (Goyal, Vin and Cheng, "Start-time Fair Queuing: A Scheduling Algorithm for
Integrated Services Packet Switching Networks", SIGCOMM 1996):

- Every lane has a start tag, which counts the work that the engine did for it. The lane with the lowest tag goes next,
  and its tag grows by the work of its batch. So lanes that always have requests receive equal work, however many or
  expensive their requests are: a rush of wide beams leaves narrow ones their share.
- The queue has a virtual time, the start tag of the batch that was taken last. A lane that becomes busy starts there:
  it has no claim to turns that it missed while it was empty.

In the paper a lane that comes back starts no lower than where its own last batch ended. Here an empty lane is
forgotten, which is simpler and favours it by one batch at most.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from math import ceil
from typing import NamedTuple

from model_store.catalogue.catalogue import Catalogue
from model_store.tracing.interface import TimedStep
from service.engines.base import SearchRequest, SearchResult, Shape


@dataclass(eq=False)
class Job:
    """One request on its way to an answer. Points in time are those of ``time.monotonic()``, in seconds."""

    request: SearchRequest
    shape: Shape
    deadline: float
    answer: asyncio.Future[SearchResult]
    arrived: float = field(default_factory=time.monotonic)
    expected_s: float = 0.0  # from arrival to answer, as estimated at admission
    is_waiting: bool = True
    span: object | None = None  # of the search, if it is traced: Tracing.current()

    @property
    def is_gone(self) -> bool:
        """True if nobody waits for the answer any more, or if it would come too late."""
        return self.answer.done() or time.monotonic() >= self.deadline


@dataclass(eq=False)
class Batch:
    """Jobs that the engine computes together."""

    jobs: list[Job]
    catalogue: Catalogue
    shape: Shape  # of the longest job; the others are padded to it
    started: float | None = None  # time.monotonic() when its computation began
    took_s: float = 0.0  # engine time that it cost, see BatchRunner.run
    stages: list[TimedStep] = field(default_factory=list)  # those that are over

    @property
    def work(self) -> int:
        """Work of the whole batch, padding included."""
        return len(self.jobs) * self.shape.work


class Backlog(NamedTuple):
    """Work that the engine does until a new request is answered."""

    work: float  # of all batches before its own
    batches: int  # estimated number of those batches
    own_work: float  # of its own batch


@dataclass(eq=False)
class _Lane:
    jobs: deque[Job]
    start_tag: float  # work done for this lane, plus the virtual time at which it became busy
    count: int = 0  # jobs that still wait; a job that left stays in the deque until it reaches the front
    work: int = 0  # of the jobs that still wait


class RequestQueue:
    """Requests that wait for a batch. Used from one event loop.

    Args:
        max_batch: Largest number of requests of the usual shape in one batch; fewer of wider ones.
        usual_batch: Largest number while few wait. Beyond it, a batch holds half of those that wait. ``None``: as
            ``max_batch``.
    """

    def __init__(self, max_batch: int, usual_batch: int | None = None) -> None:
        self._max_batch = max_batch
        self._usual_batch = min(usual_batch or max_batch, max_batch)
        self._lanes: dict[Hashable, _Lane] = {}
        self._virtual_time = 0.0  # in units of work
        self.count = 0

    @property
    def oldest_arrived(self) -> float:
        """Arrival of the job that leads the next batch, ``time.monotonic()``. Valid only if someone waits."""
        _, lane = self._next_lane()
        return _leader(lane).arrived

    @property
    def is_full(self) -> bool:
        """True if the next batch cannot grow any more."""
        if not self.count:
            return False
        _, lane = self._next_lane()
        return lane.count >= _leader(lane).shape.batch_limit(self._batch_size)

    def add(self, job: Job) -> None:
        """Append a job to its lane."""
        key = _lane_key(job.request, job.shape)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(deque(), self._virtual_time)

        lane.jobs.append(job)
        self._count(lane, job, 1)

    def remove(self, job: Job) -> bool:
        """Remove a job that nobody waits for any more; return false if it is not in the queue."""
        if not job.is_waiting:
            return False
        job.is_waiting = False

        key = _lane_key(job.request, job.shape)
        lane = self._lanes[key]
        self._count(lane, job, -1)
        if not lane.count:
            del self._lanes[key]
        return True

    def take(self) -> list[Job]:
        """Remove the jobs of the next batch and return them, oldest first; an empty list if nobody waits."""
        if not self.count:
            return []
        key, lane = self._next_lane()
        shape = _leader(lane).shape
        limit = shape.batch_limit(self._batch_size)

        taken: list[Job] = []
        left: deque[Job] = deque()
        for job in lane.jobs:
            if job.is_waiting:
                fits = len(taken) < limit and shape.can_hold(job.shape)
                (taken if fits else left).append(job)
        lane.jobs = left

        self._virtual_time = lane.start_tag
        lane.start_tag += len(taken) * shape.work
        for job in taken:
            job.is_waiting = False
            self._count(lane, job, -1)
        if not lane.count:
            del self._lanes[key]
        return taken

    def backlog(self, request: SearchRequest, shape: Shape) -> Backlog:
        """Estimate the work until a request would be answered if it were added now.

        The work before its own batch has two parts. In its own lane, full batches of those who came earlier go first;
        the rest of them share its batch. Meanwhile fair queueing gives every other lane as much work as its own lane
        received, up to what waits there. It may be as much as that lane's next batch, even if this is more, because
        that batch may be taken first.

        Its own batch is answered as a whole. As many may join it later as already share it, up to its limit.
        """
        own = self._lanes.get(_lane_key(request, shape))
        limit = shape.batch_limit(self._batch_size)

        queued = own.count if own else 0
        mean_work = own.work / own.count if own else shape.work
        sharing = queued % limit
        own_lane_work = (queued - sharing) * mean_work

        other_lanes_work = sum(
            min(lane.work, max(own_lane_work + shape.work, self._next_batch_work(lane)))
            for lane in self._lanes.values()
            if lane is not own
        )
        work = own_lane_work + other_lanes_work

        # Batches get smaller as the queue gets shorter, so most of them will be of the usual size.
        batches = ceil(work / (shape.work * shape.batch_limit(self._usual_batch)))
        own_work = sharing * mean_work + shape.work * min(sharing + 1, limit - sharing)
        return Backlog(work, batches, own_work)

    @property
    def _batch_size(self) -> int:
        """Number of requests of the usual shape in a batch that is taken now."""
        return max(self._usual_batch, min(self._max_batch, self.count // 2))

    def _next_lane(self) -> tuple[Hashable, _Lane]:
        """Return the lane with the lowest start tag and its key; among equals the one whose leader is oldest."""
        return min(self._lanes.items(), key=lambda entry: (entry[1].start_tag, _leader(entry[1]).arrived))

    def _next_batch_work(self, lane: _Lane) -> int:
        """Return the work of a lane's next batch if it were full."""
        shape = _leader(lane).shape
        return shape.work * shape.batch_limit(self._batch_size)

    def _count(self, lane: _Lane, job: Job, step: int) -> None:
        self.count += step
        lane.count += step
        lane.work += step * job.shape.work


def _lane_key(request: SearchRequest, shape: Shape) -> Hashable:
    return id(request.catalogue), shape.beam_width, shape.candidates


def _leader(lane: _Lane) -> Job:
    """Return the oldest job of a lane that still waits; drop those before it."""
    while not lane.jobs[0].is_waiting:
        lane.jobs.popleft()
    return lane.jobs[0]
