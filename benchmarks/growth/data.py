"""Generated interactions and items of any size: ten interactions an item and a user, in topics, with titles.

python -m benchmarks.growth.data FOLDER ITEMS
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import typer

INTERACTIONS = "interactions.parquet"
ITEMS = "items.parquet"

PER_ITEM = 10
"""Interactions of an item on average, of which half are spread evenly: every item passes the 5-core."""

PER_USER = 10
ITEMS_PER_TOPIC = 50
WORDS = 20_000
FIRST_SECOND = 1_500_000_000
SECONDS = 5 * 365 * 86_400


def write_data(folder: Path, items: int, seed: int = 0) -> None:
    """Write both tables; a user's interactions have items of one topic, and the titles of a topic share words."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    topic = rng.permutation(items) // ITEMS_PER_TOPIC
    _interactions(topic, rng).write_parquet(folder / INTERACTIONS)
    _items(topic, rng).write_parquet(folder / ITEMS)


def _interactions(topic: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    items = len(topic)
    popular = (items * rng.random(items * PER_ITEM // 2) ** 2).astype(np.int64)
    item = np.concatenate([np.repeat(np.arange(items), PER_ITEM // 2), popular])
    item = item[np.lexsort((rng.random(len(item)), topic[item]))]

    user = np.arange(len(item)) // PER_USER
    order = rng.permutation(len(item))
    return pl.DataFrame({"user": user[order], "item": item[order]}).select(
        user_id=pl.format("A{}", "user"),
        item_id=pl.format("B{}", "item"),
        timestamp=pl.Series(FIRST_SECOND + rng.integers(0, SECONDS, len(item))),
    )


def _items(topic: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    """Return items whose titles have two words of their topic, one that is common, and one of their own."""
    common = (WORDS * rng.random(len(topic)) ** 3).astype(np.int64)
    table = pl.DataFrame({"item": np.arange(len(topic)), "topic": topic, "common": common})
    title = pl.format("theme{} kind{} word{} model{}", "topic", pl.col("topic") // 7, "common", "item")
    category = pl.format("category {}", pl.col("topic") % 300)
    return table.select(item_id=pl.format("B{}", "item"), title=title, categories=pl.concat_list(category))


if __name__ == "__main__":
    typer.run(write_data)
