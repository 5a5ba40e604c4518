"""Changes of a catalogue, and the merging of a batch of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.catalogue.columns import Attributes
from model_store.catalogue.id_index import IdIndex
from model_store.catalogue.ragged import Rows
from model_store.catalogue.resemblances import RESEMBLANCE, Records, nothing_known
from model_store.errors import CatalogueError


@dataclass(frozen=True, eq=False)
class ItemPut:
    """A new item, or new content of a known item, which becomes visible again if it was hidden.

    Attributes:
        item_id: 1 to 128 bytes in UTF-8.
        title: The title that people see, "" where unknown.
        categories: Names.
        attributes: A JSON object.
        codes: Semantic ID, int16 ``[L]``. Only read for a new item: a known one keeps its own.
        vector: Unit length, float32 ``[d_s]``. Only read for a new item, and only if the catalogue has vectors.
        resemblance: One record (:mod:`model_store.catalogue.resemblances`), ``[1]``. Only read for a new item; without
            one nothing is known of what it resembles.
    """

    item_id: str
    title: str
    categories: tuple[str, ...]
    attributes: Attributes
    codes: npt.NDArray[np.int16] | None = None
    vector: npt.NDArray[np.float32] | None = None
    resemblance: Records | None = None


@dataclass(frozen=True)
class ItemDelete:
    """An item to hide. Its row and its semantic ID stay; an unknown id is ignored."""

    item_id: str


Change = ItemPut | ItemDelete


class MergedChanges(NamedTuple):
    """A batch of changes in which each item's last change has replaced its earlier ones."""

    new: list[ItemPut]  # the first put of each item that the catalogue lacked; they get the next rows
    rows: Rows  # rows whose content changes, ascending, new ones included
    content: list[ItemPut]  # of these rows
    hidden: dict[int, bool]  # by row


def merge_changes(changes: Sequence[Change], index: IdIndex) -> MergedChanges:
    """Merge changes in order; the last change of an item wins."""
    known_rows = index.find([change.item_id for change in changes]).tolist()
    new_rows: dict[str, int] = {}
    new: list[ItemPut] = []
    latest: dict[int, ItemPut] = {}
    hidden: dict[int, bool] = {}
    for change, known_row in zip(changes, known_rows, strict=True):
        row = known_row if known_row >= 0 else new_rows.get(change.item_id, -1)

        if isinstance(change, ItemDelete):
            if row >= 0:
                hidden[row] = True
            continue

        if row < 0:
            row = new_rows[change.item_id] = len(index) + len(new)
            new.append(change)
        latest[row] = change
        hidden[row] = False

    rows = sorted(latest)
    return MergedChanges(new, np.array(rows, dtype=np.int64), [latest[row] for row in rows], hidden)


def rows_of_new_items(new: Sequence[ItemPut], levels: int, width: int | None) -> dict[str, npt.NDArray[Any]]:
    """Return what new items append to a catalogue's arrays, by name; they are visible and have no interactions yet.

    Args:
        new: At least one.
        levels: L.
        width: d_s, ``None`` if the catalogue has no vectors.

    Raises:
        CatalogueError: An item lacks its codes or its vector, or they have another size.
    """
    for put in new:
        if put.codes is None or np.shape(put.codes) != (levels,):
            raise CatalogueError(f"the new item {put.item_id[:40]!r} needs {levels} codes, got {put.codes}")
        if width is not None and (put.vector is None or np.shape(put.vector) != (width,)):
            raise CatalogueError(f"the new item {put.item_id[:40]!r} needs a vector of {width} numbers")

    rows: dict[str, npt.NDArray[Any]] = {
        "codes": np.stack([np.asarray(put.codes) for put in new]),
        "popularity": np.zeros(len(new), dtype=np.int64),
        "is_hidden": np.zeros(len(new), dtype=np.bool_),
    }
    if width is not None:
        rows["vectors"] = np.stack([np.asarray(put.vector, dtype=np.float32) for put in new])
    return rows


def resemblances_of(new: Sequence[ItemPut]) -> Records:
    """Return the records of new items, one each, ``[n]``."""
    unknown = nothing_known(1)
    known = [unknown if put.resemblance is None else put.resemblance for put in new]
    return np.frombuffer(b"".join(record.tobytes() for record in known), dtype=RESEMBLANCE)  # 200 times concatenate
