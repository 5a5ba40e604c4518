"""The items of a model version: ids, semantic IDs and what people are shown."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from model_store.errors import CatalogueError
from model_store.trie import Trie

ID_BYTES = 128
"""Longest item or user id, in UTF-8 bytes."""

Attributes = dict[str, Any]


@dataclass(frozen=True)
class Catalogue:
    """All items by row. A row number is an item's index everywhere inside a version; ids are for the outside."""

    codebook_size: int
    item_ids: Sequence[str]
    codes: npt.NDArray[np.int16]  # [items, L]
    titles: Sequence[str]  # "" where unknown
    categories: Sequence[tuple[str, ...]]
    attributes: Sequence[Attributes]
    popularity: npt.NDArray[np.int64]  # [items], training interactions

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Row by item id."""
        return {item_id: row for row, item_id in enumerate(self.item_ids)}

    @cached_property
    def trie(self) -> Trie:
        """The trie over all items."""
        return Trie.build(self.codes, self.codebook_size)

    @cached_property
    def by_popularity(self) -> npt.NDArray[np.int64]:
        """Rows, most popular first, ties by row."""
        return np.argsort(-self.popularity, kind="stable")

    @cached_property
    def rows_by_category(self) -> dict[str, npt.NDArray[np.int64]]:
        """Rows of each category, ascending."""
        found: dict[str, list[int]] = {}
        for row, names in enumerate(self.categories):
            for name in names:
                found.setdefault(name, []).append(row)
        return {name: np.array(rows, dtype=np.int64) for name, rows in found.items()}

    def check_integrity(self) -> None:
        """Raise :class:`CatalogueError` unless columns agree and ids and codes are unique."""
        columns = (self.item_ids, self.codes, self.titles, self.categories, self.attributes, self.popularity)
        if len({len(column) for column in columns}) != 1:
            raise CatalogueError(f"catalogue columns differ in length: {[len(column) for column in columns]}")
        if len(self.row_of) != len(self):
            raise CatalogueError(f"catalogue holds {len(self) - len(self.row_of)} repeated item ids")
        for item_id in self.item_ids:
            if not 1 <= len(item_id.encode()) <= ID_BYTES:
                raise CatalogueError(f"item id {item_id[:40]!r} must be 1 to {ID_BYTES} bytes long")
        self.trie.check_integrity()

    def to_parquet(self) -> bytes:
        """Serialise as ``catalogue.parquet``; codes as a list column, attributes as JSON text."""
        table = pa.table(
            {
                "item_id": pa.array(self.item_ids, pa.string()),
                "codes": pa.array(self.codes.tolist(), pa.list_(pa.int16())),
                "title": pa.array(self.titles, pa.string()),
                "categories": pa.array([list(names) for names in self.categories], pa.list_(pa.string())),
                "attributes": pa.array([json.dumps(value, sort_keys=True) for value in self.attributes], pa.string()),
                "popularity": pa.array(self.popularity, pa.int64()),
            },
            metadata={"codebook_size": str(self.codebook_size)},
        )
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        return sink.getvalue()

    @classmethod
    def from_parquet(cls, data: bytes) -> Catalogue:
        """Read what :meth:`to_parquet` wrote, checked.

        Raises:
            CatalogueError: The bytes are no such table, or its content is inconsistent.
        """
        try:
            table = pq.read_table(io.BytesIO(data))
            catalogue = cls(
                codebook_size=int((table.schema.metadata or {})[b"codebook_size"]),
                item_ids=table["item_id"].to_pylist(),
                codes=np.array(table["codes"].to_pylist(), dtype=np.int16),
                titles=table["title"].to_pylist(),
                categories=[tuple(names) for names in table["categories"].to_pylist()],
                attributes=[json.loads(text) for text in table["attributes"].to_pylist()],
                popularity=table["popularity"].to_numpy(),
            )
        except (pa.ArrowException, KeyError, ValueError, TypeError) as cause:
            raise CatalogueError(f"catalogue.parquet does not decode: {cause}") from cause
        catalogue.check_integrity()
        return catalogue
