"""Folder of a batch run: its plan, the inputs of its shards, the finished ones and their manifest.

    plan.json           the plan; written when all inputs are, so a run without it begins anew
    manifest.jsonl      one line for each finished shard, appended after its file is complete
    part-00000.parquet  the answers of a shard; only files that the manifest names count
    inputs/             users and their histories, what was read of the store, and the key that signs attributions;
                        only the owner may read them, and they are removed when all shards are done

Each shard counts exactly once: its file is written under another name and renamed, and then gets its line. A process
that is killed in between leaves a file without a line, which the next run replaces by the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_store.attribution.keys import AttributionKey
from model_store.durable_files import sync_folder, write_all, write_durably
from model_store.errors import ConfigError, DataError, LockHeld
from model_store.work_folder import WorkFolder
from service.batch.plan import Plan

PLAN = "plan.json"
MANIFEST = "manifest.jsonl"
INPUTS = "inputs"
LIVE_CATALOGUE = "catalogue.bin"
EVENT_COUNTS = "event_counts.json"
ATTRIBUTION_KEY = "attribution.key"

OWNER_ONLY = 0o600
"""Mode of files with histories or keys."""

_LOCK = ".lock"
_STAGED = ".part-"
_LEFTOVERS = (".part-[0-9]*", "..part-[0-9]*.tmp")  # of this module, and of the durable write below it
_INPUT_NAMES = ("users-*.parquet", LIVE_CATALOGUE, EVENT_COUNTS, ATTRIBUTION_KEY)


class FinishedShard(BaseModel):
    """A line of the manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard: int = Field(ge=0)
    file: str
    rows: int = Field(ge=0, description="users or items that were answered")
    bytes: int = Field(ge=0)
    sha256: str
    counts: dict[str, int] = Field(description="how many of them were answered how")


class RunFolder:
    """The folder of one run, on a disk that all machines of the run share."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._inputs = WorkFolder(path / INPUTS, _INPUT_NAMES)

    @property
    def inputs(self) -> Path:
        """Folder of the inputs."""
        return self._inputs.path

    def input_path(self, shard: int) -> Path:
        """Return the file with the users of a shard."""
        return self.inputs / f"users-{shard:05d}.parquet"

    def output_path(self, shard: int) -> Path:
        """Return the file with the answers of a shard."""
        return self.path / f"part-{shard:05d}.parquet"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other runs out of the folder, which is created if it does not exist.

        Raises:
            ConfigError: The folder holds something that no run has written.
            LockHeld: Another run works in it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if not (self.path / PLAN).exists():
            self._require_own()
        try:
            with FileLock(self.path / _LOCK, timeout=0):
                yield
        except Timeout:
            raise LockHeld(
                f"another batch run works in {self.path}", "wait until it has ended, or give another --out"
            ) from None

    def read_plan(self) -> Plan | None:
        """Return the plan of the run in this folder; ``None`` if none has begun.

        Raises:
            ConfigError: It is the plan of another release.
        """
        path = self.path / PLAN
        if not path.exists():
            return None
        try:
            return Plan.model_validate_json(path.read_bytes())
        except ValidationError as cause:
            raise ConfigError(
                f"{path} is not the plan of a run of this release", "give another --out, or finish with that release"
            ) from cause

    def begin(self, plan: Plan) -> None:
        """Write the plan. From now on the run can be resumed."""
        write_durably(self.path / PLAN, (plan.model_dump_json(indent=2) + "\n").encode())

    def clear_inputs(self) -> None:
        """Make an empty folder for inputs.

        Raises:
            ConfigError: There is such a folder, and no run has written it.
        """
        self._inputs.make_empty(mode=0o700)

    def remove_inputs(self) -> None:
        """Remove the inputs: they hold histories of people, which nobody needs any more."""
        self._inputs.remove()

    def remove_leftovers(self) -> None:
        """Remove the unfinished files of processes that were killed."""
        for pattern in _LEFTOVERS:
            for path in self.path.glob(pattern):
                path.unlink(missing_ok=True)

    def finished(self) -> dict[int, FinishedShard]:
        """Return the shards of the manifest whose file is there.

        Other lines are removed, and their shards repeated: the last one may be cut off where the writer was killed.

        Raises:
            DataError: Another line does not decode.
        """
        path = self.path / MANIFEST
        if not path.exists():
            return {}

        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        try:
            listed = [FinishedShard.model_validate_json(line) for line in whole.splitlines()]
        except ValidationError as cause:
            raise DataError(f"{path} holds a line that is none of a batch run", "give another --out") from cause

        found = {each.shard: each for each in listed if _size(self.path / each.file) == each.bytes}
        if len(found) < len(listed) or len(whole) < len(data):
            write_durably(path, b"".join(_line(each) for each in found.values()))
        return found

    def record(self, shard: FinishedShard) -> None:
        """Append a shard to the manifest, durably."""
        descriptor = os.open(self.path / MANIFEST, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            write_all(descriptor, _line(shard))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def write_shard(self, shard: int, table: Any, rows: int, counts: dict[str, int]) -> FinishedShard:
        """Write the answers of a shard, complete or not at all, and return its line for the manifest.

        Several processes may do so at the same time, if one of them was thought dead: they write the same.
        """
        data = to_parquet(table)
        path = self.output_path(shard)
        staged = self.path / f"{_STAGED}{shard:05d}-{uuid.uuid4().hex}"
        write_durably(staged, data)
        staged.replace(path)
        sync_folder(self.path)
        digest = hashlib.sha256(data).hexdigest()
        return FinishedShard(shard=shard, file=path.name, rows=rows, bytes=len(data), sha256=digest, counts=counts)

    def write_input(self, name: str, data: bytes) -> None:
        """Write a file of the inputs. They hold histories and a key, so only the owner may read them."""
        write_durably(self.inputs / name, data, mode=OWNER_ONLY)

    def write_counts(self, counts: dict[str, float]) -> None:
        """Write the counts of events that rank popular items."""
        self.write_input(EVENT_COUNTS, json.dumps(counts).encode())

    def write_key(self, key: AttributionKey) -> None:
        """Write the key that signs the attributions of the answers; it is removed with the other inputs."""
        self.write_input(ATTRIBUTION_KEY, key.secret)

    def read_key(self) -> AttributionKey | None:
        """Return that key; ``None`` if the run has none."""
        path = self.inputs / ATTRIBUTION_KEY
        return AttributionKey(path.read_bytes()) if path.exists() else None

    def read_counts(self) -> dict[str, float]:
        """Return the counts of events."""
        found: dict[str, float] = json.loads((self.inputs / EVENT_COUNTS).read_bytes())
        return found

    def _require_own(self) -> None:
        """Refuse a folder without a plan that holds what no run has written."""
        for path in sorted(self.path.iterdir()):
            other = self._inputs.foreign() if path.name == INPUTS else _unless_own(path)
            if other is not None:
                raise ConfigError(
                    f"{self.path} is not empty and holds no batch run (it has {other.relative_to(self.path)})",
                    "give an empty folder as --out",
                )


def _unless_own(path: Path) -> Path | None:
    """Return a path unless a run without a plan may have left it: the lock, which is empty, or half a plan."""
    is_own = path.name == f".{PLAN}.tmp" or (path.name == _LOCK and _size(path) == 0)
    return None if is_own else path


def to_parquet(table: Any) -> bytes:
    """Return a table as Parquet. Equal tables give equal bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def _line(shard: FinishedShard) -> bytes:
    return shard.model_dump_json().encode() + b"\n"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1
