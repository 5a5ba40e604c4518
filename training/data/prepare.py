"""From a source to a prepared data set on disk: read, filter, number, save; nothing is redone for equal input."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import Field

from model_store.durable import write_durably
from model_store.errors import DataError
from training.data.dataset import Dataset
from training.data.movielens import OFFICIAL, fetch_movielens_100k
from training.data.raw import RawData
from training.data.readers import ReadOptions, read_source, source_files
from training.data.storage import is_prepared, load_dataset, save_dataset

MOVIELENS_100K = "ml-100k"
"""The source name that stands for fetching MovieLens-100K."""

_RECIPE = 1  # raise it when the same input and options come to give another data set
_KEY_FILE = "prepared_from.txt"


class PrepareOptions(ReadOptions):
    """How to read and filter a source.

    The 5-core (users and items with at least five interactions among themselves) is the field's customary filter: what
    has fewer cannot be both trained and tested on. It takes 333 of the 1,682 items of MovieLens-100K, and 0.7% of its
    interactions.
    """

    min_user: int = Field(5, ge=1, description="fewest interactions of a user that is kept")
    min_item: int = Field(5, ge=1, description="fewest interactions of an item that is kept")
    min_length: int = Field(1, ge=1, description="users with fewer interactions after that are dropped")
    ties: Literal["input", "shuffled"] = Field(
        "input",
        description="order of a user's interactions at the same time: as in the input, or, for inputs sorted by item, "
        "shuffled (the same way every time)",
    )


def prepare(
    source: str, out: Path, options: PrepareOptions, say: Callable[[str], None], cache: Path | None = None
) -> Dataset:
    """Prepare a source, or reuse what ``out`` holds if input and options are the same.

    Args:
        source: ``ml-100k``, or the path of a file or folder in a format of :mod:`training.data.readers`.
        out: Folder of the prepared data set.
        options: How to read and filter.
        say: Told in one line each what was done.
        cache: Where fetched originals are kept; default: the folder ``downloads`` beside ``out``.

    Raises:
        DataError: The source cannot be used; DownloadError if it cannot be fetched.
    """
    fetched = source == MOVIELENS_100K and not Path(source).exists()
    key = _input_key(None if fetched else Path(source), options)
    reused = _reusable(out, key)
    if reused is not None:
        say(f"{reused.name}: prepared before, reused from {out}")
        return reused
    if fetched:
        raw = fetch_movielens_100k((cache or out.parent / "downloads") / MOVIELENS_100K, say)
    else:
        raw = read_source(Path(source), options)
    dataset = build_dataset(raw, options)
    (out / _KEY_FILE).unlink(missing_ok=True)
    save_dataset(dataset, out)
    write_durably(out / _KEY_FILE, f"{key}\n".encode())
    for note in dataset.notes:
        say(f"{dataset.name}: {note}")
    return dataset


def open_or_prepare(source: str, out: Path, options: PrepareOptions, say: Callable[[str], None]) -> Dataset:
    """Read a source that is a prepared data set already, else :func:`prepare` it; the arguments are the same."""
    if is_prepared(Path(source)):
        return load_dataset(Path(source))
    return prepare(source, out, options, say)


def build_dataset(raw: RawData, options: PrepareOptions) -> Dataset:
    """Filter what was read, and number it.

    Raises:
        DataError: Nothing is left.
    """
    frame = k_core(raw.interactions, options.min_user, options.min_item)
    frame = frame.filter(pl.len().over("user") >= options.min_length)
    if options.ties == "shuffled":
        frame = _shuffle_ties(frame)
    dropped = len(raw.interactions) - len(frame)
    dataset = Dataset.from_frame(raw.name, frame, raw.items)
    note = (
        f"{dataset.users:,} users, {dataset.n_items:,} items, {dataset.interactions:,} interactions "
        f"(density {dataset.density:.2%}); filters dropped {dropped:,} interactions"
    )
    return replace(dataset, notes=(note,))


def k_core(frame: pl.DataFrame, min_user: int, min_item: int) -> pl.DataFrame:
    """Drop rare items and users until every user left has ``min_user`` and every item ``min_item`` interactions."""
    before = -1
    while before != frame.height:
        before = frame.height
        frame = frame.filter(pl.len().over("item") >= min_item).filter(pl.len().over("user") >= min_user)
    return frame


def _shuffle_ties(frame: pl.DataFrame) -> pl.DataFrame:
    """Order by time, then by a checksum of user and item: arbitrary, but independent of the input and of the run."""
    pairs = zip(frame["user"].to_list(), frame["item"].to_list(), strict=True)
    checksums = [zlib.crc32(f"{user}\0{item}".encode()) for user, item in pairs]
    shuffled = frame.with_columns(pl.Series("checksum", checksums, dtype=pl.UInt32))
    return shuffled.sort("timestamp", "checksum", maintain_order=True).drop("checksum")


def _input_key(path: Path | None, options: PrepareOptions) -> str:
    """SHA-256 of everything that decides the result."""
    digest = hashlib.sha256(f"{_RECIPE}\n{options.model_dump_json()}\n".encode())
    if path is None:
        digest.update(OFFICIAL.interactions_sha256.encode())
    elif path.exists():
        files = source_files(path) + ([Path(options.items_file)] if options.items_file else [])
        for file in files:
            digest.update(f"{file.name}\n".encode())
            digest.update(_file_hash(file))
    return digest.hexdigest()


def _file_hash(path: Path) -> bytes:
    if not path.is_file():
        raise DataError(f"{path} does not exist", "check the path")
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").digest()


def _reusable(out: Path, key: str) -> Dataset | None:
    """The prepared data set, if it is whole and came from the same input; otherwise it is made again."""
    stored = out / _KEY_FILE
    if not stored.is_file() or stored.read_text(encoding="ascii", errors="replace").strip() != key:
        return None
    try:
        return load_dataset(out)
    except DataError:
        return None
