from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.evaluations import BROAD, evaluation
from training.report.notes import coverage_note, ranker_note, search_note, warnings

NARROW = {
    "users": 200,
    "recommended_items": 51,
    "catalogue_items": 1400,
    "catalogue_share": 51 / 1400,
    "top_share": 0.4,
}
HELP = "What usually helps: more interactions per user, a longer period, the right columns"


def test_a_good_model_needs_no_words() -> None:
    assert warnings(evaluation(0.05, popularity=0.03)) == []


def test_a_model_below_popularity_is_said_with_figures_and_advice() -> None:
    first, advice = warnings(evaluation(0.0284, popularity=0.0299, error=0.0012))
    assert first == (
        "This model is not better than recommending the most popular items to everyone: test ndcg@10 0.0284 against "
        "0.0299, a difference of -0.0015 ± 0.0012."
    )
    assert advice.startswith(HELP)
    assert "`etegrec-train validate`" in advice
    assert "another preset" in advice


@pytest.mark.parametrize(
    ("fused", "error", "verdict"),
    [
        (0.0299, 0.0012, "not better than"),
        (0.0299 + 0.0023, 0.0012, "not clearly better than"),
        (0.0299 + 0.0025, 0.0012, ""),
        (0.03, None, ""),
        (0.0299, None, "not better than"),
    ],
)
def test_better_means_by_more_than_chance(fused: float, error: float | None, verdict: str) -> None:
    found = warnings(evaluation(fused, popularity=0.0299, error=error))
    assert verdict in " ".join(found)
    assert bool(found) == bool(verdict)
    assert "None" not in " ".join(found)


def test_the_evaluation_of_an_older_release_has_no_error_and_no_coverage() -> None:
    old = replace(evaluation(0.02, popularity=0.03), above_popularity={}, coverage={})
    [first, _] = warnings(old)
    assert first.endswith("0.0200 against 0.0300, a difference of -0.0100.")
    assert coverage_note(old) == ""


def test_coverage_is_one_sentence() -> None:
    assert coverage_note(evaluation(0.05, coverage=NARROW)) == (
        "The top 10 of 200 test users hold 51 of 1,400 items (3.6%); the 10 most recommended items take 40.0% of the "
        "places (items of the history excluded)."
    )


@pytest.mark.parametrize(
    ("changes", "is_extreme"),
    [
        ({}, False),
        (NARROW, True),
        ({"recommended_items": 50}, False),  # exactly 5 % of what could be recommended
        ({"recommended_items": 49}, True),
        ({"top_share": 0.5}, True),
        ({"top_share": 0.49}, False),
        ({"users": 4, "recommended_items": 38}, False),  # 4 users have 40 places, however large the catalogue
        ({"users": 80, "catalogue_items": 30, "recommended_items": 30, "top_share": 0.6}, False),  # ten of 30: a third
        ({"users": 80, "catalogue_items": 80, "recommended_items": 80, "top_share": 0.62}, False),
        ({"users": 80, "catalogue_items": 80, "recommended_items": 80, "top_share": 0.63}, True),
    ],
)
def test_extreme_concentration_is_said(changes: dict[str, float], is_extreme: bool) -> None:
    found = warnings(evaluation(0.05, popularity=0.03, coverage=BROAD | changes))
    assert bool(found) is is_extreme
    if is_extreme:
        assert found[0].startswith("This model recommends few items to nearly everyone. The top 10 of ")
        assert found[1].startswith(HELP)


def test_the_advice_is_given_once() -> None:
    found = warnings(evaluation(0.01, popularity=0.03, coverage=NARROW))
    assert len(found) == 3
    assert [line.startswith(HELP) for line in found] == [False, False, True]


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ([0.001, 0.003], "more than chance"),
        ([-0.001, 0.005], "nothing beyond"),
        ([-0.003, -0.001], "less than nothing"),
    ],
)
def test_what_the_search_adds_is_said_with_its_interval(interval: list[float], verdict: str) -> None:
    plain = evaluation(0.052)
    test = plain.test | {"fused_without_search": {"ndcg@10": 0.05}}
    measured = replace(plain, test=test, search_adds={"mean": 0.002, "interval": interval})
    said = search_note(measured)
    assert said.startswith(f"The search adds {verdict}")
    assert "test ndcg@10 0.0520 with its scores, 0.0500 without them, +4.0%" in said
    assert f"in 95% of samples {interval[0]:.4f} to {interval[1]:.4f}" in said
    assert search_note(plain) == ""


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ([0.001, 0.003], "more than chance"),
        ([-0.0132, 0.0228], "nothing beyond chance"),
        ([-0.003, -0.001], "less than nothing"),
    ],
)
def test_what_the_ranker_adds_is_said_with_its_interval(interval: list[float], verdict: str) -> None:
    plain = evaluation(0.052)
    assert ranker_note(plain) == ""
    measured = replace(plain, ranker_adds={"mean": 0.002, "interval": interval})
    assert ranker_note(measured) == (
        f"The ranker adds {verdict}: test ndcg@10 0.0520 with it, 0.0500 without it, +4.0%; the difference is 0.0020, "
        f"in 95% of samples {interval[0]:.4f} to {interval[1]:.4f}."
    )
