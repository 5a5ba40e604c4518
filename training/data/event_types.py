"""Types of interactions as small numbers, from what the input calls them."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from model_store.events.event import EVENT_TYPES, EventType, event_type_of
from training.data.filters import BoolArray
from training.data.numbering import Int32Array, Int64Array

Int8Array = npt.NDArray[np.int8]

UNKNOWN: Final = -1
"""Number of a type that the input does not tell, or calls by a name that stands for none."""

ASCENDING: tuple[EventType | None, ...] = ("view", "click", "cart", None, "rating", "purchase")
"""Types from the weakest to the strongest; ``None`` is an unknown one, which counts as bought unless more is known."""

_STRENGTH = np.array([ASCENDING.index(kind) for kind in (*EVENT_TYPES, None)], dtype=np.int8)
"""Place among :data:`ASCENDING` by number; that of unknown types, -1, is the last."""

_NUMBERS = np.array([UNKNOWN if kind is None else EVENT_TYPES.index(kind) for kind in ASCENDING], dtype=np.int8)
"""Number by place."""


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


def strongest_types(
    user: Int32Array, item: Int32Array, timestamps: Int64Array, types: Int8Array, is_repeat: BoolArray
) -> Int8Array:
    """Return the types [n] after each interaction has taken over the strongest type of those that repeat it.

    Args:
        user: [n], rows.
        item: [n], rows.
        timestamps: [n].
        types: [n], see :func:`event_numbers`.
        is_repeat: Mask [n] of the interactions that repeat user, item and time of another one.
    """
    has_repeats = np.zeros(int(user.max(initial=0)) + 1, dtype=np.bool_)
    has_repeats[user[is_repeat]] = True
    rows = np.flatnonzero(has_repeats[user])  # the other users need no look

    key = ("user", "item", "timestamp")
    strength = _STRENGTH[types[rows]]
    log = pl.DataFrame({"user": user[rows], "item": item[rows], "timestamp": timestamps[rows], "strength": strength})
    repeats = log.filter(is_repeat[rows]).group_by(key).max()
    found = log.with_row_index("row").join(repeats, on=key)

    places = found["row"].to_numpy()
    strength[places] = np.maximum(strength[places], found["strength_right"].to_numpy())
    strongest = types.copy()
    strongest[rows] = _NUMBERS[strength]
    return strongest


def _number_of(name: str) -> int:
    kind = event_type_of(name)
    return UNKNOWN if kind is None else EVENT_TYPES.index(kind)
