"""Merge of the base data with recorded events, new items and changed item content.

The result is what ``etegrec-train prepare`` would make of the base data with the events behind them: repeats count
once, each user's interactions are ordered by time, the same filters choose what is trained, and what they leave out is
set aside. Two things differ. Users and items of the base data keep their rows. And an item that the base data alone
would not train is trained only when training sees enough of it; until then its content gives it better codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl

from model_store.replication.item_payload import ItemContent
from training.data.dataset import Dataset, row_offsets
from training.data.event_types import event_numbers, strongest_types
from training.data.filters import BoolArray
from training.data.numbering import Int32Array, number_together
from training.data.set_aside import Interactions, rejoin, set_aside
from training.data.untrained_items import UntrainedItems
from training.retraining.repeated_events import find_repeats

UNKNOWN_ITEM = "unknown item"
LEFT_OUT = "type left out"
DUPLICATE = "duplicate"
BELOW_FILTERS = "below the filters"
"""Reasons for which events are not trained on. Those below the filters are kept: they count again in every pass."""

NO_CONTENT = ItemContent("", (), {})


class MergedData(NamedTuple):
    """Base data with the events and items that the store recorded."""

    dataset: Dataset
    accepted: int  # events that training or evaluation sees
    rejected: dict[str, int]  # the other events, by reason; reasons without events are left out
    new_items: int  # items that the base data alone would not train
    changed_items: int  # items of the base data with other content now


def merge_data(base: Dataset, events: pl.DataFrame, items: Mapping[str, ItemContent]) -> MergedData:
    """Merge events and items of the store into base data, with the filters of the base data.

    An item that the base data would not train, and that can be placed by its content, is trained once training sees at
    least ``min_item`` of its interactions. Those that are held out for the evaluation do not count: an item that
    training never sees is better off with the codes that its content gives it.

    Args:
        base: Base data.
        events: Columns ``user_id``, ``item_id``, ``timestamp`` and, if types are known, ``type``, in order of time.
        items: Content by id of the items that the store has. It replaces the content of items of the base data.

    Raises:
        DataError: A user's id is empty or too long.
    """
    updated, changed = _update_content(base, items)
    log = _MergedLog(updated, events, items)
    is_banned = np.zeros(len(log.item_ids), dtype=np.bool_)

    # Leaving an item out makes other interactions the newest ones, which are held out: then counts change once more.
    while True:
        kept = log.keep(is_banned)
        dataset = log.dataset(kept)
        added = log.trained_items(kept)[base.n_items :]
        is_rare = dataset.popularity()[base.n_items :] < base.filters.min_item
        rare = [row for row in added[is_rare].tolist() if log.content_of(log.item_ids[row]) != NO_CONTENT]
        if not rare:
            return MergedData(dataset, log.accepted(kept), log.rejected(kept), len(added), changed)
        is_banned[rare] = True


class _MergedLog:
    """All interactions of the base data, kept or set aside, and the events with known items that repeat none of them.

    Users and items of the data set keep their rows; others have the rows after them.
    """

    def __init__(self, base: Dataset, events: pl.DataFrame, items: Mapping[str, ItemContent]) -> None:
        self.base = base
        self.content = items

        known = pl.concat(
            [
                pl.Series("item", base.item_ids, dtype=pl.String),
                base.untrained_items.ids,
                base.set_aside["item"].unique(maintain_order=True).cast(pl.String),
                pl.Series("item", list(items), dtype=pl.String),
            ]
        )
        wanted = events.filter(~base.filters.is_left_out(events["type"])) if "type" in events.columns else events
        found = wanted.filter(pl.col("item_id").is_in(known.implode()))
        users, self.user_ids = number_together(base.user_ids, base.set_aside["user"], found["user_id"])
        item_ids = pl.Series(base.item_ids, dtype=pl.String)
        rows, self.item_ids = number_together(item_ids, base.set_aside["item"], found["item_id"])

        aside = Interactions(
            users[0], rows[0], base.set_aside["timestamp"].to_numpy(), base.set_aside["event"].to_numpy()
        )
        whole = rejoin(base.offsets, base.flat(), aside, base.set_aside["place"].to_numpy())
        new = Interactions(users[1], rows[1], found["timestamp"].to_numpy(), event_numbers(found, "type"))
        is_repeat = find_repeats(whole, new, base.filters.keep_repeats)
        if not base.filters.keep_repeats:
            whole, new = _with_strongest_types(whole, new, is_repeat)
        self.log, self.is_event = _merge(whole, new.take(~is_repeat))

        self.left_out = len(events) - len(wanted)
        self.unknown = len(wanted) - len(found)
        self.repeated = int(is_repeat.sum())

    def content_of(self, item_id: str) -> ItemContent:
        """Return the content of an item that the base data do not train."""
        items = self.base.untrained_items
        row = items.row_of.row(item_id)
        if row is None:
            return self.content.get(item_id, NO_CONTENT)
        return ItemContent(items.titles[row], items.categories[row], items.attributes[row])

    def keep(self, is_banned: BoolArray) -> BoolArray:
        """Mark the interactions that pass the filters if the banned items [items] are left out."""
        kept = ~is_banned[self.log.item]
        kept[kept] = self.base.filters.keep(self.log.user[kept], self.log.item[kept])
        return kept

    def trained_items(self, kept: BoolArray) -> Int32Array:
        """Return the items that are trained, those of the base data first."""
        is_trained = np.zeros(len(self.item_ids), dtype=np.bool_)
        is_trained[: self.base.n_items] = True
        is_trained[self.log.item[kept]] = True
        return np.flatnonzero(is_trained).astype(np.int32)

    def dataset(self, kept: BoolArray) -> Dataset:
        """Return the data set of these interactions, with the others set aside."""
        base = self.base
        log = self.log.take(kept)
        is_user = np.zeros(len(self.user_ids), dtype=np.bool_)
        is_user[: base.users] = True
        is_user[log.user] = True
        user_ids = self.user_ids.filter(pl.Series(is_user))
        user_row = (np.cumsum(is_user) - 1)[log.user]

        trained = self.trained_items(kept)
        item_row = np.zeros(len(self.item_ids), dtype=np.int32)
        item_row[trained] = np.arange(len(trained), dtype=np.int32)
        new_ids = self.item_ids.gather(trained[base.n_items :]).to_list()
        content = [self.content_of(item_id) for item_id in new_ids]
        vectors = base.own_vectors

        dataset = replace(
            base,
            user_ids=user_ids.alias(base.user_ids.name),
            item_ids=[*base.item_ids, *new_ids],
            offsets=row_offsets(user_row, len(user_ids)),
            items=item_row[log.item],
            timestamps=log.timestamp,
            event_types=log.event,
            titles=[*base.titles, *(each.title for each in content)],
            categories=[*base.categories, *(each.categories for each in content)],
            attributes=[*base.attributes, *(each.attributes for each in content)],
            own_vectors=None if vectors is None else np.pad(vectors, ((0, len(new_ids)), (0, 0))),
            untrained_items=_without(base.untrained_items, new_ids),
            set_aside=self._set_aside(kept, user_ids),
            notes=(*base.notes, *self._notes(kept)),
        )
        dataset.check_integrity()
        return dataset

    def _set_aside(self, kept: BoolArray, user_ids: pl.Series) -> pl.DataFrame:
        rest = self.log.take(~kept)
        columns = {
            "user": self.user_ids.gather(rest.user),
            "item": self.item_ids.gather(rest.item),
            "timestamp": rest.timestamp,
            "event": rest.event,
        }
        return set_aside(pl.DataFrame(columns), self.log.user, kept, user_ids)

    def _notes(self, kept: BoolArray) -> list[str]:
        accepted = self.accepted(kept)
        return [f"{accepted:,} interactions were added later"] if accepted else []

    def accepted(self, kept: BoolArray) -> int:
        """Return the number of events that are kept."""
        return int((self.is_event & kept).sum())

    def rejected(self, kept: BoolArray) -> dict[str, int]:
        """Return the numbers of the other events by reason, without reasons that have none."""
        below = int((self.is_event & ~kept).sum())
        counts = {
            LEFT_OUT: self.left_out,
            UNKNOWN_ITEM: self.unknown,
            DUPLICATE: self.repeated,
            BELOW_FILTERS: below,
        }
        return {reason: count for reason, count in counts.items() if count}


def _with_strongest_types(
    base: Interactions, events: Interactions, is_repeat: BoolArray
) -> tuple[Interactions, Interactions]:
    """Return base data and events with the types that preparing them together gives; ``is_repeat`` marks events."""
    both = base.followed_by(events)
    repeats = np.concatenate([np.zeros(len(base.user), dtype=np.bool_), is_repeat & (events.timestamp > 0)])
    types = strongest_types(both.user, both.item, both.timestamp, both.event, repeats)
    return base._replace(event=types[: len(base.user)]), events._replace(event=types[len(base.user) :])


def _merge(base: Interactions, events: Interactions) -> tuple[Interactions, BoolArray]:
    """Return all interactions ordered by user and time, those of the base data first at equal times; and the events."""
    both = base.followed_by(events)
    order = np.lexsort((both.timestamp, both.user))
    return both.take(order), order >= len(base.user)


def _without(items: UntrainedItems, trained: Sequence[str]) -> UntrainedItems:
    """Return the items but those that are trained now."""
    rows = items.row_of.find(trained)
    return items.take(np.setdiff1d(np.arange(len(items)), rows)) if (rows >= 0).any() else items


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

    others, changed_others = _update_untrained(base.untrained_items, items)
    updated = replace(base, titles=titles, categories=categories, attributes=attributes, untrained_items=others)
    return updated, changed + changed_others


def _update_untrained(known: UntrainedItems, items: Mapping[str, ItemContent]) -> tuple[UntrainedItems, int]:
    """Return untrained items with the store's content, and the number of those that changed."""
    changed = {
        row: content
        for row, content in zip(known.row_of.find(list(items)).tolist(), items.values(), strict=True)
        if row >= 0 and content != (known.titles[row], known.categories[row], known.attributes[row])
    }
    if not changed:
        return known, 0

    rows = np.array(sorted(changed), dtype=np.int64)
    contents = [changed[row] for row in rows.tolist()]
    updated = UntrainedItems(
        known.item_ids,
        known.titles.with_rows(rows, [each.title for each in contents]),
        known.categories.with_rows(rows, [each.categories for each in contents]),
        known.attributes.with_rows(rows, [each.attributes for each in contents]),
    )
    return updated, len(changed)
