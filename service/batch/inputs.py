"""Inputs of shards: files with so many users each, with their histories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from service.batch.run_folder import RunFolder, to_parquet
from service.batch.users import UserHistory
from service.store.base import History

_COLUMNS = pa.schema(
    [
        pa.field("user", pa.large_string(), nullable=False),
        pa.field("items", pa.large_list(pa.large_string()), nullable=False),
        pa.field("letters", pa.large_string(), nullable=False),
    ]
)


class InputWriter:
    """Writer of the inputs of a run.

    Args:
        folder: Where they go.
        shard_size: Users of a file, but for the last one.
    """

    def __init__(self, folder: RunFolder, shard_size: int) -> None:
        self._folder = folder
        self._shard_size = shard_size
        self._waiting: list[UserHistory] = []
        self._shards = 0
        self.users = 0

    def add(self, users: Sequence[UserHistory]) -> None:
        """Append users; whole shards are written."""
        self._waiting += users
        self.users += len(users)
        while len(self._waiting) >= self._shard_size:
            self._write(self._waiting[: self._shard_size])
            del self._waiting[: self._shard_size]

    def close(self) -> None:
        """Write the users that are left."""
        if self._waiting:
            self._write(self._waiting)
            self._waiting = []

    def _write(self, users: Sequence[UserHistory]) -> None:
        columns = [
            [user.user_id for user in users],
            [user.history.item_ids for user in users],
            [user.history.letters.decode("ascii") for user in users],
        ]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, _COLUMNS, strict=True)]
        name = self._folder.input_path(self._shards).name
        self._folder.write_input(name, to_parquet(pa.table(arrays, schema=_COLUMNS)))
        self._shards += 1


def read_users(folder: RunFolder, shard: int) -> list[UserHistory]:
    """Return the users of a shard, in order."""
    table: Any = pq.read_table(folder.input_path(shard), schema=_COLUMNS)
    columns = (table[name].to_pylist() for name in _COLUMNS.names)
    return [
        UserHistory(user_id, History(item_ids, letters.encode("ascii")))
        for user_id, item_ids, letters in zip(*columns, strict=True)
    ]
