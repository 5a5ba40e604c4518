"""Types of interactions as small numbers, from what the input calls them."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from model_store.events.event import EVENT_TYPES, event_type_of

Int8Array = npt.NDArray[np.int8]

UNKNOWN: Final = -1
"""Number of a type that the input does not tell, or calls by a name that stands for none."""


def event_numbers(frame: pl.DataFrame, column: str = "event") -> Int8Array:
    """Return the type of each row, [n]: its place in :data:`~model_store.events.event.EVENT_TYPES`, or -1.

    Args:
        frame: A table of interactions.
        column: Column of names, which may be missing, or of numbers as this returns them.
    """
    if column not in frame.columns:
        return np.full(len(frame), UNKNOWN, dtype=np.int8)
    if frame[column].dtype == pl.Int8:
        return frame[column].to_numpy()

    names = frame[column].cast(pl.String)
    numbers = {name: _number_of(name) for name in names.unique().drop_nulls()}
    return names.replace_strict(numbers, default=UNKNOWN, return_dtype=pl.Int8).to_numpy()


def _number_of(name: str) -> int:
    kind = event_type_of(name)
    return UNKNOWN if kind is None else EVENT_TYPES.index(kind)
