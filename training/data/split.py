"""What is held out of training: the end of every user's sequence, or everything from a point in time on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field, model_validator

from model_store.config import Section
from model_store.errors import DataError
from training.data.numbering import Int64Array

HELD_OUT = 2
"""Leave-one-out: interactions at the end of a user's sequence that training never sees, validation and test target."""


def _unix_seconds(value: Any) -> Any:
    """Dates and ISO 8601 text, UTC unless they say otherwise, to Unix seconds; the rest is left to the field."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value) if value.strip() else 0
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if isinstance(value, datetime):
        return int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp())
    return value


Moment = Annotated[int, BeforeValidator(_unix_seconds)]


class Cuts(NamedTuple):
    """Where the periods of a time split begin, Unix seconds; each belongs to the later period."""

    validation: int
    test: int


class SplitOptions(Section):
    """How a data set is divided into training, validation and test."""

    split: Literal["leave_one_out", "time"] = Field(
        "leave_one_out",
        description="leave_one_out: the last interaction of each user is the test, the last but one the validation; "
        "time: two cuts in time, the same for all users",
    )
    valid_share: float = Field(0.1, gt=0, lt=1, description="time split: share of all interactions for validation")
    test_share: float = Field(0.1, gt=0, lt=1, description="time split: share of all interactions, the newest, to test")
    valid_from: Moment = Field(
        0, ge=0, description="time split: begin of validation instead of shares, ISO 8601 or Unix seconds; 0: by share"
    )
    test_from: Moment = Field(0, ge=0, description="time split: begin of the test; set with valid_from")

    @model_validator(mode="after")
    def _periods_are_ordered(self) -> Self:
        if self.valid_share + self.test_share >= 1:
            raise ValueError(f"valid_share + test_share is {self.valid_share + self.test_share:g}, and must be below 1")
        if bool(self.valid_from) != bool(self.test_from) or self.valid_from > self.test_from:
            raise ValueError("valid_from and test_from are set together, valid_from the earlier one")
        return self

    @property
    def split_options(self) -> SplitOptions:
        """Only these settings, where they are part of more."""
        return SplitOptions(**{name: getattr(self, name) for name in SplitOptions.model_fields})

    def cuts(self, timestamps: npt.NDArray[np.int64]) -> Cuts:
        """Begin of validation and test: as set, else so that each has about its share; a second is never divided.

        Args:
            timestamps: Of all interactions [n], Unix seconds, in any order.

        Raises:
            DataError: The periods would not be three: too few different times for the shares, or all times unknown.
        """
        if self.valid_from:
            cuts = Cuts(self.valid_from, self.test_from)
        else:
            n = len(timestamps)
            at = [min(n - 1, int(n * (1 - share))) for share in (self.valid_share + self.test_share, self.test_share)]
            validation, test = np.partition(timestamps, at)[at].tolist()
            cuts = Cuts(validation, test)
        oldest, newest = int(timestamps.min()), int(timestamps.max())
        if not oldest < cuts.validation < cuts.test <= newest:
            raise DataError(
                f"no time split: training from {utc(oldest)}, validation from {utc(cuts.validation)}, "
                f"test from {utc(cuts.test)} to {utc(newest)} must follow each other",
                "set data.valid_from and data.test_from inside the data's times, or data.split=leave_one_out",
            )
        return cuts


LEAVE_ONE_OUT = SplitOptions()


@dataclass(frozen=True)
class Division:
    """Which interactions training sees and which are targets, for interactions in compressed rows by user."""

    offsets: Int64Array  # [users + 1]
    timestamps: Int64Array  # [interactions]
    cuts: Cuts | None  # None: leave-one-out

    @property
    def training_lengths(self) -> Int64Array:
        """How many of each user's first interactions training sees, [users]."""
        if self.cuts is not None:
            return self._before(self.cuts.validation)
        lengths = np.diff(self.offsets)
        return np.where(lengths > HELD_OUT, lengths - HELD_OUT, lengths)

    @property
    def is_training(self) -> npt.NDArray[np.bool_]:
        """Which interactions training sees, [interactions]."""
        if self.cuts is not None:
            return self.timestamps < self.cuts.validation
        seen = np.ones(len(self.timestamps), dtype=np.bool_)
        for targets in (self.validation_targets, self.test_targets):
            seen[targets[targets >= 0]] = False
        return seen

    @property
    def validation_targets(self) -> Int64Array:
        """Where each user's validation target stands among the interactions, -1 for users without one, [users]."""
        if self.cuts is None:
            return self._from_end(2)
        return self._first_within(self._before(self.cuts.validation), self._before(self.cuts.test))

    @property
    def test_targets(self) -> Int64Array:
        """The same for the test."""
        if self.cuts is None:
            return self._from_end(1)
        return self._first_within(self._before(self.cuts.test), np.diff(self.offsets))

    def _from_end(self, steps: int) -> Int64Array:
        return np.where(np.diff(self.offsets) > HELD_OUT, self.offsets[1:] - steps, -1)

    def _first_within(self, begin: Int64Array, end: Int64Array) -> Int64Array:
        """The first interaction from ``begin`` to ``end`` [users], places in a user's sequence, if some precede it."""
        return np.where((begin > 0) & (begin < end), self.offsets[:-1] + begin, -1)

    def _before(self, moment: int) -> Int64Array:
        """Interactions of each user before a moment, [users]; no user is without any."""
        return np.add.reduceat(self.timestamps < moment, self.offsets[:-1], dtype=np.int64)


def utc(seconds: int) -> str:
    """A moment for people; what no calendar holds stays a number."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return str(seconds)
