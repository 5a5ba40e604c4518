"""Suffixes, and units of times."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.source_files.formats import format_suffix, units_per_second


@pytest.mark.parametrize(("name", "suffix"), [("a.CSV", ".csv"), ("a.tsv.gz", ".tsv"), ("a.b.Parquet", ".parquet")])
def test_the_suffix_tells_the_format_in_any_case_and_compressed(name: str, suffix: str) -> None:
    assert format_suffix(Path("folder.x") / name) == suffix


@pytest.mark.parametrize(
    ("newest", "units"), [(0, 1), (10**11 - 1, 1), (10**11, 10**3), (10**14, 10**6), (10**17, 10**9)]
)
def test_the_unit_of_times_is_judged_by_their_size(newest: int, units: int) -> None:
    assert units_per_second(newest) == units
