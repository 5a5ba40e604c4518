"""Numbering of ids, so that a hundred million interactions are a few flat arrays, not Python objects.

Readers cast ids to categoricals while they stream: each distinct id is stored once, each row costs four bytes. The
number that an id gets there depends on the scheduling of threads; :func:`number_ids` makes it depend on the data only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]


class NumberedIds(NamedTuple):
    """A column of n ids as numbers, and the id of each number."""

    rows: Int32Array  # [n]
    ids: pl.Series  # [distinct], String


def categorical() -> pl.Categorical:
    """Return a type for one column of ids, whose categories no other column shares."""
    return pl.Categorical(pl.Categories.random())


def number_ids(ids: pl.Series) -> NumberedIds:
    """Number ids by first appearance.

    Args:
        ids: [n], String or Categorical, without nulls.
    """
    coded = ids if isinstance(ids.dtype, pl.Categorical) else ids.cast(categorical())
    codes = coded.to_physical().to_numpy()
    first = first_positions(codes)
    row = np.zeros(int(codes.max(initial=0)) + 1, dtype=np.int32)
    row[codes[first]] = np.arange(len(first), dtype=np.int32)
    return NumberedIds(row[codes], coded.gather(first).cast(pl.String))


def number_together(known: pl.Series, *columns: pl.Series) -> tuple[list[Int32Array], pl.Series]:
    """Number the ids of several columns alike: known ids keep their rows, others follow by first appearance.

    Args:
        known: Distinct ids by row, String.
        columns: As for :func:`number_ids`.

    Returns:
        The rows of each column, and all ids by row.
    """
    numbered = [number_ids(column) for column in columns]
    ids = pl.concat([known.alias("id"), *(each.ids.alias("id") for each in numbered)]).unique(maintain_order=True)
    row_of = ids.to_frame().with_row_index("row")

    rows = []
    for each in numbered:
        row = each.ids.alias("id").to_frame().join(row_of, on="id", how="left", maintain_order="left")["row"]
        rows.append(row.to_numpy().astype(np.int32)[each.rows])
    return rows, ids


def first_positions(codes: npt.NDArray[np.integer]) -> Int32Array:
    """Return the positions in ``codes`` [n] where each distinct code first appears, ascending [distinct]; n < 2**31."""
    first = np.full(int(codes.max(initial=0)) + 1, -1, dtype=np.int32)
    # If an index repeats, the last assignment stays. Going backwards leaves the first position.
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1, dtype=np.int32)
    return np.sort(first[first >= 0])


def stable_order(values: npt.NDArray[np.integer]) -> Int64Array:
    """Return the order [n] that sorts ``values`` [n]; equal values keep their order.

    Value and position are packed into one number, so that the sort need not be stable: it is several times as fast and
    works in place. If the two do not fit into 63 bits, an ordinary stable sort is used.
    """
    if not len(values):
        return np.empty(0, dtype=np.int64)

    least = int(values.min())
    bits = len(values).bit_length()
    if (int(values.max()) - least).bit_length() + bits > 63:
        return np.argsort(values, kind="stable")

    packed = values.astype(np.int64)
    packed -= least
    packed <<= bits
    packed |= np.arange(len(values), dtype=np.int64)
    packed.sort()
    packed &= (1 << bits) - 1
    return packed
