"""The 429 rule, without a batcher."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from service.engines.fake_engine import FakeEngine
from service.errors import DeadlineMissed, QueueFull, QueueTooLong
from service.scheduling.admission import HALF_LIFE_S, HOLD_S, MAX_SAFETY_FACTOR, MIN_SAFETY_FACTOR, Admission
from service.scheduling.queue import Batch, RequestQueue
from service.telemetry.telemetry import Telemetry
from tests.service.scheduling.test_batcher import CATALOGUE, question
from tests.service.scheduling.test_queue import job

pytestmark = pytest.mark.anyio

ENGINE = FakeEngine()
ASKED = question(1)
SHAPE = ENGINE.shape(ASKED)


class Desk:
    """Admission with its queue and the batches under way; a second for each request once it has learned."""

    def __init__(self, queue_size: int = 100, clock: Callable[[], float] | None = None) -> None:
        self.telemetry = Telemetry()
        self.queue = RequestQueue(max_batch=1)
        self.running: list[Batch] = []
        self.admission = Admission(ENGINE, self.queue, self.running, queue_size, self.telemetry, clock)

    def learn(self) -> None:
        self.admission.latency.learn(SHAPE.work, 1.0)

    def refused(self) -> float | None:
        """Requests that were refused because of their budget."""
        return self.telemetry.registry.get_sample_value("etegrec_deadline_misses_total", {"at": "admission"})


async def test_a_full_queue_refuses_and_tells_when_to_come_again() -> None:
    desk = Desk(queue_size=2)
    for _ in range(2):
        assert desk.admission.admit(ASKED, SHAPE, 1.0) == 0  # nothing is known yet
        desk.queue.add(job())
    for has_learned, seconds in ((False, "1"), (True, "3")):
        if has_learned:
            desk.learn()
        with pytest.raises(QueueFull) as refused:
            desk.admission.admit(ASKED, SHAPE, 1000.0)
        assert not isinstance(refused.value, QueueTooLong)
        assert refused.value.headers["Retry-After"] == seconds
    assert not desk.refused()


async def test_a_request_is_refused_if_its_expected_wait_exceeds_its_budget() -> None:
    desk = Desk()
    desk.learn()
    for _ in range(3):
        desk.queue.add(job())
    expected_s = 4.0  # three before it, and itself
    enough_s = expected_s * MIN_SAFETY_FACTOR
    assert desk.admission.admit(ASKED, SHAPE, enough_s + 0.01) == pytest.approx(expected_s)
    assert desk.admission.can_answer(ASKED, enough_s + 0.01)
    assert not desk.admission.can_answer(ASKED, enough_s - 0.01)
    with pytest.raises(QueueTooLong) as refused:
        desk.admission.admit(ASKED, SHAPE, enough_s - 0.01)
    assert refused.value.headers["Retry-After"] == "4"
    assert desk.refused() == 1
    with pytest.raises(DeadlineMissed):
        desk.admission.admit(ASKED, SHAPE, 0.0)
    assert desk.refused() == 2


async def test_batches_under_way_count_by_what_is_left_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.scheduling.admission.time", SimpleNamespace(monotonic=lambda: 50.0))
    desk = Desk()
    desk.learn()
    desk.running.append(Batch([job()], CATALOGUE, SHAPE, started=49.75))
    assert desk.admission.remaining_s() == pytest.approx(0.75)
    desk.running.append(Batch([job()], CATALOGUE, SHAPE))
    assert desk.admission.remaining_s() == pytest.approx(1.75)
    desk.running.append(Batch([job()], CATALOGUE, SHAPE, started=10.0))  # longer than expected: it may end at once
    assert desk.admission.remaining_s() == pytest.approx(1.75)


async def test_an_idle_engine_tries_every_request() -> None:
    desk = Desk()
    desk.learn()
    assert desk.admission.admit(ASKED, SHAPE, 0.001) == pytest.approx(1.0)
    desk.running.append(Batch([job()], CATALOGUE, SHAPE))
    with pytest.raises(QueueTooLong):
        desk.admission.admit(ASKED, SHAPE, 0.001)


async def test_only_waits_that_were_a_large_part_of_the_budget_are_learned_from() -> None:
    admission = Desk(clock=lambda: late.arrived + 1000.0).admission
    late = job()
    late.expected_s = 1.0
    late.deadline = late.arrived + 1000.0
    admission.learn_wait(late)  # it could wait so long: nobody was in a hurry
    assert admission.safety_factor == MIN_SAFETY_FACTOR
    late.deadline = late.arrived + 2.0
    admission.learn_wait(late)
    assert admission.safety_factor > MIN_SAFETY_FACTOR


def test_the_safety_factor_follows_what_became_of_the_admitted() -> None:
    random, admission = np.random.default_rng(0), Desk(clock=lambda: 0.0).admission  # no time passes
    for _ in range(4000):
        admission.update_safety_factor(1.0, float(random.uniform(0.5, 2.0)))
    assert 1.9 <= admission.safety_factor <= 2.3  # hardly any takes longer
    for _ in range(20_000):
        admission.update_safety_factor(1.0, 0.9)
    assert admission.safety_factor == MIN_SAFETY_FACTOR
    for _ in range(200):
        admission.update_safety_factor(1.0, 100.0)
    assert admission.safety_factor == MAX_SAFETY_FACTOR


def miss(admission: Admission, times: int = 1) -> None:
    for _ in range(times):
        admission.update_safety_factor(1.0, 100.0)


def test_the_safety_factor_fades_some_seconds_after_the_last_miss() -> None:
    now = [50.0]
    admission = Desk(clock=lambda: now[0]).admission
    miss(admission, times=10)
    excess = admission.safety_factor - MIN_SAFETY_FACTOR
    assert excess == pytest.approx(MIN_SAFETY_FACTOR * (1.05**10 - 1))
    now[0] += HOLD_S
    assert admission.safety_factor == pytest.approx(MIN_SAFETY_FACTOR + excess)
    for halved in (excess / 2, excess / 4):
        now[0] += HALF_LIFE_S
        assert admission.safety_factor == pytest.approx(MIN_SAFETY_FACTOR + halved)
    miss(admission)
    after_miss = (MIN_SAFETY_FACTOR + excess / 4) * 1.05  # a step from where it was then
    assert admission.safety_factor == pytest.approx(after_miss)
    now[0] += HOLD_S
    assert admission.safety_factor == pytest.approx(after_miss)
    now[0] += 1000 * HALF_LIFE_S
    assert admission.safety_factor == pytest.approx(MIN_SAFETY_FACTOR)


def test_answers_in_time_neither_hold_the_safety_factor_nor_hasten_its_fading() -> None:
    now = [50.0]
    admission = Desk(clock=lambda: now[0]).admission
    miss(admission, times=20)
    before = admission.safety_factor
    for _ in range(100):
        now[0] += HOLD_S / 100
        admission.update_safety_factor(1.0, 0.9)
    assert admission.safety_factor == pytest.approx(before, rel=0.01)
    for _ in range(100):
        now[0] += HALF_LIFE_S / 100
        admission.update_safety_factor(1.0, 0.9)
    assert admission.safety_factor == pytest.approx((before + MIN_SAFETY_FACTOR) / 2, rel=0.01)


async def test_a_batch_that_an_overload_caused_to_be_refused_is_admitted_again_soon() -> None:
    """Nothing that is refused is learned from, so only time can end this."""
    now = [50.0]
    desk = Desk(clock=lambda: now[0])
    desk.learn()
    for _ in range(31):
        desk.queue.add(job())
    budget_s = 32 * MIN_SAFETY_FACTOR * 1.25
    miss(desk.admission, times=100)
    for refused in range(1, 1309):
        with pytest.raises(QueueTooLong):
            desk.admission.admit(ASKED, SHAPE, budget_s)
        assert desk.refused() == refused
    now[0] += HOLD_S + 4 * HALF_LIFE_S
    assert desk.admission.admit(ASKED, SHAPE, budget_s) == pytest.approx(32.0)


async def test_an_idle_engine_ends_the_hold_of_the_safety_factor() -> None:
    now = [50.0]
    desk = Desk(clock=lambda: now[0])
    miss(desk.admission, times=100)
    now[0] += 1.0
    desk.admission.admit(ASKED, SHAPE, 1.0)  # nobody waits
    now[0] += HALF_LIFE_S
    assert desk.admission.safety_factor == pytest.approx((MAX_SAFETY_FACTOR + MIN_SAFETY_FACTOR) / 2)
    desk.queue.add(job())
    miss(desk.admission)
    before = desk.admission.safety_factor
    now[0] += HOLD_S
    desk.learn()
    with pytest.raises(QueueTooLong):
        desk.admission.admit(ASKED, SHAPE, 0.1)
    assert desk.admission.safety_factor == pytest.approx(before)  # somebody waits


def test_rare_misses_under_a_steady_load_keep_the_safety_factor_up() -> None:
    """One request in five hundred takes twice as long as expected; a factor that forgot it would refuse too few."""
    now = [0.0]
    random = np.random.default_rng(0)
    admission = Desk(clock=lambda: now[0]).admission
    factors = []
    for _ in range(30_000):
        now[0] += 1 / 300
        admission.update_safety_factor(1.0, 2.0 if random.random() < 0.002 else 0.9)
        factors.append(admission.safety_factor)
    assert np.median(factors[10_000:]) > 1.8
