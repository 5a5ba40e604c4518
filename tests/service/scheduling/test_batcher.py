from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest

from model_store.catalogue.catalogue import Catalogue
from model_store.search.interface import SearchInputs, SearchOutputs
from service.engines.base import Engine, SearchRequest, SearchResult
from service.engines.fake_engine import FakeEngine
from service.errors import DeadlineMissed, NotReady, QueueFull, QueueTooLong
from service.scheduling.batcher import Batcher
from service.settings import Settings
from service.telemetry.telemetry import Telemetry
from tests.support.bundles import small_catalogue
from tests.support.service_harness import GatedEngine, until

pytestmark = pytest.mark.anyio

CATALOGUE = small_catalogue()
NOTHING = np.empty(0, dtype=np.int64)
LONG_S = 30.0


def question(newest: int, length: int = 3, k: int = 5, excluded: tuple[int, ...] = ()) -> SearchRequest:
    history = np.append(np.zeros(length - 1, dtype=np.int64), newest)
    return SearchRequest(history, k, 20, CATALOGUE.trie.everything, np.array(excluded, dtype=np.int64), CATALOGUE)


@asynccontextmanager
async def batching(engine: Engine, **given: float) -> AsyncIterator[tuple[Batcher, Telemetry]]:
    telemetry = Telemetry()
    batcher = Batcher(engine, Settings.model_validate({"batch_wait_ms": 0.0, **given}), telemetry)
    batcher.start()
    try:
        yield batcher, telemetry
    finally:
        if isinstance(engine, GatedEngine):
            engine.gate.set()
        await batcher.close()


async def occupy(batcher: Batcher, engine: GatedEngine) -> asyncio.Task[SearchResult]:
    """Put one request into the engine, behind its gate, and a second into the prepared place."""
    first = asyncio.create_task(batcher.submit(question(0), LONG_S))
    await asyncio.to_thread(engine.entered.acquire)
    return first


async def test_batches_answer_what_single_requests_answer() -> None:
    questions = [question(n % 40, 1 + n % 40, 1 + n % 20, tuple(range(n % 7))) for n in range(120)]
    async with batching(FakeEngine(), batch_wait_ms=5.0, max_batch=16) as (batcher, telemetry):
        together = await asyncio.gather(*(batcher.submit(each, LONG_S) for each in questions))
    async with batching(FakeEngine(), max_batch=1) as (batcher, _):
        alone = [await batcher.submit(each, LONG_S) for each in questions]
    for left, right in zip(together, alone, strict=True):
        assert left.rows.tolist() == right.rows.tolist()
        assert left.log_prob.tolist() == right.log_prob.tolist()
    batches = telemetry.registry.get_sample_value("etegrec_batch_size_count")
    assert batches is not None
    assert batches < 40


async def test_a_batch_holds_one_bucket_and_at_most_max_batch() -> None:
    engine = GatedEngine()
    engine.gate.set()
    lengths = [3, 30] * 10
    async with batching(engine, batch_wait_ms=5.0, max_batch=4) as (batcher, _):
        await asyncio.gather(*(batcher.submit(question(1, length), LONG_S) for length in lengths))
    assert max(len(each.lengths) for each in engine.batches) == 4
    assert all(len(set(each.lengths.tolist())) == 1 for each in engine.batches)


async def test_a_full_queue_refuses_at_once() -> None:
    engine = GatedEngine()
    async with batching(engine, queue_size=3, max_batch=1) as (batcher, _):
        tasks = [await occupy(batcher, engine)]
        tasks.append(asyncio.create_task(batcher.submit(question(1), LONG_S)))
        await asyncio.sleep(0)
        await until(lambda: batcher.queued == 0)  # prepared, behind the first
        tasks += [asyncio.create_task(batcher.submit(question(n), LONG_S)) for n in range(3)]
        await until(lambda: batcher.queued == 3)
        with pytest.raises(QueueFull) as refused:
            await batcher.submit(question(9), LONG_S)
        assert int(refused.value.headers["Retry-After"]) >= 1
        engine.gate.set()
        answers = await asyncio.gather(*tasks)
    assert all(len(answer.rows) == 5 for answer in answers)


async def test_expired_and_cancelled_requests_never_reach_the_engine() -> None:
    engine = GatedEngine()
    async with batching(engine, max_batch=8) as (batcher, telemetry):
        first = await occupy(batcher, engine)
        prepared = asyncio.create_task(batcher.submit(question(1), LONG_S))
        await until(lambda: batcher.queued == 0)
        expired = asyncio.create_task(batcher.submit(question(2), 0.02))
        left = asyncio.create_task(batcher.submit(question(3), LONG_S))
        stays = asyncio.create_task(batcher.submit(question(4), LONG_S))
        with pytest.raises(DeadlineMissed):
            await expired
        left.cancel()
        prepared.cancel()  # even a prepared one leaves before compute
        await asyncio.wait({left, prepared})
        engine.gate.set()
        await asyncio.gather(first, stays)
    newest = [each.history[:, each.lengths[0] - 1].tolist() for each in engine.batches]
    assert newest == [[CATALOGUE.trie.item_leaf[row]] for row in (0, 4)]
    assert telemetry.registry.get_sample_value("etegrec_dropped_before_compute_total") == 3


async def test_the_rest_of_a_prepared_batch_is_answered_right() -> None:
    engine = GatedEngine()
    async with batching(engine, max_batch=8, batch_wait_ms=20.0) as (batcher, _):
        first = await occupy(batcher, engine)
        tasks = [asyncio.create_task(batcher.submit(question(n), LONG_S)) for n in (1, 2, 3)]
        await until(lambda: batcher.queued == 0)
        tasks[1].cancel()
        await asyncio.wait({tasks[1]})
        engine.gate.set()
        answers = [await tasks[0], await tasks[2], await first]
    async with batching(FakeEngine()) as (batcher, _):
        alone = [await batcher.submit(question(n), LONG_S) for n in (1, 3, 0)]
    assert [each.rows.tolist() for each in answers] == [each.rows.tolist() for each in alone]


class SteppedEngine(FakeEngine):
    """Computes one batch at each step of the test.

    A batch is not finished before the next one has begun. So none can overtake it, however slow the threads are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[SearchInputs] = []
        self.begun, self.may_end, self.may_finish = (threading.Semaphore(0) for _ in range(3))

    def compute(self, inputs: SearchInputs, catalogue: Catalogue) -> SearchOutputs:
        self.batches.append(inputs)
        self.begun.release()
        assert self.may_end.acquire(timeout=LONG_S)
        return super().compute(inputs, catalogue)

    def finish(
        self,
        outputs: SearchOutputs,
        inputs: SearchInputs,
        requests: Sequence[SearchRequest],
        catalogue: Catalogue,
    ) -> list[SearchResult]:
        assert self.may_finish.acquire(timeout=LONG_S)
        return super().finish(outputs, inputs, requests, catalogue)

    async def begin(self) -> None:
        """Wait until a batch is computed."""
        assert await asyncio.to_thread(self.begun.acquire, timeout=LONG_S)

    async def run(self, requests: int) -> None:
        """Compute batch after batch until so many requests are answered."""
        while sum(len(each.lengths) for each in self.batches) < requests:
            self.may_end.release()
            await self.begin()
            self.may_finish.release()
        self.may_end.release()
        self.may_finish.release()


@pytest.mark.parametrize(
    ("other", "place"), [(question(7, 30), 5), (replace(question(7, 3), beam_width=100), 3)], ids=["longer", "wider"]
)
async def test_no_request_starves(other: SearchRequest, place: int) -> None:
    engine = SteppedEngine()
    async with batching(engine, max_batch=2, queue_size=100) as (batcher, _):
        tasks = [asyncio.create_task(batcher.submit(question(0), LONG_S))]
        await engine.begin()
        for each in (*[question(1)] * 6, other, *[question(2)] * 20):
            tasks.append(asyncio.create_task(batcher.submit(each, LONG_S)))
            await asyncio.sleep(0)
        await engine.run(len(tasks))
        await asyncio.gather(*tasks)
    kinds = [(int(each.lengths[0]), len(each.beam)) for each in engine.batches]
    # In its own lane a request waits for those that came before it: the first, one prepared alone, five others in
    # pairs. In another lane it waits for the first, the prepared one, and one more. Later ones never come before it.
    assert kinds.index((len(other.history), other.beam_width)) <= place


class TwoHalves(GatedEngine):
    """An engine that is free for the next batch in the middle of each; the gate holds up second halves."""

    def compute_overlapped(
        self, inputs: SearchInputs, catalogue: Catalogue, on_free: Callable[[], None]
    ) -> SearchOutputs:
        on_free()
        on_free()
        return self.compute(inputs, catalogue)


async def test_a_batch_begins_when_the_engine_is_free_for_it_and_no_sooner() -> None:
    answers = []
    for engine, computed_together in ((TwoHalves(), 2), (GatedEngine(), 1)):
        async with batching(engine, max_batch=1) as (batcher, _):
            asked = [asyncio.create_task(batcher.submit(question(n), LONG_S)) for n in range(5)]
            for _ in range(computed_together):
                assert await asyncio.to_thread(engine.entered.acquire, timeout=LONG_S)
            assert not await asyncio.to_thread(engine.entered.acquire, timeout=0.1)
            engine.gate.set()
            answers.append([found.rows.tolist() for found in await asyncio.gather(*asked)])
    assert answers[0] == answers[1]


class Clock:
    """Stands in for the module ``time``."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.thread_time = time.thread_time

    def monotonic(self) -> float:
        return self.now


class Overlapping(FakeEngine):
    """Its first batch begins at 10 s, frees the engine at 16 and is done at 20, when the second has begun long ago."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock, self.calls = clock, 0
        self.second_began, self.second_may_end = threading.Event(), threading.Event()

    def compute_overlapped(
        self, inputs: SearchInputs, catalogue: Catalogue, on_free: Callable[[], None]
    ) -> SearchOutputs:
        self.calls += 1
        if self.calls == 1:
            self.clock.now = 16.0
            on_free()
            assert self.second_began.wait(LONG_S)
            self.clock.now = 20.0
        else:
            self.second_began.set()
            assert self.second_may_end.wait(LONG_S)
        return self.compute(inputs, catalogue)


async def test_time_in_which_two_batches_overlap_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(10.0)
    for module in ("admission", "batch_runner", "batcher", "queue"):
        monkeypatch.setattr(f"service.scheduling.{module}.time", clock)
    engine, learned = Overlapping(clock), []
    async with batching(engine, max_batch=1) as (batcher, _):
        monkeypatch.setattr(batcher.admission.latency, "learn", lambda _, seconds: learned.append(seconds))
        both = {asyncio.create_task(batcher.submit(question(n), LONG_S)) for n in range(2)}
        # Two threads prepare them side by side: either may come to the engine first.
        _, pending = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        clock.now = 24.0
        engine.second_may_end.set()
        await asyncio.gather(*pending)
    assert learned == [10.0, 4.0]


async def test_a_failing_batch_fails_alone() -> None:
    class Failing(FakeEngine):
        def prepare(self, requests, catalogue):  # type: ignore[no-untyped-def]
            if requests[0].k == 1:
                raise ValueError("cannot prepare this")
            return super().prepare(requests, catalogue)

    async with batching(Failing(), max_batch=1) as (batcher, _):
        with pytest.raises(ValueError, match="cannot prepare"):
            await batcher.submit(question(1, k=1), LONG_S)
        assert len((await batcher.submit(question(1, k=2), LONG_S)).rows) == 2


async def test_closing_finishes_what_was_accepted_and_refuses_the_rest() -> None:
    engine = GatedEngine()
    async with batching(engine, max_batch=1) as (batcher, _):
        tasks = [await occupy(batcher, engine)]
        tasks += [asyncio.create_task(batcher.submit(question(n), LONG_S)) for n in range(5)]
        await until(lambda: batcher.queued == 4)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(NotReady):
            await batcher.submit(question(1), LONG_S)
        engine.gate.set()
        answers = await asyncio.gather(*tasks)
        await closing
    assert all(len(answer.rows) == 5 for answer in answers)


async def test_those_who_cancel_or_expire_leave_the_queue_and_make_room() -> None:
    engine = GatedEngine()
    async with batching(engine, queue_size=2, max_batch=1) as (batcher, telemetry):
        running = [await occupy(batcher, engine)]
        running.append(asyncio.create_task(batcher.submit(question(1), LONG_S)))
        await asyncio.sleep(0)
        await until(lambda: batcher.queued == 0)  # one is computed, one is prepared behind it
        left = [asyncio.create_task(batcher.submit(question(n), LONG_S)) for n in (2, 3)]
        await until(lambda: batcher.queued == 2)
        for task in left:
            task.cancel()
        await asyncio.wait(left)
        assert batcher.queued == 0
        assert telemetry.registry.get_sample_value("etegrec_dropped_before_compute_total") == 2
        with pytest.raises(DeadlineMissed):
            await batcher.submit(question(4), 0.02)
        assert batcher.queued == 0
        running += [asyncio.create_task(batcher.submit(question(n), LONG_S)) for n in (5, 6)]
        await until(lambda: batcher.queued == 2)  # there is room for as many as before
        engine.gate.set()
        answers = await asyncio.gather(*running)
    assert [len(answer.rows) for answer in answers] == [5] * 4
    assert len(engine.batches) == 4  # nothing was computed for those who left


async def test_who_would_wait_too_long_is_refused_with_the_safety_factor() -> None:
    engine = GatedEngine()
    async with batching(engine, max_batch=1) as (batcher, _):
        running = await occupy(batcher, engine)
        while batcher.admission.safety_factor < 3.0:
            batcher.admission.update_safety_factor(1.0, 1000.0)
        batcher.admission.latency.learn(engine.shape(question(1)).work, 10.0)
        with pytest.raises(QueueTooLong):  # 20 s at most are expected, and more than 60 s allowed for
            await batcher.submit(question(1), 29.0)
        patient = asyncio.create_task(batcher.submit(question(1), 66.0))
        await asyncio.sleep(0)
        engine.gate.set()
        assert [len(found.rows) for found in await asyncio.gather(running, patient)] == [5, 5]
