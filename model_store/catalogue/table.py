"""The Parquet table ``catalogue.parquet``: columns of a trained catalogue, without a Python object per item."""

from __future__ import annotations

import io
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from model_store.catalogue.bounded_parquet import read_bounded
from model_store.catalogue.columns import PackedAttributes, PackedCategories
from model_store.catalogue.packed import PackedStrings, arrow_lengths
from model_store.errors import CatalogueError

_COLUMNS = pa.schema(
    [
        pa.field("item_id", pa.large_string(), nullable=False),
        pa.field("codes", pa.large_list(pa.int16()), nullable=False),
        pa.field("title", pa.large_string(), nullable=False),
        pa.field("categories", pa.large_list(pa.large_string()), nullable=False),
        pa.field("attributes", pa.large_string(), nullable=False),
        pa.field("popularity", pa.int64(), nullable=False),
    ]
)

_REPEATING = ["categories.list.element", "attributes"]
"""Columns that are stored as a dictionary of distinct texts; for the others it would only slow reading."""


class CatalogueTable(NamedTuple):
    """The columns of the table, by row."""

    codebook_size: int
    item_ids: PackedStrings
    codes: npt.NDArray[np.int16]  # [items, L]
    titles: PackedStrings
    categories: PackedCategories
    attributes: PackedAttributes
    popularity: npt.NDArray[np.int64]  # [items]

    def to_bytes(self) -> bytes:
        """Serialise; codes as a list column, attributes as JSON text. Equal columns give equal bytes."""
        items, levels = self.codes.shape
        code_offsets = pa.array(np.arange(items + 1, dtype=np.int64) * levels)
        flat_codes = pa.array(np.ascontiguousarray(self.codes, dtype=np.int16).reshape(-1))
        columns = {
            "item_id": self.item_ids.to_arrow(),
            "codes": pa.LargeListArray.from_arrays(code_offsets, flat_codes),
            "title": self.titles.to_arrow(),
            "categories": self.categories.to_arrow(),
            "attributes": self.attributes.texts.to_arrow(),
            "popularity": self.popularity,
        }

        table = pa.table(columns, schema=_COLUMNS.with_metadata({"codebook_size": str(self.codebook_size)}))
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd", use_dictionary=_REPEATING)
        return sink.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read the output of :meth:`to_bytes`. The columns are not compared with each other here.

        Raises:
            CatalogueError: The bytes are not such a table, or decoding them would take too much memory.
        """
        try:
            stored = read_bounded(data, _COLUMNS.names)
            # The cast refuses nulls, missing columns, and codes beyond 16 bits.
            table = stored.select(_COLUMNS.names).cast(_COLUMNS)

            return cls(
                codebook_size=int((stored.schema.metadata or {})[b"codebook_size"]),
                item_ids=PackedStrings.from_arrow(table["item_id"]),
                codes=_read_codes(table["codes"]),
                titles=PackedStrings.from_arrow(table["title"]),
                categories=PackedCategories.from_arrow(table["categories"]),
                attributes=PackedAttributes(PackedStrings.from_arrow(table["attributes"])),
                popularity=table["popularity"].to_numpy(),
            )
        except (pa.ArrowException, KeyError, ValueError, TypeError) as cause:
            raise CatalogueError(f"catalogue.parquet does not decode: {cause}") from cause


class FirstCodes(NamedTuple):
    """The first code of each item, by row: a fraction of what the whole table takes in memory."""

    item_ids: PackedStrings
    codes: npt.NDArray[np.int16]  # [items]

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read two columns of the table. Whether ids repeat and codes are in range is not checked here.

        Raises:
            CatalogueError: The bytes are not such a table, or decoding them would take too much memory.
        """
        columns = pa.schema([_COLUMNS.field("item_id"), _COLUMNS.field("codes")])
        try:
            table = read_bounded(data, columns.names).select(columns.names).cast(columns)
            codes = _read_codes(table["codes"])
            return cls(PackedStrings.from_arrow(table["item_id"]), np.ascontiguousarray(codes[:, 0]))
        except (pa.ArrowException, KeyError, IndexError, ValueError, TypeError) as cause:
            raise CatalogueError(f"catalogue.parquet does not decode: {cause}") from cause


def _read_codes(column: Any) -> npt.NDArray[np.int16]:
    """Return the semantic IDs ``[items, L]`` of a list column; raise ``ValueError`` unless all have one length."""
    lists = column.combine_chunks()
    flat = lists.flatten()
    if flat.null_count or lists.null_count:
        raise ValueError("a code is null")

    lengths = arrow_lengths(lists)
    levels = int(lengths[0]) if len(lengths) else 0
    if (lengths != levels).any():
        raise ValueError("semantic IDs differ in length")
    return np.array(flat.to_numpy(), dtype=np.int16).reshape(len(lists), levels)
