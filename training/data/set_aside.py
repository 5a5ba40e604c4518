"""Interactions that the filters set aside: training does not see them, but a later retraining may."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from training.data.event_types import Int8Array, event_numbers
from training.data.filters import BoolArray
from training.data.numbering import Int32Array, Int64Array, categorical, number_together, stable_order

SCHEMA = pl.Schema(
    {
        "user": pl.Categorical(),
        "item": pl.Categorical(),
        "timestamp": pl.Int64(),
        "event": pl.Int8(),
        "place": pl.Int32(),
    }
)
"""Columns of a table of interactions that were set aside.

``event`` is the number of the type, see :mod:`training.data.event_types`. ``place`` is the number of the user's kept
interactions before this one. With it, the user's whole sequence can be put together again, also where times are equal
or unknown. Rows are ordered by user: first the users of the data set by their rows, then the others. Those of a user
are in order of time.
"""


class Interactions(NamedTuple):
    """Interactions as flat arrays, [n]."""

    user: Int32Array  # rows
    item: Int32Array  # rows
    timestamp: Int64Array  # Unix seconds, 0 where unknown
    event: Int8Array  # numbers of types, -1 where unknown

    def take(self, chosen: BoolArray | Int64Array) -> Interactions:
        """Return some of the interactions, or all in another order."""
        return Interactions(self.user[chosen], self.item[chosen], self.timestamp[chosen], self.event[chosen])

    def followed_by(self, later: Interactions) -> Interactions:
        """Return these interactions and others behind them."""
        return Interactions(
            np.concatenate([self.user, later.user]),
            np.concatenate([self.item, later.item]),
            np.concatenate([self.timestamp, later.timestamp]),
            np.concatenate([self.event, later.event]),
        )


def nothing() -> pl.DataFrame:
    """Return a table without interactions."""
    return pl.DataFrame(schema={**SCHEMA, "user": categorical(), "item": categorical()})


def set_aside(left_out: pl.DataFrame, user: Int32Array, kept: BoolArray, user_ids: pl.Series) -> pl.DataFrame:
    """Return the interactions that are not kept, as a table with the columns of :data:`SCHEMA`.

    Args:
        left_out: The interactions that are not kept: columns ``user``, ``item``, ``timestamp`` and, if types are known,
            ``event``.
        user: A number for the user of each interaction, kept or not, [n]; each user's are in order of time.
        kept: Mask of the kept interactions, [n].
        user_ids: Ids of the users that have kept interactions, by row.
    """
    if left_out.is_empty():
        return nothing()

    ids = (pl.col(name).cast(categorical()) for name in ("user", "item") if left_out[name].dtype == pl.String)
    columns = left_out.with_columns(*ids, event=event_numbers(left_out), place=_kept_before(user, kept)[~kept])
    table = columns.select(SCHEMA.names())
    [row], _ = number_together(user_ids, table["user"])
    return table[stable_order(row)]


def rejoin(offsets: Int64Array, kept: Interactions, aside: Interactions, place: Int32Array) -> Interactions:
    """Put kept interactions and those set aside together again: ordered by user, each user's as they were read.

    Args:
        offsets: Where each user's kept interactions begin, [users + 1].
        kept: Kept interactions, ordered by user.
        aside: Interactions that were set aside, [n], ordered by user; users without kept interactions have rows from
            ``users`` on.
        place: [n], see :data:`SCHEMA`.
    """
    if not len(place):
        return kept
    kept_place = 2 * (np.arange(len(kept.user)) - offsets[kept.user]) + 1
    places = np.concatenate([kept_place, 2 * place.astype(np.int64)])
    both = kept.followed_by(aside)
    return both.take(np.lexsort((places, both.user)))


def _kept_before(user: Int32Array, kept: BoolArray) -> Int32Array:
    """Count the kept interactions of the same user before each interaction, [n]; only right where one is not kept."""
    has_others = np.zeros(int(user.max(initial=0)) + 1, dtype=np.bool_)
    has_others[user[~kept]] = True
    mixed = np.flatnonzero(has_others[user])  # the other users need no count

    order = mixed[stable_order(user[mixed])]
    is_kept = kept[order]
    before: Int64Array = np.cumsum(is_kept) - is_kept
    owner = user[order]
    is_first = np.append(True, owner[1:] != owner[:-1])
    start: Int64Array = np.repeat(before[is_first], np.diff(np.append(np.flatnonzero(is_first), len(owner))))

    count = np.zeros(len(user), dtype=np.int32)
    count[order] = before - start
    return count
