"""Reader of Parquet files with limits: a small file cannot turn into gigabytes of memory.

Compression and dictionaries make that easy: a title of a megabyte that repeats takes a few bytes a time. So the limits
follow from the size of the file. What the file says about itself is compared with them before anything is decoded.
Then text columns that have a dictionary are decoded as numbers into it, a batch at a time, and the texts that they
stand for are added up: no text is written out before it is known how long all of them are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model_store.errors import CatalogueError

MAX_VALUE_BYTES = 256 << 10
"""Size of the longest text, in bytes."""

TEXT_FLOOR = 64 << 20
"""Bytes of decoded text that any file may hold."""

TEXT_PER_BYTE = 64
"""Bytes of decoded text that a file may hold beyond :data:`TEXT_FLOOR`, for each of its own bytes."""

VALUES_FLOOR = 1 << 20
"""Values of a column, and rows, that any file may hold."""

VALUES_PER_BYTE = 16
"""Values of a column, and rows, that a file may hold beyond :data:`VALUES_FLOOR`, for each of its own bytes."""

ENCODINGS = frozenset({"PLAIN", "RLE", "RLE_DICTIONARY", "PLAIN_DICTIONARY", "BIT_PACKED"})
"""Encodings that the exporter writes. Others store a text as its difference from the one before, which has no bound."""

BATCH_ROWS = 1 << 16
"""Rows that are decoded before their texts are added up. A file that lies about itself gets this far at most."""

HINT = "export and publish the model again; if its texts really are that long, shorten them first"


class Limits(NamedTuple):
    """Limits for one file."""

    values: int
    text_bytes: int

    @classmethod
    def of(cls, file_bytes: int) -> Limits:
        """Return the limits for a file of this size."""
        return cls(VALUES_FLOOR + VALUES_PER_BYTE * file_bytes, TEXT_FLOOR + TEXT_PER_BYTE * file_bytes)


def read_bounded(data: bytes, columns: Sequence[str]) -> Any:
    """Decode columns of a Parquet file into an Arrow table; text with a dictionary keeps it.

    Raises:
        CatalogueError: A limit is exceeded; the message names the column and the limit.
        KeyError: A column is missing.
        pa.ArrowException: The bytes are not a Parquet file.
    """
    batches = list(iterate_bounded(data, columns))
    if batches:
        return pa.Table.from_batches(batches)
    return pq.read_schema(pa.BufferReader(data)).empty_table().select(columns)


def iterate_bounded(data: bytes, columns: Sequence[str], batch_rows: int = BATCH_ROWS) -> Iterator[Any]:
    """Decode the same batch by batch, without keeping any. Raises the same, the limits of texts as they are reached."""
    limits = Limits.of(len(data))
    source = pa.BufferReader(data)
    metadata = pq.read_metadata(source)
    _check_metadata(metadata, limits)

    file = pq.ParquetFile(source, metadata=metadata, read_dictionary=_columns_with_dictionary(metadata))
    file.schema_arrow.empty_table().select(columns)  # raises KeyError if a column is missing
    text_bytes = 0
    for group in range(metadata.num_row_groups):  # each has dictionaries of its own, and lists cannot mix them
        for batch in file.iter_batches(batch_rows, row_groups=[group], columns=list(columns)):
            for name, array in zip(batch.schema.names, batch.columns, strict=True):
                text_bytes += _text_bytes(name, array)
            _check_total("bytes of text", text_bytes, limits.text_bytes)
            yield batch


def _check_metadata(metadata: Any, limits: Limits) -> None:
    """Check what a file says about itself."""
    _check_total("rows", metadata.num_rows, limits.values)
    values: dict[str, int] = {}
    size = 0
    for chunk in _chunks(metadata):
        name = chunk.path_in_schema
        unknown = set(chunk.encodings) - ENCODINGS
        if unknown:
            raise CatalogueError(f"{name}: the encoding {min(unknown)} is not allowed", HINT)
        values[name] = values.get(name, 0) + chunk.num_values
        size += chunk.total_uncompressed_size

    for name, count in values.items():
        _check_total(f"values of {name}", count, limits.values)
    _check_total("decompressed bytes", size, limits.text_bytes)


def _columns_with_dictionary(metadata: Any) -> list[str]:
    """Return the text columns whose values are numbers into a dictionary, at least in a part of the file."""
    return sorted(
        {
            chunk.path_in_schema
            for chunk in _chunks(metadata)
            if chunk.physical_type == "BYTE_ARRAY" and (chunk.has_dictionary_page or "PLAIN" not in chunk.encodings)
        }
    )


def _chunks(metadata: Any) -> list[Any]:
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    return [group.column(number) for group in groups for number in range(group.num_columns)]


def _text_bytes(name: str, array: Any) -> int:
    """Return the number of bytes that the texts of a column take when written out; 0 if it holds none."""
    while isinstance(array, pa.ListArray | pa.LargeListArray):
        array = array.flatten()

    texts = array.dictionary if isinstance(array, pa.DictionaryArray) else array
    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        return 0

    lengths = pc.fill_null(pc.binary_length(texts), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    longest = int(lengths.max(initial=0))
    if longest > MAX_VALUE_BYTES:
        raise CatalogueError(f"{name}: a value of {longest} bytes, at most {MAX_VALUE_BYTES} are allowed", HINT)
    if texts is array:
        return int(lengths.sum())
    uses = np.bincount(array.indices.drop_null().to_numpy(), minlength=len(lengths))
    return int(uses @ lengths)


def _check_total(what: str, found: int, limit: int) -> None:
    if found > limit:
        raise CatalogueError(f"{found} {what}, at most {limit} are allowed in a file of this size", HINT)
