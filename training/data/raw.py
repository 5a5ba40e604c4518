"""Result of the readers, and helpers that the MovieLens readers share."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import polars as pl

from model_store.errors import DataError
from training.data.dataset import ItemInfo

_ARTICLE = re.compile(r"^(.*), (The|A|An|La|Le|Les|L'|Il|Das|Der)( \(.*)?$")


@dataclass(frozen=True)
class RawData:
    """Interactions and items as a reader returns them."""

    name: str
    interactions: (
        pl.DataFrame
    )  # user, item: String or Categorical; timestamp: Int64 (Unix seconds, 0 unknown); by time;
    # event: Categorical, type of the interaction, null where unknown, if the source has types
    items: dict[str, ItemInfo] = field(default_factory=dict)  # all items of the items file, sold or not
    notes: tuple[str, ...] = ()  # what was unusual about the source and what was dropped, for people
    left_out: int = 0  # interactions that the reader dropped because their type is left out
    repeats: int = 0  # interactions that the reader dropped because they repeated another one


def display_title(title: str) -> str:
    """Turn ``"Godfather, The"`` into ``"The Godfather"``; a remark in parentheses stays at the end."""
    match = _ARTICLE.match(title)
    if not match:
        return title
    rest, article, remark = match.groups(default="")
    space = "" if article.endswith("'") else " "
    return f"{article}{space}{rest}{remark}"


def split_movie_title(title: str) -> tuple[str, dict[str, int]]:
    """Split ``"Toy Story (1995)"`` into ``("Toy Story", {"year": 1995})``; without a year the dictionary is empty."""
    match = re.search(r"\((\d{4})\)\s*(\(V\))?\s*$", title.strip())
    if not match:
        return display_title(title.strip()), {}
    return display_title(title[: match.start()].strip()), {"year": int(match.group(1))}


def interaction_frame(name: str, rows: list[list[str]]) -> pl.DataFrame:
    """Convert rows of ``user, item, rating, time`` to the table that :class:`RawData` holds.

    Raises:
        DataError: A time is not a number.
    """
    frame = pl.DataFrame(rows, schema=["user", "item", "rating", "time"], orient="row")
    timestamp = frame["time"].cast(pl.Int64, strict=False).alias("timestamp")
    if timestamp.null_count():
        line = int(timestamp.is_null().arg_true()[0]) + 1
        raise DataError(f"{name} line {line}: the timestamp is not a number: {frame['time'][line - 1][:40]!r}")
    return frame.select("user", "item").with_columns(timestamp).sort("timestamp", maintain_order=True)
