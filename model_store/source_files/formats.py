"""Formats of tables by the suffix of their file, and units of times by their size."""

from __future__ import annotations

from pathlib import Path, PurePath

from model_store.errors import DataError

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
"""Suffixes of files that hold one JSON object a line."""

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", *JSON_SUFFIXES)
"""Suffixes of tables that are recognised; text files may also end with ``.gz``."""

UNITS = ((10**17, 10**9), (10**14, 10**6), (10**11, 10**3))
"""Pairs of a least number and the units per second that such a number has (10**11 s would be the year 5138)."""


def format_suffix(path: PurePath) -> str:
    """Return the suffix that tells the format, in lower case and without a final ``.gz``."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def check_file(path: Path) -> None:
    """Check that a file is there and holds something.

    Raises:
        DataError: It does not.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder", "name one file of it")
    if not path.exists():
        raise DataError(f"{path} does not exist", "check the path")
    if not path.stat().st_size:
        raise DataError(f"{path.name} is empty", "check the export")


def units_per_second(newest: int) -> int:
    """Return the units per second of Unix times, judged by the largest number."""
    return next((unit for least, unit in UNITS if newest >= least), 1)
