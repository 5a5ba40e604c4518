"""Lock of the writers of a model store on a local disk: one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from model_store.errors import LockHeld, ModelStoreError

_LOCK = ".lock"


class WriterLock:
    """Lock that ends with the process that holds it, also if that is killed.

    Args:
        folder: Folder of the model store; ``None`` if it is not on a local disk, which then has no lock.
        url: Its place, for messages.
        timeout_s: Longest wait for another writer.
    """

    def __init__(self, folder: Path | None, url: str, timeout_s: float) -> None:
        self._lock = None if folder is None else FileLock(folder / _LOCK, timeout=timeout_s)
        self._url = url

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock during the block; may be nested in one thread.

        Raises:
            LockHeld: Another writer did not finish in time.
            ModelStoreError: The folder cannot be locked.
        """
        if self._lock is None:
            yield
            return

        try:
            self._lock.acquire()
        except Timeout as cause:
            raise LockHeld(
                f"another process is writing to the model store {self._url}",
                "wait until it has finished and try again; the lock ends with the process that holds it",
            ) from cause
        except OSError as cause:
            raise ModelStoreError(
                f"cannot lock the model store {self._url}: {cause.strerror or cause}",
                "check that the folder exists and that this user may write to it",
            ) from cause

        try:
            yield
        finally:
            self._lock.release()
