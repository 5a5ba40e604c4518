"""Files of interactions, as shops export them."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.errors import DataError
from model_store.events.history_entry import UserInteractions
from service.histories.history_file import read_history_file


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separators_and_the_case_of_the_header_are_found(separator: str, tmp_path: Path) -> None:
    rows = [["User_ID", "ItemID", "TIME", "type"], ["u", "a", "20", "view"], ["v", "a", "5", ""], ["u", "b", "10", "x"]]
    file = tmp_path / "log.csv"
    file.write_text("\n".join(separator.join(row) for row in rows) + "\n", encoding="utf-8-sig")
    read = read_history_file(file, {})
    assert list(read.histories(10)) == [
        UserInteractions("u", ["b", "a"], [10, 20], "-v"),
        UserInteractions("v", ["a"], [5], "-"),
    ]
    assert next(iter(read.histories(1))) == UserInteractions("u", ["a"], [20], "v")


def test_ids_that_look_like_numbers_stay_text(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text("user,item\n007,0010\n")
    assert list(read_history_file(file, {}).histories(5)) == [UserInteractions("007", ["0010"], [0], "-")]


def test_a_message_is_short_however_long_the_header_is(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text(",".join(f"column-{n}" for n in range(5000)) + "\n")
    with pytest.raises(DataError, match="there is no column 'user'") as refused:
        read_history_file(file, {})
    assert len(str(refused.value)) < 400
