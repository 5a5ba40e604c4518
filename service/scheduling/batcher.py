"""Dynamic batching: forms batches of waiting requests, hands them to threads, returns the answers.

One step of the loop: wait for a free place, wait until the next batch is due, take it, hand it to a thread. The thread
prepares its batch while others compute, computes as soon as the engine is free, and finishes while the next batch is
already computed. A batch is taken as late as possible, shortly before the engine will be free, so that requests that
come meanwhile can still join it. The event loop itself computes nothing. :mod:`service.scheduling.queue` chooses which
requests go next.

A request that cannot be answered in time is refused at once (see :mod:`service.scheduling.admission`). A request whose
time runs out, or whose client leaves, is dropped before the computation starts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from model_store.tracing.interface import TimedStep
from service.engines.base import Engine, SearchRequest, SearchResult
from service.errors import DeadlineMissed, NotReady
from service.scheduling.admission import Admission
from service.scheduling.batch_runner import BatchRunner
from service.scheduling.queue import Batch, Job, RequestQueue
from service.settings import Settings
from service.telemetry.telemetry import Telemetry

log = structlog.get_logger()

ANSWERS_PER_SLICE = 4
"""Answers of a batch that are delivered before the event loop may do something else. Refusals and health checks must
not wait until a whole batch is written."""

LEAD_S = 0.002
"""Seconds before the engine is expected to be free at which the next batch is taken, so that it is prepared by then."""


class Batcher:
    """Feeds one engine. Its methods are called from the event loop.

    Call :meth:`start` before the first request. :meth:`close` finishes what was accepted.

    Attributes:
        admission: Decides which requests may wait.
    """

    def __init__(self, engine: Engine, settings: Settings, telemetry: Telemetry) -> None:
        self._engine = engine
        self._telemetry = telemetry
        self._wait_s = settings.batch_wait_ms / 1000
        self._closing = False

        # Requests pass from the queue into batches under way. Admission watches both.
        self._queue = RequestQueue(settings.max_batch or engine.largest_batch, engine.usual_batch)
        self._running: list[Batch] = []
        self.admission = Admission(engine, self._queue, self._running, settings.queue_size, telemetry)
        self._due_changed = asyncio.Event()  # the next batch may be due earlier than it seemed

        # As many batches are under way as the engine computes at a time, and one prepared behind them.
        self._runner = BatchRunner(engine, telemetry)
        self._places = asyncio.Semaphore(engine.searches + 1)
        self._threads = ThreadPoolExecutor(engine.searches + 1, "search")
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to take batches."""
        self._spawn(self._take_batches())

    @property
    def queued(self) -> int:
        """Number of requests that wait for a batch."""
        return self._queue.count

    async def submit(self, request: SearchRequest, budget_s: float) -> SearchResult:
        """Wait for the answer to one request.

        Args:
            request: The question, in rows of its catalogue.
            budget_s: Seconds from now until the answer is worthless.

        Raises:
            QueueFull: At once, if as many requests wait as may.
            QueueTooLong: At once, if it and those before it take longer than the budget.
            DeadlineMissed: The budget ran out.
            NotReady: The batcher is closing.
        """
        with self._telemetry.tracing.span("search") as span:
            span.set("etegrec.beam_width", request.beam_width)
            job = self._enqueue(request, budget_s)
            expiry = asyncio.get_running_loop().call_later(budget_s, self._expire, job)
            try:
                return await job.answer
            finally:
                expiry.cancel()
                if self._queue.remove(job):
                    self._telemetry.dropped.inc()

    async def close(self) -> None:
        """Finish every accepted request, then stop the threads."""
        self._closing = True
        self._due_changed.set()
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._threads.shutdown()

    def _enqueue(self, request: SearchRequest, budget_s: float) -> Job:
        if self._closing:
            raise NotReady("the service is shutting down")
        shape = self._engine.shape(request)
        expected_s = self.admission.admit(request, shape, budget_s)

        answer = asyncio.get_running_loop().create_future()
        job = Job(request, shape, time.monotonic() + budget_s, answer, expected_s=expected_s)
        job.span = self._telemetry.tracing.current()
        self._queue.add(job)
        if self.queued == 1 or self._queue.is_full:
            self._due_changed.set()
        return job

    def _expire(self, job: Job) -> None:
        if job.answer.done():
            return
        self._telemetry.deadline_misses.labels("queue" if job.is_waiting else "compute").inc()
        job.answer.set_exception(DeadlineMissed())
        self.admission.learn_wait(job)

    async def _take_batches(self) -> None:
        while True:
            await self._places.acquire()
            while (due_s := self._due_in_s()) is None or due_s > 0:
                if due_s is None and self._closing:
                    return
                await self._wait_for_change(due_s)

            jobs = self._queue.take()
            self._telemetry.queue_length.set(self.queued)
            longest = max(jobs, key=lambda job: job.shape.length).shape
            batch = Batch(jobs, jobs[0].request.catalogue, longest)
            self._running.append(batch)
            self._spawn(self._answer(batch))

    def _due_in_s(self) -> float | None:
        """Return the seconds until the next batch should be taken; ``None`` while nobody waits."""
        if not self.queued:
            return None
        if self._closing or self._queue.is_full:
            return 0.0
        wait_for_more_s = self._queue.oldest_arrived + self._wait_s - time.monotonic()
        is_engine_busy = len(self._running) >= self._engine.searches
        engine_s = self.admission.remaining_s() - LEAD_S if is_engine_busy else 0.0
        return max(wait_for_more_s, engine_s)

    async def _wait_for_change(self, timeout_s: float | None) -> None:
        """Wait until the next batch may be due earlier, or until the timeout."""
        self._due_changed.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self._due_changed.wait()
        except TimeoutError:
            return

    async def _answer(self, batch: Batch) -> None:
        """Run one batch in a thread and deliver its answers."""
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._threads, self._runner.run, batch)
            self._observe(batch)
        except Exception as failure:  # whatever is wrong with this batch must not end the service
            log.exception("batch_failed", requests=len(batch.jobs))
            _fail(batch.jobs, failure)
            return
        finally:
            if self._telemetry.tracing.is_on:
                self._trace(batch)
            self._running.remove(batch)
            self._places.release()
            self._due_changed.set()

        for place, (job, result) in enumerate(zip(batch.jobs, results, strict=True), 1):
            if not job.answer.done():
                job.answer.set_result(result)
                self.admission.learn_wait(job)
            if place % ANSWERS_PER_SLICE == 0:
                await asyncio.sleep(0)

    def _observe(self, batch: Batch) -> None:
        """Learn from a batch that was computed, and record its metrics."""
        if batch.started is None:
            return
        self.admission.latency.learn(batch.work, batch.took_s)
        self._telemetry.batch_size.observe(len(batch.jobs))
        for job in batch.jobs:
            self._telemetry.queue_wait.observe(batch.started - job.arrived)

    def _trace(self, batch: Batch) -> None:
        """Add the wait and the stages of a batch to the trace of each of its requests, which shared them."""
        for job in batch.jobs:
            if job.span is not None and batch.stages:
                waited = TimedStep("queue", job.arrived, max(job.arrived, batch.stages[0].started))
                steps = [waited, *batch.stages]
                self._telemetry.tracing.add_steps(job.span, steps, **{"etegrec.batch_size": len(batch.jobs)})

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run a coroutine as a task that :meth:`close` waits for."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _fail(jobs: Sequence[Job], failure: Exception) -> None:
    for job in jobs:
        if not job.answer.done():
            job.answer.set_exception(failure)
