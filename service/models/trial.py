"""Trial of a promoted version before it is loaded: in a process of its own, with limits of time and memory.

A damaged version can do more than fail: its search may never end, take all memory, or crash ONNX Runtime. The other
process (:mod:`service.models.trial_process`) verifies every file, opens engine and item encoder and replays the goldens
as this one is about to. If it passes, this process loads the very same files: the digest of the manifest says so. If it
does not end in time it is killed, whatever it is doing, and so it is when another version becomes live or this process
shuts down.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from model_store.bundle.registry import ModelStore
from model_store.errors import BundleRefused, ConfigError, EtegrecError, LoadTimeout, ModelStoreError
from service.settings import ENV_PREFIX, Settings


class Tried(NamedTuple):
    """What a trial found."""

    digest: str  # of the manifest that was tried
    memory_bytes: int  # that loading the version took at most; the size of its files where it was not loaded


Trial = Callable[[str], Awaitable[Tried]]
"""Tries a version, given by name.

Raises:
    BundleRefused: The version must not be loaded.
    EtegrecError: It could not be tried now.
"""

TRIAL_MODULE = "service.models.trial_process"

NEEDED_SETTINGS = {
    "store",
    "namespace",
    "trusted_keys_file",
    "engine",
    "threads",
    "searches",
    "onnx_precision",
    "max_batch",
    "log_level",
    "rule_cache_entries",
    "load_timeout_s",
    "load_memory_mb",
}
"""Settings that the other process gets. It has no use for keys and the store, and no GPU for ``torch_precision``."""

REFUSED_HINT = "promote another version, or publish this one again; `etegrec-models verify` says more about its files"

PASSED_ERRORS: tuple[type[EtegrecError], ...] = (BundleRefused, ModelStoreError, ConfigError, EtegrecError)
"""Kinds of errors that the other process tells apart; an error is passed as the first one that it is."""


class FileCheck:
    """Trial in this process that verifies every file of a version and opens none; for engines that tests bring."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store

    async def __call__(self, version: str) -> Tried:
        """See :data:`Trial`."""
        return await asyncio.to_thread(self._verify, version)

    def _verify(self, version: str) -> Tried:
        bundle = self._store.bundle(version)
        bundle.verify_hashes()
        return Tried(bundle.manifest.digest, bundle.manifest.size)


class ProcessTrial:
    """Trial in a process of its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def __call__(self, version: str) -> Tried:
        """See :data:`Trial`.

        Raises:
            LoadTimeout: The version was not loaded in ``load_timeout_s``.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # nothing is imported from the working directory unless this process does, too
            "-m",
            TRIAL_MODULE,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=_environment(self._settings),
            start_new_session=True,  # Ctrl-C is meant for this process, which ends the other one itself
        )
        try:
            async with asyncio.timeout(self._settings.load_timeout_s):
                answer = await self._ask(process, version)
                code = await process.wait()
        except TimeoutError:
            raise LoadTimeout(
                f"version {version} was not loaded within {self._settings.load_timeout_s:g} s and was given up",
                f"{REFUSED_HINT}; if it only is large, raise {ENV_PREFIX}LOAD_TIMEOUT_S",
            ) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

        if not answer.endswith(b"\n"):
            raise _crash(version, code)
        return _read_answer(answer)

    async def _ask(self, process: asyncio.subprocess.Process, version: str) -> bytes:
        """Send the question and return the line that answers it, which lacks its end if the process ended before.

        Its input stays open: the other process ends when it closes, however this one came to its end.
        """
        assert process.stdin is not None
        assert process.stdout is not None
        question = {"version": version, "settings": self._settings.model_dump(mode="json", include=NEEDED_SETTINGS)}
        try:
            process.stdin.write(json.dumps(question).encode() + b"\n")
            await process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            return b""  # its exit code tells more
        return await process.stdout.readline()


def _environment(settings: Settings) -> dict[str, str]:
    """Return the environment of the other process: no setting of this one, which may be a secret."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    kept["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    kept["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # the others reserve more memory than they use, which would count
    if settings.engine == "torch":
        kept["CUDA_VISIBLE_DEVICES"] = ""  # the memory of the GPU is for the models that serve
    return kept


def _read_answer(answer: bytes) -> Tried:
    """Return what the other process answered, or raise the error that it met."""
    found: dict[str, Any] = json.loads(answer)
    if "digest" in found:
        return Tried(str(found["digest"]), int(found["memory_bytes"]))
    kind = next(each for each in PASSED_ERRORS if each.__name__ == found["error"])
    raise kind(found["message"], found["hint"])


def _crash(version: str, code: int) -> BundleRefused:
    """Return the error for a process that ended without an answer."""
    ended = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return BundleRefused(
        f"version {version} refused: the process that tried to load it {ended}",
        f"{REFUSED_HINT}; if memory was short, see {ENV_PREFIX}LOAD_MEMORY_MB",
    )
