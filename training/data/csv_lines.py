"""Separated text as it comes: separator, quoting and header of a file, and which of its lines are regular.

A line is regular if it is UTF-8, has as many fields as the header, and if quotes, where they are used, enclose whole
fields (RFC 4180). A file of regular lines is read by Polars as it is; :mod:`training.data.csv_repair` converts others.
Polars alone would not do: after a stray quote it takes thousands of lines for one field, without an error.
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
    """Return whether Polars can read a file as it is: all of its lines are regular. It is read once, as a stream."""
    if dialect.encoding != "utf-8":
        return False
    with open_bytes(path) as stream:
        for text in whole_lines(stream):
            if not _is_utf8(text) or 0 in text:
                return False
            if find_irregular(split_lines(text), dialect).any():
                return False
    return True


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file, which may be compressed."""
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def whole_lines(stream: IO[bytes], encoding: str = "utf-8") -> Iterator[bytes]:
    """Yield a file in parts of whole lines, each with its newline; blank lines at the end are left out.

    Text in UTF-16 becomes UTF-8. Lines that are longer than :data:`CHUNK` are cut.
    """
    decoder = None if encoding == "utf-8" else codecs.getincrementaldecoder(encoding)(errors="replace")
    rest = b""
    blank = b""  # newlines that are yielded only if something follows

    while piece := stream.read(CHUNK):
        if decoder:
            piece = decoder.decode(piece).encode()
        text = blank + rest + piece
        cut = text.rfind(b"\n") + 1
        if not cut and len(text) < CHUNK:
            rest, blank = text, b""
            continue
        whole, rest = (text[:cut], text[cut:]) if cut else (text + b"\n", b"")
        kept = whole.rstrip(b"\r\n")
        blank = whole[len(kept) :].partition(b"\n")[2]
        if kept:
            yield kept + b"\n"

    if rest.strip(b"\r\n"):
        yield blank + rest.rstrip(b"\r\n") + b"\n"


def split_lines(text: bytes) -> Lines:
    """Find the lines of a text that ends with a newline."""
    ends = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == _NEWLINE)
    return Lines(text, np.concatenate([[0], ends[:-1] + 1]), ends)


def find_irregular(lines: Lines, dialect: Dialect) -> BoolArray:
    """Mark the lines [lines] with another number of fields than the header, or with quotes that enclose no field."""
    data = np.frombuffer(lines.text, dtype=np.uint8)
    separator = ord(dialect.separator)
    is_separator = data == separator
    irregular = np.zeros(len(lines.ends), dtype=np.bool_)

    if dialect.quote and _QUOTE in lines.text:
        is_quote = data == _QUOTE
        is_inside = np.bitwise_xor.accumulate(is_quote)  # as if all lines were closed …
        is_open = is_inside[lines.ends]
        if is_open.any():  # … if not, each line begins outside of quotes again
            irregular |= is_open ^ np.concatenate([[False], is_open[:-1]])
            carried = np.concatenate([[False], is_open[:-1]])
            is_inside ^= np.repeat(carried, lines.ends - lines.starts + 1)
        is_separator &= ~is_inside
        irregular[_lines_of(_misplaced_quotes(data, is_quote, is_inside, separator), lines)] = True

    found = np.flatnonzero(is_separator)
    wanted = len(dialect.columns) - 1
    if len(found) == wanted * len(lines.ends):
        by_line = found.reshape(len(lines.ends), wanted)
        if not wanted or ((by_line[:, 0] >= lines.starts).all() and (by_line[:, -1] < lines.ends).all()):
            return irregular | (lines.starts == lines.ends)
    count = np.searchsorted(found, lines.ends) - np.searchsorted(found, lines.starts)
    return irregular | (count != wanted) | (lines.starts == lines.ends)


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


def _misplaced_quotes(data: Bytes, is_quote: BoolArray, is_inside: BoolArray, separator: int) -> npt.NDArray[np.int64]:
    """Return the positions of opening quotes that begin no field, and of closing ones that end none."""
    at = np.flatnonzero(is_quote)
    opens = is_inside[at]
    opening = at[opens]
    closing = at[~opens]

    before = np.where(opening > 0, data[opening - 1], _NEWLINE)
    after = data[closing + 1]
    begins = (before == separator) | (before == _NEWLINE) | (before == _QUOTE)
    ends = (after == separator) | (after == _NEWLINE) | (after == _QUOTE) | (after == ord("\r"))
    return np.concatenate([opening[~begins], closing[~ends]])


def _lines_of(positions: npt.NDArray[np.int64], lines: Lines) -> npt.NDArray[np.int64]:
    return np.searchsorted(lines.ends, positions)


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
