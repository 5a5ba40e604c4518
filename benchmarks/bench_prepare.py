"""Time and memory to prepare a large interaction log (``make bench-prepare``).

A log is generated (seeded; a few users and items have most of the interactions; rows in no order of time), written in
chunks to a temporary folder, and prepared by the real command in a fresh process: read, sort by time, filter to the
5-core, number, sort by user, save. ``peak_gib`` is the largest resident set of that process, ``rows_s`` counts the rows
of the input. There is no peer: nothing else that does this work is installed here.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import typer

CHUNK = 2_000_000
FIRST_SECOND = 1_500_000_000
SECONDS = 5 * 365 * 86_400
ROWS_PER_USER = 10
ROWS_PER_ITEM = 100


def chunks(rows: int, seed: int) -> Iterator[pa.Table]:
    """Yield interactions of ``rows / 10`` users with ``rows / 100`` items, ids of 14 and 10 characters."""
    rng = np.random.default_rng(seed)
    users = max(1, rows // ROWS_PER_USER)
    items = max(1, rows // ROWS_PER_ITEM)

    for start in range(0, rows, CHUNK):
        size = min(CHUNK, rows - start)
        frame = pl.DataFrame(
            {
                "user": (users * rng.random(size) ** 2).astype(np.int64),
                "item": (items * rng.random(size) ** 3).astype(np.int64),
                "timestamp": FIRST_SECOND + rng.integers(0, SECONDS, size),
            }
        )
        user = pl.format("A{}", pl.col("user").cast(pl.String).str.zfill(13))
        item = pl.format("B{}", pl.col("item").cast(pl.String).str.zfill(9))
        named = frame.select(user.alias("user_id"), item.alias("item_id"), "timestamp")
        yield named.to_arrow(compat_level=pl.CompatLevel.oldest())


def write_log(path: Path, rows: int, seed: int) -> None:
    """Write the generated log chunk by chunk, in the format of the suffix."""
    tables = chunks(rows, seed)
    first = next(tables)
    writer = pa.csv.CSVWriter(path, first.schema) if path.suffix == ".csv" else pq.ParquetWriter(path, first.schema)
    with writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


class Usage(NamedTuple):
    """Memory and CPU time that child processes have used so far."""

    peak_gib: float  # largest resident set of any of them
    cpu_s: float

    @classmethod
    def of_children(cls) -> Usage:
        """Read the usage of all children that have ended."""
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        unit = 1 if sys.platform == "darwin" else 1 << 10  # bytes there, KiB on Linux
        return cls(used.ru_maxrss * unit / (1 << 30), used.ru_utime + used.ru_stime)


def main(
    rows: Annotated[int, typer.Option(min=1)] = 100_000_000,
    seed: int = 0,
    source: Annotated[Literal["parquet", "csv"], typer.Option(help="Format of the generated log.")] = "parquet",
    folder: Annotated[str, typer.Option(help="Folder for the data; default: the system's temporary folder.")] = "",
) -> None:
    work = Path(tempfile.mkdtemp(prefix="bench-prepare-", dir=folder or None))
    try:
        log = work / f"log.{source}"
        write_log(log, rows, seed)

        command = [sys.executable, "-m", "training.cli", "prepare", "--json"]
        command += ["--data", str(log), "--out", str(work / "out")]
        started = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        seconds = time.perf_counter() - started
        used = Usage.of_children()
        prepared = json.loads(done.stdout)

        typer.echo(
            json.dumps(
                {
                    "bench": "prepare",
                    "rows": rows,
                    "rows_s": round(rows / seconds),
                    "seconds": round(seconds, 1),
                    "cpu_s": round(used.cpu_s, 1),
                    "peak_gib": round(used.peak_gib, 2),
                    "users": prepared["users"],
                    "items": prepared["items"],
                    "interactions": prepared["interactions"],
                    "format": source,
                    "input_gib": round(log.stat().st_size / (1 << 30), 2),
                    "threads": os.cpu_count(),
                    "load": round(os.getloadavg()[0], 2),
                }
            )
        )
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    typer.run(main)
