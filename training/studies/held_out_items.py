"""Data sets without some of their items, which then stand for items that came after training."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl

from model_store.errors import DataError
from training.data.dataset import Dataset, Split
from training.data.numbering import Int64Array
from training.data.set_aside import nothing
from training.data.untrained_items import NO_ITEMS


class HeldOut(NamedTuple):
    """Data set without some of its items."""

    dataset: Dataset  # the kept items with new rows, and their interactions
    items: Int64Array  # rows of the held-out items in the whole data set, ascending
    row: Int64Array  # [items of the whole data set], the new rows; held-out items follow the kept ones in order


def hold_out(dataset: Dataset, share: float, seed: int) -> HeldOut:
    """Remove a share of the items, drawn by ``seed``, and all their interactions from a data set.

    Raises:
        DataError: No item would be removed, or none would be kept.
    """
    count = round(share * dataset.n_items)
    if not 0 < count < dataset.n_items:
        raise DataError(
            f"{dataset.name}: a share of {share} holds out {count} of {dataset.n_items} items", "choose another --share"
        )

    held_out = np.sort(np.random.default_rng(seed).choice(dataset.n_items, count, replace=False))
    is_kept = np.ones(dataset.n_items, dtype=np.bool_)
    is_kept[held_out] = False
    row = np.where(is_kept, np.cumsum(is_kept) - 1, is_kept.sum() + np.cumsum(~is_kept) - 1)
    return HeldOut(_keep_items(dataset, is_kept, row), held_out, row)


def held_out_targets(dataset: Dataset, held_out: HeldOut) -> Split:
    """Return the newest interaction of each user with a held-out item, with the history before it.

    An interaction without history is no target. Rows of items are those of :attr:`HeldOut.row`, rows of users those of
    the whole data set. Training has seen all interactions of these users with other items, also later ones, but none
    with the targets.
    """
    items = held_out.row[dataset.items]
    at = np.arange(len(items))
    owner = np.repeat(np.arange(dataset.users), dataset.lengths)
    is_target = (items >= held_out.dataset.n_items) & (at > dataset.offsets[owner])
    newest = np.full(dataset.users, -1, dtype=np.int64)
    np.maximum.at(newest, owner[is_target], at[is_target])

    users = np.flatnonzero(newest >= 0)
    ends = newest[users]
    bounds = zip(dataset.offsets[users].tolist(), ends.tolist(), strict=True)
    rows = items.astype(np.int32)
    return Split([rows[start:end] for start, end in bounds], rows[ends], users)


def _keep_items(dataset: Dataset, is_kept: np.ndarray[tuple[int], np.dtype[np.bool_]], row: Int64Array) -> Dataset:
    kept = is_kept[dataset.items]
    owner = np.repeat(np.arange(dataset.users), dataset.lengths)[kept]
    lengths = np.bincount(owner, minlength=dataset.users)
    rows = np.flatnonzero(is_kept).tolist()

    rest = replace(
        dataset,
        user_ids=dataset.user_ids.filter(pl.Series(lengths > 0)),
        item_ids=[dataset.item_ids[each] for each in rows],
        offsets=np.concatenate([[0], np.cumsum(lengths[lengths > 0])]).astype(np.int64),
        items=row[dataset.items[kept]].astype(np.int32),
        timestamps=dataset.timestamps[kept],
        event_types=dataset.event_types[kept],
        titles=[dataset.titles[each] for each in rows],
        categories=[dataset.categories[each] for each in rows],
        attributes=[dataset.attributes[each] for each in rows],
        own_vectors=None if dataset.own_vectors is None else dataset.own_vectors[rows],
        untrained_items=NO_ITEMS,  # the rows of held-out items follow those of kept ones
        set_aside=nothing(),
        notes=(*dataset.notes, f"{len(is_kept) - len(rows)} items were left out"),
    )
    rest.check_integrity()
    return rest
