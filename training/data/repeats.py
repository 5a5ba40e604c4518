"""Repeats: interactions of the same user and item in the same second, of which one counts."""

from __future__ import annotations

import polars as pl

from training.data.event_types import event_numbers, strongest_types
from training.data.filters import first_of_repeats
from training.data.numbering import number_ids


def drop_repeats(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the interactions without those that repeat an earlier one; the first has the strongest of their types.

    Args:
        frame: Columns ``user``, ``item``, ``timestamp`` (Unix seconds, ascending) and, if types are known, ``event``.
            Other columns stay.
    """
    user = number_ids(frame["user"]).rows
    item = number_ids(frame["item"]).rows
    timestamps = frame["timestamp"].to_numpy()
    is_first = first_of_repeats(user, item, timestamps)
    if is_first.all():
        return frame

    if "event" in frame.columns:
        strongest = strongest_types(user, item, timestamps, event_numbers(frame), ~is_first)
        frame = frame.with_columns(event=strongest)
    return frame.filter(is_first)
