"""Filters that choose the interactions to keep, and the order of those at the same time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field, field_validator

from model_store.config import Section
from model_store.events.event import EVENT_TYPES, IMPRESSION, NEGATIVE_TYPES, event_type_of
from training.data.numbering import Int32Array, Int64Array, NumberedIds

BoolArray = npt.NDArray[np.bool_]

NO_TARGETS = (IMPRESSION, *NEGATIVE_TYPES)
"""Types that do not speak for an item: their weight is always 0."""

_CHUNK = 500_000  # interactions that are compared with each other at a time, more only at one time


class FilterOptions(Section):
    """Options for the interactions that training and evaluation see.

    The 5-core (users and items with at least five interactions among themselves) is the usual filter of the field:
    users and items with fewer cannot be both trained and tested on. It leaves out 333 of the 1,682 items of
    MovieLens-100K, and 0.7% of its interactions. What is left out is set aside: it counts again when more comes.
    """

    min_user: int = Field(5, ge=1, description="users with fewer interactions are not trained on")
    min_item: int = Field(5, ge=1, description="items with fewer interactions are not trained")
    min_length: int = Field(1, ge=1, description="users with fewer interactions after these filters are not trained on")
    keep_repeats: bool = Field(
        False,
        description="keep interactions of the same user and item in the same second; by default they count once, by "
        "the strongest type",
    )

    event_weights: dict[str, float] = Field(
        {},
        description="weight of interactions in the losses by type, such as `{view = 0.2}`; 0 leaves a type out; those "
        "that are not named weigh 1, own types 1 or 0; impression, dislike and hide are always left out",
    )

    @field_validator("event_weights")
    @classmethod
    def _check_weights(cls, weights: dict[str, float]) -> dict[str, float]:
        for name, weight in weights.items():
            if weight < 0:
                raise ValueError(f"the weight of {name} must be 0 or more")
            if weight and name in NO_TARGETS:
                raise ValueError(f"{name} cannot have a weight above 0: it does not speak for an item")
            if weight not in (0, 1) and name not in EVENT_TYPES:
                raise ValueError(f"{name} is an own type: its weight is 0 or 1, since training does not tell own types")
        return weights

    def weight_of(self, name: str) -> float:
        """Return the weight of interactions whose type the input calls so."""
        kind = event_type_of(name) or name
        return self.event_weights.get(kind, 0.0 if kind in NO_TARGETS else 1.0)

    @property
    def weights_by_number(self) -> npt.NDArray[np.float32]:
        """Weights by the number of the type, its place in ``EVENT_TYPES``; the last one, -1, is of all others."""
        return np.array([*map(self.weight_of, EVENT_TYPES), 1.0], dtype=np.float32)

    def is_left_out(self, types: pl.Series) -> BoolArray:
        """Mark the interactions [n] whose type has weight 0, given what the input calls their types."""
        names = types.cast(pl.String)
        left_out = [name for name in names.unique().drop_nulls() if self.weight_of(name) == 0]
        return names.is_in(left_out).fill_null(value=False).to_numpy()

    @property
    def filter_options(self) -> FilterOptions:
        """The settings of the filters alone, also of a subclass that has more."""
        return FilterOptions(**{name: getattr(self, name) for name in FilterOptions.model_fields})

    def keep(self, user: Int32Array, item: Int32Array) -> BoolArray:
        """Mark the interactions [n] that pass the filters.

        More interactions never make one fail that passed without them.

        Args:
            user: [n], rows, not negative.
            item: [n], likewise.
        """
        kept = k_core(user, item, self.min_user, self.min_item)
        kept[kept] = has_min_length(user[kept], self.min_length)
        return kept


UNFILTERED = FilterOptions(min_user=1, min_item=1, keep_repeats=True)


def k_core(user: Int32Array, item: Int32Array, min_user: int, min_item: int) -> BoolArray:
    """Mark the interactions [n] of the largest part in which every user has ``min_user`` and every item ``min_item``.

    Dropping a rare item may make a user rare, and so on, so it is repeated until nothing more drops. The result is
    unique.

    Args:
        user: [n], rows, not negative.
        item: [n], likewise.
    """
    kept = np.ones(len(user), dtype=np.bool_)
    user_count = np.bincount(user)
    item_count = np.bincount(item)

    while True:
        dropped = kept & ~((user_count >= min_user)[user] & (item_count >= min_item)[item])
        if not dropped.any():
            return kept
        user_count -= np.bincount(user[dropped], minlength=len(user_count))
        item_count -= np.bincount(item[dropped], minlength=len(item_count))
        kept &= ~dropped


def has_min_length(user: Int32Array, min_length: int) -> BoolArray:
    """Mark the interactions [n] of users with at least ``min_length`` of them."""
    return (np.bincount(user) >= min_length)[user]


def first_of_repeats(user: Int32Array, item: Int32Array, timestamps: Int64Array) -> BoolArray:
    """Mark the interactions [n] that do not repeat user, item and time of an earlier one.

    An interaction without time (0) is never a repeat: without times, a repeat cannot be told from renewed interest.

    Args:
        user: [n], rows.
        item: [n], rows.
        timestamps: [n], ascending.

    Raises:
        ValueError: The timestamps do not ascend.
    """
    is_first = np.ones(len(timestamps), dtype=np.bool_)
    start = int(np.searchsorted(timestamps, 0, side="right"))
    while start < len(timestamps):
        last = min(start + _CHUNK, len(timestamps)) - 1
        end = int(np.searchsorted(timestamps, timestamps[last], side="right"))
        if end <= last:
            raise ValueError("timestamps must ascend")

        part = slice(start, end)
        rows = pl.DataFrame({"user": user[part], "item": item[part], "timestamp": timestamps[part]})
        is_first[part] = rows.select(pl.struct(pl.all()).is_first_distinct()).to_series().to_numpy()
        start = end
    return is_first


def shuffle_ties(user: NumberedIds, item: NumberedIds, timestamps: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return an order [n] by time; at equal times it is arbitrary, but the same for any input order and any run.

    Ties are sorted by a hash of the ranks of user and item among all sorted ids.
    """
    user_rank, item_rank = (_ranks(column.ids)[column.rows].astype(np.uint64) for column in (user, item))
    return np.lexsort((_scramble(_scramble(user_rank) ^ item_rank), timestamps))


def _ranks(ids: pl.Series) -> npt.NDArray[np.uint32]:
    return ids.rank("ordinal").cast(pl.UInt32).to_numpy()


def _scramble(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Apply the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), a bijection that scatters neighbours."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
