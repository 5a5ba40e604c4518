"""Reports of experiments: differences are called what they are, and broken figures are called broken."""

from __future__ import annotations

import math

import pytest

from model_store.experiments.report import judge
from model_store.experiments.tally import Tally, Value, Variant

HALVES = [Variant("control", 0.5), Variant("blue", 0.5)]


def tally(subjects: int, achievers: int, clickers: int = 0, value: dict[str, Value] | None = None) -> Tally:
    return Tally(subjects, 3 * subjects, 0, 2 * clickers, achievers, clickers, achievers, value or {})


def test_a_clear_difference_has_a_verdict_and_a_small_one_is_open() -> None:
    report = judge(HALVES, [tally(10_000, 1000, 2000), tally(10_050, 1010, 2600)])
    goal, clicked = report.comparisons
    assert (goal.variant, goal.outcome, goal.verdict) == ("blue", "reached_goal", "open")
    assert (goal.control_mean, goal.mean) == (0.1, 1010 / 10_050)
    assert (clicked.outcome, clicked.verdict) == ("clicked", "higher")
    assert clicked.interval is not None
    assert clicked.interval.low > 0
    assert report.sample_ratio.is_as_designed
    turned = judge(HALVES, [tally(10_050, 1010, 2600), tally(10_000, 1000, 2000)])
    assert turned.comparisons[1].verdict == "lower"


def test_of_few_users_nothing_is_said() -> None:
    report = judge(HALVES, [tally(40, 4), tally(30, 20)])
    assert {(each.verdict, each.interval) for each in report.comparisons} == {("too few", None)}
    nobody = judge(HALVES, [Tally(), Tally()])
    assert math.isnan(nobody.comparisons[0].mean)
    assert nobody.sample_ratio.is_as_designed


def test_money_is_compared_by_currency_also_where_a_variant_has_none_yet() -> None:
    euros = {"EUR": Value(payers=500, total=20_000.0, squares=1_000_000.0)}
    report = judge(HALVES, [tally(10_000, 500), tally(10_000, 500, value=euros)])
    [money] = [each for each in report.comparisons if each.outcome == "value_EUR"]
    assert (money.control_mean, money.mean) == (0.0, 2.0)
    assert money.verdict == "too few", "nobody of the control paid"
    both = judge(HALVES, [tally(10_000, 500, value=euros), tally(10_000, 500, value=euros)])
    [money] = [each for each in both.comparisons if each.outcome == "value_EUR"]
    assert money.verdict == "open"
    assert money.interval is not None
    assert money.interval.difference == 0


@pytest.mark.parametrize(("sizes", "is_as_designed"), [((10_000, 10_150), True), ((10_000, 11_000), False)])
def test_variants_of_wrong_size_are_reported(sizes: tuple[int, int], is_as_designed: bool) -> None:
    report = judge(HALVES, [tally(sizes[0], 100), tally(sizes[1], 100)])
    assert report.sample_ratio.is_as_designed is is_as_designed


def test_more_variants_make_each_claim_harder() -> None:
    control, better = tally(10_000, 1000), tally(10_000, 1165)
    alone = judge(HALVES, [control, better]).comparisons[0].interval
    thirds = [Variant(name, 1 / 3) for name in ("control", "blue", "red")]
    among = judge(thirds, [control, better, control]).comparisons[0].interval
    assert alone is not None
    assert among is not None
    assert among.high - among.low > alone.high - alone.low
