"""A canary is rolled back for what is worse with confidence, and hardly ever for what only looks worse."""

from __future__ import annotations

import numpy as np
import pytest

from model_store.experiments.canary import ALPHA, CANARY_FIGURES, CLICKED, FEWEST_REQUESTS, check_canary, find_failure
from model_store.experiments.confidence import Interval
from model_store.experiments.guardrails import Guardrail, Health
from model_store.experiments.report import Comparison

HEALTHY = Health(answers=1000, empty=0, errors=0, p99_ms=20.0)


def holds(live: Health, candidate: Health, slow: int = 0) -> dict[str, bool | None]:
    """Return what holds of each figure."""
    return {each.figure: each.holds for each in check_canary(live, candidate, slow)}


@pytest.mark.parametrize(
    ("candidate", "slow", "broken"),
    [
        (Health(FEWEST_REQUESTS, 0, 0, 20.0), 0, None),
        (Health(0, 0, FEWEST_REQUESTS, None), 0, "error_share"),
        (Health(FEWEST_REQUESTS, FEWEST_REQUESTS, 0, 20.0), 0, "empty_share"),
        (Health(FEWEST_REQUESTS, 0, 0, 500.0), FEWEST_REQUESTS, "latency_p99_ms"),
        (Health(900, 0, 100, 20.0), 0, "error_share"),
        (Health(1000, 0, 0, 50.0), 12, None),  # 1.2 % is slower: it may be chance
        (Health(1000, 0, 0, 50.0), 100, "latency_p99_ms"),
        (Health(95, 0, 5, 20.0), 0, None),
    ],
)
def test_what_is_clearly_worse_fails(candidate: Health, slow: int, broken: str | None) -> None:
    found = check_canary(HEALTHY, candidate, slow)
    assert [each.figure for each in found if each.holds is False] == ([broken] if broken else [])
    failure = find_failure(found, None)
    assert (failure and failure.figure) == broken


def test_the_figures_of_the_metric_are_those_that_end_canaries() -> None:
    figures = [each.figure for each in check_canary(HEALTHY, HEALTHY, 0)]
    assert sorted(CANARY_FIGURES) == sorted([*figures, CLICKED])


def test_too_few_requests_are_not_judged() -> None:
    few = Health(0, 0, FEWEST_REQUESTS - 1, None)
    assert set(holds(HEALTHY, few).values()) == {None}
    assert set(holds(few._replace(errors=0, answers=1), Health(0, 0, 1000, None)).values()) == {None}


def test_what_the_live_version_does_as_well_is_no_reason() -> None:
    live = Health(900, 450, 100, 900.0)
    assert set(holds(live, Health(900, 450, 100, 900.0)).values()) == {True}


@pytest.mark.parametrize("share", [0.001, 0.05, 0.5])
def test_an_equal_version_is_hardly_ever_rolled_back_however_often_one_looks(share: float) -> None:
    random = np.random.default_rng(7)
    alarms = 0
    for _ in range(200):
        live = np.cumsum(random.random(4000) < share)
        candidate = np.cumsum(random.random(4000) < share)
        for looks in range(FEWEST_REQUESTS, 4000, 40):
            own = Health(looks - candidate[looks - 1], 0, int(candidate[looks - 1]), 20.0)
            control = Health(looks - live[looks - 1], 0, int(live[looks - 1]), 20.0)
            if holds(control, own)["error_share"] is False:
                alarms += 1
                break
    assert alarms <= 200 * ALPHA + 4


def test_a_version_that_fails_ten_percent_is_found_soon() -> None:
    random = np.random.default_rng(3)
    errors = np.cumsum(random.random(2000) < 0.1)
    live = HEALTHY._replace(answers=20_000)
    found = [
        n for n in range(FEWEST_REQUESTS, 2000) if not holds(live, Health(n, 0, int(errors[n]), 20.0))["error_share"]
    ]
    assert min(found) < 600


@pytest.mark.parametrize(
    ("verdict", "interval", "fails"),
    [
        ("lower", Interval(-0.02, -0.03, -0.01), True),
        ("open", Interval(-0.02, -0.05, 0.01), False),
        ("higher", Interval(0.02, 0.01, 0.03), False),
        ("too few", None, False),
    ],
)
def test_fewer_clicks_count_only_with_confidence(verdict: str, interval: Interval | None, fails: bool) -> None:
    clicked = Comparison("candidate", "clicked", 0.05, 0.03, interval, verdict)  # type: ignore[arg-type]
    failure = find_failure(check_canary(HEALTHY, HEALTHY, 0), clicked)
    assert (failure is not None) == fails
    if failure is not None:
        assert failure.figure == "clicked"
        assert "3.00 %, 5.00 % of the live version's (the difference is between -3.00 and -1.00" in failure.reason


def test_reasons_say_both_figures() -> None:
    slow = Guardrail("candidate", "latency_p99_ms", 20.0, float("inf"), False)
    failing = Guardrail("candidate", "error_share", 0.001, 0.25, False)
    words = [find_failure([each], None) for each in (slow, failing)]
    assert [each and each.reason for each in words] == [
        "it answers too slowly: 99 of 100 answers within more than can be told, 20 ms by the live version",
        "too many requests fail: 25.00 %, 0.10 % of the live version's",
    ]
