"""The first day is lived again: every promise of docs/FIRST_DAY.md holds, and the page has the commands that ran."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs import make_first_day
from docs.make_first_day import PAGE, Day, DayFailed, make

BOUGHT = re.compile(r'"item_id": "\d+"')
"""What the customer buys is what was recommended, which rounding may decide."""


def commands(page: str) -> list[str]:
    """Return the commands of a page, each in one line."""
    found = re.findall(r"^```console\n\$ (.*?[^\\])\n", page, re.MULTILINE | re.DOTALL)
    return [re.sub(r" \\\n\s*", " ", command) for command in found]


def without_what_was_bought(commands: list[str]) -> list[str]:
    return [BOUGHT.sub("", command) for command in commands]


def test_the_first_day_goes_as_the_page_says(tmp_path: Path) -> None:
    day = make(tmp_path)
    assert commands("\n\n".join(day.page)) == day.commands
    on_page = commands(PAGE.read_text(encoding="utf-8"))
    assert without_what_was_bought(on_page) == without_what_was_bought(day.commands)
    assert len(day.commands) > 15


def test_long_answers_are_cut_in_the_middle_and_long_commands_wrapped(tmp_path: Path) -> None:
    day = Day(tmp_path, port=0)
    day.run("seq 100")
    day.run("echo --" + " --long-option".join("abcdefg"))
    shown, wrapped = day.page
    assert "\n1\n" in shown
    assert f"\n… ({100 - make_first_day.SHOWN_LINES} more lines)\n96\n" in shown
    assert "\n100\n" in shown
    assert max(map(len, wrapped.splitlines())) <= make_first_day.SHOWN_WIDTH
    assert commands("\n\n".join(day.page)) == day.commands


def test_a_step_that_fails_ends_the_day(tmp_path: Path) -> None:
    day = Day(tmp_path, port=0)
    with pytest.raises(DayFailed, match="ended with 1, not 0"):
        day.run("false")
    with pytest.raises(DayFailed, match="no such thing"):
        day.check(False, "no such thing")
