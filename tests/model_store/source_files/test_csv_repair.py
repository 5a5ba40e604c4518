"""Irregular files: what can be read is read with its line number, whatever the size of the parts."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from model_store.errors import DataError
from model_store.source_files import csv_lines
from model_store.source_files.csv_lines import read_dialect
from model_store.source_files.csv_repair import convert
from model_store.source_files.intake import LINE, Intake

Rows = list[tuple[int, str | None, str | None]]


def converted(folder: Path, content: bytes, skip_bad: bool = True) -> tuple[Rows, Intake]:
    path = folder / "x.csv"
    path.write_bytes(content)
    intake = Intake(folder, skip_bad, folder / "skipped.csv")
    target = intake.new_file()
    convert(path, read_dialect(path, ".csv"), target, intake)
    return pl.read_parquet(target).select(LINE, "a", "b").rows(), intake


@pytest.fixture(params=[12, 1 << 20])
def _small_parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_lines, "CHUNK", request.param)


@pytest.mark.usefixtures("_small_parts")
def test_rows_keep_their_line_numbers(tmp_path: Path) -> None:
    rows, intake = converted(
        tmp_path, b'a,b\n1,x\n2\n3,x,y,z\n4,27" wide\n\n5,"two\nlines, ""quoted"""\n6,x,,\n7,"open\n8,x\n9,"a" b\n'
    )
    assert rows == [
        (2, "1", "x"),
        (3, "2", None),
        (4, "3", "x"),
        (5, "4", '27" wide'),
        (7, "5", 'two\nlines, "quoted"'),
        (9, "6", "x"),
        (11, "8", "x"),
    ]
    assert intake.notes == [
        "x.csv: 1 lines have more than 2 fields: surplus fields were cut (first: line 4)",
        "x.csv: 1 lines have fewer than 2 fields: missing fields are empty (first: line 3)",
        "x.csv: 1 lines have quotes inside a field: read as text (first: line 5)",
    ]
    reason = "a quote is opened and not closed where a field ends"
    assert (tmp_path / "skipped.csv").read_text().splitlines() == [
        "file,line,reason,text",
        f'x.csv,10,{reason},"\'7,""open\'"',
        f'x.csv,12,{reason},"\'9,""a"" b\'"',
    ]


@pytest.mark.usefixtures("_small_parts")
def test_two_stray_quotes_do_not_swallow_the_lines_between(tmp_path: Path) -> None:
    between = b"".join(b"u%d,x\n" % number for number in range(500))
    rows, intake = converted(tmp_path, b'a,b\n1,"x\n' + between + b'2,"y\n3,z\n')
    assert [row[1] for row in rows] == [*(f"u{number}" for number in range(500)), "3"]
    assert [line.split(":")[0] for line in intake.skipped_first] == ["x.csv line 2", "x.csv line 503"]


def test_a_message_about_a_stray_quote_is_short_and_names_its_line(tmp_path: Path) -> None:
    secret = b"".join(b"customer%d,item\n" % number for number in range(100_000))
    with pytest.raises(DataError) as refused:
        converted(tmp_path, b"a,b\n" + secret + b'one,"' + b"x" * 500 + b"\n" + secret, skip_bad=False)
    assert str(refused.value).startswith("x.csv line 100002: a quote is opened and not closed")
    assert len(str(refused.value)) < 160
    assert "--skip-bad" in refused.value.hint


@pytest.mark.usefixtures("_small_parts")
@pytest.mark.parametrize(
    ("encoding", "note"),
    [
        ("latin-1", "x.csv: 2 lines are not UTF-8: read as Windows-1252 (first: line 1)"),
        ("cp1252", "x.csv: 2 lines are not UTF-8: read as Windows-1252 (first: line 1)"),
        ("utf-16", ""),
        ("utf-8-sig", ""),
    ],
)
def test_other_encodings_are_converted(tmp_path: Path, encoding: str, note: str) -> None:
    rows, intake = converted(tmp_path, "a,b,é\n1,plain,\n2,Größe,x\n3,x,\n".encode(encoding))
    assert rows == [(2, "1", "plain"), (3, "2", "Größe"), (4, "3", "x")]
    assert intake.notes == ([note] if note else [])


def test_lines_in_two_encodings_are_each_read_in_their_own(tmp_path: Path) -> None:
    rows, _ = converted(tmp_path, "a,b\n1,é\n".encode() + "2,é\n".encode("latin-1"))
    assert rows == [(2, "1", "é"), (3, "2", "é")]


def test_a_line_without_end_is_bad(tmp_path: Path) -> None:
    rows, intake = converted(tmp_path, b"a,b\n1,x\n2," + b"y" * (csv_lines.LONGEST_LINE + 9) + b",\n3,z\n")
    assert rows == [(2, "1", "x"), (4, "3", "z")]
    assert intake.skipped_first[0].startswith("x.csv line 3: longer than 1,048,576 characters")


def test_a_carriage_return_inside_a_line_is_a_space(tmp_path: Path) -> None:
    rows, _ = converted(tmp_path, b'a,b\r\n1,x\ry\r\n2\r,"z\r"\r\n')
    assert rows == [(2, "1", "x y"), (3, "2 ", "z ")]
