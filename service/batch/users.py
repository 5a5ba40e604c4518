"""Users of a batch run with their histories: of a Parquet file, of the store, or of the training data."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model_store.bundle.bundle import Bundle
from model_store.bundle.histories import HISTORIES, iterate_histories
from model_store.catalogue.catalogue import ID_BYTES
from model_store.errors import DataError, ModelStoreError, StoreCorrupt, StoreError
from model_store.events.history_entry import UNKNOWN, letter_of
from model_store.source_files.column_names import find_column
from service.store.base import History, Store

CHUNK_USERS = 512
"""Users that are read together."""

HISTORY = "history"
"""Column of a users file with the item ids of a user, oldest first."""

TYPES = "history_types"
"""Optional column with the type of event of each of them, such as ``purchase``; null where it is not known."""

NO_HISTORY = History.untyped([])


class UserHistory(NamedTuple):
    """A user with the history that answers are for."""

    user_id: str
    history: History


class UsersFile:
    """A Parquet file with one row for each user.

    Args:
        path: The file.
        column: Column of the user id; one with a usual name is found without.

    Attributes:
        cut: Histories that were longer than asked for, so far.

    Raises:
        DataError: It cannot be read, a column is missing or of a wrong type, an id is missing or too long, or a user
            has several rows. The message names the column and the row.
    """

    def __init__(self, path: Path, column: str = "") -> None:
        self.path = path
        self.cut = 0
        self._file = self._open()
        schema = self._file.schema_arrow
        self._column = find_column(path.name, schema.names, "user", column)
        self.has_histories = HISTORY in schema.names

        self._has_types = self.has_histories and TYPES in schema.names

        self._check_type(self._column, _value_type(schema.field(self._column).type), "text or whole numbers")
        if self.has_histories:
            self._check_list(schema, HISTORY, "lists of item ids")
        if self._has_types:
            self._check_list(schema, TYPES, "lists of types of events")
        self._check_ids()

    def user_ids(self) -> Iterator[list[str]]:
        """Yield the ids of all users, in order, some hundred at a time."""
        for batch in self._file.iter_batches(CHUNK_USERS, columns=[self._column]):
            yield _texts(batch.column(0)).to_pylist()

    def histories(self, most: int) -> Iterator[list[UserHistory]]:
        """Yield all users with the newest ``most`` items of their histories, in order, some hundred at a time.

        Raises:
            DataError: A history holds an item id that is missing or too long, or its types are not as many.
        """
        done = 0
        columns = [self._column, HISTORY, *([TYPES] if self._has_types else [])]
        for batch in self._file.iter_batches(CHUNK_USERS, columns=columns):
            users = _texts(batch.column(self._column)).to_pylist()
            lists = batch.column(HISTORY)
            items = _texts(lists.flatten())
            self._check_items(lists, items, done)

            sizes = pc.fill_null(pc.list_value_length(lists), 0).to_pylist()
            ids = items.to_pylist()
            letters = self._letters(batch, sizes, done) if self._has_types else UNKNOWN * len(ids)
            end = 0
            found = []
            for user_id, size in zip(users, sizes, strict=True):
                end += size
                self.cut += size > most
                newest = slice(end - min(size, most), end)
                found.append(UserHistory(user_id, History(ids[newest], letters[newest].encode())))
            done += len(users)
            yield found

    def _open(self) -> Any:
        if not self.path.exists():
            raise DataError(f"{self.path} does not exist", "check the path of --users")
        try:
            return pq.ParquetFile(self.path)
        except (pa.ArrowException, OSError) as cause:
            raise DataError(
                f"{self.path.name} cannot be read as Parquet: {str(cause).splitlines()[0]}",
                "give a Parquet file with one row for each user",
            ) from cause

    def _check_type(self, name: str, kind: Any, wanted: str, is_right: bool = True) -> None:
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        if not is_right or not (is_text or pa.types.is_integer(kind)):
            raise DataError(f"{self.path.name}: column {name!r} holds {kind}", f"it must hold {wanted}")

    def _letters(self, batch: Any, sizes: list[int], done: int) -> str:
        """Return the letters of the types of all histories of a batch, one after the other."""
        letters = []
        for row, (types, size) in enumerate(zip(batch.column(TYPES).to_pylist(), sizes, strict=True), done + 1):
            if len(types or ()) != size:
                raise DataError(
                    f"{self.path.name}, row {row}: {TYPES!r} has {len(types or ())} entries, {HISTORY!r} has {size}",
                    "give the type of each item of the history, null where it is not known",
                )
            try:
                letters += [letter_of(kind) for kind in types or ()]
            except ValueError as cause:
                raise DataError(f"{self.path.name}, row {row}: {TYPES!r}: {cause}", "leave such items out") from cause
        return "".join(letters)

    def _check_list(self, schema: Any, name: str, wanted: str) -> None:
        kind = schema.field(name).type
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        self._check_type(name, _value_type(kind.value_type) if is_list else kind, wanted, is_list)

    def _check_ids(self) -> None:
        users = _texts(pq.read_table(self.path, columns=[self._column]).column(0).combine_chunks())
        if not len(users):
            raise DataError(f"{self.path.name} has no rows", "give a file with one row for each user")

        bad = _first_bad(users)
        if bad is not None:
            raise DataError(f"{self.path.name}, row {bad + 1}: {self._column!r} {_ID_RULE}", "correct or remove it")

        counts = pc.value_counts(users)
        repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
        if len(repeated):
            rows = pc.indices_nonzero(pc.equal(users, repeated[0]))[:2].to_pylist()
            raise DataError(
                f"{self.path.name}: {len(repeated):,} users have more than one row, such as {repeated[0].as_py()!r}"
                f" in rows {rows[0] + 1} and {rows[1] + 1}",
                "give each user one row, with the whole history",
            )

    def _check_items(self, lists: Any, items: Any, done: int) -> None:
        bad = _first_bad(items)
        if bad is None:
            return
        row = pc.list_parent_indices(lists)[bad].as_py()
        raise DataError(f"{self.path.name}, row {done + row + 1}: an id in {HISTORY!r} {_ID_RULE}", "correct it")


_ID_RULE = f"is missing, empty or longer than {ID_BYTES} bytes"


def _value_type(kind: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _texts(column: Any) -> Any:
    """Return ids, an Arrow array, as text."""
    plain = pc.cast(column, _value_type(column.type))
    return pc.cast(plain, pa.large_string())


def _first_bad(ids: Any) -> int | None:
    """Return the place of the first id that is null, empty or too long."""
    size = pc.fill_null(pc.binary_length(ids), 0)
    bad = pc.indices_nonzero(pc.or_(pc.equal(size, 0), pc.greater(size, ID_BYTES)))
    return int(bad[0].as_py()) if len(bad) else None


def _as_user(user_id: str, history: History | StoreError) -> UserHistory | str:
    """Return a user; the bare id if the history does not decode. The store may be away for a part of the users."""
    if isinstance(history, StoreCorrupt):
        return user_id
    if isinstance(history, StoreError):
        raise history
    return UserHistory(user_id, history)


async def users_in_store(store: Store, user_ids: Iterator[Sequence[str]]) -> AsyncIterator[list[UserHistory | str]]:
    """Yield users with the histories that the store has; the bare id of one whose history does not decode.

    Raises:
        StoreError: The store is away, or answers too late.
    """
    for chunk in user_ids:
        yield [_as_user(*each) for each in zip(chunk, await store.histories(chunk), strict=True)]


def users_in_training(bundle: Bundle, wanted: Iterator[Sequence[str]] | None, most: int) -> Iterator[list[UserHistory]]:
    """Yield users with the newest ``most`` interactions that the training data has of them.

    Args:
        bundle: The version whose training data is meant.
        wanted: Ids of the users to yield; those of whom the training data has nothing come last. ``None``: all.
        most: Interactions of a user at most.

    Raises:
        ModelStoreError: The version was exported without histories.
    """
    if HISTORIES not in bundle:
        raise ModelStoreError(
            f"version {bundle.version} has no {HISTORIES}",
            "export it with export.histories = true, or give histories with --users",
        )

    missing = None if wanted is None else {user_id for chunk in wanted for user_id in chunk}
    for user in iterate_histories(bundle.read(HISTORIES)):
        if missing is not None:
            if user.user_id not in missing:
                continue
            missing.remove(user.user_id)
        yield [UserHistory(user.user_id, History(user.item_ids[-most:], user.letters[-most:].encode()))]

    yield [UserHistory(user_id, NO_HISTORY) for user_id in sorted(missing or ())]
