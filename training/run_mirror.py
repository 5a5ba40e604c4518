"""Mirror of a run folder in a bucket: if the machine is lost, the same command resumes the run on another one.

Training reads and writes its folder on the local disk. A thread copies what changed to the mirror, every half minute:
files in the order in which they were written, then it deletes those that are gone. So at any moment the mirror is a
folder as a run that was killed leaves it, half a minute old.

Only one machine may go on with a mirrored run. Each that begins writes its name into the mirror; one that finds another
name there stops copying.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model_store.bundle.storage import Folder
from model_store.durable_files import write_durably
from model_store.errors import CheckpointError, ConfigError, EtegrecError, ModelStoreError
from training.data.remote import redacted
from training.run_folder import CONFIG

COPY_EVERY_S = 30.0
"""Seconds from one copy to the next."""

MARK = "mirror.json"
"""File of a mirror that tells which process writes it; nothing else makes a folder a mirror."""

STATE = ".mirror.json"
"""File of a run folder that tells which mirror it has, and what was copied."""

NOT_COPIED = ("tensorboard/",)
"""What only people look at. Files whose names begin with a dot are not copied either."""

_LONGEST_MARK = 1000  # bytes

Say = Callable[[str], None]
Changed = tuple[int, int]
"""Time of the last change of a file, in nanoseconds, and its bytes."""


class RunMirror:
    """Copy of a run folder.

    Args:
        path: The run folder; it need not exist.
        url: Folder of the mirror, by fsspec; it need not exist.

    Raises:
        ConfigError: The protocol is unknown or its driver is not installed.
        CheckpointError: The server cannot be reached.
    """

    def __init__(self, path: Path, url: str) -> None:
        self._path = path
        self._url = redacted(url)
        with self._as_checkpoint_error():
            self._there = Folder.at(url)
        self._writer = secrets.token_hex(8)
        self._writers: list[str] = []  # names that the mirror may have after this process
        self._copied: dict[str, Changed] = {}

    def open(self) -> int:
        """Take over the mirror; bring what it has into the folder, if that has no run.

        Returns:
            The number of files that were brought.

        Raises:
            ConfigError: One of the folders lies in the other.
            CheckpointError: The mirror is that of another folder, or is none, or cannot be read or written.
        """
        self._refuse_nested()
        with self._as_checkpoint_error():
            last = self._last_writer()
            if last is None and self._there.entries():
                raise CheckpointError(
                    f"{self._url} is not empty and no mirror of a run", "give an empty or a new folder as --mirror"
                )

            brought = 0
            if last is not None and not (self._path / CONFIG).is_file():
                brought = self._bring()
            elif last is not None:
                self._go_on_after(last)

            # A process that is killed between the two finds its name in the folder whichever the mirror has.
            self._writers = [self._writer] if last is None else [last, self._writer]
            self._keep_state()
            self._there.write(MARK, json.dumps({"writer": self._writer}).encode())
        return brought

    def copy(self) -> int:
        """Copy what changed since the last copy.

        Returns:
            The number of files that were copied.

        Raises:
            CheckpointError: Another machine went on with the run, or the mirror cannot be written.
        """
        with self._as_checkpoint_error():
            if self._last_writer() != self._writer:
                raise CheckpointError(
                    f"another machine goes on with the run in {self._url}, so this one copies nothing any more",
                    f"remove {self._path} and start the command again to go on with what the mirror has",
                )
            found = self._files()
            changed = sorted((at, name) for name, at in found.items() if self._copied.get(name) != at)
            for at, name in changed:
                self._upload(name, at)
            for name in self._copied.keys() - found.keys():
                self._there.remove(name)
                del self._copied[name]
            self._keep_state()
        return len(changed)

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
        self._copied = {name: (changed, size) for name, (changed, size) in state["copied"].items()}

    def _upload(self, name: str, at: Changed) -> None:
        try:
            self._there.upload(self._path / name, name)
        except ModelStoreError as cause:
            if isinstance(cause.__cause__, FileNotFoundError) and not (self._path / name).exists():
                return  # it was removed meanwhile: the next copy removes it there
            raise
        self._copied[name] = at

    def _bring(self) -> int:
        """Copy all files of the mirror into the folder; its configuration comes last and makes it a run."""
        names = [entry.name for entry in self._there.files() if entry.name != MARK]
        for name in sorted(names, key=lambda name: name == CONFIG):
            self._there.download(name, self._path / name)
        self._copied = self._files()
        return len(names)

    def _files(self) -> dict[str, Changed]:
        """Return the files of the folder that are copied."""
        found: dict[str, Changed] = {}
        for path in self._path.rglob("*"):
            name = path.relative_to(self._path).as_posix()
            if name.startswith(NOT_COPIED) or any(part.startswith(".") for part in name.split("/")):
                continue
            try:
                status = path.stat()
            except FileNotFoundError:  # removed meanwhile
                continue
            if path.is_file():
                found[name] = status.st_mtime_ns, status.st_size
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
        try:
            found: dict[str, Any] = json.loads((self._path / STATE).read_bytes())
        except FileNotFoundError:
            return {}
        return found

    def _keep_state(self) -> None:
        self._path.mkdir(parents=True, exist_ok=True)
        state = {"writers": self._writers, "copied": self._copied}
        write_durably(self._path / STATE, json.dumps(state).encode())

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
def mirrored(path: Path, url: str, say: Say) -> Iterator[None]:
    """Mirror a run folder for a ``with`` block, at the end of it once more.

    A copy that fails is told and tried again; only at the end it is an error.

    Args:
        path: The run folder; what the mirror has is brought into it if it has no run.
        url: Folder of the mirror, by fsspec.
        say: Called with one line of text.

    Raises:
        CheckpointError: See :meth:`RunMirror.open` and :meth:`RunMirror.copy`.
    """
    mirror = RunMirror(path, url)
    brought = mirror.open()
    if brought:
        say(f"{brought} files of the run brought from {redacted(url)}")

    is_over = threading.Event()

    def copy_until_over() -> None:
        while not is_over.wait(COPY_EVERY_S):
            _try_to_copy(mirror, say)

    thread = threading.Thread(target=copy_until_over, name="run-mirror")
    thread.start()
    try:
        yield
    except BaseException:
        is_over.set()
        thread.join()
        _try_to_copy(mirror, say)
        raise
    is_over.set()
    thread.join()
    mirror.copy()


def _try_to_copy(mirror: RunMirror, say: Say) -> None:
    try:
        mirror.copy()
    except CheckpointError as failure:
        say(f"not mirrored: {failure}")
