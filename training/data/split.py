"""Split of the interactions into training, validation and test: leave-one-out, or by time."""

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
"""Interactions at the end of a user's sequence that leave-one-out hides from training: validation and test target."""


def _unix_seconds(value: Any) -> Any:
    """Convert dates and ISO 8601 text to Unix seconds, as UTC if they name no zone; leave other values unchanged."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value) if value.strip() else 0
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if isinstance(value, datetime):
        return int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp())
    return value


Moment = Annotated[int, BeforeValidator(_unix_seconds)]


class Cuts(NamedTuple):
    """Starts of the validation and test periods of a time split, Unix seconds; a start belongs to its period."""

    validation: int
    test: int


class SplitOptions(Section):
    """Options for the split into training, validation and test."""

    split: Literal["leave_one_out", "time"] = Field(
        "leave_one_out",
        description="leave_one_out: the last interaction of each user is the test, the last but one the validation; "
        "time: two cuts in time, the same for all users",
    )
    valid_share: float = Field(0.1, gt=0, lt=1, description="time split: share of all interactions for validation")
    test_share: float = Field(
        0.1, gt=0, lt=1, description="time split: share of all interactions, the newest, for the test"
    )
    valid_from: Moment = Field(
        0, ge=0, description="time split: start of validation, ISO 8601 or Unix seconds; 0: use the shares instead"
    )
    test_from: Moment = Field(0, ge=0, description="time split: start of the test; set it together with valid_from")

    evaluated_users: int = Field(
        50_000,
        ge=1,
        description="most users of validation, and of the test, drawn the same way every time: each one's target is "
        "ranked among all items",
    )

    @model_validator(mode="after")
    def _periods_are_ordered(self) -> Self:
        if self.valid_share + self.test_share >= 1:
            raise ValueError(f"valid_share + test_share is {self.valid_share + self.test_share:g}, and must be below 1")
        if bool(self.valid_from) != bool(self.test_from) or self.valid_from > self.test_from:
            raise ValueError("valid_from and test_from must be set together, and valid_from must be the earlier one")
        return self

    @property
    def split_options(self) -> SplitOptions:
        """The settings of the split alone, also of a subclass that has more."""
        return SplitOptions(**{name: getattr(self, name) for name in SplitOptions.model_fields})

    def cuts(self, timestamps: npt.NDArray[np.int64]) -> Cuts:
        """Return the starts of validation and test: as set, or so that each period gets about its share.

        Interactions of the same second are always in the same period.

        Args:
            timestamps: Times of all interactions [n], Unix seconds, in any order.

        Raises:
            DataError: A period would be empty, because there are too few different times or all times are unknown.
        """
        if self.valid_from:
            cuts = Cuts(self.valid_from, self.test_from)
        else:
            n = len(timestamps)
            at = [min(n - 1, int(n * (1 - share))) for share in (self.valid_share + self.test_share, self.test_share)]
            validation, test = np.partition(timestamps, at)[at].tolist()
            cuts = Cuts(validation, test)

        oldest = int(timestamps.min())
        newest = int(timestamps.max())
        if not oldest < cuts.validation < cuts.test <= newest:
            raise DataError(
                f"no time split: training from {utc(oldest)}, validation from {utc(cuts.validation)}, "
                f"test from {utc(cuts.test)} to {utc(newest)} must follow each other",
                "set data.valid_from and data.test_from within the times of the data, or data.split=leave_one_out",
            )
        return cuts

    def draw_users(self, users: Int64Array) -> Int64Array:
        """Return the users that are evaluated, ascending, of all that have a target, [n]."""
        if len(users) <= self.evaluated_users:
            return users
        return np.sort(np.random.default_rng(0).choice(users, self.evaluated_users, replace=False))


LEAVE_ONE_OUT = SplitOptions()


@dataclass(frozen=True)
class Division:
    """Division of interactions, in compressed rows by user, into those for training and the targets."""

    offsets: Int64Array  # [users + 1]
    timestamps: Int64Array  # [interactions]
    cuts: Cuts | None  # None: leave-one-out

    @property
    def training_lengths(self) -> Int64Array:
        """Length of each user's training sequence, [users]; it is the start of the user's interactions."""
        if self.cuts is not None:
            return self._before(self.cuts.validation)
        lengths = np.diff(self.offsets)
        return np.where(lengths > HELD_OUT, lengths - HELD_OUT, lengths)

    @property
    def is_training(self) -> npt.NDArray[np.bool_]:
        """Mask of the interactions that training sees, [interactions]."""
        if self.cuts is not None:
            return self.timestamps < self.cuts.validation
        seen = np.ones(len(self.timestamps), dtype=np.bool_)
        for targets in (self.validation_targets, self.test_targets):
            seen[targets[targets >= 0]] = False
        return seen

    @property
    def validation_targets(self) -> Int64Array:
        """Position of each user's validation target among the interactions, -1 for users without one, [users]."""
        if self.cuts is None:
            return self._from_end(2)
        return self._first_within(self._before(self.cuts.validation), self._before(self.cuts.test))

    @property
    def test_targets(self) -> Int64Array:
        """Position of each user's test target among the interactions, -1 for users without one, [users]."""
        if self.cuts is None:
            return self._from_end(1)
        return self._first_within(self._before(self.cuts.test), np.diff(self.offsets))

    def _from_end(self, steps: int) -> Int64Array:
        return np.where(np.diff(self.offsets) > HELD_OUT, self.offsets[1:] - steps, -1)

    def _first_within(self, begin: Int64Array, end: Int64Array) -> Int64Array:
        """Return the position of the first interaction from ``begin`` to ``end`` [users], places in a user's sequence.

        It is -1 if there is none, or if the user has no interaction before it.
        """
        return np.where((begin > 0) & (begin < end), self.offsets[:-1] + begin, -1)

    def _before(self, moment: int) -> Int64Array:
        """Count each user's interactions before a moment, [users]."""
        # Every user has interactions; reduceat would give a wrong count for one without.
        return np.add.reduceat(self.timestamps < moment, self.offsets[:-1], dtype=np.int64)


def utc(seconds: int) -> str:
    """Format a time in ISO 8601; a number that is out of the calendar's range stays a number."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return str(seconds)
