"""Columns by their usual names, and what a user is told who names a wrong one."""

from __future__ import annotations

import pytest

from model_store.errors import DataError
from model_store.source_files.column_names import Columns, find_column, find_items_key


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("user", "USER_ID"),
        ("user", "customer_id"),
        ("user", "visitorid"),
        ("user", "Customer ID"),
        ("item", "sku"),
        ("item", "product_id"),
        ("item", "itemid"),
        ("item", "ProductId"),
        ("timestamp", "event_time"),
        ("timestamp", "EventTime"),
        ("timestamp", "created-at"),
        ("event", "event_type"),
        ("value", "Rating"),
        ("title", "Product Name"),
        ("categories", "genres"),
    ],
)
def test_usual_names_are_recognised_in_any_spelling(kind: str, name: str) -> None:
    assert find_column("x.csv", ["other", name], kind, "") == name


def test_the_better_name_wins_and_an_exact_spelling_before_all() -> None:
    assert find_column("x.csv", ["customer", "user", "visitorid"], "user", "") == "user"
    assert find_column("x.csv", ["SKU", "sku"], "item", "sku") == "sku"
    assert find_column("x.csv", ["SKU", "sku"], "item", "Sku") == "SKU"


def test_a_wrong_name_gets_a_question_the_list_and_the_option() -> None:
    with pytest.raises(DataError) as refused:
        find_column("x.csv", ["customer", "article", "ts"], "item", "artcle")
    assert str(refused.value) == (
        "x.csv has no column 'artcle' (did you mean 'article'?); its columns are customer, article, ts"
    )
    assert "--item NAME;" in refused.value.hint


def test_a_file_of_a_thousand_columns_gives_a_short_message() -> None:
    with pytest.raises(DataError) as refused:
        find_column("x.csv", [f"column {number} {'x' * 500}" for number in range(1000)], "user", "")
    assert len(str(refused.value)) < 1500


def test_a_column_that_was_named_is_never_optional() -> None:
    assert find_column("x.csv", ["a"], "timestamp", "", required=False) == ""
    with pytest.raises(DataError, match="no column 'when'"):
        find_column("x.csv", ["a"], "timestamp", "when", required=False)


@pytest.mark.parametrize(
    ("found", "columns", "item", "key"),
    [
        (["product_id", "sku"], Columns(), "sku", "sku"),
        (["product_id", "SKU"], Columns(item="sku"), "", "SKU"),
        (["id", "title"], Columns(item="sku"), "sku", "id"),
        (["sku", "code"], Columns(item="sku", items_key="code"), "sku", "code"),
    ],
)
def test_the_key_of_an_items_file(found: list[str], columns: Columns, item: str, key: str) -> None:
    assert find_items_key("items.csv", found, columns, item) == key


def test_an_items_file_without_a_key_names_the_option() -> None:
    with pytest.raises(DataError) as refused:
        find_items_key("items.csv", ["reference", "title"], Columns(), "sku")
    assert "--items-key NAME" in refused.value.hint
