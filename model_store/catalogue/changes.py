"""Changes of a live catalogue, and what a batch of them comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.catalogue.columns import Attributes
from model_store.catalogue.id_index import IdIndex
from model_store.catalogue.packed import Rows


@dataclass(frozen=True, eq=False)
class ItemPut:
    """A new item, or new content of a known one, which it also brings back if it was hidden.

    Attributes:
        item_id: 1 to 128 bytes in UTF-8.
        title: What people are shown, "" where unknown.
        categories: Names.
        attributes: A JSON object.
        codes: Semantic ID, int16 ``[L]``. Only read where the catalogue lacks the item: a known one keeps its own.
        vector: Unit length, float32 ``[d_s]``; likewise, and only where the catalogue has vectors.
    """

    item_id: str
    title: str
    categories: tuple[str, ...]
    attributes: Attributes
    codes: npt.NDArray[np.int16] | None = None
    vector: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class ItemDelete:
    """Hides an item. Its row and its semantic ID stay; an unknown id is ignored."""

    item_id: str


Change = ItemPut | ItemDelete


class Outcome(NamedTuple):
    """What is left of a batch when later changes of an item have replaced earlier ones."""

    new: list[ItemPut]  # the first put of each item that the catalogue lacked; they get the next rows
    rows: Rows  # whose content changes, ascending, new ones included
    content: list[ItemPut]  # of these rows
    hidden: dict[int, bool]  # by row


def outcome(changes: Sequence[Change], index: IdIndex) -> Outcome:
    """Apply changes in order; the last one of an item wins."""
    known = index.find([change.item_id for change in changes]).tolist()
    added: dict[str, int] = {}
    new: list[ItemPut] = []
    latest: dict[int, ItemPut] = {}
    hidden: dict[int, bool] = {}
    for change, found in zip(changes, known, strict=True):
        row = found if found >= 0 else added.get(change.item_id, -1)
        if isinstance(change, ItemDelete):
            if row >= 0:
                hidden[row] = True
            continue
        if row < 0:
            row = added[change.item_id] = len(index) + len(new)
            new.append(change)
        latest[row], hidden[row] = change, False
    rows = sorted(latest)
    return Outcome(new, np.array(rows, dtype=np.int64), [latest[row] for row in rows], hidden)
