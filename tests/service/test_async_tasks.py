"""Steps that are repeated until cancelled: what they outlive, and when they run."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import structlog

from model_store.errors import StoreError, StoreUnavailable
from service.async_tasks import Expected, cancel_and_wait, repeat_until_cancelled

pytestmark = pytest.mark.anyio

log = structlog.get_logger()

Outcome = bool | Exception | None


class Steps:
    """Outcomes of the first steps, in order; the steps after them never end."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.began: list[float] = []
        self.is_used_up = asyncio.Event()
        self._outcomes = list(outcomes)

    async def __call__(self) -> bool | None:
        self.began.append(time.monotonic())
        if not self._outcomes:
            self.is_used_up.set()
            await asyncio.Event().wait()
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def run_all(steps: Steps, repeated: Callable[[Steps], Awaitable[object]]) -> None:
    """Run until the outcomes are used up, then cancel."""
    task = asyncio.ensure_future(repeated(steps))
    used_up = asyncio.ensure_future(steps.is_used_up.wait())
    async with asyncio.timeout(10):
        await asyncio.wait({task, used_up}, return_when=asyncio.FIRST_COMPLETED)

    assert not task.done(), "a failed step must not be the last one"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_crash_is_logged_with_its_traceback_each_time_and_ends_nothing() -> None:
    steps = Steps(None, ZeroDivisionError("first"), KeyError("second"))
    with structlog.testing.capture_logs() as lines:
        await run_all(
            steps, lambda step: repeat_until_cancelled(step, 0, partial(log.exception, "watch_crashed", part="x"))
        )
    assert len(steps.began) == 4
    assert [(line["event"], line["part"], line["log_level"]) for line in lines] == [("watch_crashed", "x", "error")] * 2
    assert all(line["exc_info"] for line in lines)


async def test_the_exception_is_being_handled_when_a_crash_is_noted() -> None:
    seen: list[BaseException | None] = []
    await run_all(
        Steps(ZeroDivisionError("mine")),
        lambda step: repeat_until_cancelled(step, 0, lambda: seen.append(sys.exception())),
    )
    assert [str(each) for each in seen] == ["mine"]


async def test_expected_failures_are_told_with_whether_an_outage_begins() -> None:
    away = StoreUnavailable("away", "wait")
    seen: list[tuple[StoreError, bool]] = []
    crashes: list[None] = []
    await run_all(
        Steps(away, away, KeyError("a crash is no success"), away, None, away),
        lambda step: repeat_until_cancelled(
            step,
            0,
            on_crash=lambda: crashes.append(None),
            expected=Expected(StoreError, lambda failure, is_first: seen.append((failure, is_first))),
        ),
    )
    assert seen == [(away, True), (away, False), (away, False), (away, True)]
    assert len(crashes) == 1


async def test_a_step_follows_after_the_pause_and_at_once_where_there_is_more_to_do() -> None:
    steps = Steps(True, True, False, None, ZeroDivisionError())
    await run_all(steps, lambda step: repeat_until_cancelled(step, 0.2, lambda: None))
    pauses = [after - before for before, after in zip(steps.began, steps.began[1:], strict=False)]
    assert max(pauses[:2]) < 0.15
    assert min(pauses[2:]) >= 0.199


@pytest.mark.parametrize("outcomes", [(), (None,)], ids=["in a step", "in a pause"])
async def test_a_cancellation_ends_it_at_once(outcomes: tuple[None, ...]) -> None:
    crashes: list[None] = []
    task = asyncio.ensure_future(
        repeat_until_cancelled(
            Steps(*outcomes), 3600, lambda: crashes.append(None), Expected(StoreError, lambda _, __: None)
        )
    )
    await asyncio.sleep(0.01)
    assert not task.done()

    started = time.monotonic()
    await cancel_and_wait(task)
    assert task.cancelled()
    assert time.monotonic() - started < 1
    assert not crashes
