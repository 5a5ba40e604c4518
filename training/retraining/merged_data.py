"""Base data joined by what happened live: events, new items that were interacted with often enough, new content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import polars as pl

from model_store.replication.item_payload import ItemContent
from training.data.dataset import Dataset


class Joined(NamedTuple):
    """A data set with what happened live."""

    dataset: Dataset
    accepted: int  # events
    rejected: int  # events of items that the data set does not know
    new_items: int  # items that came live
    changed_items: int  # items of the base data of which something else is known now


def joined(base: Dataset, events: pl.DataFrame, items: Mapping[str, ItemContent], min_item: int) -> Joined:
    """Join events and live items to base data.

    A live item joins once training gets to see ``min_item`` of its interactions, as the k-core of the base data wants
    of every item: what is held out to evaluate with does not count, since an item that training never sees is better
    off with the codes that its content gives it. Until then its interactions are left out, too.

    Args:
        base: Base data.
        events: Columns ``user_id``, ``item_id`` and ``timestamp``, in order of time.
        items: Content by id, of items that were put live; items of the base data take it over.
        min_item: Fewest training interactions of a new item.

    Raises:
        DataError: A new user's id is empty or too long.
    """
    counts = dict(events.group_by("item_id").len().iter_rows())
    content, changed = _with_content(base, items)
    late = [item_id for item_id in items if item_id not in base.item_row and counts.get(item_id, 0) >= min_item]
    columns = [events[name].to_list() for name in ("user_id", "item_id", "timestamp")]
    while True:
        merged = _with_new(content, late, items).with_interactions(*columns)
        seen = merged.dataset.popularity()[base.n_items :].tolist()
        kept = [item_id for item_id, count in zip(late, seen, strict=True) if count >= min_item]
        if len(kept) == len(late):
            return Joined(*merged, len(late), changed)
        late = kept  # without them others are held out


def _with_content(base: Dataset, items: Mapping[str, ItemContent]) -> tuple[Dataset, int]:
    """The base data with what is known now, and of how many items that is something else."""
    titles, categories, attributes = list(base.titles), list(base.categories), list(base.attributes)
    changed = 0
    for item_id, content in items.items():
        row = base.item_row.get(item_id)
        if row is not None and content != (titles[row], categories[row], attributes[row]):
            titles[row], categories[row], attributes[row] = content
            changed += 1
    return replace(base, titles=titles, categories=categories, attributes=attributes), changed


def _with_new(base: Dataset, late: Sequence[str], items: Mapping[str, ItemContent]) -> Dataset:
    """Behind the items of the base data, without interactions yet."""
    content = [items[item_id] for item_id in late]
    return replace(
        base,
        item_ids=[*base.item_ids, *late],
        titles=[*base.titles, *(each.title for each in content)],
        categories=[*base.categories, *(each.categories for each in content)],
        attributes=[*base.attributes, *(each.attributes for each in content)],
    )
