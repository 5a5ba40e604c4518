"""What the overview calls a problem, and what it says to do."""

from __future__ import annotations

import pytest

from console.advice.service_state import findings
from console.api.metrics import Rates, Reading

WELL = {"status": "ready", "live_store": "up", "live_store_problem": "", "problem": ""}
QUIET = Rates(5, 0, 0, 0, None, None, {})


def test_nothing_is_said_of_a_service_that_is_well() -> None:
    busy = Reading(at=1, requests=100, answers={"model": 90, "popular": 10}, waiting_events=10, waiting_limit=100)
    assert findings(WELL, busy, QUIET) == []
    assert findings(WELL, None, None) == []


@pytest.mark.parametrize(
    ("reading", "title", "advice"),
    [
        (Reading(at=1, waiting_events=81, waiting_limit=100), "81 events of at most 100", "MAX_UNDRAINED_EVENTS"),
        (Reading(at=1, waiting_events=1, waiting_s=4 * 86_400), "4.0 d", "etegrec-train schedule"),
        (Reading(at=1, catalogue_lag=3), "lacks 3 changes", "within seconds"),
        (
            Reading(at=1, answers={"model": 5, "popular": 20}, popular={"unknown_items": 19, "no_history": 1}),
            "80.0 % of answers are popular items",
            "compare the ids",
        ),
    ],
)
def test_what_needs_attention_is_told_with_what_to_do(reading: Reading, title: str, advice: str) -> None:
    [found] = findings(WELL, reading, QUIET)
    assert title in found.title
    assert advice in found.advice


def test_few_answers_and_no_limit_are_no_finding() -> None:
    assert findings(WELL, Reading(at=1, answers={"popular": 19}, waiting_events=1e9), QUIET) == []


def test_the_service_s_own_words_are_shown_and_failures_come_first() -> None:
    troubled = WELL | {"live_store": "read-only", "live_store_problem": "disk full", "problem": "a bundle was refused"}
    found = findings(troubled, None, Rates(60, 1, 2, 0, None, None, {}))
    assert [each.title for each in found] == [
        "2 requests failed in the last 1.0 min",
        "The store is read-only: disk full",
        "a bundle was refused",
    ]
