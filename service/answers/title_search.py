"""Search of items by the words of their titles, hidden ones included."""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import ref

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from model_store.catalogue.catalogue import Catalogue
from model_store.catalogue.packed import PackedStrings

MAX_WORDS = 8
"""Words of one query; each is looked for in all titles that hold those before it."""


class FoundItems(NamedTuple):
    """A page of the items whose titles match."""

    rows: npt.NDArray[np.int64]  # [n], best first
    total: int  # items that match, on all pages


class TitleSearch:
    """Finds items of one catalogue after another; the lower-case titles of the newest one are kept.

    Thread-safe: at worst two threads lower the same titles.
    """

    def __init__(self) -> None:
        self._lowered: tuple[ref[Catalogue], Any] | None = None

    def find(self, catalogue: Catalogue, query: str, limit: int, offset: int = 0) -> FoundItems:
        """Return the items whose titles hold every word of the query, in any order, upper and lower case alike.

        The item with exactly this id comes first, then titles that begin with the query, then the others; among each,
        the most popular first. An empty query matches every item. All titles are read, which takes tens of
        milliseconds for a million: not for the event loop.
        """
        wanted = _lower(query.strip())
        if not wanted:
            rows = catalogue.by_popularity[offset : offset + limit].astype(np.int64)
            return FoundItems(rows, len(catalogue))

        titles = self._lower_titles(catalogue)
        rows = np.arange(len(catalogue))
        for word in wanted.split():
            rows = rows[pc.match_substring(titles.take(pa.array(rows)), word).to_numpy(zero_copy_only=False)]

        begins = pc.starts_with(titles.take(pa.array(rows)), wanted).to_numpy(zero_copy_only=False)
        rank = np.where(begins, 1, 2)
        named = catalogue.row(query.strip())
        if named is not None:
            rank = np.append(rank[rows != named], 0)
            rows = np.append(rows[rows != named], named)
        order = np.lexsort((rows, -catalogue.popularity[rows], rank))
        return FoundItems(rows[order][offset : offset + limit], len(rows))

    def _lower_titles(self, catalogue: Catalogue) -> Any:
        """Return the titles of all items in lower case, an Arrow array ``[items]``."""
        kept = self._lowered
        if kept is not None and kept[0]() is catalogue:
            return kept[1]

        lowered = pc.utf8_lower(PackedStrings.of(catalogue.titles).to_arrow())
        self._lowered = (ref(catalogue), lowered)
        return lowered


def _lower(text: str) -> str:
    """Return the text in lower case, as Arrow lowers the titles."""
    lowered: str = pc.utf8_lower(pa.scalar(text)).as_py()
    return lowered
