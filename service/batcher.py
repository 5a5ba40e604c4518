"""Dynamic batching: requests that may share a batch wait for each other a moment, never for long.

One batch is computed at a time, in a worker thread; the next one is prepared meanwhile, in another. The bucket whose
oldest request has waited longest goes first, so no bucket starves. Whoever runs out of time, or whose client leaves,
is taken out before the computation starts.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import ceil
from typing import NamedTuple

import structlog

from model_store.catalogue import Catalogue
from model_store.search_interface import SearchInputs
from service.engines.base import Engine, Found, SearchRequest
from service.errors import DeadlineMissed, NotReady, QueueFull
from service.settings import Settings
from service.telemetry import Telemetry

log = structlog.get_logger()


@dataclass(eq=False)
class _Job:
    request: SearchRequest
    deadline: float  # time.monotonic(), in seconds
    answer: asyncio.Future[Found]
    since: float = field(default_factory=time.monotonic)

    @property
    def is_gone(self) -> bool:
        """Nobody waits for the answer any more, or it would come too late."""
        return self.answer.done() or time.monotonic() >= self.deadline


class _Batch(NamedTuple):
    jobs: list[_Job]
    inputs: SearchInputs


class Batcher:
    """Feeds one engine with one catalogue. Its methods are called from the event loop.

    :meth:`start` before the first request; :meth:`close` finishes what was accepted.
    """

    def __init__(self, engine: Engine, catalogue: Catalogue, settings: Settings, telemetry: Telemetry) -> None:
        self._engine = engine
        self._catalogue = catalogue
        self._max_batch = settings.max_batch
        self._queue_size = settings.queue_size
        self._wait_s = settings.batch_wait_ms / 1000
        self._telemetry = telemetry
        self._waiting: dict[Hashable, deque[_Job]] = {}
        self._arrived = asyncio.Event()
        self._prepared: asyncio.Queue[_Batch | None] = asyncio.Queue()
        self._may_prepare = asyncio.Semaphore(2)  # one batch in computation, one prepared behind it
        self._prepare_thread = ThreadPoolExecutor(1, "prepare")
        self._compute_thread = ThreadPoolExecutor(1, "compute")
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        self._batch_s = 0.05  # moving average of one batch's computation, for Retry-After

    def start(self) -> None:
        """Begin to work."""
        self._tasks = [asyncio.create_task(self._prepare_batches()), asyncio.create_task(self._compute_batches())]

    @property
    def queued(self) -> int:
        """Requests that wait for a batch."""
        return sum(map(len, self._waiting.values()))

    async def submit(self, request: SearchRequest, budget_s: float) -> Found:
        """Wait for the answer to one request.

        Args:
            request: The question, in rows of this batcher's catalogue.
            budget_s: Seconds from now until the answer is worthless.

        Raises:
            QueueFull: At once, when as many requests wait as may.
            DeadlineMissed: The budget ran out.
            NotReady: The batcher is closing.
        """
        if self._closing:
            raise NotReady("the service is shutting down")
        if self.queued >= self._queue_size:
            self._forget_gone()  # gone requests must not keep others out
            if self.queued >= self._queue_size:
                raise QueueFull(self._queue_size, self._retry_after_s())
        if budget_s <= 0:
            raise DeadlineMissed
        job = _Job(request, time.monotonic() + budget_s, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(self._engine.bucket(request), deque()).append(job)
        self._arrived.set()
        try:
            async with asyncio.timeout(budget_s):
                return await job.answer
        except TimeoutError:
            raise DeadlineMissed from None

    async def close(self) -> None:
        """Finish every accepted request, then stop the threads."""
        self._closing = True
        self._arrived.set()
        await asyncio.gather(*self._tasks)
        self._prepare_thread.shutdown()
        self._compute_thread.shutdown()

    async def _prepare_batches(self) -> None:
        while True:
            await self._may_prepare.acquire()
            jobs = await self._next_jobs()
            if not jobs:
                await self._prepared.put(None)
                return
            try:
                await self._prepared.put(await self._prepare(self._prepare_thread, jobs))
            except Exception as failure:  # whatever is wrong with this batch must not end the service
                log.exception("prepare_failed", requests=len(jobs))
                self._may_prepare.release()
                _fail(jobs, failure)

    async def _compute_batches(self) -> None:
        while (batch := await self._prepared.get()) is not None:
            try:
                await self._compute(batch)
            except Exception as failure:
                log.exception("compute_failed", requests=len(batch.jobs))
                _fail(batch.jobs, failure)
            finally:
                self._may_prepare.release()

    async def _next_jobs(self) -> list[_Job]:
        """Wait for the requests of the next batch; empty once closed and done."""
        while True:
            self._forget_gone()
            if self._waiting:
                bucket = min(self._waiting, key=lambda each: self._waiting[each][0].since)
                ripe_in = self._waiting[bucket][0].since + self._wait_s - time.monotonic()
                if ripe_in <= 0 or self._closing or len(self._waiting[bucket]) >= self._max_batch:
                    return self._take(bucket)
                await self._wait_for_arrival(ripe_in)
            elif self._closing:
                return []
            else:
                await self._wait_for_arrival(None)

    async def _wait_for_arrival(self, timeout_s: float | None) -> None:
        self._arrived.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self._arrived.wait()
        except TimeoutError:
            return  # the oldest request has waited long enough

    def _take(self, bucket: Hashable) -> list[_Job]:
        queue = self._waiting[bucket]
        jobs = [queue.popleft() for _ in range(min(len(queue), self._max_batch))]
        if not queue:
            del self._waiting[bucket]
        return jobs

    def _forget_gone(self) -> None:
        for bucket, queue in list(self._waiting.items()):
            kept = deque(self._without_gone(queue))
            if kept:
                self._waiting[bucket] = kept
            else:
                del self._waiting[bucket]
        self._telemetry.queue_length.set(self.queued)

    def _without_gone(self, jobs: Sequence[_Job]) -> list[_Job]:
        kept = [job for job in jobs if not job.is_gone]
        self._telemetry.dropped.inc(len(jobs) - len(kept))
        return kept

    async def _prepare(self, thread: ThreadPoolExecutor, jobs: list[_Job]) -> _Batch:
        requests = [job.request for job in jobs]

        def work() -> SearchInputs:
            with self._telemetry.stage.labels("prepare").time():
                return self._engine.prepare(requests, self._catalogue)

        return _Batch(jobs, await asyncio.get_running_loop().run_in_executor(thread, work))

    async def _compute(self, batch: _Batch) -> None:
        jobs = self._without_gone(batch.jobs)
        if not jobs:
            return
        if len(jobs) < len(batch.jobs):
            batch = await self._prepare(self._compute_thread, jobs)
        started = time.monotonic()
        for job in jobs:
            self._telemetry.queue_wait.observe(started - job.since)
        self._telemetry.batch_size.observe(len(jobs))
        found = await asyncio.get_running_loop().run_in_executor(self._compute_thread, self._search, batch)
        self._batch_s += 0.2 * (time.monotonic() - started - self._batch_s)
        for job, answer in zip(jobs, found, strict=True):
            if not job.answer.done():
                job.answer.set_result(answer)

    def _search(self, batch: _Batch) -> list[Found]:
        """Compute and finish, in the compute thread."""
        with self._telemetry.stage.labels("compute").time():
            outputs = self._engine.compute(batch.inputs, self._catalogue)
        with self._telemetry.stage.labels("finish").time():
            return self._engine.finish(outputs, [job.request for job in batch.jobs], self._catalogue)

    def _retry_after_s(self) -> int:
        return max(1, ceil(self.queued / self._max_batch * self._batch_s))


def _fail(jobs: Sequence[_Job], failure: Exception) -> None:
    for job in jobs:
        if not job.answer.done():
            job.answer.set_exception(failure)
