"""Runner of batches: takes one batch through its three stages in a thread and measures it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from model_store.search.interface import SearchInputs
from model_store.tracing.interface import TimedStep
from service.engines.base import Engine, SearchResult
from service.scheduling.queue import Batch
from service.telemetry.telemetry import Telemetry

STAGES = ("prepare", "compute", "finish")


@dataclass(eq=False)
class _Computation:
    ended: float | None = None  # time.monotonic(); None while it goes on


class _Turn:
    """Place in the engine, given back once: when the engine could begin another batch, at the latest on exit."""

    def __init__(self, places: threading.Semaphore) -> None:
        self._places = places
        self._ended = threading.Lock()

    def __enter__(self) -> _Turn:
        self._places.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Give the place back. Callable from any thread, any number of times."""
        if self._ended.acquire(blocking=False):
            self._places.release()


class BatchRunner:
    """Three stages of a batch on one engine. Thread-safe.

    One thread may prepare and another one finish while a third computes. As many compute as the engine has
    :attr:`~service.engines.base.Engine.searches`.
    """

    def __init__(self, engine: Engine, telemetry: Telemetry) -> None:
        self._engine = engine
        self._telemetry = telemetry
        self._stage_s = {stage: telemetry.stage.labels(stage) for stage in STAGES}
        self._stage_cpu_s = {stage: telemetry.stage_cpu.labels(stage) for stage in STAGES}

        self._engine_free = threading.Semaphore(engine.searches)
        self._last_ended = 0.0  # time.monotonic() when a computation ended last
        self._last_begun = _Computation(ended=0.0)

        self._counting = threading.Lock()
        self._helper_cpu_s = engine.helper_cpu_s  # counted so far

    def run(self, batch: Batch) -> Sequence[SearchResult]:
        """Run all three stages and return one result for each of ``batch.jobs``.

        Drops jobs that are gone when the computation starts. Sets ``batch.started`` unless all are gone, and
        ``batch.took_s``, the engine time of this batch: from when it was ready and the engine free until its end.
        Every stage that ends is added to ``batch.stages``.
        """
        inputs = self._prepare(batch)
        ready = time.monotonic()

        with _Turn(self._engine_free) as turn:
            if self._drop_gone(batch):
                if not batch.jobs:
                    return []
                inputs = self._prepare(batch)

            batch.started = time.monotonic()
            begun = max(ready, min(self._last_ended, batch.started))
            before = self._last_begun
            this = self._last_begun = _Computation()
            with self._timed(batch, "compute"):
                outputs = self._engine.compute_overlapped(inputs, batch.catalogue, on_free=turn.end)
            self._count_helpers()
            ended = this.ended = self._last_ended = time.monotonic()

            # Two batches may overlap although the engine computes one at a time. That time counts for the earlier one.
            if self._engine.searches == 1:
                begun = max(begun, batch.started if before.ended is None else before.ended)
            batch.took_s = ended - begun

        with self._timed(batch, "finish"):
            return self._engine.finish(outputs, inputs, [job.request for job in batch.jobs], batch.catalogue)

    def _prepare(self, batch: Batch) -> SearchInputs:
        with self._timed(batch, "prepare"):
            return self._engine.prepare([job.request for job in batch.jobs], batch.catalogue)

    def _drop_gone(self, batch: Batch) -> bool:
        """Remove jobs that nobody waits for any more; return whether there were any."""
        kept = [job for job in batch.jobs if not job.is_gone]
        dropped = len(batch.jobs) - len(kept)
        if not dropped:
            return False
        self._telemetry.dropped.inc(dropped)
        batch.jobs = kept
        return True

    def _count_helpers(self) -> None:
        """Add the CPU time of the engine's own threads since the last call, whichever batch they worked for."""
        with self._counting:
            total_s = self._engine.helper_cpu_s
            spent_s = total_s - self._helper_cpu_s
            self._helper_cpu_s = total_s
        self._stage_cpu_s["compute"].inc(spent_s)

    @contextmanager
    def _timed(self, batch: Batch, stage: str) -> Iterator[None]:
        started = time.monotonic()
        cpu_started = time.thread_time()
        yield
        ended = time.monotonic()
        batch.stages.append(TimedStep(stage, started, ended))
        self._stage_s[stage].observe(ended - started)
        self._stage_cpu_s[stage].inc(time.thread_time() - cpu_started)
