"""Conversion of irregular separated text to a Parquet file: what can be read is kept, with its line number.

Regular lines pass in bulk; only the others are looked at one by one. Text that is not UTF-8 is taken for Windows-1252,
fields beyond those of the header are cut, missing ones are empty, quotes inside a field are text, and a carriage return
inside a line is a space. A line whose quote is never closed cannot be read: nobody knows where its fields end.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from model_store.source_files.csv_lines import (
    LONGEST_LINE,
    Dialect,
    Lines,
    decode_line,
    find_irregular,
    has_lone_returns,
    open_bytes,
    read_fields,
    split_lines,
    whole_lines,
)
from model_store.source_files.intake import LINE, Intake

_JOINED_LINES = 200
"""Most lines that one quoted field may span."""

_LONE_RETURN = re.compile(rb"\r(?!\n)")

Row = list[str | None]


@dataclass
class _Count:
    """Lines with one peculiarity, and the first of them."""

    count: int = 0
    first: int = 0

    def add(self, line: int) -> None:
        self.first = self.first or line
        self.count += 1


@dataclass
class _Counts:
    """Peculiarities that a conversion has met."""

    foreign: _Count = field(default_factory=_Count)  # not UTF-8
    surplus: _Count = field(default_factory=_Count)
    missing: _Count = field(default_factory=_Count)
    quotes: _Count = field(default_factory=_Count)

    def notes(self, name: str, dialect: Dialect) -> Iterator[str]:
        """Yield a sentence for each peculiarity."""
        wanted = len(dialect.columns)
        said = (
            (self.foreign, "are not UTF-8: read as Windows-1252"),
            (self.surplus, f"have more than {wanted} fields: surplus fields were cut"),
            (self.missing, f"have fewer than {wanted} fields: missing fields are empty"),
            (self.quotes, "have quotes inside a field: read as text"),
        )
        for each, words in said:
            if each.count:
                yield f"{name}: {each.count:,} lines {words} (first: line {each.first})"


def convert(path: Path, dialect: Dialect, target: Path, intake: Intake) -> None:
    """Write the rows of a file, text as it is, to a Parquet file with the line number in the column ``LINE``.

    Raises:
        DataError: A line cannot be read, and ``intake`` does not skip bad lines.
    """
    counts = _Counts()
    converter = _Converter(path, dialect, intake, counts)
    with pq.ParquetWriter(target, converter.schema, compression="lz4") as writer:
        for table in converter.tables():
            writer.write_table(table)
    for note in counts.notes(path.name, dialect):
        intake.note(note)


class _Converter:
    """Reader of one file in parts of a few megabytes."""

    def __init__(self, path: Path, dialect: Dialect, intake: Intake, counts: _Counts) -> None:
        self.path = path
        self.dialect = dialect
        self.intake = intake
        self.counts = counts
        self.text_schema = pa.schema([(name, pa.string()) for name in dialect.columns])
        self.schema = self.text_schema.insert(0, pa.field(LINE, pa.int64()))
        self.line = 1  # number of the first line of the next part

    def tables(self) -> Iterator[Any]:
        """Yield rows in the order of the file, as Arrow tables."""
        rest = b""
        with open_bytes(self.path) as stream:
            for text in whole_lines(stream, self.dialect.encoding):
                text = rest + self._as_utf8(text, rest.count(b"\n"))
                is_first = self.line == 1
                if is_first:
                    text = text.removeprefix(b"\xef\xbb\xbf")
                if has_lone_returns(text):
                    text = _LONE_RETURN.sub(b" ", text)
                table, rest = self._read(text, is_first and self.dialect.has_header, is_last=False)
                yield table
        if rest:
            yield self._read(rest, False, is_last=True)[0]

    def _as_utf8(self, text: bytes, before: int) -> bytes:
        try:
            text.decode()
        except UnicodeDecodeError:
            lines = text.split(b"\n")
            for number, line in enumerate(lines):
                if not line.isascii():
                    lines[number] = self._line_as_utf8(line, self.line + before + number)
            return b"\n".join(lines)
        return text

    def _line_as_utf8(self, line: bytes, number: int) -> bytes:
        decoded = decode_line(line).encode()
        if decoded != line:
            self.counts.foreign.add(number)
        return decoded

    def _read(self, text: bytes, has_header: bool, is_last: bool) -> tuple[Any, bytes]:
        """Return the rows of whole lines, and the lines that must be read together with the next ones."""
        lines = split_lines(text)
        irregular = find_irregular(lines, self.dialect)
        is_data = np.ones(len(lines.ends), dtype=np.bool_)
        if has_header:
            is_data[0] = irregular[0] = False
        rows, stop = self._read_irregular(lines, irregular, is_data, is_last)

        is_data[stop:] = False
        table = self._read_regular(lines, is_data & ~irregular)
        if rows:
            columns = [
                pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), self.schema.types, strict=True)
            ]
            mended = pa.Table.from_arrays(columns, schema=self.schema)
            table = pa.concat_tables([table, mended]).sort_by(LINE)
        rest = text[lines.starts[stop] :] if stop < len(lines.ends) else b""
        self.line += stop
        return table, rest

    def _read_regular(self, lines: Lines, wanted: npt.NDArray[np.bool_]) -> Any:
        """Read lines [lines] that are all regular, into an Arrow table."""
        numbers = np.flatnonzero(wanted)
        if not len(numbers):
            return self.schema.empty_table()

        # Neighbours are cut out together.
        breaks = np.flatnonzero(np.diff(numbers) > 1)
        first = numbers[np.concatenate([[0], breaks + 1])]
        last = numbers[np.concatenate([breaks, [len(numbers) - 1]])]
        text = b"".join(
            lines.text[lines.starts[begin] : lines.ends[end] + 1] for begin, end in zip(first, last, strict=True)
        )
        table = pcsv.read_csv(
            pa.BufferReader(text),
            pcsv.ReadOptions(column_names=self.text_schema.names, block_size=len(text)),
            pcsv.ParseOptions(delimiter=self.dialect.separator, quote_char=self.dialect.quote or False),
            pcsv.ConvertOptions(
                column_types=self.text_schema,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
        return table.add_column(0, self.schema.field(LINE), pa.array(numbers + self.line))

    def _read_irregular(
        self, lines: Lines, irregular: npt.NDArray[np.bool_], is_data: npt.NDArray[np.bool_], is_last: bool
    ) -> tuple[list[list[object]], int]:
        """Read the irregular lines, mark those that belong to another line as no data, and return where to stop.

        Lines from there on need the next part, because a quote is still open.
        """
        rows: list[list[object]] = []
        at = 0
        for index in np.flatnonzero(irregular).tolist():
            if index < at:
                continue
            row, end = self._read_record(lines, index, is_last)
            if end > len(lines.ends):
                return rows, index
            if row is None:
                is_data[index] = False
                continue
            is_data[index:end] = False
            at = end
            if row:
                rows.append([self.line + index, *row])
        return rows, len(lines.ends)

    def _read_record(self, lines: Lines, index: int, is_last: bool) -> tuple[Row | None, int]:
        """Return the fields of the record that begins in a line, and the line after it.

        Fields are ``None`` if the line was skipped, and empty if it is blank. If the record may go on after these
        lines, and they are not the last ones, the line after it is beyond the end.
        """
        number = self.line + index
        text = lines.text[lines.starts[index] : lines.ends[index]].decode().rstrip("\r")
        if not text.strip():
            return [], index + 1
        if len(text) > LONGEST_LINE:
            self.intake.bad_line(self.path.name, number, f"longer than {LONGEST_LINE:,} characters", text)
            return None, index + 1

        fields = self._split(text)
        if fields is not None:
            return self._fit(fields, number), index + 1
        fields, end = self._join(lines, index, text)
        if fields is None and (is_last or end <= len(lines.ends)):
            self.intake.bad_line(self.path.name, number, "a quote is opened and not closed where a field ends", text)
            end = index + 1
        return fields, end

    def _split(self, text: str) -> Row | None:
        """Split a line into fields; ``None`` if its quotes leave open where a field ends."""
        try:
            stream = io.StringIO(text, newline="")  # a field may hold newlines
            found = list(read_fields(stream, self.dialect.separator, self.dialect.quote, strict=True))
        except csv.Error:
            return None
        return list(found[0]) if len(found) == 1 else None

    def _join(self, lines: Lines, index: int, text: str) -> tuple[Row | None, int]:
        """Read a quoted field that spans lines: it ends in a line with an odd number of quotes."""
        if text.count('"') % 2 == 0:
            return None, index + 1
        for end in range(index + 1, min(index + _JOINED_LINES, len(lines.ends))):
            following = lines.text[lines.starts[end] : lines.ends[end]]
            if following.count(b'"') % 2:
                whole = lines.text[lines.starts[index] : lines.ends[end]].decode()
                fields = self._split(whole)
                is_record = fields is not None and len(fields) == len(self.dialect.columns)
                return (fields, end + 1) if is_record else (None, index + 1)
        is_cut = index + _JOINED_LINES > len(lines.ends)
        return None, len(lines.ends) + 1 if is_cut else index + 1

    def _fit(self, fields: Row, number: int) -> Row:
        """Return as many fields as the header has."""
        wanted = len(self.dialect.columns)
        if len(fields) > wanted:
            if any(fields[wanted:]):
                self.counts.surplus.add(number)
            return fields[:wanted]
        if len(fields) < wanted:
            self.counts.missing.add(number)
            return [*fields, *[None] * (wanted - len(fields))]
        self.counts.quotes.add(number)
        return fields
