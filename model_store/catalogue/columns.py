"""Packed columns for the categories and attributes of all items."""

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

from model_store.catalogue.chunked import ChunkedNumbers, ChunkedRagged
from model_store.catalogue.packed import PackedStrings
from model_store.catalogue.ragged import Arrays, Ragged, Rows
from model_store.errors import CatalogueError

Attributes = dict[str, Any]
Numbers = npt.NDArray[np.float64]

NUMBER_COLUMNS = 16
"""Most attribute fields whose numbers are cached, 8 bytes an item each; the least recently used one is dropped."""


class PackedCategories(Sequence[tuple[str, ...]]):
    """Category names of every item, stored as numbers into a table of names. Reads like a list of tuples.

    Args:
        column: Numbers of names, in the smallest type that holds them (see :func:`_number_type`).
        names: Distinct names; some may no longer be used by any item.
    """

    def __init__(self, column: Ragged | ChunkedRagged, names: PackedStrings) -> None:
        self._column = ChunkedRagged.of(column) if isinstance(column, Ragged) else column
        self.names = names

    @classmethod
    def of(cls, values: Sequence[Iterable[str]]) -> PackedCategories:
        """Pack the names of each item; packed categories are returned as they are."""
        if isinstance(values, PackedCategories):
            return values
        return cls.from_arrow(pa.array([list(names) for names in values], pa.large_list(pa.large_string())))

    @classmethod
    def from_arrow(cls, column: Any) -> PackedCategories:
        """Pack an Arrow array of lists of strings, chunked or not.

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
        numbers = encoded.indices.to_numpy().astype(_number_type(len(encoded.dictionary)), copy=False)
        return cls(Ragged.of_arrow(numbers, column), PackedStrings.from_arrow(encoded.dictionary))

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> PackedCategories:
        """Rebuild and check categories from :meth:`arrays`.

        Raises:
            CatalogueError: An array is missing, or the arrays contradict each other.
        """
        ragged = Ragged.from_arrays(arrays, "categories")
        names = PackedStrings(Ragged.from_arrays(arrays, "category_names"))
        names.check_integrity("category names")
        if len(ragged.values) and not 0 <= int(ragged.values.min()) <= int(ragged.values.max()) < len(names):
            raise CatalogueError(f"a category has no name: its number is not below {len(names)}")
        return cls(ragged, names)

    @property
    def ragged(self) -> Ragged:
        """The numbers of names as one piece; copied if they have changed since they were packed."""
        return self._column.flat()

    def to_arrow(self) -> Any:
        """Return the categories as an Arrow array of lists of strings."""
        ragged = self.ragged
        offsets = pa.array(ragged.offsets.astype(np.int64))
        names = self.names.to_arrow().take(pa.array(ragged.values))
        return pa.LargeListArray.from_arrays(offsets, names)

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, row: int) -> tuple[str, ...]: ...
    @overload
    def __getitem__(self, row: slice) -> list[tuple[str, ...]]: ...
    def __getitem__(self, row: int | slice) -> tuple[str, ...] | list[tuple[str, ...]]:
        if isinstance(row, slice):
            return [self[each] for each in range(*row.indices(len(self)))]
        chunk, at = self._column.find(range(len(self))[row])
        numbers = chunk.values[chunk.offsets[at] : chunk.offsets[at + 1]]
        return tuple(self._names[number] for number in numbers.tolist())

    def rows_of(self, names: Iterable[str]) -> Rows:
        """Return the rows that have any of these names, ascending; unknown names have no rows."""
        wanted = np.zeros(len(self._names), dtype=np.bool_)
        wanted[[self._number_of[name] for name in names if name in self._number_of]] = True

        found = []
        for number, chunk in enumerate(self._column.chunks):
            hits = np.flatnonzero(wanted[chunk.own_values]) + int(chunk.offsets[0])
            rows = np.searchsorted(chunk.offsets, hits.astype(chunk.offsets.dtype), side="right") - 1
            found.append(np.unique(rows) + (number << self._column.bits))
        return np.concatenate(found)

    def with_rows(self, rows: Rows, content: Sequence[Sequence[str]]) -> PackedCategories:
        """Return a copy with new content in these rows, see :meth:`~model_store.catalogue.packed.Ragged.with_rows`."""
        flat = [name for names in content for name in names]
        lengths = np.array([len(names) for names in content], dtype=np.int64)
        new = [name for name in dict.fromkeys(flat) if name not in self._number_of]
        number_of = self._number_of | {name: len(self._names) + number for number, name in enumerate(new)}

        # New names may need a wider type for all numbers.
        dtype = _number_type(len(number_of))
        added = Ragged.of_lengths(np.array([number_of[name] for name in flat], dtype=dtype), lengths)
        names = PackedStrings.of([*self._names, *new]) if new else self.names
        changed = PackedCategories(self._column.astype(dtype).with_rows(rows, added), names)
        if not new:
            changed.__dict__.update({"_names": self._names, "_number_of": self._number_of})  # cached properties
        return changed

    def canonical(self) -> PackedCategories:
        """Return the same categories with names numbered in the order of their first mention, unused names dropped."""
        ragged = self.ragged
        used = ragged.values
        first_mention = np.full(len(self._names), len(used), dtype=np.int64)
        first_mention[used[::-1]] = np.arange(len(used) - 1, -1, -1)  # of several assignments the last one stays
        is_used = first_mention < len(used)

        order = np.argsort(first_mention, kind="stable")[: int(is_used.sum())]
        new_number = np.zeros(len(self._names), dtype=_number_type(len(order)))
        new_number[order] = np.arange(len(order))
        return PackedCategories(Ragged(new_number[used], ragged.offsets), self.names.take(order))

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return flat named arrays, for a snapshot; equal categories give equal arrays."""
        canonical = self.canonical()
        return canonical.ragged.arrays("categories") | canonical.names.ragged.arrays("category_names")

    @cached_property
    def _names(self) -> list[str]:
        return list(self.names)

    @cached_property
    def _number_of(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self._names)}


class PackedAttributes(Sequence[Attributes]):
    """Attributes of every item as JSON text, decoded on access. Reads like a list of dicts. Thread-safe.

    The numbers of a field are extracted for all items when a rule first needs them; changed copies take them over.
    """

    def __init__(self, texts: PackedStrings) -> None:
        self.texts = texts
        self._lock = threading.Lock()
        self._numbers: dict[str, ChunkedNumbers] = {}  # by field, the most recently used last
        self._number_fields: frozenset[str] | None = None  # fields that hold numbers somewhere; None: unknown yet

    @classmethod
    def of(cls, values: Sequence[Attributes]) -> PackedAttributes:
        """Pack the attributes of each item; packed attributes are returned as they are."""
        if isinstance(values, PackedAttributes):
            return values
        return cls(PackedStrings.of([_to_json(value) for value in values]))

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
            values, _ = self._decode_distinct()
            self._number_fields = frozenset().union(*(_find_number_fields(value) for value in values))
        except ValueError as cause:
            raise CatalogueError(f"attributes do not decode: {cause}") from cause

    def number_fields(self) -> frozenset[str]:
        """Return the fields in which an item has a number, or had one before it changed. May be slow the first time."""
        with self._lock:
            if self._number_fields is None:
                self.check_integrity()
            return self._number_fields or frozenset()

    def numbers(self, field: str) -> Numbers:
        """Return the number that each item has in a field, ``[items]``; NaN where it has none. Slow the first time."""
        is_known = field in self.number_fields()
        with self._lock:
            # Only real fields may cost time and memory: a client can ask for any name.
            if not is_known:
                return np.broadcast_to(np.float64(np.nan), len(self))

            column = self._numbers.pop(field, None)
            self._numbers[field] = ChunkedNumbers.of(self._extract_numbers(field)) if column is None else column
            if len(self._numbers) > NUMBER_COLUMNS:
                least_recent = next(iter(self._numbers))
                del self._numbers[least_recent]
            column = self._numbers[field]
        return column.flat()

    def with_rows(self, rows: Rows, content: Sequence[Attributes]) -> PackedAttributes:
        """Return a copy with new content in these rows, see :meth:`~model_store.catalogue.packed.Ragged.with_rows`."""
        changed = PackedAttributes(self.texts.with_rows(rows, [_to_json(value) for value in content]))
        with self._lock:
            known = dict(self._numbers)
            fields = self._number_fields

        if fields is not None:
            changed._number_fields = fields.union(*(_find_number_fields(value) for value in content))
        for field, column in known.items():
            numbers = np.array([_to_number(value.get(field)) for value in content])
            changed._numbers[field] = column.with_rows(rows, numbers)
        return changed

    def _extract_numbers(self, field: str) -> Numbers:
        values, value_of_row = self._decode_distinct()
        numbers = np.array([_to_number(value.get(field)) for value in values], dtype=np.float64)
        return numbers[value_of_row]

    def _decode_distinct(self) -> tuple[Iterator[Attributes], npt.NDArray[np.int32]]:
        """Decode equal texts once: return the distinct objects, and the number of each item's object."""
        encoded = self.texts.to_arrow().dictionary_encode()
        return (_parse_object(text.as_py()) for text in encoded.dictionary), encoded.indices.to_numpy()


def _parse_object(text: str) -> Attributes:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")
    return value


def _find_number_fields(value: Attributes) -> list[str]:
    """Return the fields that hold a number."""
    return [field for field, content in value.items() if not math.isnan(_to_number(content))]


def _number_type(names: int) -> type[np.uint16] | type[np.uint32]:
    """Return the smaller type that can number so many names: two bytes a category in most shops."""
    return np.uint16 if names <= 2**16 else np.uint32


def _to_json(value: Attributes) -> str:
    return json.dumps(value, sort_keys=True)


def _to_number(value: object) -> float:
    """Return the value if it is a number, else NaN; booleans do not count as numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return float("nan")
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
