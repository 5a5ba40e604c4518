"""Regular and irregular lines of separated text, against a plain reading line by line."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

import polars as pl
import pytest

from model_store.source_files import csv_lines
from model_store.source_files.csv_lines import (
    Dialect,
    find_irregular,
    is_regular,
    read_dialect,
    split_lines,
    whole_lines,
)

THREE = Dialect(",", '"', ("a", "b", "c"), has_header=True)


def irregular(text: bytes, dialect: Dialect = THREE) -> list[int]:
    return [number for number, wrong in enumerate(find_irregular(split_lines(text), dialect), start=1) if wrong]


@pytest.mark.parametrize(
    ("line", "is_wrong"),
    [
        (b"1,2,3", False),
        (b"1,2,3\r", False),
        (b",,", False),
        (b'"1","2, too",3', False),
        (b'1,"say ""hi""",3', False),
        (b'"",2,""', False),
        ("ü,é,日本".encode(), False),
        (b"1,2", True),
        (b"1,2,3,4", True),
        (b"", True),
        (b'1,"2,3', True),
        (b'1,2",3', True),
        (b'1,27" wide,3" high', True),
        (b'1,"2" x,3', True),
    ],
)
def test_a_line_is_regular_or_not_whatever_is_around_it(line: bytes, is_wrong: bool) -> None:
    assert irregular(line + b"\n") == [1] * is_wrong
    assert irregular(b'"x",y,z\n' + line + b'\n"x",y,"z"\n') == [2] * is_wrong


def test_lines_are_judged_as_a_strict_reader_judges_them_one_by_one() -> None:
    draw = random.Random(5)
    lines = ["".join(draw.choice('ab,,"') for _ in range(draw.randrange(9))) for _ in range(4000)]
    expected = []
    for number, line in enumerate(lines, start=1):
        try:
            fields = next(csv.reader(io.StringIO(line, newline=""), strict=True), [])
        except csv.Error:
            fields = []
        # The module allows quotes inside a field that does not begin with one; a regular line has none.
        has_text_quotes = any(
            '"' in field and f'"{field.replace(chr(34), chr(34) * 2)}"' not in line for field in fields
        )
        if len(fields) != 3 or has_text_quotes:
            expected.append(number)
    assert irregular("".join(f"{line}\n" for line in lines).encode()) == expected
    assert len(lines) - len(expected) > 200


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt"])
def test_the_separator_is_found(tmp_path: Path, separator: str, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    rows = [["user id", "item", "price"], ["u1", "i1", "5,99"], ["u2", "i2|i3", "6,00"]]
    path.write_text("".join(separator.join(f'"{f}"' if separator in f else f for f in row) + "\n" for row in rows))
    dialect = read_dialect(path, suffix)
    assert (dialect.separator, dialect.columns) == (separator, ("user id", "item", "price"))


def test_columns_get_names_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xef\xbb\xbf user ,,item,item\n")
    assert read_dialect(path, ".csv").columns == ("user", "column_2", "item", "item_4")


def test_quotes_in_tsv_are_text_unless_they_enclose_fields_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text('id\ttitle\n1\t"Quoted" Film\n')
    assert read_dialect(path, ".tsv").quote is None
    path.write_text('id\ttitle\n1\t"A film"\n')
    assert read_dialect(path, ".tsv").quote == '"'
    assert read_dialect(path, ".item").quote is None


@pytest.mark.parametrize("chunk", [7, 16, 1 << 20])
def test_parts_hold_whole_lines_and_all_of_them(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(csv_lines, "CHUNK", chunk)
    text = b"one\ntwo\n\n\nthree\r\n\r\nfour"
    parts = list(whole_lines(io.BytesIO(text)))
    assert b"".join(parts) == text + b"\n"
    assert all(part.endswith(b"\n") for part in parts)


@pytest.mark.parametrize(
    "content",
    [
        b"a,b\n1,2\n\n3,4\n",
        b"a,b\n1,2\n\n",
        b"a,b\n1\n",
        b"a,b\n1,\xe9\n",
        b"a,b\n1,2\0\n",
        b"a,b\r\n1,2\r3\r\n",
        "a,b\n1,2\n".encode("utf-16"),
    ],
    ids=["blank line", "blank end", "short", "Latin-1", "NUL", "lone return", "UTF-16"],
)
def test_other_files_are_not_regular(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    assert not is_regular(path, read_dialect(path, ".csv"))


def test_regular_files_are_read_by_polars_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes('a,b\r\n1,"x, y"\r\n"""2""",é\r\n'.encode())
    assert is_regular(path, read_dialect(path, ".csv"))
    assert pl.read_csv(path, infer_schema=False).rows() == [("1", "x, y"), ('"2"', "é")]
