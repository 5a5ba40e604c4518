"""Vectors of items that users bring, in a column of the items file, from any encoder of text or images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from model_store.errors import DataError
from model_store.source_files.intake import LINE, Intake

WIDEST = 8192
"""Most numbers of a vector."""

Float32Array = npt.NDArray[np.float32]


def read_vectors(
    file: str, rows: pl.DataFrame, column: str, intake: Intake, says: npt.NDArray[np.bool_]
) -> list[Float32Array | None]:
    """Return the vector of each row ``[w]``, all of one width w; ``None`` where there is none, or only zeros.

    Args:
        file: Name of the file, for messages.
        rows: The column, and ``LINE``.
        column: Name of the column.
        intake: Gets a note on the width, and on items without a vector.
        says: Mask of the items that say something, from which a missing vector is predicted.

    Raises:
        DataError: The column holds something else than lists of numbers, or no vector but zeros, or a vector is of
            another width than the first, too wide, or not finite.
    """
    numbers = _lists_of_numbers(file, rows[column])
    lengths = numbers.list.len().fill_null(0).to_numpy()
    given = np.flatnonzero(lengths > 0)
    if not len(given):
        raise _no_vector(file, column)

    lines = rows[LINE].to_numpy()
    width = int(lengths[given[0]])
    if not 2 <= width <= WIDEST:
        raise _bad_vector(file, lines[given[0]], column, f"has {width} numbers, 2 to {WIDEST:,} are allowed")
    others = given[lengths[given] != width]
    if len(others):
        problem = f"has {lengths[others[0]]} numbers, line {lines[given[0]]} has {width}"
        raise _bad_vector(file, lines[others[0]], column, problem)

    # A number that is missing inside a list becomes NaN here, and one that is too large for 32 bits infinite.
    flat = numbers.gather(given).explode().cast(pl.Float32, strict=False).to_numpy()
    vectors = flat.reshape(len(given), width).astype(np.float32)
    is_finite = np.isfinite(vectors).all(axis=1)
    if not is_finite.all():
        at = int(np.argmin(is_finite))
        place = int(np.argmin(np.isfinite(vectors[at]))) + 1
        raise _bad_vector(file, lines[given[at]], column, f"has number {place} missing, not finite, or beyond 32 bits")

    is_set = vectors.any(axis=1)
    if not is_set.any():
        raise _no_vector(file, column, " but zeros, which count as none")
    found: list[Float32Array | None] = [None] * len(rows)
    for row, vector in zip(given[is_set].tolist(), vectors[is_set], strict=True):
        found[row] = vector
    is_missing = np.ones(len(rows), dtype=np.bool_)
    is_missing[given[is_set]] = False
    intake.note(f"{file}: vectors of {width} numbers in {column!r}{_missing_note(says[is_missing])}")
    return found


def _missing_note(says: npt.NDArray[np.bool_]) -> str:
    """Describe the items without a vector, by a mask of those that say something; empty if there are none."""
    missing = len(says)
    silent = int((~says).sum())
    if not missing:
        return ""

    words = "1 item has" if missing == 1 else f"{missing:,} items have"
    without = f"; {words} none, or only zeros"
    alone = "known by interactions alone"
    if not silent:
        return f"{without}: predicted from what they say"
    if silent == missing:
        return f"{without}, and no text that can be read: {alone}"
    return f"{without}: {missing - silent:,} predicted from what they say, {silent:,} say nothing, {alone}"


def _lists_of_numbers(file: str, values: pl.Series) -> pl.Series:
    """Return the column as lists of numbers."""
    kind = values.dtype
    if isinstance(kind, pl.Array):
        values = values.arr.to_list()
    inner = getattr(values.dtype, "inner", None)
    if not isinstance(values.dtype, pl.List) or inner is None or not inner.is_numeric():
        raise DataError(
            f"{file}: column {values.name!r} holds {str(kind).lower()}, not lists of numbers",
            "write the vectors as a list column of a Parquet file or of JSON lines",
        )
    return values


def _no_vector(file: str, column: str, besides: str = "") -> DataError:
    return DataError(
        f"{file}: column {column!r} holds no vector{besides}", "name another column, or leave --vector out"
    )


def _bad_vector(file: str, line: int, column: str, problem: str) -> DataError:
    return DataError(
        f"{file} line {line}: the vector in {column!r} {problem}", "correct it, or leave the vector of that item empty"
    )
