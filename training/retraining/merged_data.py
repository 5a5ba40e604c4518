"""Merge of the base data with recorded events, new items and changed item content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import polars as pl

from model_store.replication.item_payload import ItemContent
from training.data.dataset import Dataset


class MergedData(NamedTuple):
    """Base data with the events and items that the store recorded."""

    dataset: Dataset
    accepted: int  # events
    rejected: int  # events with items that the data set does not have
    new_items: int  # items that came after the base data
    changed_items: int  # items of the base data with other content now


def merge_data(base: Dataset, events: pl.DataFrame, items: Mapping[str, ItemContent], min_item: int) -> MergedData:
    """Merge events and items of the store into base data.

    A new item is added once training sees at least ``min_item`` of its interactions, the same number that the k-core
    requires of every item of the base data. Interactions that are held out for the evaluation do not count: an item
    that training never sees is better off with the codes that its content gives it. Until it is added, its interactions
    are left out, too.

    Args:
        base: Base data.
        events: Columns ``user_id``, ``item_id`` and ``timestamp``, in order of time.
        items: Content by id of the items that the store has. It replaces the content of items of the base data.
        min_item: Fewest training interactions of a new item.

    Raises:
        DataError: A new user's id is empty or too long.
    """
    counts = dict(events.group_by("item_id").len().iter_rows())
    updated, changed = _update_content(base, items)
    new = [item_id for item_id in items if item_id not in base.item_row and counts.get(item_id, 0) >= min_item]
    columns = [events[name].to_list() for name in ("user_id", "item_id", "timestamp")]

    # Dropping an item makes other interactions the newest ones, which are held out: then counts change once more.
    while True:
        merged = _append_items(updated, new, items).with_interactions(*columns)
        seen = merged.dataset.popularity()[base.n_items :].tolist()
        kept = [item_id for item_id, count in zip(new, seen, strict=True) if count >= min_item]
        if len(kept) == len(new):
            return MergedData(*merged, len(new), changed)
        new = kept


def _update_content(base: Dataset, items: Mapping[str, ItemContent]) -> tuple[Dataset, int]:
    """Return the base data with the store's item content, and the number of items whose content changed."""
    titles = list(base.titles)
    categories = list(base.categories)
    attributes = list(base.attributes)
    changed = 0

    for item_id, content in items.items():
        row = base.item_row.get(item_id)
        if row is not None and content != (titles[row], categories[row], attributes[row]):
            titles[row], categories[row], attributes[row] = content
            changed += 1

    return replace(base, titles=titles, categories=categories, attributes=attributes), changed


def _append_items(base: Dataset, new: Sequence[str], items: Mapping[str, ItemContent]) -> Dataset:
    """Append new items after those of the base data, without interactions yet."""
    content = [items[item_id] for item_id in new]
    return replace(
        base,
        item_ids=[*base.item_ids, *new],
        titles=[*base.titles, *(each.title for each in content)],
        categories=[*base.categories, *(each.categories for each in content)],
        attributes=[*base.attributes, *(each.attributes for each in content)],
    )
