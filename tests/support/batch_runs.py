"""Batch runs for tests: users files, the command in this process, a runner in this process, and what came out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model_store.console import run
from service.batch.cli import app

Rows = list[dict[str, Any]]


def write_users(path: Path, histories: Mapping[str, Sequence[str] | None]) -> Path:
    """Write a users file; ``None`` stands for a null history."""
    columns = {
        "user_id": pa.array(list(histories), pa.string()),
        "history": pa.array(list(histories.values()), pa.list_(pa.string())),
    }
    pq.write_table(pa.table(columns), path)
    return path


def walks(users: int, longest: int = 6, items: int = 40) -> dict[str, list[str]]:
    """Return histories of 1 to ``longest`` items of the small bundle, all different."""
    return {
        f"u{user:03d}": [f"item-{(user * 7 + step * 3) % items}" for step in range(1 + user % longest)]
        for user in range(users)
    }


def batch(command: str, store: Path, out: Path | str, *options: str) -> int:
    """Run ``etegrec-batch`` in this process, with one process for shards; return its exit code."""
    given = ["--store", str(store), "--out", str(out), "--processes", "1", *options]
    return run(app, "etegrec-batch", [command, *given])


def manifest(out: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's manifest."""
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def answers(out: Path, key: str = "user") -> Rows:
    """Return the rows of all files that the manifest names, sorted by user."""
    tables = [pq.read_table(out / line["file"]) for line in manifest(out)]
    return sorted(pa.concat_tables(tables).to_pylist(), key=lambda row: row[key])


def files(out: Path) -> dict[str, bytes]:
    """Return the content of all files with answers, by name."""
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.parquet"))}
