"""Mirror of a run folder in a bucket: if the machine is lost, the same command resumes the run on another one.

Training reads and writes its folder on the local disk. A thread copies what changed to the mirror, every half minute:
files in the order in which they were written, then it deletes those that are gone. So at any moment the mirror is a
folder as a run that was killed leaves it, half a minute old.

Only one machine may go on with a mirrored run. Each that begins writes its name into the mirror; one that finds another
name there stops copying.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

from filelock import FileLock, Timeout

from model_store.bundle.storage import Folder
from model_store.durable_files import write_durably
from model_store.errors import CheckpointError, ConfigError, EtegrecError, LockHeld, ModelStoreError
from training.data.remote import redacted
from training.run_folder import CONFIG

COPY_EVERY_S = 30.0
"""Seconds from one copy to the next."""

MARK = "mirror.json"
"""File of a mirror that tells which process writes it; nothing else makes a folder a mirror."""

STATE = ".mirror.json"
"""File of a run folder that tells which mirror it has, and what was copied."""

LOCK = ".mirror.lock"

NOT_COPIED = "tensorboard"
"""Folder that only people look at. Files and folders whose names begin with a dot are not copied either."""

_ONE_SLASH = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:/?(?!/)")
_LONGEST_MARK = 1000  # bytes

Say = Callable[[str], None]
T = TypeVar("T")
Changed = tuple[int, int]
"""Time of the last change of a file, in nanoseconds, and its bytes."""


class RunMirror:
    """Copy of a run folder.

    Args:
        path: The run folder; it need not exist.
        url: Folder of the mirror, by fsspec; it need not exist.

    Raises:
        ConfigError: This is no URL, its protocol is unknown, its driver is not installed, or one of the folders lies in
            the other.
        CheckpointError: The server cannot be reached.
    """

    def __init__(self, path: Path, url: str) -> None:
        if not url or _ONE_SLASH.match(url):
            raise ConfigError(f"--mirror {url!r} is neither a URL nor a path", "give one such as s3://bucket/run")
        self._path = path
        self._url = redacted(url)
        with self._as_checkpoint_error():
            self._there = Folder.at(url)
        self._refuse_nested()
        self._writer = secrets.token_hex(8)
        self._writers: list[str] = []  # names that the mirror may have after this process
        self._copied: dict[str, Changed] = {}

    def bring(self) -> int:
        """Bring what the mirror has into the folder, if that has no run.

        Returns:
            The number of files that were brought.

        Raises:
            CheckpointError: The mirror is none, or cannot be read; or the folder has other files.
        """
        with self._as_checkpoint_error():
            last = self._last_writer()
            if last is None and self._there.entries():
                raise CheckpointError(
                    f"{self._url} is not empty and no mirror of a run", "give an empty or a new folder as --mirror"
                )
            if last is None or (self._path / CONFIG).is_file():
                return 0

            # What begins with a dot is no file of a run, nor is what leads out of the folder.
            names = [entry.name for entry in self._there.files() if entry.kind == "file" and _is_copied(entry.name)]
            names.remove(MARK)
            others = self._files().keys() - set(names) if self._path.exists() else set()
            if others:
                raise CheckpointError(
                    f"{self._path} has no run and is not empty (it has {min(others)})", "give an empty folder as --out"
                )
            self._keep_state([last])
            for name in sorted(names, key=lambda name: name == CONFIG):  # which makes it a run
                self._there.download(name, self._path / name)
            self._copied = self._files()
            self._keep_state([last])
        return len(names)

    def take_over(self) -> None:
        """Become the one that writes the mirror.

        Raises:
            CheckpointError: Another machine did, or the mirror is that of another run.
        """
        with self._as_checkpoint_error():
            last = self._last_writer()
            if last is not None:
                self._go_on_after(last)
            # A process that is killed between the two finds its name in the folder whichever the mirror has.
            self._keep_state([self._writer] if last is None else [last, self._writer])
            self._there.write(MARK, json.dumps({"writer": self._writer}).encode())

    def copy(self) -> int:
        """Copy what changed since the last copy.

        Returns:
            The number of files that were copied.

        Raises:
            CheckpointError: Another machine went on with the run, the mirror cannot be written, or one of the folders
                is gone.
        """
        with self._as_checkpoint_error():
            self._require_own_mark()
            if CONFIG in self._copied and not (self._path / CONFIG).is_file():
                raise CheckpointError(
                    f"{self._path} is gone, or is no run folder any more, so nothing is copied",
                    "start the command again: it brings back what the mirror has",
                )
            found = self._files()
            changed = sorted((at, name) for name, at in found.items() if self._copied.get(name) != at)
            for at, name in changed:
                self._require_own_mark()  # a machine that slept in the middle of a copy must not go on with it
                self._upload(name, at)
            for name in self._copied.keys() - found.keys():
                self._require_own_mark()
                self._there.remove(name)
                del self._copied[name]
            self._keep_state(self._writers)
        return len(changed)

    def _require_own_mark(self) -> None:
        writer = self._last_writer()
        if writer is None:
            raise CheckpointError(
                f"{self._url} has no {MARK} any more: it was emptied, or it is another folder now",
                "see that it is there and empty, and start the command again: it copies everything",
            )
        if writer != self._writer:
            raise CheckpointError(
                f"another machine goes on with the run in {self._url}, so this one copies nothing any more",
                f"unless {self._path} is finished and all you want: remove it, and start the command again to go on "
                "with what the mirror has",
            )

    def _refuse_nested(self) -> None:
        there = self._there.local
        if there is None:
            return
        here = self._path.resolve()
        there = there.resolve()
        if here.is_relative_to(there) or there.is_relative_to(here):
            raise ConfigError(f"--mirror {there} and --out {here} lie in each other", "give two separate folders")

    def _go_on_after(self, last: str) -> None:
        """Take over what a process of this machine copied, if it was the last one."""
        state = self._read_state()
        if last not in state.get("writers", ()):
            raise CheckpointError(
                f"another machine went on with the run in {self._url}, or {self._path} is another run",
                f"remove {self._path} to go on with what the mirror has, or give another --mirror",
            )
        sizes = {entry.name: entry.size for entry in self._there.files()}
        copied: dict[str, Changed] = {name: (at, size) for name, (at, size) in state["copied"].items()}
        self._copied = {name: at for name, at in copied.items() if sizes.get(name) == at[1]}

    def _upload(self, name: str, at: Changed) -> None:
        try:
            self._there.upload(self._path / name, name)
        except ModelStoreError as cause:
            if isinstance(cause.__cause__, FileNotFoundError) and not (self._path / name).exists():
                return  # it was removed meanwhile: the next copy removes it there
            raise
        self._copied[name] = at

    def _files(self) -> dict[str, Changed]:
        """Return the files of the folder that are copied."""
        found: dict[str, Changed] = {}
        for folder, _, names in os.walk(self._path, onerror=_reraise, followlinks=True):
            for name in names:
                path = Path(folder, name)
                relative = path.relative_to(self._path).as_posix()
                if not _is_copied(relative):
                    continue
                try:
                    status = path.stat()
                except FileNotFoundError:  # removed meanwhile
                    continue
                if stat.S_ISREG(status.st_mode):
                    found[relative] = status.st_mtime_ns, status.st_size
        return found

    def _last_writer(self) -> str | None:
        """Return the name in the mirror; ``None`` if it is none yet."""
        mark = self._there.read(MARK, _LONGEST_MARK)
        if mark is None:
            return None
        try:
            return str(json.loads(mark)["writer"])
        except (ValueError, KeyError, TypeError) as cause:
            raise CheckpointError(
                f"{MARK} in {self._url} cannot be read: {cause}", "give another folder as --mirror"
            ) from cause

    def _read_state(self) -> dict[str, Any]:
        """Return what was kept; nothing if the file is missing or damaged, as then nobody can say whose it was."""
        try:
            found: dict[str, Any] = json.loads((self._path / STATE).read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return found

    def _keep_state(self, writers: list[str]) -> None:
        self._writers = writers
        self._path.mkdir(parents=True, exist_ok=True)
        write_durably(self._path / STATE, json.dumps({"writers": writers, "copied": self._copied}).encode())

    @contextmanager
    def _as_checkpoint_error(self) -> Iterator[None]:
        try:
            yield
        except ModelStoreError as cause:
            raise CheckpointError(f"the mirror of the run: {cause}", cause.hint) from cause
        except EtegrecError:
            raise
        except Exception as cause:  # drivers raise errors of their own
            raise CheckpointError(
                f"the mirror of the run in {self._url}: {type(cause).__name__}: {cause}",
                "check its address, and that this user may access it",
            ) from cause


@contextmanager
def mirrored(path: Path, url: str, open_run: Callable[[], T], say: Say) -> Iterator[T]:
    """Mirror a run folder for a ``with`` block, and once more at its end, also if that comes by an error or SIGTERM.

    A copy that fails is told and tried again; only at the end it is an error.

    Args:
        path: The run folder; what the mirror has is brought into it if it has no run.
        url: Folder of the mirror, by fsspec.
        open_run: Opens the run in the folder. If it refuses, the mirror stays as it is.
        say: Called with one line of text.

    Yields:
        What ``open_run`` returned.

    Raises:
        LockHeld: Another process mirrors the folder.
        CheckpointError: See the methods of :class:`RunMirror`.
    """
    mirror = RunMirror(path, url)
    with _locked(path), _exiting_on_sigterm():
        brought = mirror.bring()
        if brought:
            say(f"{brought} files of the run brought from {redacted(url)}")
        run = open_run()
        mirror.take_over()

        is_over = threading.Event()
        thread = threading.Thread(target=_copy_until, args=(is_over, mirror, say), name="run-mirror")
        thread.start()
        try:
            yield run
        except BaseException:
            is_over.set()
            thread.join()
            _try_to_copy(mirror, say)
            raise
        is_over.set()
        thread.join()
        mirror.copy()


def _copy_until(is_over: threading.Event, mirror: RunMirror, say: Say) -> None:
    while not is_over.wait(COPY_EVERY_S):
        _try_to_copy(mirror, say)


def _try_to_copy(mirror: RunMirror, say: Say) -> None:
    try:
        mirror.copy()
    except CheckpointError as failure:
        say(f"not mirrored: {failure}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(path / LOCK).acquire(timeout=0)
    except Timeout as cause:
        raise LockHeld(f"another process mirrors {path}", "wait for it, or give another --out") from cause
    with lock:
        yield


@contextmanager
def _exiting_on_sigterm() -> Iterator[None]:
    """Let SIGTERM, by which machines are told that they end, raise :class:`SystemExit`."""
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _is_copied(name: str) -> bool:
    """Tell whether a file of the folder, named relative to it, belongs to the mirror."""
    parts = name.split("/")
    return parts[0] != NOT_COPIED and not any(part.startswith(".") or not part for part in parts)


def _reraise(error: OSError) -> NoReturn:
    raise error
