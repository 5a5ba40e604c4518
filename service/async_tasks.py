"""Helpers for asynchronous tasks: run several together, repeat one for ever, cancel one for certain."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar

T = TypeVar("T")
E = TypeVar("E", bound=Exception)


async def gather_or_cancel(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Return all results in order; the first failure cancels the rest."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def gather_all(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return all results in order. All come to their end, then the first failure is raised."""
    outcomes = await asyncio.gather(*works, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]


@dataclass(frozen=True)
class Expected(Generic[E]):
    """A kind of failure that a repeated step may have without a defect, such as a store that is away.

    Attributes:
        kind: Class of the failures.
        note: Called with each of them, and with whether it is the first since a step last succeeded: most are worth a
            line in the log once per outage, not at every try.
    """

    kind: type[E]
    note: Callable[[E, bool], object]


async def repeat_until_cancelled(
    step: Callable[[], Awaitable[bool | None]],
    pause_s: float,
    on_crash: Callable[[], object],
    expected: Expected[Any] | None = None,
) -> NoReturn:
    """Run a step, pause, and run it again. No failure ends this, only a cancellation does, and at once.

    Args:
        step: What is done; ``True`` as its result means that there is more to do, and leaves out the pause.
        pause_s: Seconds between the end of a step and the next one.
        on_crash: Called while an exception is handled that nobody expected, so that ``log.exception`` shows it.
        expected: Failures that are not crashes.
    """
    expected_kind = expected.kind if expected else ()
    is_failing = False
    while True:
        has_more = False
        try:
            has_more = await step() is True
            is_failing = False
        except expected_kind as failure:
            assert expected is not None
            expected.note(failure, not is_failing)
            is_failing = True
        except Exception:  # noqa: BLE001  the caller knows what to log and count
            on_crash()

        await asyncio.sleep(0 if has_more else pause_s)


async def cancel_and_wait(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it is over, and ignore what it raises.

    To cancel once is not enough: ``asyncio.wait_for`` of Python 3.11, which the Redis client uses, loses a cancellation
    that comes at the very moment when its result is ready.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.1)

    if not task.cancelled():
        task.exception()  # else asyncio would report that nobody looked at it
