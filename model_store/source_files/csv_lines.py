"""Separated text as it comes: separator, quoting and header of a file, and which of its lines are regular.

A line is regular if it is UTF-8, has as many fields as the header, and if quotes, where they are used, enclose whole
fields (RFC 4180). Readers of tables can read a file of regular lines as it is;
:mod:`model_store.source_files.csv_repair` converts others. Such a reader alone would not do: after a stray quote it
takes thousands of lines for one field, without an error.
"""

from __future__ import annotations

import codecs
import csv
import gzip
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.errors import DataError

SEPARATORS = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".item": "\t"}
"""Usual separator by suffix; the header decides between it and :data:`CANDIDATES`."""

CANDIDATES = (",", ";", "\t", "|")
NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "|"}
"""Separators that are detected, and their names in messages."""

CHUNK = 4 << 20
"""Bytes that are looked at together."""

LONGEST_LINE = 1 << 20
"""Bytes of the longest line that is read."""

_HEAD_LINES = 100
_NEWLINE = 10
_QUOTE = 34
_RETURN = 13
_LONGEST_PATTERN = 200  # quotes, separators and newline of a line
_BORDER = np.isin(np.arange(256), (_NEWLINE, _QUOTE))  # besides separators
_UNQUOTED = (".inter", ".item")  # RecBole's files: a quote in them is text
_WIDE = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}

BoolArray = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]


class Dialect(NamedTuple):
    """How the lines of a file are separated into fields."""

    separator: str
    quote: str | None
    columns: tuple[str, ...]
    has_header: bool
    encoding: str = "utf-8"  # or utf-16-le, utf-16-be; single lines may differ

    def describe(self) -> str:
        """Return a note on what is unusual about the file; empty if nothing is."""
        parts = []
        if self.separator != ",":
            parts.append(f"fields are separated by {NAMES.get(self.separator, repr(self.separator))}")
        if self.encoding != "utf-8":
            parts.append("the text is UTF-16")
        return " and ".join(parts)


class Lines(NamedTuple):
    """Whole lines of a file, each with its newline, and where they end."""

    text: bytes
    starts: npt.NDArray[np.int64]  # [lines]
    ends: npt.NDArray[np.int64]  # [lines], position of the newline


def snippet(text: str, most: int = 60) -> str:
    """Return the beginning of a text as it may stand in a message: quoted, on one line, ``most`` characters."""
    return repr(text[:most] + ("…" if len(text) > most else ""))


def read_dialect(path: Path, suffix: str, headerless: Sequence[str] = ()) -> Dialect:
    """Find separator, quoting and columns from the first lines of a file.

    Args:
        path: Separated text, which may be compressed.
        suffix: Its suffix, without ``.gz``.
        headerless: Names of the columns, if the first line is data already.
    """
    with open_bytes(path) as stream:
        head = stream.read(1 << 16)
    encoding = next((name for mark, name in _WIDE.items() if head.startswith(mark)), "utf-8")
    lines = decode_line(head, encoding).removeprefix("\ufeff").splitlines()
    lines = [line for line in lines[:_HEAD_LINES] if line.strip()] or [""]

    separator = _find_separator(lines, SEPARATORS.get(suffix, ","))
    quote = '"' if _uses_quotes(lines, separator, suffix) else None
    columns = _unique(headerless or tuple(name.strip() for name in split_line(lines[0], separator, quote)))
    return Dialect(separator, quote, columns, not headerless, encoding)


def is_regular(path: Path, dialect: Dialect) -> bool:
    """Return whether all lines of a file are regular, so that it can be read as it is. It is read once, as a stream."""
    if dialect.encoding != "utf-8":
        return False
    with open_bytes(path) as stream:
        for text in whole_lines(stream):
            if not _is_utf8(text) or 0 in text or has_lone_returns(text):
                return False
            if find_irregular(split_lines(text), dialect).any():
                return False
    return True


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file, which may be compressed."""
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def whole_lines(stream: IO[bytes], encoding: str = "utf-8") -> Iterator[bytes]:
    """Yield a file in parts of whole lines, each with its newline; the last line gets one if it has none.

    Text in UTF-16 becomes UTF-8. Lines that are longer than :data:`CHUNK` are cut.
    """
    decoder = None if encoding == "utf-8" else codecs.getincrementaldecoder(encoding)(errors="replace")
    rest = b""
    while piece := stream.read(CHUNK):
        text = rest + (decoder.decode(piece).encode() if decoder else piece)
        cut = text.rfind(b"\n") + 1
        if cut:
            yield text[:cut]
        elif len(text) >= CHUNK:
            yield text + b"\n"
            cut = len(text)
        rest = text[cut:]
    if rest:
        yield rest + b"\n"


def has_lone_returns(text: bytes) -> bool:
    """Return whether a text has carriage returns that belong to no newline; for some readers they end a line."""
    return b"\r" in text and text.count(b"\r") != text.count(b"\r\n")


def split_lines(text: bytes) -> Lines:
    """Find the lines of a text that ends with a newline."""
    ends = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == _NEWLINE)
    return Lines(text, np.concatenate([[0], ends[:-1] + 1]), ends)


def find_irregular(lines: Lines, dialect: Dialect) -> BoolArray:
    """Mark the lines [lines] with another number of fields than the header, or with quotes that enclose no field."""
    data = np.frombuffer(lines.text, dtype=np.uint8)
    separator = ord(dialect.separator)
    has_quotes = dialect.quote is not None and _QUOTE in lines.text

    # Few bytes mean something; everything below looks at those alone.
    means = (data == separator) | (data == _NEWLINE)
    at = np.flatnonzero(means | (data == _QUOTE) if has_quotes else means)
    kind = data[at]
    if len(dialect.columns) > 1 and _have_one_pattern(data, at, kind, dialect):
        return np.zeros(len(lines.ends), dtype=np.bool_)
    line_ends = np.flatnonzero(kind == _NEWLINE)
    separates = kind == separator
    irregular: BoolArray = lines.starts == lines.ends
    if has_quotes:
        is_quote = kind == _QUOTE
        quotes = np.cumsum(is_quote, dtype=np.int32)
        by_line = np.diff(quotes[line_ends], prepend=0)
        is_odd = by_line % 2 == 1
        if is_odd.any():  # a line begins outside of quotes, whatever the lines before it left open
            quotes -= np.repeat(quotes[line_ends] - by_line, np.diff(line_ends, prepend=-1))
        is_inside = quotes % 2 == 1
        separates &= ~is_inside
        irregular |= is_odd
        misplaced = _misplaced_quotes(data, at, is_quote, is_inside, separator)
        irregular[np.searchsorted(lines.ends, misplaced)] = True

    fields = np.diff(np.cumsum(separates, dtype=np.int32)[line_ends], prepend=0) + 1
    irregular |= fields != len(dialect.columns)
    return irregular


def split_line(line: str, separator: str, quote: str | None) -> list[str]:
    """Split one line into fields; quotes that make no sense are text."""
    return next(read_fields([line], separator, quote), [])


def read_fields(lines: Iterable[str], separator: str, quote: str | None, strict: bool = False) -> Iterator[list[str]]:
    """Yield the fields of lines; if ``strict``, raise :class:`csv.Error` where quotes make no sense."""
    if quote is None:
        return csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE, strict=strict)
    return csv.reader(lines, delimiter=separator, quotechar=quote, strict=strict)


def decode_line(line: bytes, encoding: str = "utf-8") -> str:
    """Decode text; what is not UTF-8 is taken for Windows-1252, of which Latin-1 is a part."""
    if encoding != "utf-8":
        return line.decode(encoding, errors="replace")
    for name in ("utf-8", "cp1252"):
        try:
            return line.decode(name)
        except UnicodeDecodeError as cause:
            if name == "utf-8" and cause.reason == "unexpected end of data" and len(line) >= 1 << 16:
                return line[: cause.start].decode(name)  # a part of a file that ends inside a character
    return line.decode("latin-1")


def first_line(path: Path) -> str:
    """Return the first line of a text file, which may be compressed.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with open_bytes(path) as stream:
            line = stream.readline(LONGEST_LINE)
    except (OSError, EOFError) as cause:
        raise DataError(f"{path.name} cannot be read: {cause}", "check that its content matches its suffix") from cause
    encoding = next((name for mark, name in _WIDE.items() if line.startswith(mark)), "utf-8")
    return decode_line(line, encoding).removeprefix("\ufeff").rstrip("\r\n")


def _is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _have_one_pattern(data: Bytes, at: npt.NDArray[np.int64], kind: Bytes, dialect: Dialect) -> bool:
    """Return whether all lines have quotes, separators and newline in the same order as the first, and are regular.

    Most files are like that, and this takes a third of the time of looking at every line. ``False`` decides nothing.

    Args:
        data: All bytes.
        at: Positions [n] of quotes, separators and newlines.
        kind: Bytes [n] at these positions.
        dialect: How fields are separated.
    """
    width = int(np.argmax(kind == _NEWLINE)) + 1
    if width > _LONGEST_PATTERN or len(kind) % width:
        return False
    pattern = kind[:width]
    if not (kind.reshape(-1, width) == pattern).all():
        return False

    places = at.reshape(-1, width)
    is_inside = False
    for number, byte in enumerate(pattern):
        if byte != _QUOTE and is_inside:
            return False
        if byte == _QUOTE and not is_inside:  # opens right after what is before it
            before = places[:, number - 1] if number else np.concatenate([[-1], places[:-1, -1]])
            if not (places[:, number] - before == 1).all():
                return False
        if byte == _QUOTE and is_inside:  # closes right before what is behind it
            gap = places[:, number + 1] - places[:, number]
            if not ((gap == 1) | ((gap == 2) & (data[places[:, number] + 1] == _RETURN))).all():
                return False
        is_inside ^= bool(byte == _QUOTE)
    return int((pattern == ord(dialect.separator)).sum()) + 1 == len(dialect.columns)


def _misplaced_quotes(
    data: Bytes, at: npt.NDArray[np.int64], is_quote: BoolArray, is_inside: BoolArray, separator: int
) -> npt.NDArray[np.int64]:
    """Return the positions of opening quotes that begin no field, and of closing ones that end none.

    Args:
        data: All bytes.
        at: Positions [n] of quotes, separators and newlines.
        is_quote: [n].
        is_inside: Whether a quote is open after each of them, [n].
        separator: Byte between fields.
    """
    opening = at[is_quote & is_inside]
    closing = at[is_quote & ~is_inside]
    begins = _BORDER[data[opening - 1]] | (opening == 0)
    ends = _BORDER[data[closing + 1]] | (data[closing + 1] == _RETURN)
    begins |= data[opening - 1] == separator
    ends |= data[closing + 1] == separator
    return np.concatenate([opening[~begins], closing[~ends]])


def _find_separator(lines: Sequence[str], usual: str) -> str:
    """Return the separator by which most lines have as many fields as the first one, at least two."""
    best = (0.0, 0)
    found = usual
    for candidate in dict.fromkeys((usual, *CANDIDATES)):
        counts = [len(split_line(line, candidate, '"')) for line in lines]
        share = sum(count == counts[0] for count in counts) / len(counts)
        # A fifth of the lines may be bad: the usual separator stays unless another one fits clearly better.
        score = (round(share * 5) / 5, counts[0])
        if counts[0] > 1 and (score > best if candidate != usual else score >= best):
            best, found = score, candidate
    return found


def _uses_quotes(lines: Sequence[str], separator: str, suffix: str) -> bool:
    """Return whether quotes enclose fields. In a ``.tsv`` they often are text: there they must do so in every line."""
    if suffix in _UNQUOTED:
        return False
    if suffix != ".tsv":
        return True
    text = "\n".join(lines) + "\n"
    dialect = Dialect(separator, '"', _unique(split_line(lines[0], separator, '"')), has_header=True)
    return '"' in text and not find_irregular(split_lines(text.encode()), dialect).any()


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """Return names of columns without repetitions and without empty ones."""
    found: list[str] = []
    for number, name in enumerate(names, start=1):
        plain = name or f"column_{number}"
        found.append(plain if plain not in found else f"{plain}_{number}")
    return tuple(found)
