"""Reader of a file of interactions, as ``etegrec-train`` reads it, for importing them by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pjson
import pyarrow.parquet as pq

from model_store.catalogue.catalogue import ID_BYTES
from model_store.errors import DataError
from model_store.events.event import IMPRESSION, event_type_of
from model_store.events.history_entry import UserInteractions, letter_of
from model_store.source_files.column_names import Columns, find_column
from model_store.source_files.csv_lines import read_dialect, snippet
from model_store.source_files.csv_repair import convert
from model_store.source_files.formats import JSON_SUFFIXES, check_file, format_suffix, units_per_second
from model_store.source_files.id_spelling import FLOAT_ID, SAMPLE, judge_ids
from model_store.source_files.intake import LINE, BadLine, Intake, refusal
from service.histories.file_times import NO_TIME, IntArray, parse_times


class HistoryFile(NamedTuple):
    """Interactions of a file in columns, ordered by user and time; users by first appearance."""

    user_ids: list[str]
    offsets: list[int]  # [users + 1], user u owns the rows offsets[u]:offsets[u + 1]
    item_ids: Any  # Arrow array, [rows]
    timestamps: IntArray  # [rows], Unix seconds
    letters: str  # [rows]
    notes: tuple[str, ...]  # on what is unusual about the file, for people

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


class _Rows(NamedTuple):
    """Rows of a file in columns; some cannot be used."""

    lines: IntArray  # [rows], number of the line or row
    users: Any  # Arrow array of text, [rows]
    items: Any  # Arrow array of text, [rows]
    times: IntArray  # [rows], in the unit of the file
    letters: npt.NDArray[np.uint8]  # [rows]

    def select(self, kept: npt.NDArray[np.bool_]) -> _Rows:
        """Return the rows that a mask [rows] marks."""
        places = pa.array(np.flatnonzero(kept))
        users = self.users.take(places)
        return _Rows(self.lines[kept], users, self.items.take(places), self.times[kept], self.letters[kept])


_NO_LETTER = 0
"""In place of the letter of an impression."""


def read_history_file(path: Path, columns: Columns, skip_bad: bool = False) -> HistoryFile:
    """Read separated text with a header, Parquet or JSON lines; text may be compressed (``.gz``).

    Args:
        path: The file; its suffix tells the format.
        columns: Names of the columns; those with usual names are found without. Users and items are needed. Without
            timestamps the file's order counts; without events their types are unknown.
        skip_bad: Leave out lines that cannot be used instead of refusing the file.

    Raises:
        DataError: The file cannot be read, a column is missing, or a line cannot be used; the message names it.
    """
    check_file(path)
    with TemporaryDirectory(prefix="etegrec-") as folder:
        intake = Intake(Path(folder), skip_bad)
        try:
            rows = _read_rows(path, columns, intake)
        except (pa.ArrowException, OSError, EOFError) as cause:
            reason = snippet(str(cause).partition("\n")[0])
            hint = "check that its content matches its suffix"
            raise DataError(f"{path.name} cannot be read: {reason}", hint) from cause
        rows = _without_bad_rows(path, rows, intake)
    if not len(rows.lines):
        raise DataError(f"{path.name} holds no interactions", "check the file")
    if intake.skipped:
        intake.note(f"{intake.skipped:,} lines cannot be used: skipped, such as {'; '.join(intake.skipped_first)}")

    encoded = rows.users.dictionary_encode()
    owner = encoded.indices.to_numpy()
    order = np.lexsort((rows.times, owner))
    bounds = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(encoded.dictionary)))])
    return HistoryFile(
        encoded.dictionary.to_pylist(),
        bounds.tolist(),
        rows.items.take(pa.array(order)),
        rows.times[order] // units_per_second(int(rows.times.max())),
        rows.letters[order].tobytes().decode("ascii"),
        tuple(intake.notes),
    )


def _read_rows(path: Path, columns: Columns, intake: Intake) -> _Rows:
    table = _read_table(path, intake)
    found = [name for name in table.column_names if name != LINE]
    names = {
        kind: find_column(path.name, found, kind, getattr(columns, kind), required=kind in ("user", "item"))
        for kind in ("user", "item", "timestamp", "event")
    }
    times = _column(table, names["timestamp"])
    events = _column(table, names["event"])
    rows = _Rows(
        table[LINE].to_numpy(),
        _ids(path, "user", _column(table, names["user"]), intake),
        _ids(path, "item", _column(table, names["item"]), intake),
        np.zeros(table.num_rows, dtype=np.int64) if times is None else parse_times(times),
        np.full(table.num_rows, ord(letter_of(None)), dtype=np.uint8) if events is None else _letters(events),
    )
    return _without_impressions(path, rows, intake)


def _without_impressions(path: Path, rows: _Rows, intake: Intake) -> _Rows:
    """Return the rows but those that only say what was shown: no history has them."""
    is_interaction = rows.letters != _NO_LETTER
    if is_interaction.all():
        return rows
    intake.note(f"{path.name}: {int((~is_interaction).sum()):,} impressions left out, which are no interactions")
    return rows.select(is_interaction)


def _read_table(path: Path, intake: Intake) -> Any:
    """Read a file into an Arrow table, with the number of the line or row in the column ``LINE``."""
    suffix = format_suffix(path)
    if suffix == ".parquet":
        return _numbered(pq.read_table(path))
    if suffix in JSON_SUFFIXES:
        return _numbered(pjson.read_json(path))

    converted = intake.new_file()
    convert(path, read_dialect(path, suffix), converted, intake)
    return pq.read_table(converted)


def _numbered(table: Any) -> Any:
    return table.append_column(LINE, pa.array(np.arange(1, table.num_rows + 1)))


def _column(table: Any, name: str) -> Any:
    """Return a column as one Arrow array of plain values; ``None`` if it has no name."""
    if not name:
        return None
    column = table[name]
    is_encoded = pa.types.is_dictionary(column.type)
    return pc.cast(column, column.type.value_type if is_encoded else column.type).combine_chunks()


def _ids(path: Path, kind: str, column: Any, intake: Intake) -> Any:
    """Return ids as people mean them, an Arrow array of text; null and empty ones are still in it."""
    ids = pc.cast(column, pa.large_string())
    spelling = judge_ids(ids[:SAMPLE].to_pylist())
    if spelling.is_padded:
        ids = pc.utf8_trim_whitespace(ids)
    if spelling.float_example:
        ids = pc.replace_substring_regex(ids, FLOAT_ID, r"\1")

    if done := spelling.describe():
        intake.note(f"{path.name}: {kind} ids {done}")
    return ids


def _letters(events: Any) -> npt.NDArray[np.uint8]:
    """Return the letter of each row's type, [rows]: unknown for names that stand for none, 0 for impressions."""
    encoded = pc.fill_null(pc.cast(events, pa.string()), "").dictionary_encode()
    kinds = [event_type_of(name) for name in encoded.dictionary.to_pylist()]
    letters = [_NO_LETTER if kind == IMPRESSION else ord(letter_of(kind)) for kind in kinds]
    return np.asarray(np.array(letters, dtype=np.uint8)[encoded.indices.to_numpy()])


def _without_bad_rows(path: Path, rows: _Rows, intake: Intake) -> _Rows:
    """Return the rows that can be used.

    Raises:
        DataError: Some cannot, and ``intake`` does not skip bad lines.
    """
    user_sizes = _sizes(rows.users)
    item_sizes = _sizes(rows.items)
    good = (user_sizes > 0) & (user_sizes <= ID_BYTES) & (item_sizes > 0) & (item_sizes <= ID_BYTES)
    good &= rows.times != NO_TIME
    if good.all():
        return rows

    bad = np.flatnonzero(~good)
    found = [
        BadLine(
            int(rows.lines[row]),
            _reason(int(user_sizes[row]), int(item_sizes[row])),
            f"{rows.users[row].as_py() or ''},{rows.items[row].as_py() or ''}",
        )
        for row in (bad if intake.skip_bad else bad[:1])
    ]
    if not intake.skip_bad:
        raise refusal(path.name, found[0], len(bad), len(good))
    intake.skip(path.name, found)
    return rows.select(good)


def _sizes(ids: Any) -> IntArray:
    """Return the bytes of each id, 0 for those that are missing."""
    return np.asarray(pc.fill_null(pc.binary_length(ids), 0).to_numpy())


def _reason(user_size: int, item_size: int) -> str:
    for kind, size in (("user", user_size), ("item", item_size)):
        if not size:
            return f"{kind} id is empty"
    for kind, size in (("user", user_size), ("item", item_size)):
        if size > ID_BYTES:
            return f"{kind} id is longer than {ID_BYTES} bytes"
    return "timestamp is neither Unix time nor ISO 8601"
