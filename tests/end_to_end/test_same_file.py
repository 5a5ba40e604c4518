"""One file of interactions, read by training and by ``etegrec-serve import-history``: both understand the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.errors import DataError
from model_store.events.event import event_type_of
from model_store.events.history_entry import letter_of
from model_store.source_files.column_names import Columns
from service.histories.history_file import read_history_file
from tests.support.messy_tables import write_messy_shop
from training.data.readers import ReadOptions, read_source

History = list[tuple[str, int, str]]  # item, Unix seconds, letter of the type


def as_trained(file: Path) -> dict[str, History]:
    found: dict[str, History] = {}
    rows = read_source(file, ReadOptions(skip_bad=True)).interactions
    for user, item, timestamp, event in rows.select("user", "item", "timestamp", "event").iter_rows():
        found.setdefault(user, []).append((item, timestamp, letter_of(event_type_of(event))))
    return found


def as_imported(file: Path) -> dict[str, History]:
    histories = read_history_file(file, Columns(), skip_bad=True).histories(10**6)
    return {each.user_id: list(zip(each.item_ids, each.timestamps, each.letters, strict=True)) for each in histories}


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8-sig", "utf-16"])
def test_a_messy_file_is_imported_as_it_is_trained_on(tmp_path: Path, encoding: str) -> None:
    shop = write_messy_shop(tmp_path, encoding=encoding)
    imported = as_imported(shop.interactions)
    assert imported == as_trained(shop.interactions)
    assert sum(map(len, imported.values())) == len(shop.meant) + shop.duplicates


@pytest.mark.parametrize(
    "text",
    [
        "who,item\nu,a\n",
        "user,item\nu,\nu,b\n",
        "user,item,time\nu,a,noon\nu,b,5\n",
        f"user,item\n{'x' * 129},a\n",
        'user,item\nu,"a\nv,b\n',
    ],
)
def test_both_refuse_a_file_with_the_same_words(tmp_path: Path, text: str) -> None:
    file = tmp_path / "log.csv"
    file.write_text(text)
    with pytest.raises(DataError) as by_training:
        read_source(file, ReadOptions())
    with pytest.raises(DataError) as by_import:
        read_history_file(file, Columns())
    assert str(by_import.value).partition("'")[0] == str(by_training.value).partition("'")[0]
    assert by_import.value.hint == by_training.value.hint
