"""The order of the queue and the companions in a batch, without an engine."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from model_store.catalogue.catalogue import Catalogue
from service.engines.base import Shape
from service.engines.fake_engine import FakeEngine
from service.scheduling.queue import Job, RequestQueue
from tests.service.scheduling.test_batcher import CATALOGUE, question
from tests.support.bundles import small_catalogue

pytestmark = pytest.mark.anyio

ENGINE = FakeEngine()


def job(length: int = 3, beam_width: int = 20, catalogue: Catalogue = CATALOGUE, age_s: float = 0.0) -> Job:
    asked = question(1, length)
    asked = type(asked)(asked.history, 5, beam_width, asked.rule, asked.excluded, catalogue)
    now = time.monotonic()
    return Job(asked, ENGINE.shape(asked), now + 60, asyncio.get_running_loop().create_future(), now - age_s)


def expired() -> Job:
    """A job whose time ran out; the event loop was too busy to say so."""
    late = job()
    late.deadline = time.monotonic()
    return late


def taken(waiting: RequestQueue) -> list[list[Job]]:
    batches = []
    while batch := waiting.take():
        batches.append(batch)
    assert waiting.count == 0
    return batches


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


async def test_batches_share_catalogue_and_width_and_waste_little() -> None:
    waiting, other = RequestQueue(16), small_catalogue(1)
    random = np.random.default_rng(0)
    jobs = [
        job(int(random.integers(1, 51)), int(random.choice((5, 20, 100))), CATALOGUE if n % 3 else other)
        for n in range(300)
    ]
    for each in jobs:
        waiting.add(each)
    batches = taken(waiting)
    assert sorted(id(each) for batch in batches for each in batch) == sorted(map(id, jobs))
    for batch in batches:
        assert len({(id(each.request.catalogue), each.shape.beam_width) for each in batch}) == 1
        longest = max(each.shape.length for each in batch)
        padded = batch[0].shape._replace(length=longest).work * len(batch)
        assert sum(each.shape.work for each in batch) >= 0.75 * padded
        assert len(batch) <= batch[0].shape.batch_limit(16) <= 16


async def test_wide_beams_come_in_small_batches_and_narrow_ones_get_their_share() -> None:
    waiting = RequestQueue(16)
    for _ in range(200):
        waiting.add(job(20, 100, age_s=5.0))
    first = waiting.take()
    narrow = [job(20, 20) for _ in range(10)]
    for each in narrow:
        waiting.add(each)
    second = waiting.take()
    assert len(first) == Shape(24, 100, 0).batch_limit(16) < 8
    assert second == narrow  # though two hundred others came long before


async def test_a_rush_of_narrow_beams_does_not_starve_a_wide_one() -> None:
    waiting = RequestQueue(4)
    for _ in range(100):
        waiting.add(job(20, 20))
    waiting.take()
    wide = job(20, 100)
    waiting.add(wide)
    position = next(at for at, batch in enumerate(taken(waiting)) if wide in batch)
    assert position <= 1


@pytest.mark.parametrize("seed", range(5))
async def test_lanes_that_always_have_requests_receive_equal_work(seed: int) -> None:
    waiting, random = RequestQueue(8), np.random.default_rng(seed)
    widths, work, largest = (5, 20, 100), dict.fromkeys((5, 20, 100), 0), dict.fromkeys((5, 20, 100), 0)
    backlog = dict.fromkeys(widths, 0)
    for _ in range(300):
        for width in widths:  # uneven rushes, but no lane is ever empty
            for _ in range(int(random.integers(0, 10)) + 10 * (backlog[width] < 10)):
                waiting.add(job(int(random.integers(1, 51)), width))
                backlog[width] += 1
        batch = waiting.take()
        shape = batch[0].shape
        backlog[shape.beam_width] -= len(batch)
        work[shape.beam_width] += len(batch) * shape.work
        largest[shape.beam_width] = max(largest[shape.beam_width], len(batch) * shape.work)
        for one in widths:  # theorem 1 of Goyal, Vin and Cheng
            assert all(abs(work[one] - work[other]) <= largest[one] + largest[other] for other in widths)
    assert min(work.values()) > 0


async def test_those_who_leave_are_not_taken_and_make_room() -> None:
    waiting = RequestQueue(4)
    jobs = [job(age_s=10 - n) for n in range(6)]
    for each in jobs:
        waiting.add(each)
    assert waiting.is_full
    for each in (jobs[0], jobs[2], jobs[3]):
        assert waiting.remove(each)
    assert not waiting.remove(jobs[0])
    assert (waiting.count, waiting.is_full) == (3, False)
    assert waiting.oldest_arrived == jobs[1].arrived
    assert waiting.backlog(jobs[1].request, jobs[1].shape)[2] == 4 * jobs[1].shape.work
    assert waiting.take() == [jobs[1], jobs[4], jobs[5]]
    assert not waiting.remove(jobs[1])
    assert waiting.take() == []


async def test_of_another_lane_its_share_counts_or_the_batch_that_may_come_first() -> None:
    waiting = RequestQueue(16)
    wide = [job(20, 100) for _ in range(50)]
    for each in wide:
        waiting.add(each)
    own = job(20, 20)
    batch = wide[0].shape.batch_limit(16) * wide[0].shape.work
    assert waiting.backlog(own.request, own.shape)[0] == batch  # not all fifty
    for _ in range(160):
        waiting.add(job(20, 20))
    work, *_ = waiting.backlog(own.request, own.shape)
    assert work == 160 * own.shape.work + min(50 * wide[0].shape.work, 161 * own.shape.work)


async def test_a_request_is_answered_when_its_whole_batch_is() -> None:
    waiting = RequestQueue(16, usual_batch=4)
    new = job(20, 20)
    assert waiting.backlog(new.request, new.shape) == (0, 0, new.shape.work)
    for _ in range(3):
        waiting.add(job(20, 20))
    assert waiting.backlog(new.request, new.shape) == (0, 0, 4 * new.shape.work)  # all in one batch
    for _ in range(98):
        waiting.add(job(20, 20))
    work, batches, own = waiting.backlog(new.request, new.shape)
    assert (work, batches) == (96 * new.shape.work, 24)
    assert own == 11 * new.shape.work  # five share its batch, and five more will


@pytest.mark.parametrize(("waiting_now", "first"), [(5, 5), (12, 8), (16, 8), (40, 20), (90, 32)])
async def test_batches_grow_while_many_wait(waiting_now: int, first: int) -> None:
    waiting = RequestQueue(32, usual_batch=8)
    for _ in range(waiting_now):
        waiting.add(job())
    assert waiting.is_full == (waiting_now >= 8)
    batches = taken(waiting)
    assert len(batches[0]) == first
    assert all(len(batch) <= max(8, before // 2) for batch, before in zip(batches, _before(batches), strict=True))


def _before(batches: list[list[Job]]) -> list[int]:
    """Return how many requests waited when each batch was taken."""
    return [sum(map(len, batches[at:])) for at in range(len(batches))]
