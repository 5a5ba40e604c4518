"""Preparation of a data set: read the source, filter, number the ids, save; equal input is reused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import polars as pl
from pydantic import Field

from model_store.durable_files import write_durably
from model_store.errors import DataError
from model_store.shards.runners import ShardRunner
from training.data.dataset import Dataset
from training.data.filters import FilterOptions, shuffle_ties
from training.data.movielens import OFFICIAL, fetch_movielens_100k
from training.data.numbering import NumberedIds, number_ids
from training.data.partitions import read_on_machines
from training.data.raw import RawData
from training.data.readers import ReadOptions, read_source, source_files
from training.data.remote import is_remote, local_copies, name_of, redacted
from training.data.repeats import drop_repeats
from training.data.set_aside import set_aside
from training.data.split import SplitOptions, utc
from training.data.storage import is_prepared, load_dataset, save_dataset
from training.data.untrained_items import UntrainedItems

MOVIELENS_100K = "ml-100k"
"""Source name that stands for the download of MovieLens-100K."""

NOT_SERVED = "items_not_served.csv"
"""File of a prepared folder, and of a run, that lists the items that are not served."""

UNPLACEABLE = "fewer interactions than data.min_item, and no content to be placed by"
"""Reason in that file."""

SHOWN_ITEMS = 5
"""Most items that a note names."""

_RECIPE = 6  # raise it whenever the same input and options give a different data set than before
_KEY_FILE = "prepared_from.txt"


class PrepareOptions(ReadOptions, SplitOptions, FilterOptions):
    """Options for reading and filtering a source."""

    ties: Literal["input", "shuffled"] = Field(
        "input",
        description="order of a user's interactions at the same time: as in the input, or shuffled (the same way every "
        "time), for inputs that are sorted by item",
    )
    serve_untrained: bool = Field(
        True,
        description="serve the items of the items file that are not trained too, placed by their content",
    )


class Machines(NamedTuple):
    """Machines that read a source together; all see the source and the folder of the data under the same paths."""

    runner: ShardRunner
    partitions: int  # of the users


def prepare(
    source: str,
    out: Path,
    options: PrepareOptions,
    say: Callable[[str], None],
    cache: Path | None = None,
    fetch_again: bool = False,
    machines: Machines | None = None,
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
        machines: Who reads the source; default: this process. The data set is the same.

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
            raw = _read(path, local_options, out, machines)
        raw = replace(raw, name=name_of(source)) if is_remote(source) else raw
    dataset = build_dataset(raw, options)

    # The key is written last: a folder without it is prepared again.
    (out / _KEY_FILE).unlink(missing_ok=True)
    save_dataset(dataset, out)
    _list_unplaceable(dataset, out / NOT_SERVED)
    write_durably(out / _KEY_FILE, f"{key}\n".encode())

    for note in dataset.notes:
        say(f"{dataset.name}: {note}")
    return dataset


def _read(path: Path, options: PrepareOptions, out: Path, machines: Machines | None) -> RawData:
    if machines is None:
        return read_source(path, options, out)
    return read_on_machines(path, options, out, machines.runner, machines.partitions, options.filter_options)


def _list_unplaceable(dataset: Dataset, path: Path) -> None:
    items = dataset.unplaceable_items()
    if items.is_empty():
        path.unlink(missing_ok=True)
    else:
        write_durably(path, not_served_table(dataset, items, UNPLACEABLE))


def not_served_table(dataset: Dataset, items: pl.Series, reason: str) -> bytes:
    """Return a CSV table of items that are not served: id, number of interactions, reason."""
    counts = dataset.count_set_aside(items)
    table = pl.DataFrame(
        {"item_id": items, "interactions": counts, "reason": pl.repeat(reason, len(items), eager=True)}
    )
    return table.write_csv().encode()


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
    """Leave out types of weight 0, drop repeats, set aside what fails the filters, and number the ids of the rest.

    Of repeats the first stays, with the strongest of their types.

    Raises:
        DataError: The filters leave nothing.
    """
    frame = raw.interactions
    if "event" in frame.columns:
        frame = frame.filter(~options.is_left_out(frame["event"]))
    left_out = len(raw.interactions) - len(frame)
    frame = frame if options.keep_repeats else drop_repeats(frame)
    user = number_ids(frame["user"])
    item = number_ids(frame["item"])

    if options.ties == "shuffled":
        order = shuffle_ties(user, item, frame["timestamp"].to_numpy())
        frame = frame[order]
        user = NumberedIds(user.rows[order], user.ids)
        item = NumberedIds(item.rows[order], item.ids)

    kept = options.keep(user.rows, item.rows)
    dataset = Dataset.from_frame(raw.name, frame.filter(kept), raw.items, split=options.split_options)
    dataset = replace(
        dataset,
        filters=options.filter_options,
        untrained_items=_untrained_items(dataset, raw),
        set_aside=set_aside(frame.filter(~kept), user.rows, kept, dataset.user_ids),
    )
    dataset.check_integrity()
    repeats = raw.repeats + len(raw.interactions) - left_out - len(frame)
    left_out += raw.left_out
    notes = (*raw.notes, *_filter_notes(dataset, options, left_out, repeats), *_split_notes(dataset))
    if raw.items and not dataset.has_content:
        notes = (*notes, _unread_note(dataset))
    return replace(dataset, notes=notes)


def _untrained_items(dataset: Dataset, raw: RawData) -> UntrainedItems:
    """Return the items that are described but not trained, in the order of the description."""
    left = {item_id: info for item_id, info in raw.items.items() if item_id not in dataset.item_row}
    infos = left.values()
    return UntrainedItems.of(
        list(left),
        [each.title for each in infos],
        [each.categories for each in infos],
        [each.attributes for each in infos],
    )


def _filter_notes(dataset: Dataset, options: PrepareOptions, left_out: int, repeats: int) -> Iterator[str]:
    """Describe what is trained, and what becomes of the rest."""
    yield (
        f"{dataset.users:,} users, {dataset.n_items:,} items, {dataset.interactions:,} interactions "
        f"(density {dataset.density:.2%}); filters set {len(dataset.set_aside):,} interactions aside"
    )
    if left_out:
        yield f"{left_out:,} interactions are of a type that is left out (data.event_weights)"
    if repeats:
        yield f"{repeats:,} interactions repeated user, item and second of another one: each counts once"

    with_content = len(dataset.placeable_items())
    bare = dataset.unplaceable_items()
    total = dataset.n_items + with_content + len(bare)
    few = f"fewer than {options.min_item} interactions"
    if with_content:
        way = "served by content" if options.serve_untrained else "not served, as data.serve_untrained is off"
        yield f"{with_content:,} of {total:,} items had {few}: {way}"
    if len(bare):
        shown = ", ".join(bare[:SHOWN_ITEMS].to_list())
        rest = f" … all in {NOT_SERVED}" if len(bare) > SHOWN_ITEMS else ""
        yield f"{len(bare):,} of {total:,} items had {few} and no content to be placed by: not served ({shown}{rest})"


def _unread_note(dataset: Dataset) -> str:
    """Say what becomes of items of which none says anything."""
    rest = "content is not read" if dataset.own_vectors is None else "of content only the vectors are read"
    return f"no trained item says anything that can be read: {rest}, and new items cannot be placed"


def _split_notes(dataset: Dataset) -> tuple[str, ...]:
    """Describe a time split, and whether some users alone are evaluated.

    Raises:
        DataError: It leaves no user to evaluate.
    """
    counts = {"validation": len(dataset.validation().users), "test": len(dataset.test().users)}
    most = dataset.split.evaluated_users
    sampled = (f"{most:,} users are evaluated, drawn from all (data.evaluated_users)",)
    notes = sampled if max(counts.values()) == most else ()
    if dataset.cuts is None:
        return notes

    if not all(counts.values()):
        raise DataError(
            f"{dataset.name}: the time split leaves {counts['validation']} users for validation and {counts['test']} "
            "for the test: only users who were there before a period and come back in it count",
            "choose longer periods, or data.split=leave_one_out",
        )

    begin = {"validation": dataset.cuts.validation, "test": dataset.cuts.test}
    parts = (f"{part} from {utc(begin[part])} with {counts[part]:,} users" for part in counts)
    return (f"split by time: {', '.join(parts)}", *notes)


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
