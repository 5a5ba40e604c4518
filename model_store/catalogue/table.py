"""``catalogue.parquet``: the columns of a trained catalogue as a table, and back without a Python object per item."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

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
"""Columns stored by a dictionary of distinct texts; for the others it would only slow reading."""


class Columns(NamedTuple):
    """What the table holds, by row."""

    codebook_size: int
    item_ids: PackedStrings
    codes: npt.NDArray[np.int16]  # [items, L]
    titles: PackedStrings
    categories: PackedCategories
    attributes: PackedAttributes
    popularity: npt.NDArray[np.int64]  # [items]


def table_bytes(columns: Columns) -> bytes:
    """Serialise; codes as a list column, attributes as JSON text. Equal columns give equal bytes."""
    items, levels = columns.codes.shape
    flat = pa.array(np.ascontiguousarray(columns.codes, dtype=np.int16).reshape(-1))
    stored = {
        "item_id": columns.item_ids.to_arrow(),
        "codes": pa.LargeListArray.from_arrays(pa.array(np.arange(items + 1, dtype=np.int64) * levels), flat),
        "title": columns.titles.to_arrow(),
        "categories": columns.categories.to_arrow(),
        "attributes": columns.attributes.texts.to_arrow(),
        "popularity": columns.popularity,
    }
    table = pa.table(stored, schema=_COLUMNS.with_metadata({"codebook_size": str(columns.codebook_size)}))
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", use_dictionary=_REPEATING)
    return sink.getvalue()


def read_columns(data: bytes) -> Columns:
    """Read what :func:`table_bytes` wrote. Whether the columns agree with each other is not checked here.

    Raises:
        CatalogueError: The bytes are no such table.
    """
    try:
        stored = pq.read_table(pa.BufferReader(data))
        # Casting refuses nulls, missing columns, and codes beyond 16 bits.
        table = stored.select(_COLUMNS.names).cast(_COLUMNS)
        return Columns(
            codebook_size=int((stored.schema.metadata or {})[b"codebook_size"]),
            item_ids=PackedStrings.from_arrow(table["item_id"]),
            codes=_codes(table["codes"]),
            titles=PackedStrings.from_arrow(table["title"]),
            categories=PackedCategories.from_arrow(table["categories"]),
            attributes=PackedAttributes(PackedStrings.from_arrow(table["attributes"])),
            popularity=table["popularity"].to_numpy(),
        )
    except (pa.ArrowException, KeyError, ValueError, TypeError) as cause:
        raise CatalogueError(f"catalogue.parquet does not decode: {cause}") from cause


def _codes(column: Any) -> npt.NDArray[np.int16]:
    """Semantic IDs ``[items, L]`` of a list column, all of one length."""
    lists = column.combine_chunks()
    lengths, flat = arrow_lengths(lists), lists.flatten()
    if flat.null_count or lists.null_count:
        raise ValueError("a code is null")
    levels = int(lengths[0]) if len(lengths) else 0
    if (lengths != levels).any():
        raise ValueError("semantic IDs differ in length")
    return np.array(flat.to_numpy(), dtype=np.int16).reshape(len(lists), levels)
