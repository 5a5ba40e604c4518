"""Histories of the training data's users in a bundle: the Parquet table ``histories.parquet``."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model_store.bundle.manifest import REFUSED_HINT
from model_store.catalogue.bounded_parquet import iterate_bounded
from model_store.catalogue.catalogue import ID_BYTES
from model_store.errors import BundleRefused, CatalogueError
from model_store.events.event import EVENT_TYPES, MAX_TIMESTAMP
from model_store.events.history_entry import UserInteractions, letter_of

HISTORIES = "histories.parquet"
"""File of the histories; versions that were exported without them lack it."""

_COLUMNS = pa.schema(
    [
        pa.field("user_id", pa.large_string(), nullable=False),
        pa.field("item_ids", pa.large_list(pa.large_string()), nullable=False),
        pa.field("timestamps", pa.large_list(pa.int64()), nullable=False),
        pa.field("event_types", pa.large_list(pa.int8()), nullable=False),
    ]
)

_BATCH_USERS = 512
_GROUP_USERS = 1 << 17  # users of a part of the file that has its own dictionary of item ids

_LETTERS = np.frombuffer("".join(letter_of(kind) for kind in (*EVENT_TYPES, None)).encode(), dtype=np.uint8)
"""Letters by number of the type in the file; the last one, number -1, is that of unknown types."""


def histories_to_parquet(
    user_ids: Any,
    offsets: npt.NDArray[np.int64],
    item_ids: Any,
    timestamps: npt.NDArray[np.int64],
    event_types: npt.NDArray[np.int8],
) -> bytes:
    """Serialise histories. Equal columns give equal bytes.

    Args:
        user_ids: Arrow array of text, [users], in the order in which they are to be imported.
        offsets: [users + 1], user u owns the interactions ``offsets[u]:offsets[u + 1]``.
        item_ids: Arrow array of text, [interactions], oldest first within a user.
        timestamps: [interactions], Unix seconds, 0 where unknown.
        event_types: [interactions], place in :data:`~model_store.events.event.EVENT_TYPES`, -1 where unknown.
    """
    bounds = pa.array(offsets, pa.int64())
    columns = [
        user_ids.cast(pa.large_string()),
        *(
            pa.LargeListArray.from_arrays(bounds, pa.array(values).cast(field.type.value_type))
            for values, field in zip((item_ids, timestamps, event_types), list(_COLUMNS)[1:], strict=True)
        ),
    ]
    sink = io.BytesIO()
    table = pa.table(columns, schema=_COLUMNS)
    pq.write_table(
        table, sink, compression="zstd", use_dictionary=["item_ids.list.element"], row_group_size=_GROUP_USERS
    )
    return sink.getvalue()


def iterate_histories(data: bytes) -> Iterator[UserInteractions]:
    """Yield the users of ``histories.parquet`` in order, decoded a few thousand at a time.

    Raises:
        BundleRefused: The bytes are not such a table, or decoding them would take too much memory; as soon as that
            shows.
    """
    for batch in _batches(data):
        user_ids = batch["user_id"].to_pylist()
        offsets = batch["item_ids"].offsets.to_numpy()
        item_ids = batch["item_ids"].flatten().to_pylist()
        timestamps = batch["timestamps"].flatten().to_pylist()
        letters = _LETTERS[batch["event_types"].flatten().to_numpy()].tobytes().decode("ascii")

        starts = (offsets - offsets[0]).tolist()
        for user_id, start, end in zip(user_ids, starts, starts[1:], strict=False):
            yield UserInteractions(user_id, item_ids[start:end], timestamps[start:end], letters[start:end])


def check_histories(data: bytes) -> None:
    """Check every column of ``histories.parquet``; raise :class:`BundleRefused` if one is wrong."""
    for _ in _batches(data):
        pass


def count_users(data: bytes) -> int:
    """Return the number of users that the file says it has."""
    return int(pq.read_metadata(pa.BufferReader(data)).num_rows)


def _batches(data: bytes) -> Iterator[Any]:
    """Yield checked batches with the columns of :data:`_COLUMNS`."""
    try:
        for batch in iterate_bounded(data, _COLUMNS.names, _BATCH_USERS):
            # The cast refuses nulls and other types.
            [typed] = pa.Table.from_batches([batch]).cast(_COLUMNS).combine_chunks().to_batches() or [batch]
            _check(typed)
            yield typed
    except (CatalogueError, pa.ArrowException, KeyError, ValueError, TypeError) as cause:
        raise BundleRefused(f"{HISTORIES}: does not decode: {cause}", REFUSED_HINT) from cause


def _check(batch: Any) -> None:
    """Raise ``ValueError`` unless columns agree, ids are valid and times ascend."""
    lists = [batch[name] for name in ("item_ids", "timestamps", "event_types")]
    lengths = [np.diff(column.offsets.to_numpy()) for column in lists]
    if any((length != lengths[0]).any() for length in lengths) or (lengths[0] < 1).any():
        raise ValueError("the lists of a user differ in length, or are empty")

    item_ids, timestamps, event_types = (column.flatten() for column in lists)
    for ids in (batch["user_id"], item_ids):
        size = pc.binary_length(ids).to_numpy(zero_copy_only=False)
        if ids.null_count or not ((size >= 1) & (size <= ID_BYTES)).all():
            raise ValueError(f"an id must be 1 to {ID_BYTES} bytes long in UTF-8")
    if timestamps.null_count or event_types.null_count:
        raise ValueError("a timestamp or type is null")

    times = timestamps.to_numpy()
    kinds = event_types.to_numpy()
    if not ((times >= 0) & (times <= MAX_TIMESTAMP)).all() or not ((kinds >= -1) & (kinds < len(EVENT_TYPES))).all():
        raise ValueError("a timestamp or type is out of range")
    backwards = np.diff(times) < 0
    backwards[np.cumsum(lengths[0])[:-1] - 1] = False  # steps from one user to the next
    if backwards.any():
        raise ValueError("the interactions of a user are not sorted by time")
