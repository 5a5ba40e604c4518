"""The three stages of a batch on an engine, without an event loop of batches."""

from __future__ import annotations

import time

import pytest

from model_store.catalogue.catalogue import Catalogue
from model_store.search.interface import SearchInputs, SearchOutputs
from service.engines.fake_engine import FakeEngine
from service.scheduling.batch_runner import BatchRunner
from service.scheduling.queue import Batch, Job
from service.telemetry import Telemetry
from tests.service.scheduling.test_batcher import CATALOGUE
from tests.service.scheduling.test_queue import job

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


def expired() -> Job:
    """A job whose time ran out; the event loop was too busy to say so."""
    late = job()
    late.deadline = time.monotonic()
    return late


async def test_a_job_is_gone_when_it_is_answered_or_its_time_is_up() -> None:
    waiting = job()
    assert not waiting.is_gone
    assert expired().is_gone
    left = job()
    left.answer.cancel()
    assert left.is_gone
    answered = job()
    answered.answer.set_result(None)  # type: ignore[arg-type]
    assert answered.is_gone


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
