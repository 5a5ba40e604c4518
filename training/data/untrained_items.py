"""Items that training leaves out although their content is known, in packed columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from model_store.catalogue.columns import PackedAttributes, PackedCategories
from model_store.catalogue.id_index import IdIndex
from model_store.catalogue.packed import PackedStrings
from model_store.catalogue.ragged import Arrays

_NO_ATTRIBUTES = len("{}")


@dataclass(frozen=True, eq=False)
class UntrainedItems:
    """Items of the items file that have too few interactions to be trained, n of them.

    An item file may hold a million of them, so the columns are packed. They read like lists.
    """

    item_ids: PackedStrings
    titles: PackedStrings  # "" where unknown
    categories: PackedCategories
    attributes: PackedAttributes

    @classmethod
    def of(
        cls,
        item_ids: Sequence[str],
        titles: Sequence[str],
        categories: Sequence[tuple[str, ...]],
        attributes: Sequence[dict[str, Any]],
    ) -> Self:
        """Pack columns of n items."""
        return cls(
            PackedStrings.of(item_ids),
            PackedStrings.of(titles),
            PackedCategories.of(categories),
            PackedAttributes.of(attributes),
        )

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def row_of(self) -> IdIndex:
        """Rows by item id; reads like a dict."""
        return IdIndex(self.item_ids)

    @property
    def ids(self) -> pl.Series:
        """The item ids, [n], String."""
        return pl.Series("item", pl.from_arrow(self.item_ids.to_arrow()), dtype=pl.String)

    @cached_property
    def has_content(self) -> npt.NDArray[np.bool_]:
        """Mask of the items with a title, categories or attributes, [n]. The others cannot be placed."""
        lengths = (self.titles.ragged.lengths, self.categories.ragged.lengths)
        has_attributes = self.attributes.texts.ragged.lengths > _NO_ATTRIBUTES
        return np.asarray(has_attributes | (lengths[0] > 0) | (lengths[1] > 0))

    def take(self, rows: npt.NDArray[np.integer[Any]]) -> UntrainedItems:
        """Return the items in these rows."""
        return UntrainedItems(
            self.item_ids.take(rows),
            self.titles.take(rows),
            PackedCategories(self.categories.ragged.take(rows), self.categories.names),
            PackedAttributes(self.attributes.texts.take(rows)),
        )

    def arrays(self) -> Arrays:
        """Return flat named arrays; equal items give equal arrays."""
        return {
            **self.item_ids.ragged.arrays("item_ids"),
            **self.titles.ragged.arrays("titles"),
            **self.categories.arrays(),
            **self.attributes.texts.ragged.arrays("attributes"),
        }

    def to_arrow(self) -> pa.Table:
        """Return the columns ``item_id``, ``title``, ``categories``, and ``attributes`` as JSON text."""
        return pa.table(
            {
                "item_id": self.item_ids.to_arrow(),
                "title": self.titles.to_arrow(),
                "categories": self.categories.to_arrow(),
                "attributes": self.attributes.texts.to_arrow(),
            }
        )

    @classmethod
    def from_arrow(cls, table: pa.Table) -> Self:
        """Read the output of :meth:`to_arrow`.

        Raises:
            KeyError: A column is missing.
            ValueError: A value is null.
        """
        return cls(
            PackedStrings.from_arrow(table["item_id"]),
            PackedStrings.from_arrow(table["title"]),
            PackedCategories.from_arrow(table["categories"]),
            PackedAttributes(PackedStrings.from_arrow(table["attributes"])),
        )


NO_ITEMS = UntrainedItems.of([], [], [], [])
