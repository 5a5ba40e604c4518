"""Dynamic batching: requests that may share a batch wait for each other a moment, never for long.

One step of the loop reads: wait for a place, wait until the next batch is due, take it, hand it to a thread. A thread
prepares its batch while others compute, computes as soon as the engine is free, and finishes while the next batch is
computed already. A batch is taken as late as possible, shortly before the engine will be free, so that it takes along
whoever comes meanwhile. The event loop computes nothing.

Who cannot be answered in time, by the queue and the pace of the batches so far, is told at once. Whoever runs out of
time, or whose client leaves, is taken out before the computation starts.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil

import structlog

from model_store.catalogue.catalogue import Catalogue
from model_store.search.interface import SearchInputs
from service.engines.base import Engine, SearchRequest, SearchResult, Shape
from service.errors import DeadlineMissed, NotReady, QueueFull, QueueTooLong
from service.scheduling.latency_model import LatencyModel
from service.scheduling.queue import Job, RequestQueue
from service.settings import Settings
from service.telemetry import Telemetry

log = structlog.get_logger()

TELLING = 0.5
"""Part of its budget that a request must have been expected to need for its wait to tell how much caution is due."""

STAGES = ("prepare", "compute", "finish")

ANSWERED_AT_ONCE = 4
"""Requests of a batch whose answers are written before the event loop looks what else has come: refusals and probes
must not wait for a whole batch to be written."""

LEAD_S = 0.002
"""A batch is taken so long before the engine is expected to be free: it must be prepared by then."""


@dataclass(eq=False)
class _Batch:
    jobs: list[Job]
    catalogue: Catalogue
    shape: Shape  # of the longest
    started: float | None = None  # time.monotonic() at which its computation began
    took_s: float = 0.0  # of the engine's time: it may have waited for this batch since the one before

    @property
    def work(self) -> int:
        return len(self.jobs) * self.shape.work


@dataclass(eq=False)
class _Computation:
    ended: float | None = None  # time.monotonic(); None: it goes on


class _Turn:
    """A place in the engine, given back once: when the engine could begin another batch, at the latest at the end."""

    def __init__(self, places: threading.Semaphore) -> None:
        self._places = places
        self._ended = threading.Lock()

    def __enter__(self) -> _Turn:
        self._places.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Call it from any thread, as often as you like."""
        if self._ended.acquire(blocking=False):
            self._places.release()


class Batcher:
    """Feeds one engine. Its methods are called from the event loop.

    :meth:`start` before the first request; :meth:`close` finishes what was accepted.
    """

    def __init__(self, engine: Engine, settings: Settings, telemetry: Telemetry) -> None:
        self._engine = engine
        self._queue_size = settings.queue_size
        self._wait_s = settings.batch_wait_ms / 1000
        self._telemetry = telemetry
        self._stage_s = {stage: telemetry.stage.labels(stage) for stage in STAGES}
        self._stage_cpu_s = {stage: telemetry.stage_cpu.labels(stage) for stage in STAGES}
        largest = settings.max_batch or engine.largest_batch
        self._waiting = RequestQueue(largest, engine.usual_batch)
        self.pace = LatencyModel()
        self._running: list[_Batch] = []
        self._stirred = asyncio.Event()  # the next batch may be due earlier than it seemed
        self._places = asyncio.Semaphore(engine.searches + 1)  # those in computation, and one prepared behind them
        self._engine_free = threading.Semaphore(engine.searches)
        self._threads = ThreadPoolExecutor(engine.searches + 1, "search")
        self._tasks: set[asyncio.Task[None]] = set()
        self._counting = threading.Lock()
        self._helper_cpu_s = engine.helper_cpu_s  # counted so far
        self._freed = 0.0  # time.monotonic() at which a computation ended last
        self._begun = _Computation(ended=0.0)  # the last one
        self._closing = False

    def start(self) -> None:
        """Begin to work."""
        self._run(self._take_batches())

    @property
    def queued(self) -> int:
        """Requests that wait for a batch."""
        return self._waiting.count

    def expected_s(self, request: SearchRequest) -> float:
        """Seconds until a request would be answered if it came now, by the pace so far; 0 before the first batch."""
        return self._expected_s(request, self._engine.shape(request))

    def can_answer(self, request: SearchRequest, budget_s: float) -> bool:
        """Whether an answer is expected within the budget, with some caution."""
        return self.expected_s(request) * self.pace.caution <= budget_s

    async def submit(self, request: SearchRequest, budget_s: float) -> SearchResult:
        """Wait for the answer to one request.

        Args:
            request: The question, in rows of its catalogue.
            budget_s: Seconds from now until the answer is worthless.

        Raises:
            QueueFull: At once, when as many requests wait as may.
            QueueTooLong: At once, when it and those before it take longer than the budget.
            DeadlineMissed: The budget ran out.
            NotReady: The batcher is closing.
        """
        job = self._admit(request, budget_s)
        expiry = asyncio.get_running_loop().call_later(budget_s, self._expire, job)
        try:
            return await job.answer
        finally:
            expiry.cancel()
            if self._waiting.leave(job):
                self._telemetry.dropped.inc()

    async def close(self) -> None:
        """Finish every accepted request, then stop the threads."""
        self._closing = True
        self._stirred.set()
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._threads.shutdown()

    def _expected_s(self, request: SearchRequest, shape: Shape) -> float:
        ahead, batches, own = self._waiting.ahead(shape, request)
        before_s = self._busy_s() + self.pace.seconds(ahead, batches)
        return before_s / self._engine.searches + self.pace.seconds(own)

    @property
    def _is_idle(self) -> bool:
        """Nothing to do: then a request is tried whatever its chances, else a wrong pace would never be corrected."""
        return not self.queued and not self._running

    def _admit(self, request: SearchRequest, budget_s: float) -> Job:
        if self._closing:
            raise NotReady("the service is shutting down")
        if self.queued >= self._queue_size:
            raise QueueFull(self._queue_size, self._retry_after_s(request))
        if budget_s <= 0:
            self._telemetry.deadline_misses.labels("admission").inc()
            raise DeadlineMissed
        shape = self._engine.shape(request)
        expected_s = self._expected_s(request, shape)
        if expected_s * self.pace.caution > budget_s and not self._is_idle:
            self._telemetry.deadline_misses.labels("admission").inc()
            raise QueueTooLong(self._retry_after_s(request))
        answer = asyncio.get_running_loop().create_future()
        job = Job(request, shape, time.monotonic() + budget_s, answer, expected_s=expected_s)
        self._waiting.add(job)
        if self.queued == 1 or self._waiting.is_full:
            self._stirred.set()
        return job

    def _expire(self, job: Job) -> None:
        if not job.answer.done():
            self._telemetry.deadline_misses.labels("queue" if job.is_waiting else "compute").inc()
            job.answer.set_exception(DeadlineMissed())
            self._learn_wait(job)

    def _learn_wait(self, job: Job) -> None:
        if job.expected_s * self.pace.caution >= TELLING * (job.deadline - job.since):
            self.pace.learn_wait(job.expected_s, time.monotonic() - job.since)

    async def _take_batches(self) -> None:
        while True:
            await self._places.acquire()
            while (due_s := self._due_in_s()) is None or due_s > 0:
                if due_s is None and self._closing:
                    return
                await self._stirred_or(due_s)
            jobs = self._waiting.take()
            self._telemetry.queue_length.set(self.queued)
            longest = max(jobs, key=lambda job: job.shape.length).shape
            batch = _Batch(jobs, jobs[0].request.catalogue, longest)
            self._running.append(batch)
            self._run(self._answer(batch))

    def _due_in_s(self) -> float | None:
        """Seconds until the next batch should be taken; ``None`` while nobody waits."""
        if not self.queued:
            return None
        if self._closing or self._waiting.is_full:
            return 0.0
        company_s = self._waiting.oldest_since + self._wait_s - time.monotonic()
        engine_s = self._busy_s() - LEAD_S if len(self._running) >= self._engine.searches else 0.0
        return max(company_s, engine_s)

    async def _stirred_or(self, timeout_s: float | None) -> None:
        self._stirred.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self._stirred.wait()
        except TimeoutError:
            return

    def _busy_s(self) -> float:
        """Expected seconds of computation left in the batches that were taken."""
        now = time.monotonic()
        return sum(
            max(0.0, self.pace.seconds(batch.work) - (now - batch.started if batch.started else 0.0))
            for batch in self._running
        )

    async def _answer(self, batch: _Batch) -> None:
        try:
            answers = await asyncio.get_running_loop().run_in_executor(self._threads, self._search, batch)
            self._note(batch)
        except Exception as failure:  # whatever is wrong with this batch must not end the service
            log.exception("batch_failed", requests=len(batch.jobs))
            _fail(batch.jobs, failure)
            return
        finally:
            self._running.remove(batch)
            self._places.release()
            self._stirred.set()
        for place, (job, found) in enumerate(zip(batch.jobs, answers, strict=True), 1):
            if not job.answer.done():
                job.answer.set_result(found)
                self._learn_wait(job)
            if place % ANSWERED_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _note(self, batch: _Batch) -> None:
        if batch.started is None:
            return
        self.pace.learn(batch.work, batch.took_s)
        self._telemetry.batch_size.observe(len(batch.jobs))
        for job in batch.jobs:
            self._telemetry.queue_wait.observe(batch.started - job.since)

    def _search(self, batch: _Batch) -> Sequence[SearchResult]:
        """All three stages, in a thread. The batch loses whoever is gone when its computation starts."""
        inputs = self._prepare(batch)
        ready = time.monotonic()
        with _Turn(self._engine_free) as turn:
            kept = [job for job in batch.jobs if not job.is_gone]
            if len(kept) < len(batch.jobs):
                self._telemetry.dropped.inc(len(batch.jobs) - len(kept))
                batch.jobs = kept
                if not kept:
                    return []
                inputs = self._prepare(batch)
            batch.started = time.monotonic()
            since = max(ready, min(self._freed, batch.started))
            before, self._begun = self._begun, (mine := _Computation())
            with self._timed("compute"):
                outputs = self._engine.compute_freeing(inputs, batch.catalogue, turn.end)
            self._count_helpers()
            ended = mine.ended = self._freed = time.monotonic()
            if self._engine.searches == 1:  # what it did before it ended counts for the batch before
                since = max(since, batch.started if before.ended is None else before.ended)
            batch.took_s = ended - since
        with self._timed("finish"):
            return self._engine.finish(outputs, [job.request for job in batch.jobs], batch.catalogue)

    def _prepare(self, batch: _Batch) -> SearchInputs:
        with self._timed("prepare"):
            return self._engine.prepare([job.request for job in batch.jobs], batch.catalogue)

    def _count_helpers(self) -> None:
        """Add what the engine's own threads spent since the last time, whichever batch they did it for."""
        with self._counting:
            spent, self._helper_cpu_s = self._engine.helper_cpu_s - self._helper_cpu_s, self._engine.helper_cpu_s
        self._stage_cpu_s["compute"].inc(spent)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started, cpu = time.monotonic(), time.thread_time()
        yield
        self._stage_s[stage].observe(time.monotonic() - started)
        self._stage_cpu_s[stage].inc(time.thread_time() - cpu)

    def _retry_after_s(self, request: SearchRequest) -> int:
        return max(1, ceil(self.expected_s(request)))

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _fail(jobs: Sequence[Job], failure: Exception) -> None:
    for job in jobs:
        if not job.answer.done():
            job.answer.set_exception(failure)
