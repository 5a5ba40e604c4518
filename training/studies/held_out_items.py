"""Items that training never sees: taken out whole, to ask how a model treats items that come after it was trained."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl

from model_store.errors import DataError
from training.data.dataset import Dataset, Split
from training.data.numbering import Int64Array


class HeldOut(NamedTuple):
    """A data set without some of its items."""

    dataset: Dataset  # the items that stay, numbered anew, and all other interactions
    items: Int64Array  # rows in the whole data set of the items that left, ascending
    row: Int64Array  # [items of the whole]: new rows; those that left follow the others in order


def hold_out(dataset: Dataset, share: float, seed: int) -> HeldOut:
    """Take a share of the items out of a data set with all their interactions, drawn by ``seed``.

    Raises:
        DataError: None would leave, or none would stay.
    """
    count = round(share * dataset.n_items)
    if not 0 < count < dataset.n_items:
        raise DataError(
            f"{dataset.name}: a share of {share} takes {count} of {dataset.n_items} items out", "choose another --share"
        )
    left = np.sort(np.random.default_rng(seed).choice(dataset.n_items, count, replace=False))
    stays = np.ones(dataset.n_items, dtype=np.bool_)
    stays[left] = False
    row = np.where(stays, np.cumsum(stays) - 1, stays.sum() + np.cumsum(~stays) - 1)
    return HeldOut(_without(dataset, stays, row), left, row)


def next_held_out(dataset: Dataset, held: HeldOut) -> Split:
    """Users whose next item is one of those that left: the newest such interaction of each, after all before it.

    Rows of items are those of :attr:`HeldOut.row`, of users those of the whole data set. Training has seen what these
    users did with other items, also later; of the targets it has seen nothing.
    """
    items = held.row[dataset.items]
    at = np.arange(len(items))
    owner = np.repeat(np.arange(dataset.users), dataset.lengths)
    is_target = (items >= held.dataset.n_items) & (at > dataset.offsets[owner])
    newest = np.full(dataset.users, -1, dtype=np.int64)
    np.maximum.at(newest, owner[is_target], at[is_target])
    users = np.flatnonzero(newest >= 0)
    ends = newest[users]
    bounds = zip(dataset.offsets[users].tolist(), ends.tolist(), strict=True)
    rows = items.astype(np.int32)
    return Split([rows[start:end] for start, end in bounds], rows[ends], users)


def _without(dataset: Dataset, stays: np.ndarray[tuple[int], np.dtype[np.bool_]], row: Int64Array) -> Dataset:
    kept = stays[dataset.items]
    owner = np.repeat(np.arange(dataset.users), dataset.lengths)[kept]
    lengths = np.bincount(owner, minlength=dataset.users)
    rows = np.flatnonzero(stays).tolist()
    rest = replace(
        dataset,
        user_ids=dataset.user_ids.filter(pl.Series(lengths > 0)),
        item_ids=[dataset.item_ids[each] for each in rows],
        offsets=np.concatenate([[0], np.cumsum(lengths[lengths > 0])]).astype(np.int64),
        items=row[dataset.items[kept]].astype(np.int32),
        timestamps=dataset.timestamps[kept],
        titles=[dataset.titles[each] for each in rows],
        categories=[dataset.categories[each] for each in rows],
        attributes=[dataset.attributes[each] for each in rows],
        notes=(*dataset.notes, f"{len(stays) - len(rows)} items were left out"),
    )
    rest.check_integrity()
    return rest
