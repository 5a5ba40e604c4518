"""Preparation of a data set: read the source, filter, number the ids, save; equal input is reused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from model_store.durable_files import write_durably
from model_store.errors import DataError
from training.data.dataset import Dataset
from training.data.filters import has_min_length, k_core, shuffle_ties
from training.data.movielens import OFFICIAL, fetch_movielens_100k
from training.data.numbering import NumberedIds, number_ids
from training.data.raw import RawData
from training.data.readers import ReadOptions, read_source, source_files
from training.data.remote import is_remote, local_copies, name_of, redacted
from training.data.split import SplitOptions, utc
from training.data.storage import is_prepared, load_dataset, save_dataset

MOVIELENS_100K = "ml-100k"
"""Source name that stands for the download of MovieLens-100K."""

_RECIPE = 3  # raise it whenever the same input and options give a different data set than before
_KEY_FILE = "prepared_from.txt"


class PrepareOptions(ReadOptions, SplitOptions):
    """Options for reading and filtering a source.

    The 5-core (users and items with at least five interactions among themselves) is the usual filter of the field:
    users and items with fewer cannot be both trained and tested on. It drops 333 of the 1,682 items of MovieLens-100K,
    and 0.7% of its interactions.
    """

    min_user: int = Field(5, ge=1, description="users with fewer interactions are dropped")
    min_item: int = Field(5, ge=1, description="items with fewer interactions are dropped")
    min_length: int = Field(1, ge=1, description="users with fewer interactions after these filters are dropped")
    ties: Literal["input", "shuffled"] = Field(
        "input",
        description="order of a user's interactions at the same time: as in the input, or shuffled (the same way every "
        "time), for inputs that are sorted by item",
    )


def prepare(
    source: str,
    out: Path,
    options: PrepareOptions,
    say: Callable[[str], None],
    cache: Path | None = None,
    fetch_again: bool = False,
) -> Dataset:
    """Prepare a source, or reuse the data set in ``out`` if input and options are the same.

    Args:
        source: ``ml-100k``, or the path or URL of a file or folder in a format of :mod:`training.data.readers`, or the
            URL of a database.
        out: Folder of the prepared data set.
        options: Options for reading and filtering.
        say: Called with one line of text for each thing that was done.
        cache: Folder for downloaded files; default: ``downloads`` beside ``out``.
        fetch_again: Fetch what is remote again, as it may have changed; else it counts as the same.

    Raises:
        DataError: The source cannot be used; DownloadError if it cannot be downloaded.
    """
    fetched = source == MOVIELENS_100K and not Path(source).exists()
    key = _input_key(None if fetched else source, options)
    is_new = fetch_again and (is_remote(source) or is_remote(options.items_file))
    reused = None if is_new else _load_if_unchanged(out, key)
    if reused is not None:
        say(f"{reused.name}: prepared before, reused from {out}")
        return reused

    if fetched:
        raw = fetch_movielens_100k((cache or out.parent / "downloads") / MOVIELENS_100K, say)
    else:
        with local_copies(source, options, out, say) as (path, local_options):
            raw = read_source(path, local_options, out)
        raw = replace(raw, name=name_of(source)) if is_remote(source) else raw
    dataset = build_dataset(raw, options)

    # The key is written last: a folder without it is prepared again.
    (out / _KEY_FILE).unlink(missing_ok=True)
    save_dataset(dataset, out)
    write_durably(out / _KEY_FILE, f"{key}\n".encode())

    for note in dataset.notes:
        say(f"{dataset.name}: {note}")
    return dataset


def open_or_prepare(
    source: str, out: Path, options: PrepareOptions, say: Callable[[str], None], fetch_again: bool = False
) -> Dataset:
    """Load a source that is already a prepared data set, or :func:`prepare` it; the arguments are the same."""
    if is_prepared(Path(source)):
        dataset = load_dataset(Path(source))
        if dataset.split != options.split_options:
            say(f"{dataset.name}: keeps the split that it was prepared with, {dataset.split.split}")
        return dataset
    return prepare(source, out, options, say, fetch_again=fetch_again)


def build_dataset(raw: RawData, options: PrepareOptions) -> Dataset:
    """Filter raw interactions and number their ids.

    Raises:
        DataError: The filters leave nothing.
    """
    user = number_ids(raw.interactions["user"])
    item = number_ids(raw.interactions["item"])

    kept = k_core(user.rows, item.rows, options.min_user, options.min_item)
    kept[kept] = has_min_length(user.rows[kept], options.min_length)
    frame = raw.interactions.filter(kept)

    if options.ties == "shuffled":
        kept_user = NumberedIds(user.rows[kept], user.ids)
        kept_item = NumberedIds(item.rows[kept], item.ids)
        frame = frame[shuffle_ties(kept_user, kept_item, frame["timestamp"].to_numpy())]

    dataset = Dataset.from_frame(raw.name, frame, raw.items, split=options.split_options)
    dropped = len(raw.interactions) - len(frame)
    note = (
        f"{dataset.users:,} users, {dataset.n_items:,} items, {dataset.interactions:,} interactions "
        f"(density {dataset.density:.2%}); filters dropped {dropped:,} interactions"
    )
    return replace(dataset, notes=(*raw.notes, note, *_split_notes(dataset)))


def _split_notes(dataset: Dataset) -> tuple[str, ...]:
    """Describe a time split.

    Raises:
        DataError: It leaves no user to evaluate.
    """
    if dataset.cuts is None:
        return ()

    counts = {"validation": len(dataset.validation().users), "test": len(dataset.test().users)}
    if not all(counts.values()):
        raise DataError(
            f"{dataset.name}: the time split leaves {counts['validation']} users for validation and {counts['test']} "
            "for the test: only users who were there before a period and come back in it count",
            "choose longer periods, or data.split=leave_one_out",
        )

    begin = {"validation": dataset.cuts.validation, "test": dataset.cuts.test}
    parts = (f"{part} from {utc(begin[part])} with {counts[part]:,} users" for part in counts)
    return (f"split by time: {', '.join(parts)}",)


def _input_key(source: str | None, options: PrepareOptions) -> str:
    """Return the SHA-256 of everything that decides the result; what is remote counts by its address."""
    shown = options.model_copy(update={"items_file": redacted(options.items_file)})
    digest = hashlib.sha256(f"{_RECIPE}\n{shown.model_dump_json()}\n".encode())
    if source is None:
        digest.update(OFFICIAL.interactions_sha256.encode())
        return digest.hexdigest()

    files = []
    if is_remote(source):
        digest.update(redacted(source).encode())
    elif Path(source).exists():
        files += source_files(Path(source))
    if options.items_file and not is_remote(options.items_file):
        files.append(Path(options.items_file))
    for file in files:
        digest.update(f"{file.name}\n".encode())
        digest.update(_file_hash(file))
    return digest.hexdigest()


def _file_hash(path: Path) -> bytes:
    if not path.is_file():
        raise DataError(f"{path} does not exist", "check the path")
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").digest()


def _load_if_unchanged(out: Path, key: str) -> Dataset | None:
    """Load the prepared data set; return ``None`` if it is damaged or came from other input or options."""
    stored = out / _KEY_FILE
    if not stored.is_file() or stored.read_text(encoding="ascii", errors="replace").strip() != key:
        return None
    try:
        return load_dataset(out)
    except DataError:
        return None
