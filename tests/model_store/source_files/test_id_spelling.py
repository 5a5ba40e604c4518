"""Ids with spaces, and whole numbers that a table with gaps wrote with a point."""

from __future__ import annotations

import pytest

from model_store.source_files.id_spelling import IdSpelling, judge_ids


@pytest.mark.parametrize(
    ("sample", "spelling"),
    [
        (["a", "b"], IdSpelling()),
        ([None, "", "a"], IdSpelling()),
        ([], IdSpelling()),
        ([" a", "b"], IdSpelling(is_padded=True)),
        (["106", None, "107.0", "108.00"], IdSpelling(float_example="107.0")),
        (["106.0 ", "7"], IdSpelling(is_padded=True, float_example="106.0")),
        (["106", "107"], IdSpelling()),
        (["1.0", "1.5"], IdSpelling()),
        (["1.0", "x"], IdSpelling()),
    ],
)
def test_ids_are_judged_by_a_sample(sample: list[str | None], spelling: IdSpelling) -> None:
    assert judge_ids(sample) == spelling


def test_people_are_told_how_ids_are_read() -> None:
    assert not IdSpelling().describe()
    told = IdSpelling(is_padded=True, float_example="106.0").describe()
    assert told == "have spaces around them, which are left out and are written like 106.0: read as 106"
