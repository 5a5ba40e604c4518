"""Reader of a file of interactions, CSV or Parquet, for importing them by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from model_store.catalogue.catalogue import ID_BYTES
from model_store.errors import DataError
from model_store.events.event import MAX_TIMESTAMP, event_type_of
from model_store.events.history_entry import UserInteractions, letter_of

NAMES: Mapping[str, tuple[str, ...]] = {
    "user": ("user", "user_id", "userid", "visitorid", "customer_id"),
    "item": ("item", "item_id", "itemid", "product_id", "sku"),
    "timestamp": ("timestamp", "time", "event_time", "date"),
    "event": ("event", "event_type", "type"),
}
"""Names by which a column is found in any case, if it is not named."""

_SEPARATORS = ",;\t|"


class HistoryFile(NamedTuple):
    """Interactions of a file in columns, ordered by user and time; users by first appearance."""

    user_ids: list[str]
    offsets: list[int]  # [users + 1], user u owns the rows offsets[u]:offsets[u + 1]
    item_ids: Any  # Arrow array, [rows]
    timestamps: npt.NDArray[np.int64]  # [rows]
    letters: str  # [rows]

    def histories(self, cap: int) -> Iterator[UserInteractions]:
        """Yield the newest ``cap`` interactions of every user."""
        for user_id, start, end in zip(self.user_ids, self.offsets, self.offsets[1:], strict=False):
            rows = slice(max(start, end - cap), end)
            yield UserInteractions(
                user_id,
                self.item_ids[rows].to_pylist(),
                self.timestamps[rows].tolist(),
                self.letters[rows],
            )


def read_history_file(path: Path, named: Mapping[str, str]) -> HistoryFile:
    """Read a CSV (with a header) or Parquet file.

    Args:
        path: The file; one that ends in ``.parquet`` is read as Parquet.
        named: Column by ``user``, ``item``, ``timestamp`` and ``event``; others are found by :data:`NAMES`. Users and
            items are needed. Without timestamps the file's order counts; without events their types are unknown.

    Raises:
        DataError: A column is missing or holds what it cannot hold; the message names it.
    """
    try:
        table = pq.read_table(path) if path.suffix.lower() == ".parquet" else _read_csv(path, named)
    except pa.ArrowException as cause:
        raise DataError(f"{path.name} cannot be read: {cause}", "give a CSV file with a header, or Parquet") from cause
    if not table.num_rows:
        raise DataError(f"{path.name} holds no interactions", "check the file")

    columns = {role: _find(role, table.column_names, named) for role in NAMES}
    users = _ids(table, path, "user", columns["user"])
    items = _ids(table, path, "item", columns["item"])
    times = _seconds(table, path, columns["timestamp"])
    letters = _letters(table, columns["event"])

    encoded = users.dictionary_encode()
    owner = encoded.indices.to_numpy()
    order = np.lexsort((times, owner))
    bounds = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(encoded.dictionary)))])
    return HistoryFile(
        encoded.dictionary.to_pylist(),
        bounds.tolist(),
        items.take(pa.array(order)),
        times[order],
        letters[order].tobytes().decode("ascii"),
    )


def _read_csv(path: Path, named: Mapping[str, str]) -> Any:
    with path.open("rb") as file:
        header = file.readline().decode("utf-8-sig", errors="replace").rstrip("\r\n")
    separator = max(_SEPARATORS, key=header.count)
    names = [name.strip('"') for name in header.split(separator)]
    text = {_find(role, names, named): pa.string() for role in ("user", "item", "event")}
    return pcsv.read_csv(
        path,
        parse_options=pcsv.ParseOptions(delimiter=separator),
        convert_options=pcsv.ConvertOptions(column_types={name: kind for name, kind in text.items() if name}),
    )


def _find(role: str, columns: list[str], named: Mapping[str, str]) -> str | None:
    """Return the column of a role.

    Raises:
        DataError: The named column is missing; or none is found, and it is needed.
    """
    wanted = (named[role],) if role in named else NAMES[role]
    found = next((name for name in columns if (name if role in named else name.strip().lower()) in wanted), None)
    if found is None and (role in named or role in ("user", "item")):
        raise DataError(
            f"there is no column {named.get(role, role)!r}; the columns are {', '.join(columns)[:300]}",
            f"name it: --{role} COLUMN",
        )
    return found


def _ids(table: Any, path: Path, role: str, column: str | None) -> Any:
    """Return ids as text.

    Raises:
        DataError: One is missing, empty or too long.
    """
    ids = pc.cast(table[column], pa.large_string()).combine_chunks()
    size = pc.fill_null(pc.binary_length(ids), 0).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero((size < 1) | (size > ID_BYTES))
    if len(wrong):
        raise DataError(
            f"{path.name} row {wrong[0] + 1}: the {role} in column {column!r} must be 1 to {ID_BYTES} bytes long"
            f" ({len(wrong)} rows)",
            "correct or remove these rows, or name the right column: --" + role,
        )
    return ids


def _seconds(table: Any, path: Path, column: str | None) -> npt.NDArray[np.int64]:
    """Return times in Unix seconds, 0 for all if there is no column.

    Raises:
        DataError: One is missing or out of range, or the column holds no times.
    """
    if column is None:
        return np.zeros(table.num_rows, dtype=np.int64)

    values = table[column]
    hint = "give Unix time in seconds or ISO times, or name the right column: --timestamp"
    try:
        if pa.types.is_temporal(values.type):
            values = pc.cast(values, pa.timestamp("s"), safe=False)
        seconds = pc.cast(values, pa.int64()).combine_chunks()
    except pa.ArrowException as cause:
        raise DataError(f"{path.name}: column {column!r} holds no times: {str(cause)[:200]}", hint) from cause

    known = pc.fill_null(seconds, -1).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero((known < 0) | (known > MAX_TIMESTAMP))
    if len(wrong):
        raise DataError(
            f"{path.name} row {wrong[0] + 1}: column {column!r} must hold Unix time in seconds, not milliseconds"
            f" ({len(wrong)} rows)",
            hint,
        )
    return np.asarray(known, dtype=np.int64)


def _letters(table: Any, column: str | None) -> npt.NDArray[np.uint8]:
    """Return the letter of each row's type, unknown for names that stand for none."""
    if column is None:
        return np.full(table.num_rows, ord(letter_of(None)), dtype=np.uint8)

    encoded = pc.fill_null(pc.cast(table[column], pa.string()), "").combine_chunks().dictionary_encode()
    letters = [ord(letter_of(event_type_of(name))) for name in encoded.dictionary.to_pylist()]
    return np.asarray(np.array(letters, dtype=np.uint8)[encoded.indices.to_numpy()])
