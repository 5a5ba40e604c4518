"""Times of a file of interactions: Unix time in s, ms, µs or ns, and ISO 8601 dates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from model_store.events.event import parse_moment
from model_store.source_files.id_spelling import SAMPLE

NO_TIME = -1
"""Number of a value that is no time."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LARGEST = float(2**63 - 1024)  # the largest float below 2**63

IntArray = npt.NDArray[np.int64]


def parse_times(column: Any) -> IntArray:
    """Return the times [n] of an Arrow column in its own unit (dates: microseconds), :data:`NO_TIME` where none is.

    Text holds dates if one of its first :data:`SAMPLE` values is a date and no number, else numbers.
    """
    kind = column.type
    if pa.types.is_timestamp(kind):
        numbers = pc.cast(pc.cast(column, pa.timestamp("us", kind.tz), safe=False), pa.int64())
    elif pa.types.is_date(kind):
        numbers = pc.cast(pc.cast(column, pa.timestamp("us")), pa.int64())
    elif pa.types.is_integer(kind):
        numbers = pc.cast(column, pa.int64(), safe=False)  # what is too large becomes negative
    elif pa.types.is_floating(kind):
        numbers = pa.array([_whole(value) for value in column.to_pylist()])
    else:
        numbers = pa.array(_parse_texts(pc.cast(column, pa.string()).to_pylist()))

    times = pc.fill_null(numbers, NO_TIME).to_numpy()
    return np.where(times < 0, NO_TIME, times)


def _parse_texts(texts: list[str | None]) -> list[int]:
    plain = [(text or "").strip() for text in texts]
    has_dates = any(_number(text) == NO_TIME and _microseconds(text) != NO_TIME for text in plain[:SAMPLE])
    parse = _microseconds if has_dates else _number
    return [parse(text) for text in plain]


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        pass  # a float cannot hold nanoseconds, so it comes second

    try:
        return _whole(float(text))
    except ValueError:
        return NO_TIME


def _whole(value: float | None) -> int:
    return int(value) if value is not None and 0 <= value <= _LARGEST else NO_TIME


def _microseconds(text: str) -> int:
    try:
        return (parse_moment(text) - _EPOCH) // timedelta(microseconds=1)
    except ValueError:
        return NO_TIME
