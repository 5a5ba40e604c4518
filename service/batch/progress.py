"""Messages about the progress of a batch run, every few seconds, also while a shard takes long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TOLD_EVERY_S = 5.0
"""Seconds between two messages about progress."""

Say = Callable[[str], None]


class Progress:
    """What a run has done so far, and how long the rest will take.

    Args:
        rows: Users or items of the whole run.
        done: Those that are finished already.
        say: Takes a message; it may be called from another thread.
        clock: Returns seconds.
    """

    def __init__(self, rows: int, done: int, say: Say, clock: Callable[[], float] = time.monotonic) -> None:
        self._rows = rows
        self._before = done
        self._say = say
        self._clock = clock
        self._started = clock()
        self._finished = (done, self._started)  # users or items, and when the last of them were

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    def add(self, rows: int) -> None:
        """Count finished users or items."""
        done, _ = self._finished
        self._finished = (done + rows, self._clock())

    def tell(self) -> None:
        """Say how far the run is.

        Shards end seldom, so the rate is that until the last one ended, and since then the time left runs down.
        """
        done, at = self._finished
        so_far = f"{done:,} of {self._rows:,} ({done / self._rows:.0%})" if self._rows else "0 of 0"
        if done == self._before:
            self._say(f"{so_far}, {_duration(self.seconds)} so far, no shard has ended yet")
            return

        rate = (done - self._before) / max(at - self._started, 1e-9)
        left = (self._rows - done) / rate - (self._clock() - at)
        self._say(f"{so_far}, {rate:,.0f} a second, {_duration(max(left, 0.0))} left")

    @contextmanager
    def told_regularly(self, every_s: float) -> Iterator[None]:
        """Say it every few seconds, by a thread, until the block ends."""
        ended = threading.Event()

        def tell_until_the_end() -> None:
            while not ended.wait(every_s):
                self.tell()

        thread = threading.Thread(target=tell_until_the_end, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
