"""Recognition of events that the base data, or an earlier event, hold already.

An event repeats an interaction if user, item and time (in seconds) are the same, whatever its id and type. Where a time
is unknown (0) on both sides, the n-th event of a user with an item repeats the n-th interaction of the two.

Base data without any times need another sign, because an event has a time: what a user did first as events, in this
order, repeats what the same user did last in the base data, if it is all that the user did there, or two interactions
or more. A shop that sends its old rows as events sends them like that; a single one may as well be renewed interest.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from training.data.filters import BoolArray
from training.data.numbering import Int32Array, Int64Array, stable_order
from training.data.set_aside import Interactions

_KEY = ("user", "item", "timestamp")


def find_repeats(base: Interactions, events: Interactions, keep_repeats: bool) -> BoolArray:
    """Mark the events [n] that repeat an interaction.

    Args:
        base: Interactions of the base data, ordered by user, each user's in order of time.
        events: Events in order of time, [n].
        keep_repeats: Whether the base data may hold several interactions of the same user, item and second. Then an
            event repeats one of them, and further equal events are new.
    """
    has_events = np.zeros(1 + max(int(base.user.max(initial=0)), int(events.user.max(initial=0))), dtype=np.bool_)
    has_events[events.user] = True
    known = base.take(has_events[base.user])

    event_keys = _keys(events, keep_repeats)
    is_repeat: BoolArray = ~event_keys.select(pl.struct(pl.all()).is_first_distinct()).to_series().to_numpy()
    in_base = event_keys.with_row_index("row").join(_keys(known, keep_repeats), on=event_keys.columns, how="semi")
    is_repeat[in_base["row"].to_numpy()] = True

    if not base.timestamp.any():
        is_repeat |= _repeat_the_end(known, events)
    return is_repeat


def _keys(log: Interactions, keep_repeats: bool) -> pl.DataFrame:
    """Return what has to be equal, with a number that tells apart the equal ones that all count."""
    frame = pl.DataFrame({name: getattr(log, name) for name in _KEY})
    number = pl.int_range(pl.len()).over(_KEY)
    counts = pl.lit(keep_repeats) | (pl.col("timestamp") == 0)
    return frame.with_columns(number=pl.when(counts).then(number).otherwise(0))


def _repeat_the_end(base: Interactions, events: Interactions) -> BoolArray:
    """Mark each user's first events if they are, in this order, the end of the user's interactions in the base data."""
    is_repeat = np.zeros(len(events.user), dtype=np.bool_)
    order = stable_order(events.user)
    owner = events.user[order]
    for user in np.unique(owner).tolist():
        begin, end = np.searchsorted(owner, (user, user + 1)).tolist()
        before, after = np.searchsorted(base.user, (user, user + 1)).tolist()
        count = _overlap(base.item[before:after], events.item[order[begin:end]])
        is_repeat[order[begin : begin + count]] = True
    return is_repeat


def _overlap(ending: Int32Array | Int64Array, beginning: Int32Array | Int64Array) -> int:
    """Return the largest number of items with which one sequence ends and the other begins; 1 only if it is whole."""
    end = ending.tobytes()
    least = min(2, max(1, len(ending)))
    sizes = range(min(len(ending), len(beginning)), least - 1, -1)
    return next((size for size in sizes if end.endswith(beginning[:size].tobytes())), 0)
