"""Learning curves as TensorBoard events, written as they come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from training.loop.progress import Bar, Progress


class TensorboardProgress:
    """Progress that also writes the values of every epoch as TensorBoard events, into one folder a stage.

    A stage that is resumed records its epochs since the last save again. Its writer tells TensorBoard the first of
    them, and TensorBoard drops earlier events from there on: no epoch shows twice.
    """

    def __init__(self, inner: Progress, folder: Path) -> None:
        self._inner = inner
        self._folder = folder

    @contextmanager
    def track(self, description: str, total: int, done: int = 0) -> Iterator[Bar]:
        """See :class:`training.loop.progress.Progress`."""
        with self._inner.track(description, total, done) as bar:
            recording = _RecordingBar(bar, self._folder)
            try:
                yield recording
            finally:
                recording.close()

    def say(self, line: str) -> None:
        """See :class:`training.loop.progress.Progress`."""
        self._inner.say(line)


class _RecordingBar(Bar):
    def __init__(self, bar: Bar, folder: Path) -> None:
        self._bar = bar
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def advance(self, n: int = 1, note: str = "") -> None:
        self._bar.advance(n, note)

    def record(self, epoch: int, values: Mapping[str, float]) -> None:
        self._bar.record(epoch, values)

        if self._writer is None:
            self._writer = SummaryWriter(str(self._folder), purge_step=epoch)
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
