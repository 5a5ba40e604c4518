"""`etegrec-train validate`: every check on data with exactly that flaw, and good data with none."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from model_store.source_files.column_names import Columns
from training.cli import app
from training.data.prepare import PrepareOptions, prepare
from training.data.validate import Check, validate

START = 1_500_000_000
GOOD = [(f"u{user}", f"i{item}", START + 100 * user + item) for user in range(5) for item in range(5)]


def lines(rows: Sequence[tuple[object, ...]] | None = None) -> str:
    return "user,item,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in (GOOD if rows is None else rows))


def checked(path: Path, text: str, **options: object) -> dict[str, Check]:
    path.write_text(text, encoding="utf-8")
    return {
        check.name: check for check in validate(str(path), PrepareOptions.model_validate(options), lambda line: None)
    }


def notes(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if check.outcome == "note"}


def failures(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if not check.passed}


def test_good_data_pass_every_check(tmp_path: Path) -> None:
    checks = checked(tmp_path / "c.csv", lines())
    assert failures(checks) == set()
    assert notes(checks) == set()
    assert len(checks) == 14
    assert checks["interactions"].detail == "25 rows"
    assert checks["filters"].detail.startswith("5 users, 5 items, 25 interactions")
    assert checks["time unit"].detail == "seconds"


@pytest.mark.parametrize(
    ("row", "name", "count", "shown"),
    [
        (",i1,1500000000", "user ids", 1, "c.csv line 27: ''"),
        ("u1,,1500000000", "item ids", 1, "c.csv line 27: ''"),
        ("x" * 129 + ",i1,1500000000", "user id length", 1, f"c.csv line 27: '{'x' * 40}'"),
        ("u1," + "é" * 65 + ",1500000000", "item id length", 1, f"c.csv line 27: '{'é' * 40}'"),
        ("u1,i1,soon", "timestamps", 1, "c.csv line 27: 'soon'"),
        ("u1,i1,", "timestamps", 1, "c.csv line 27: ''"),
        ("u1,i1,-7", "timestamps", 1, "c.csv line 27: '-7'"),
        ("u1,i1,86400", "times", 1, "c.csv line 27: '86400'"),
        ("u1,i1,99999999999", "times", 1, "c.csv line 27: '99999999999'"),
        ("u1,i1,1500000000000", "time unit", 1, "c.csv line 27: '1500000000000'"),
    ],
)
@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_flaw_is_found_and_names_its_line(
    tmp_path: Path, row: str, name: str, count: int, shown: str, skip_bad: bool
) -> None:
    checks = checked(tmp_path / "c.csv", lines() + row + "\n", skip_bad=skip_bad)
    is_handled = skip_bad and name not in ("times", "time unit")
    assert name in (notes(checks) if is_handled else failures(checks))
    assert checks[name].count == count
    assert checks[name].rows == (shown,)


def test_what_prepare_drops_is_a_note_with_its_numbers(tmp_path: Path) -> None:
    rows = [*GOOD, *GOOD, ("u9", "i1", START), ("u9", "i2", START)]
    checks = checked(tmp_path / "c.csv", lines(rows))
    assert failures(checks) == set()
    assert checks["duplicates"].count == 25
    assert checks["duplicates"].rows[0] == "c.csv line 27: user u0 and item i0 again at the same time"
    assert checks["filters"].count == 2
    assert "5 users, 5 items, 25 interactions" in checks["filters"].detail

    said: list[str] = []
    prepare(str(tmp_path / "c.csv"), tmp_path / "out", PrepareOptions(), said.append)
    assert "; ".join(line.removeprefix("c: ") for line in said) == checks["filters"].detail


def test_nothing_left_fails(tmp_path: Path) -> None:
    checks = checked(tmp_path / "c.csv", lines(GOOD[:4]))
    assert failures(checks) == {"filters"}
    assert "no interactions are left" in checks["filters"].detail


def test_items_without_interactions_and_repeated_items(tmp_path: Path) -> None:
    items = tmp_path / "items.csv"
    items.write_text("item,title\ni0,A\ni1,B\nunsold,C\ni0,D\n")
    checks = checked(tmp_path / "c.csv", lines(), items_file=str(items))
    assert failures(checks) == set()
    assert {"item file", "items with interactions"} <= notes(checks)
    assert checks["item file"].rows == ("items.csv line 5: 'i0'",)
    assert checks["items with interactions"].rows == ("items.csv line 4: 'unsold'",)


def test_a_row_without_an_item_id_is_no_item_of_that_name(tmp_path: Path) -> None:
    items = tmp_path / "items.csv"
    items.write_text("item,title\ni0,A\ni1,B\n,C\n  ,D\n")
    checks = checked(tmp_path / "c.csv", lines(), items_file=str(items))
    assert checks["item file"].count == 2
    assert checks["item file"].rows == ("items.csv line 4: its id is empty", "items.csv line 5: its id is empty")
    assert checks["item file"].detail.startswith("2 rows have no item id or repeat an item")
    assert checks["items with interactions"].outcome == "pass"
    assert not any("None" in row for check in checks.values() for row in check.rows)


def test_what_is_not_read_of_items_is_a_note(tmp_path: Path) -> None:
    items = tmp_path / "items.csv"
    items.write_text("item,title\n" + "".join(f"i{row},!!!\n" for row in range(5)))
    checks = checked(tmp_path / "c.csv", lines(), items_file=str(items))
    assert "items.csv: 5 of 5 items say nothing that can be read" in checks["reading"].rows
    assert "no trained item says anything that can be read: content is not read" in checks["filters"].detail


def test_a_missing_column_ends_the_checks(tmp_path: Path) -> None:
    checks = checked(tmp_path / "c.csv", "user,price,timestamp\nu,1,2\n")
    assert list(checks) == ["columns"]
    assert "no item column" in checks["columns"].detail
    assert failures(checked(tmp_path / "c.csv", lines(), columns=Columns(item="sku"))) == {"columns"}


def test_a_file_that_breaks_off_in_the_middle_is_not_readable(tmp_path: Path) -> None:
    path = tmp_path / "c.csv.gz"
    packed = gzip.compress("".join(lines([*GOOD] * 3000)).encode(), 0)
    path.write_bytes(packed[: len(packed) // 2])
    checks = {check.name: check for check in validate(str(path), PrepareOptions(), lambda line: None)}
    assert failures(checks) == {"columns"}


def test_other_formats_are_checked_alike(tmp_path: Path) -> None:
    text = checked(tmp_path / "seq.txt", "u1 a b c d e\nu2\n")
    assert text["item ids"].rows == ("seq.txt line 2: ''",)
    assert "no times" in text["duplicates"].detail
    rows = "".join(f"{user}\t{item}\t{START + n}.0\n" for user in range(5) for n, item in enumerate("abcde"))
    inter = checked(tmp_path / "x.inter", "user_id:token\titem_id:token\ttimestamp:float\n" + rows)
    assert failures(inter) == set()
    days = [(f"u{user}", item, f"2020-01-01T00:00:0{item}Z") for user in range(5) for item in range(5)]
    dates = checked(tmp_path / "d.csv", lines(days))
    assert failures(dates) == set()
    assert dates["time unit"].detail == "dates"
    frame = pl.DataFrame(GOOD, schema=["user", "item", "timestamp"], orient="row")
    frame.with_columns(pl.from_epoch("timestamp")).write_parquet(tmp_path / "p.parquet")
    assert all(check.passed for check in validate(str(tmp_path / "p.parquet"), PrepareOptions(), lambda line: None))


def test_the_command_prints_pass_note_and_fail_and_exits_with_one(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text(lines([*GOOD, GOOD[0], ("u1", "i1", "soon")]).replace("user,", "who,", 1))
    done = CliRunner().invoke(app, ["validate", str(path), "--user", "who"])
    assert done.exit_code == 1
    assert 'PASS  columns: user from "who", item, timestamp' in done.stdout
    assert "NOTE  duplicates: 1 rows repeat user, item and second, dropped\n      c.csv line 27: user u0" in done.stdout
    assert "FAIL  timestamps: 1 rows: neither Unix time nor ISO 8601\n      c.csv line 28: 'soon'" in done.stdout
    asked = CliRunner().invoke(app, ["validate", "--data", str(path), "--user", "who", "--json"])
    answer = json.loads(asked.stdout)
    assert (asked.exit_code, answer["passed"]) == (1, False)
    assert [check["name"] for check in answer["checks"] if check["outcome"] == "fail"] == ["timestamps"]
    path.write_text(lines())
    good = CliRunner().invoke(app, ["validate", str(path)])
    assert good.exit_code == 0
    assert "FAIL" not in good.stdout
