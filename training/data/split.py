"""What is held out of training: the end of every user's sequence, or everything from a point in time on."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field, model_validator

from model_store.config import Section
from model_store.errors import DataError


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


def utc(seconds: int) -> str:
    """A moment for people; what no calendar holds stays a number."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return str(seconds)
