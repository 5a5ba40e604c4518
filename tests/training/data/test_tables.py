"""Messy files of interactions and items: what is read is what was meant, and messages stay short."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from model_store.errors import DataError
from model_store.source_files.column_names import Columns
from tests.support.messy_tables import write_messy_shop
from training.data.readers import ReadOptions, read_source


def read(path: Path, **options: object) -> tuple[list[tuple[object, ...]], str]:
    raw = read_source(path, ReadOptions.model_validate(options))
    return raw.interactions.rows(), "\n".join(raw.notes)


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_messy_shop_is_read_as_it_is_meant(tmp_path: Path, encoding: str, newline: str) -> None:
    shop = write_messy_shop(tmp_path, encoding=encoding, newline=newline)
    columns = Columns(items_key="product number", attributes=("price", "in_stock", "release_date"))
    options = ReadOptions(columns=columns, items_file=str(shop.items), skip_bad=True)
    raw = read_source(shop.interactions, options, tmp_path / "out")

    texts = raw.interactions.with_columns(pl.col("user", "item", "event").cast(pl.String))
    found = texts.select("user", "item", "timestamp", "event").rows()
    assert sorted(set(found)) == sorted(set(shop.meant))
    assert len(found) == len(shop.meant) + shop.duplicates
    assert len(raw.items) == len(shop.prices)
    for item_id, item in raw.items.items():
        assert item.attributes["price"] == shop.prices[item_id]
        assert item.attributes["in_stock"] is shop.in_stock[item_id]
        assert item.attributes["release_date"] == shop.released[item_id]
        assert item.categories == shop.genres[item_id]
        assert item.title.startswith('Spiel "')

    skipped = pl.read_csv(tmp_path / "out" / "skipped.csv")
    assert dict(skipped.select("line", "file").rows()) == dict.fromkeys(shop.bad_lines, "orders.csv")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"skipped.csv"}
    notes = "\n".join(raw.notes)
    assert f"{shop.surplus} lines have more than 5 fields" in notes
    assert f"{len(shop.bad_lines)} lines cannot be used: skipped and listed in skipped.csv" in notes
    assert ("Windows-1252" in notes) == (encoding == "cp1252")
    assert f"{len(shop.unsold)} of them without interactions" in notes


def test_a_messy_shop_stops_at_its_first_bad_line_without_skip_bad(tmp_path: Path) -> None:
    shop = write_messy_shop(tmp_path)
    with pytest.raises(DataError, match=rf"orders.csv line {min(shop.bad_lines)}: a quote is opened"):
        read(shop.interactions)


def test_types_of_interactions_are_kept_where_there_are_some(tmp_path: Path) -> None:
    found, _ = read(written(tmp_path / "c.csv", "user,item,ts,kind\nu,a,1,view\nu,b,2,\n"), columns={"event": "kind"})
    assert found == [("u", "a", 1, "view"), ("u", "b", 2, None)]


def test_low_and_missing_values_are_dropped_and_counted(tmp_path: Path) -> None:
    path = written(tmp_path / "c.csv", "user,item,ts,stars\nu,a,1,5\nu,b,2,3.5\nu,c,3,2\nu,d,4,\n")
    found, said = read(path, min_value=3.5)
    assert [row[1] for row in found] == ["a", "b"]
    assert "2 interactions have no value of 3.5 or more" in said
    with pytest.raises(DataError, match="no column 'rating'"):
        read(path, min_value=3.5, columns={"value": "rating"})


def test_float_ids_become_whole_numbers_and_versions_do_not(tmp_path: Path) -> None:
    found, said = read(written(tmp_path / "c.csv", "user,item,ts\n1.0,106.0,1\n2.0,7,2\n"))
    assert [row[:2] for row in found] == [("1", "106"), ("2", "7")]
    assert "user ids are written like 1.0: read as 1" in said
    frame = pl.DataFrame({"user": [1.0, 2.0], "item": [106.0, 7.0], "ts": [1, 2]})
    frame.write_parquet(tmp_path / "c.parquet")
    assert [row[:2] for row in read(tmp_path / "c.parquet")[0]] == [("1", "106"), ("2", "7")]
    versions, _ = read(written(tmp_path / "v.csv", "user,item,ts\nu,1.0,1\nu,1.5,2\n"))
    assert [row[1] for row in versions] == ["1.0", "1.5"]


def test_spaces_around_ids_and_names_are_left_out(tmp_path: Path) -> None:
    found, said = read(written(tmp_path / "c.csv", "user; item; ts\n u ; 7 ; 1\n"))
    assert found == [("u", "7", 1)]
    assert "have spaces around them" in said


def test_bad_values_are_skipped_with_their_reason(tmp_path: Path) -> None:
    path = written(tmp_path / "c.csv", f"user,item,ts\nu,a,1\n,a,2\nu,,3\nu,{'x' * 200},4\nu,b,soon\n")
    raw = read_source(path, ReadOptions(skip_bad=True), tmp_path)
    assert raw.interactions.rows() == [("u", "a", 1)]
    reasons = pl.read_csv(tmp_path / "skipped.csv").select("line", "reason").rows()
    assert reasons == [
        (3, "user id is empty"),
        (4, "item id is empty"),
        (5, "item id is longer than 128 bytes"),
        (6, "timestamp is neither Unix time nor ISO 8601"),
    ]
    again = read_source(path, ReadOptions(skip_bad=True), tmp_path)
    assert again.interactions.rows() == raw.interactions.rows()
    assert len(pl.read_csv(tmp_path / "skipped.csv")) == 4


def test_a_broken_line_of_json_is_named_in_a_few_words(tmp_path: Path) -> None:
    good = json.dumps({"user": "u", "item": "i", "ts": 1, "text": "x" * 3000})
    path = written(tmp_path / "c.jsonl", f'{good}\n{good}\n{{"user": "u", "secret": "{"y" * 5000}\n')
    with pytest.raises(DataError, match=r"c.jsonl cannot be read: line 3 is not JSON") as refused:
        read(path)
    assert len(str(refused.value)) < 160


def test_items_that_do_not_fit_the_interactions_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "c.csv", "user,sku,ts\nu,a,1\n")
    items = written(tmp_path / "items.csv", "sku,number\n17,a\n")
    with pytest.raises(DataError, match=r"no item of items.csv has interactions: its ids are like '17'.* like 'a'"):
        read(path, items_file=str(items))
    assert read(path, items_file=str(items), columns={"items_key": "number"})[0] == [("u", "a", 1)]
