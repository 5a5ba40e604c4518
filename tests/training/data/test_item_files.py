"""Items files: types, separators of categories, keys, and what is said about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.source_files.column_names import Columns
from model_store.source_files.intake import Intake
from training.data.dataset import ItemInfo
from training.data.item_files import read_items


def read(path: Path, text: str, columns: Columns | None = None, separator: str = "") -> tuple[dict[str, ItemInfo], str]:
    path.write_text(text, encoding="utf-8")
    intake = Intake(path.parent)
    items = read_items(path, columns or Columns(), intake, separator)
    return items, "\n".join(intake.notes)


def test_types_survive(tmp_path: Path) -> None:
    columns = Columns(attributes=("price", "in_stock", "released", "id_code"))
    items, said = read(
        tmp_path / "items.csv",
        "sku,price,in_stock,released,id_code\na,59.99,true,2024-01-01,007\nb,5,FALSE,,08\n",
        columns,
    )
    assert items["a"].attributes == {"price": 59.99, "in_stock": True, "released": 1704067200, "id_code": "007"}
    assert items["b"].attributes == {"price": 5.0, "in_stock": False, "id_code": "08"}
    assert "price: numbers; in_stock: true or false; released: dates, as Unix seconds; id_code: text" in said


@pytest.mark.parametrize(
    ("rows", "expected", "words"),
    [
        ('a,"x|y"\nb,z\n', ("x", "y"), 'separated by "|"'),
        ('a,"x; y"\nb,z\n', ("x", "y"), 'separated by ";"'),
        ('a,"x,y"\nb,"y,x"\nc,"x,y,x"\nd,x\n', ("x", "y"), 'separated by ","'),
        ('a,"Home, Garden"\nb,"Home, Garden"\nc,Toys\n', ("Home, Garden",), "no separator was found"),
        ("a,x\nb,y\n", ("x",), "no separator was found"),
    ],
)
def test_the_separator_of_categories_is_found_and_said(
    tmp_path: Path, rows: str, expected: tuple[str, ...], words: str
) -> None:
    items, said = read(tmp_path / "items.csv", f"sku,categories\n{rows}")
    assert items["a"].categories == expected
    assert words in said
    assert "--separator" in said


def test_a_separator_that_is_given_counts(tmp_path: Path) -> None:
    items, _ = read(tmp_path / "items.csv", 'sku,genre\na,"x > y, z"\n', separator=">")
    assert items["a"].categories == ("x", "y, z")


def test_ids_are_read_as_those_of_the_interactions_and_repeats_are_counted(tmp_path: Path) -> None:
    items, said = read(tmp_path / "items.csv", "id;Name;price\n106.0;A;1\n107.0;B;2\n106.0;C;3\n;D;4\n")
    assert {key: item.title for key, item in items.items()} == {"106": "A", "107": "B"}
    assert "item ids are written like 106.0: read as 106" in said
    assert "2 rows have no item id or repeat an item" in said
    assert "columns that are not used: price (keep them with --attributes price)" in said


def test_columns_of_any_name_are_allowed(tmp_path: Path) -> None:
    columns = Columns(items_key="sku", attributes=("id", "line"))
    items, _ = read(tmp_path / "items.csv", "id,line,sku\n1,garden,a\n", columns)
    assert items["a"].attributes == {"id": 1, "line": "garden"}


def test_items_that_say_nothing_and_texts_that_are_cut_off_are_counted(tmp_path: Path) -> None:
    titles = ["Wool socks", "", "!!! ---", "\x01\x02", "word " * 500]
    rows = [f'i{row},"{title}",,' for row, title in enumerate(titles)]
    rows += [f"i5,,{'x' * 2001},", "i6,,,3.5"]
    _, said = read(
        tmp_path / "items.csv",
        "item_id,title,genres,price\n" + "\n".join(rows) + "\n",
        Columns(attributes=("price",)),
    )
    assert "items.csv: 3 of 7 items say nothing that can be read" in said
    assert "items.csv: 2 texts are longer than 2,000 characters, of which the rest is not read" in said


def test_items_that_are_read_whole_need_no_words(tmp_path: Path) -> None:
    _, said = read(tmp_path / "items.csv", "item_id,title\na,Socks\nb,映画\n")
    assert "can be read" not in said
    assert "longer" not in said
