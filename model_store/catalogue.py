"""The items of a model version: ids, semantic IDs and what people are shown."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model_store.errors import CatalogueError
from model_store.trie import Trie

ID_BYTES = 128
"""Longest item or user id, in UTF-8 bytes."""

LARGEST_CODEBOOK = 2**15
"""Codes are 16-bit, and the trie pads its arrays by the codebook size: a damaged size must not ask for all memory."""

Attributes = dict[str, Any]

_COLUMNS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("codes", pa.list_(pa.int16()), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("categories", pa.list_(pa.string()), nullable=False),
        pa.field("attributes", pa.string(), nullable=False),
        pa.field("popularity", pa.int64(), nullable=False),
    ]
)


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
    vectors: npt.NDArray[np.float32] | None = None  # [items, d_s], unit length, for dense scores; None: there are none

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
        columns: list[Sized] = [
            self.item_ids,
            self.codes,
            self.titles,
            self.categories,
            self.attributes,
            self.popularity,
        ]
        if self.vectors is not None:
            columns.append(self.vectors)
        if len({len(column) for column in columns}) != 1:
            raise CatalogueError(f"catalogue columns differ in length: {[len(column) for column in columns]}")
        if not 1 <= self.codebook_size <= LARGEST_CODEBOOK:
            raise CatalogueError(f"codebook_size must be 1 to {LARGEST_CODEBOOK}, not {self.codebook_size}")
        if len(self.row_of) != len(self):
            raise CatalogueError(f"catalogue holds {len(self) - len(self.row_of)} repeated item ids")
        for item_id in self.item_ids:
            if not 1 <= len(item_id.encode()) <= ID_BYTES:
                raise CatalogueError(f"item id {item_id[:40]!r} must be 1 to {ID_BYTES} bytes long")
        self.trie.check_integrity()

    def to_parquet(self) -> bytes:
        """Serialise as ``catalogue.parquet``; codes as a list column, attributes as JSON text."""
        columns = {
            "item_id": self.item_ids,
            "codes": self.codes.tolist(),
            "title": self.titles,
            "categories": [list(names) for names in self.categories],
            "attributes": [json.dumps(value, sort_keys=True) for value in self.attributes],
            "popularity": self.popularity,
        }
        table = pa.table(columns, schema=_COLUMNS.with_metadata({"codebook_size": str(self.codebook_size)}))
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        return sink.getvalue()

    @classmethod
    def from_parquet(cls, data: bytes, vectors: npt.NDArray[np.float32] | None = None) -> Catalogue:
        """Read what :meth:`to_parquet` wrote, checked; ``vectors``, which are stored elsewhere, join it.

        Raises:
            CatalogueError: The bytes are no such table, or its content is inconsistent.
        """
        try:
            stored = pq.read_table(io.BytesIO(data))
            # Casting refuses nulls, missing columns, and codes beyond 16 bits.
            table = stored.select(_COLUMNS.names).cast(_COLUMNS)
            if pc.list_flatten(table["categories"]).null_count:
                raise ValueError("a category is null")
            catalogue = cls(
                codebook_size=int((stored.schema.metadata or {})[b"codebook_size"]),
                item_ids=table["item_id"].to_pylist(),
                codes=np.array(table["codes"].to_pylist(), dtype=np.int16),
                titles=table["title"].to_pylist(),
                categories=[tuple(names) for names in table["categories"].to_pylist()],
                attributes=[_attributes(text) for text in table["attributes"].to_pylist()],
                popularity=table["popularity"].to_numpy(),
                vectors=vectors,
            )
        except (pa.ArrowException, KeyError, ValueError, TypeError) as cause:
            raise CatalogueError(f"catalogue.parquet does not decode: {cause}") from cause
        catalogue.check_integrity()
        return catalogue


def _attributes(text: str) -> Attributes:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"attributes must be JSON objects, found {type(value).__name__}")
    return value
