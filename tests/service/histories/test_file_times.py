"""Times as tables and text hold them."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pytest

from service.histories.file_times import NO_TIME, parse_times

NOON = 1_767_614_400
"""2026-01-05 12:00 UTC."""

MICROSECONDS = 1_000_000


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([NOON, None, -1], pa.int64(), [NOON, NO_TIME, NO_TIME]),
        ([2**63], pa.uint64(), [NO_TIME]),
        ([float(NOON), float("nan"), float("inf"), -1.5, None], pa.float64(), [NOON] + [NO_TIME] * 4),
        ([datetime(2026, 1, 5, 12), None], pa.timestamp("ns"), [NOON * MICROSECONDS, NO_TIME]),
        ([NOON], pa.timestamp("s", "Europe/Berlin"), [NOON * MICROSECONDS]),
        ([date(1970, 1, 2)], pa.date32(), [86_400 * MICROSECONDS]),
        ([str(NOON), f" {NOON}.0 ", "noon", "", None], pa.string(), [NOON, NOON] + [NO_TIME] * 3),
        (["1767614400123456789"], pa.string(), [1_767_614_400_123_456_789]),
        (["1e300", "inf"], pa.string(), [NO_TIME] * 2),
        (
            [
                "2026-01-05",
                "2026-01-05 12:00:00",
                "2026-01-05T13:00:00+01:00",
                "2026-01-05T12:00:00.5Z",
                "1",
                "x",
                None,
            ],
            pa.string(),
            [(NOON - 43_200) * MICROSECONDS, *[NOON * MICROSECONDS] * 2, (2 * NOON + 1) * MICROSECONDS // 2]
            + [NO_TIME] * 3,
        ),
        (["1960-01-01"], pa.string(), [NO_TIME]),
        ([True], pa.bool_(), [NO_TIME]),
    ],
)
def test_times_become_whole_numbers(values: list[Any], kind: Any, expected: list[int]) -> None:
    assert parse_times(pa.array(values, kind)).tolist() == expected
