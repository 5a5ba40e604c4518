"""Categories and attributes of all items, packed."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from model_store.catalogue.packed import Arrays, PackedStrings, Ragged, Rows
from model_store.errors import CatalogueError

Attributes = dict[str, Any]
Numbers = npt.NDArray[np.float64]

NUMBER_COLUMNS = 16
"""Attribute fields whose numbers are kept ready, 8 bytes an item each; the one used longest ago makes room."""


class PackedCategories(Sequence[tuple[str, ...]]):
    """Category names of every item as numbers of a name table. Reads like a list of tuples.

    Args:
        ragged: Numbers of names, in the smallest type that holds them (see :func:`_narrow`).
        names: Distinct; some may be used by no item any more.
    """

    def __init__(self, ragged: Ragged, names: PackedStrings) -> None:
        self.ragged = ragged
        self.names = names
        self._names = list(names)

    @classmethod
    def of(cls, values: Sequence[Iterable[str]]) -> PackedCategories:
        """Pack the names of each item; packed ones are returned as they are."""
        if isinstance(values, PackedCategories):
            return values
        return cls.from_arrow(pa.array([list(names) for names in values], pa.large_list(pa.large_string())))

    @classmethod
    def from_arrow(cls, column: Any) -> PackedCategories:
        """From an Arrow array of lists of strings, chunked or not.

        Raises:
            ValueError: A list or a name is null.
        """
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        column = column.cast(pa.large_list(pa.large_string()))
        flat = column.flatten()
        if column.null_count or flat.null_count:
            raise ValueError("a category is null")
        encoded = flat.dictionary_encode()
        numbers = _narrow(encoded.indices.to_numpy(), len(encoded.dictionary))
        return cls(Ragged.of_arrow(numbers, column), PackedStrings.from_arrow(encoded.dictionary))

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> PackedCategories:
        """Take back what :meth:`arrays` gave, checked.

        Raises:
            CatalogueError: An array is missing or they contradict each other.
        """
        ragged = Ragged.from_arrays(arrays, "categories")
        names = PackedStrings(Ragged.from_arrays(arrays, "category_names"))
        names.check_integrity("category names")
        if len(ragged.values) and not 0 <= int(ragged.values.min()) <= int(ragged.values.max()) < len(names):
            raise CatalogueError(f"a category is none of the {len(names)} names")
        return cls(ragged, names)

    def to_arrow(self) -> Any:
        """As an Arrow array of lists of strings."""
        names = self.names.to_arrow().take(pa.array(self.ragged.values))
        return pa.LargeListArray.from_arrays(pa.array(self.ragged.offsets.astype(np.int64)), names)

    def __len__(self) -> int:
        return len(self.ragged)

    @overload
    def __getitem__(self, row: int) -> tuple[str, ...]: ...
    @overload
    def __getitem__(self, row: slice) -> list[tuple[str, ...]]: ...
    def __getitem__(self, row: int | slice) -> tuple[str, ...] | list[tuple[str, ...]]:
        if isinstance(row, slice):
            return [self[each] for each in range(*row.indices(len(self)))]
        row = range(len(self))[row]
        numbers = self.ragged.values[self.ragged.offsets[row] : self.ragged.offsets[row + 1]]
        return tuple(self._names[number] for number in numbers.tolist())

    def rows_of(self, names: Iterable[str]) -> Rows:
        """Rows that have any of these names, ascending; unknown names have none."""
        wanted = np.zeros(len(self._names), dtype=np.bool_)
        wanted[[self._number_of[name] for name in names if name in self._number_of]] = True
        hits = np.flatnonzero(wanted[self.ragged.values])
        rows = np.searchsorted(self.ragged.offsets, hits, side="right") - 1
        return rows[np.append(True, rows[1:] != rows[:-1])] if len(rows) else rows

    def with_rows(self, rows: Rows, content: Sequence[Sequence[str]]) -> PackedCategories:
        """See :meth:`~model_store.catalogue.packed.Ragged.with_rows`."""
        numbers = dict(self._number_of)
        flat = [numbers.setdefault(name, len(numbers)) for names in content for name in names]
        lengths = np.array([len(names) for names in content], dtype=np.int64)
        added = Ragged.of_lengths(_narrow(np.array(flat, dtype=np.int64), len(numbers)), lengths)
        known = Ragged(_narrow(self.ragged.values, len(numbers)), self.ragged.offsets)
        names = self.names if len(numbers) == len(self.names) else PackedStrings.of(list(numbers))
        return PackedCategories(known.with_rows(rows, added), names)

    def canonical(self) -> PackedCategories:
        """The same categories, names numbered in the order in which rows mention them, none unused."""
        used = self.ragged.values
        first = np.full(len(self._names), len(used), dtype=np.int64)
        first[used[::-1]] = np.arange(len(used) - 1, -1, -1)  # the last assignment stands: the first mention
        order = np.argsort(first, kind="stable")[: int((first < len(used)).sum())]
        number = _narrow(np.zeros(len(self._names), dtype=np.int64), len(order))
        number[order] = np.arange(len(order))
        return PackedCategories(Ragged(number[used], self.ragged.offsets), self.names.take(order))

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Flat named arrays, for a snapshot; equal categories give equal arrays."""
        same = self.canonical()
        return same.ragged.arrays("categories") | same.names.ragged.arrays("category_names")

    @cached_property
    def _number_of(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self._names)}


class PackedAttributes(Sequence[Attributes]):
    """Attributes of every item as JSON text, decoded when asked for. Reads like a list of dicts. Thread-safe.

    Numbers of a field are extracted for all items when a rule asks for them first, and carried over to changed copies.
    """

    def __init__(self, texts: PackedStrings) -> None:
        self.texts = texts
        self._lock = threading.Lock()
        self._numbers: dict[str, Numbers] = {}  # by field, latest use last
        self._fields: frozenset[str] | None = None  # in which an item may have a number; None: not looked yet

    @classmethod
    def of(cls, values: Sequence[Attributes]) -> PackedAttributes:
        """Pack; packed ones are returned as they are."""
        if isinstance(values, PackedAttributes):
            return values
        return cls(PackedStrings.of([_text(value) for value in values]))

    def __len__(self) -> int:
        return len(self.texts)

    @overload
    def __getitem__(self, row: int) -> Attributes: ...
    @overload
    def __getitem__(self, row: slice) -> list[Attributes]: ...
    def __getitem__(self, row: int | slice) -> Attributes | list[Attributes]:
        if isinstance(row, slice):
            return [self[each] for each in range(*row.indices(len(self)))]
        value: Attributes = json.loads(self.texts[row])
        return value

    def __iter__(self) -> Iterator[Attributes]:
        return (json.loads(text) for text in self.texts)

    def check_integrity(self) -> None:
        """Raise :class:`CatalogueError` unless every text is a JSON object."""
        try:
            self._fields = frozenset().union(*(_fields(value) for value in self._distinct()[0]))
        except ValueError as cause:
            raise CatalogueError(f"attributes do not decode: {cause}") from cause

    def numbers(self, field: str) -> Numbers:
        """The number that each item has in a field, ``[items]``; NaN where it has none. Slow the first time."""
        with self._lock:
            if self._fields is None:
                self.check_integrity()
            if field not in (self._fields or ()):  # whatever names are asked for, only real fields take work and room
                return np.broadcast_to(np.float64(np.nan), len(self))
            found = self._numbers.pop(field, None)
            self._numbers[field] = self._extracted(field) if found is None else found
            if len(self._numbers) > NUMBER_COLUMNS:
                del self._numbers[next(iter(self._numbers))]
            return self._numbers[field]

    def with_rows(self, rows: Rows, content: Sequence[Attributes]) -> PackedAttributes:
        """See :meth:`~model_store.catalogue.packed.Ragged.with_rows`."""
        changed = PackedAttributes(self.texts.with_rows(rows, [_text(value) for value in content]))
        with self._lock:
            known, fields = dict(self._numbers), self._fields
        if fields is not None:
            changed._fields = fields.union(*(_fields(value) for value in content))
        for field, column in known.items():
            grown = np.append(column, np.full(len(changed) - len(self), np.nan))
            grown[rows] = [_number(value.get(field)) for value in content]
            changed._numbers[field] = grown
        return changed

    def _extracted(self, field: str) -> Numbers:
        values, indices = self._distinct()
        found = np.array([_number(value.get(field)) for value in values], dtype=np.float64)
        return found[indices]

    def _distinct(self) -> tuple[Iterator[Attributes], npt.NDArray[np.int32]]:
        """Distinct objects, and which one each item has: equal texts are parsed once."""
        encoded = self.texts.to_arrow().dictionary_encode()
        return (_object(text.as_py()) for text in encoded.dictionary), encoded.indices.to_numpy()


def _object(text: str) -> Attributes:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")
    return value


def _fields(value: Attributes) -> list[str]:
    """Fields that hold a number."""
    return [field for field, content in value.items() if not math.isnan(_number(content))]


def _narrow(numbers: npt.NDArray[np.integer[Any]], names: int) -> npt.NDArray[np.integer[Any]]:
    """Numbers below ``names`` as uint16 if they fit, else uint32: two bytes a category for nearly every shop."""
    return numbers.astype(np.uint16 if names <= 2**16 else np.uint32, copy=False)


def _text(value: Attributes) -> str:
    return json.dumps(value, sort_keys=True)


def _number(value: object) -> float:
    """The value if it is a number, else NaN; booleans are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return float("nan")
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
