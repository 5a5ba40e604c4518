"""Progress of long steps: a bar on a terminal, sparse plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichBars

PLAIN_EVERY_S = 10.0
"""Least time between two plain lines of one step."""


class Bar:
    """Progress bar of one running step. This one shows nothing."""

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count n more units as done. ``note`` (such as the validation metric) stays until replaced."""

    def record(self, epoch: int, values: Mapping[str, float]) -> None:
        """Record losses and metrics of an epoch, counted from 0, for curves; bars on a terminal ignore them."""


class Progress(Protocol):
    """Display of how far steps are."""

    def track(self, description: str, total: int, done: int = 0) -> AbstractContextManager[Bar]:
        """Open a step of ``total`` units for a ``with`` block; an earlier run has done ``done`` of them."""

    def say(self, line: str) -> None:
        """Print one line that stays."""


class TerminalProgress:
    """Bars with percentage, elapsed time and time left."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def track(self, description: str, total: int, done: int = 0) -> Iterator[Bar]:
        """See :class:`Progress`."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )

        with RichBars(*columns, console=self._console) as bars:
            yield _TerminalBar(bars, description, total, done)

    def say(self, line: str) -> None:
        """See :class:`Progress`."""
        self._console.print(line, markup=False, highlight=False)


class _TerminalBar(Bar):
    def __init__(self, bars: RichBars, description: str, total: int, done: int) -> None:
        self._bars = bars
        self._task = bars.add_task(description, total=total, completed=done, note="")

    def advance(self, n: int = 1, note: str = "") -> None:
        self._bars.advance(self._task, n)
        if note:
            self._bars.update(self._task, note=note)


class PlainProgress:
    """Plain lines for logs: at most one every :data:`PLAIN_EVERY_S` seconds, and one at the end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @contextmanager
    def track(self, description: str, total: int, done: int = 0) -> Iterator[Bar]:
        """See :class:`Progress`."""
        bar = _PlainBar(self._stream, description, total, done)
        try:
            yield bar
        finally:
            bar.show("ended")

    def say(self, line: str) -> None:
        """See :class:`Progress`."""
        print(line, file=self._stream, flush=True)


class _PlainBar(Bar):
    def __init__(self, stream: TextIO, description: str, total: int, done: int) -> None:
        self._stream = stream
        self._description = description
        self._total = total
        self._before = done
        self._done = done
        self._note = ""
        self._started = self._shown = time.monotonic()

    def advance(self, n: int = 1, note: str = "") -> None:
        self._done += n
        self._note = note or self._note
        if time.monotonic() - self._shown >= PLAIN_EVERY_S:
            self.show(f"{self._seconds_left():.0f} s left")

    def show(self, state: str) -> None:
        self._shown = time.monotonic()
        percent = 100 * self._done / max(self._total, 1)
        elapsed = self._shown - self._started
        parts = (f"{self._description}: {percent:.0f}%", f"{elapsed:.0f} s", state, self._note)
        print(", ".join(part for part in parts if part), file=self._stream, flush=True)

    def _seconds_left(self) -> float:
        elapsed = time.monotonic() - self._started
        return elapsed * max(self._total - self._done, 0) / max(self._done - self._before, 1)


class SilentProgress:
    """Progress that shows nothing."""

    @contextmanager
    def track(self, description: str, total: int, done: int = 0) -> Iterator[Bar]:
        """See :class:`Progress`."""
        yield Bar()

    def say(self, line: str) -> None:
        """See :class:`Progress`."""


def progress_for(stream: TextIO | None = None, quiet: bool = False) -> Progress:
    """Return bars if the stream (default: standard error) is a terminal, plain lines if not, nothing if ``quiet``."""
    if quiet:
        return SilentProgress()
    target = sys.stderr if stream is None else stream
    return TerminalProgress(Console(file=target)) if target.isatty() else PlainProgress(target)
