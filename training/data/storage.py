"""Storage of a prepared data set: Parquet tables, and a JSON file, written last, that seals them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from model_store.durable_files import write_durably
from model_store.errors import DataError
from training.data.dataset import Dataset
from training.data.filters import FilterOptions
from training.data.numbering import categorical
from training.data.split import SplitOptions
from training.data.untrained_items import UntrainedItems

FORMAT = 3
"""Version of the folder's layout."""

_SEAL = "dataset.json"
_HINT = "prepare the data again: etegrec-train prepare"


def is_prepared(folder: Path) -> bool:
    """Return whether a folder holds a prepared data set."""
    return (folder / _SEAL).is_file()


def save_dataset(dataset: Dataset, folder: Path) -> None:
    """Write the tables as Parquet, then ``dataset.json`` with the fingerprint.

    ``interactions``, ``users`` and ``items`` are what training sees; ``untrained_items`` and ``set_aside`` what the
    filters left out.

    A folder whose writing was interrupted has no ``dataset.json`` and does not load.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _SEAL).unlink(missing_ok=True)

    owner = np.repeat(np.arange(dataset.users, dtype=np.int32), dataset.lengths)
    tables = {
        "interactions": pl.DataFrame(
            {"user": owner, "item": dataset.items, "timestamp": dataset.timestamps, "event": dataset.event_types}
        ),
        "users": dataset.user_ids.to_frame("user_id"),
        "items": pl.DataFrame(_item_columns(dataset)),
        "untrained_items": pl.DataFrame(dataset.untrained_items.to_arrow()),
        "set_aside": dataset.set_aside.with_columns(pl.col("user", "item").cast(pl.String)),
    }
    for name, table in tables.items():
        table.write_parquet(folder / f"{name}.parquet")

    seal = {
        "format": FORMAT,
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "users": dataset.users,
        "items": dataset.n_items,
        "interactions": dataset.interactions,
        "untrained_items": len(dataset.untrained_items),
        "set_aside": len(dataset.set_aside),
        "split": dataset.split.model_dump(mode="json"),
        "filters": dataset.filters.model_dump(mode="json"),
        "notes": list(dataset.notes),
    }
    write_durably(folder / _SEAL, (json.dumps(seal, indent=2, ensure_ascii=False) + "\n").encode())


def _item_columns(dataset: Dataset) -> pa.Table:
    """Convert the item columns with Arrow, which reads lists of millions of objects several times as fast as Polars."""
    columns = {
        "item_id": pa.array(dataset.item_ids, pa.large_string()),
        "title": pa.array(dataset.titles, pa.large_string()),
        "categories": pa.array(dataset.categories, pa.large_list(pa.large_string())),
        "attributes": pa.array(
            [json.dumps(value, sort_keys=True) if value else "{}" for value in dataset.attributes],
            pa.large_string(),
        ),
    }
    if dataset.own_vectors is not None:
        flat = pa.array(dataset.own_vectors.reshape(-1))
        columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, dataset.own_vectors.shape[1])
    return pa.table(columns)


def _own_vectors(items: pl.DataFrame) -> npt.NDArray[np.float32] | None:
    return items["vector"].to_numpy().astype(np.float32) if "vector" in items.columns else None


def load_dataset(folder: Path) -> Dataset:
    """Load a data set that :func:`save_dataset` wrote.

    Raises:
        DataError: There is no complete data set, it does not decode, or it differs from its fingerprint.
    """
    if not (folder / _SEAL).is_file():
        raise DataError(f"{folder} holds no prepared data set: {_SEAL} is missing", _HINT)

    try:
        seal = json.loads((folder / _SEAL).read_text(encoding="utf-8"))
        if seal["format"] != FORMAT:
            raise DataError(f"{folder} has layout {seal['format']}, this version reads layout {FORMAT}", _HINT)
        dataset = _decode(folder, seal)
        fingerprint = seal["fingerprint"]
    except (OSError, KeyError, TypeError, ValueError, pl.exceptions.PolarsError) as cause:
        raise DataError(f"the data set in {folder} does not decode: {type(cause).__name__}: {cause}", _HINT) from cause

    dataset.check_integrity()
    if dataset.fingerprint != fingerprint:
        raise DataError(f"the data set in {folder} differs from its fingerprint", _HINT)
    return dataset


def _decode(folder: Path, seal: dict[str, Any]) -> Dataset:
    table = {name: pl.read_parquet(folder / f"{name}.parquet") for name in ("interactions", "users", "items")}
    owner = table["interactions"]["user"].to_numpy()
    if (np.diff(owner) < 0).any():
        raise ValueError("interactions are not grouped by user")

    lengths = np.bincount(owner, minlength=len(table["users"]))
    return Dataset(
        name=str(seal["name"]),
        user_ids=table["users"]["user_id"],
        item_ids=table["items"]["item_id"].to_list(),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=table["interactions"]["item"].to_numpy().astype(np.int32),
        timestamps=table["interactions"]["timestamp"].to_numpy().astype(np.int64),
        event_types=table["interactions"]["event"].to_numpy().astype(np.int8),
        titles=table["items"]["title"].to_list(),
        categories=[tuple(names) for names in table["items"]["categories"].to_list()],
        attributes=[json.loads(text) for text in table["items"]["attributes"].to_list()],
        notes=tuple(seal["notes"]),
        split=SplitOptions.model_validate(seal["split"]),
        filters=FilterOptions.model_validate(seal["filters"]),
        untrained_items=UntrainedItems.from_arrow(pl.read_parquet(folder / "untrained_items.parquet").to_arrow()),
        set_aside=_read_set_aside(folder / "set_aside.parquet"),
        own_vectors=_own_vectors(table["items"]),
    )


def _read_set_aside(path: Path) -> pl.DataFrame:
    ids = [pl.col(name).cast(categorical()) for name in ("user", "item")]
    table = pl.scan_parquet(path).with_columns(ids).collect(engine="streaming")
    if any(table.null_count().row(0)):
        raise ValueError("an interaction that was set aside has no user, item, time or place")
    return table
