"""The three stages of a batch on an engine, without an event loop of batches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from model_store.catalogue.catalogue import Catalogue
from model_store.search.interface import SearchInputs, SearchOutputs
from service.engines.fake_engine import FakeEngine
from service.scheduling.batch_runner import BatchRunner
from service.scheduling.queue import Batch, Job
from service.telemetry.telemetry import Telemetry
from tests.service.scheduling.test_batcher import CATALOGUE
from tests.service.scheduling.test_queue import expired, job

pytestmark = pytest.mark.anyio


class CountingEngine(FakeEngine):
    """Engine that keeps the number of requests of each batch it computed."""

    def __init__(self) -> None:
        super().__init__()
        self.computed: list[int] = []

    def compute(self, inputs: SearchInputs, catalogue: Catalogue) -> SearchOutputs:
        self.computed.append(len(inputs.lengths))
        return super().compute(inputs, catalogue)


def batch_of(*jobs: Job) -> Batch:
    return Batch(list(jobs), CATALOGUE, jobs[0].shape)


def dropped(telemetry: Telemetry) -> float | None:
    return telemetry.registry.get_sample_value("etegrec_dropped_before_compute_total")


async def test_jobs_whose_time_ran_out_are_not_computed() -> None:
    engine, telemetry = CountingEngine(), Telemetry()
    kept = job()
    batch = batch_of(expired(), kept, expired())
    [found] = BatchRunner(engine, telemetry).run(batch)
    assert len(found.rows) == 5
    assert batch.jobs == [kept]
    assert batch.started is not None
    assert engine.computed == [1]
    assert dropped(telemetry) == 2


async def test_a_batch_without_jobs_that_still_wait_costs_nothing() -> None:
    engine, telemetry = CountingEngine(), Telemetry()
    batch = batch_of(expired(), expired())
    assert BatchRunner(engine, telemetry).run(batch) == []
    assert (batch.jobs, batch.started, batch.took_s) == ([], None, 0.0)
    assert engine.computed == []
    assert dropped(telemetry) == 2


class SlowEngine(CountingEngine):
    """Engine that takes its time, half of it in a thread of its own."""

    def compute(self, inputs: SearchInputs, catalogue: Catalogue) -> SearchOutputs:
        time.sleep(0.05)
        self.helper_cpu_s += 0.25
        return super().compute(inputs, catalogue)


def run_all(engine: SlowEngine, telemetry: Telemetry, batches: Sequence[Batch]) -> None:
    runner = BatchRunner(engine, telemetry)
    for batch in batches:
        runner.run(batch)


async def test_every_stage_is_timed_and_the_engines_own_threads_are_counted_once() -> None:
    engine, telemetry = SlowEngine(), Telemetry()
    engine.helper_cpu_s = 3.0  # spent before, for others
    batches = [batch_of(job()) for _ in range(3)]
    run_all(engine, telemetry, batches)

    value = telemetry.registry.get_sample_value
    for stage in ("prepare", "compute", "finish"):
        assert value("etegrec_stage_seconds_count", {"stage": stage}) == 3
        assert (value("etegrec_stage_cpu_seconds_total", {"stage": stage}) or 0) > 0
    assert 0.15 <= (value("etegrec_stage_seconds_sum", {"stage": "compute"}) or 0) < 5
    assert 0.75 <= (value("etegrec_stage_cpu_seconds_total", {"stage": "compute"}) or 0) < 2
    assert all(0.05 <= batch.took_s < 2 for batch in batches)


async def test_a_batch_that_fails_gives_its_place_back() -> None:
    class Broken(CountingEngine):
        def compute(self, inputs: SearchInputs, catalogue: Catalogue) -> SearchOutputs:
            raise RuntimeError("broken")

    engine = Broken()
    runner = BatchRunner(engine, Telemetry())
    for _ in range(2):  # with the place lost, the second one would wait for ever
        with pytest.raises(RuntimeError, match="broken"):
            await asyncio.wait_for(asyncio.to_thread(runner.run, batch_of(job())), 20)
