"""Ids as people mean them: without the spaces around them, and ``106`` where a table with gaps has ``106.0``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

FLOAT_ID = r"^([0-9]+)\.0+$"
"""Pattern of a whole number that is written with a point; the number is its first group."""

SAMPLE = 1000
"""Number of the first rows of a file that are read to judge how its ids and times are written."""

_NUMBER_ID = re.compile(r"[0-9]+(\.0+)?")


class IdSpelling(NamedTuple):
    """How a column of ids is written; a reader undoes both."""

    is_padded: bool = False  # with spaces around some
    float_example: str = ""  # all are whole numbers, and some are written like this one: 106.0

    def describe(self) -> str:
        """Return what is done to the ids, for people; empty if nothing is."""
        done = ["have spaces around them, which are left out"] if self.is_padded else []
        if self.float_example:
            whole = self.float_example.partition(".")[0]
            done.append(f"are written like {self.float_example}: read as {whole}")
        return " and ".join(done)


def judge_ids(sample: Iterable[str | None]) -> IdSpelling:
    """Judge how the ids of a column are written by some of them; ``None`` and empty ones do not count."""
    filled = [name for name in sample if name]
    plain = [name.strip() for name in filled]
    numbers = [name for name in plain if name]

    floats = (name for name in numbers if "." in name)
    are_numbers = all(_NUMBER_ID.fullmatch(name) for name in numbers)
    return IdSpelling(plain != filled, next(floats, "") if are_numbers else "")
