"""Judgement of the service's state: what needs attention, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from console.api.metrics import Rates, Reading
from console.parts import duration, number, share

FULL_SHARE = 0.8
"""Share of the events that may wait for training from which on someone should look."""

OLD_EVENTS_S = 3 * 86_400
"""Age of the oldest waiting event from which on retraining probably does not run."""

POPULAR_SHARE = 0.5
"""Share of answers by popular items from which on someone should look."""

ENOUGH_ANSWERS = 20
"""Answers that a share needs before it is worth a word."""


@dataclass(frozen=True)
class Finding:
    """Something that needs attention: what, and what to do."""

    title: str
    advice: str


def findings(health: Mapping[str, Any], reading: Reading | None, recent: Rates | None) -> list[Finding]:
    """Return what needs attention, the worst first; an empty list if all is well.

    Args:
        health: The answer of ``GET /health/ready``.
        reading: The newest metrics, if there are any.
        recent: What happened between the last two readings.
    """
    found = list(_of_health(health))
    if reading is not None:
        found += _of_events(reading)
        found += _of_answers(reading)
    if recent is not None and recent.failures > 0:
        found.insert(
            0,
            Finding(
                f"{number(recent.failures)} requests failed in the last {duration(recent.seconds)}",
                "Look for request_failed in the service's log; each line has the request's id.",
            ),
        )
    return found


def _of_health(health: Mapping[str, Any]) -> list[Finding]:
    found = []
    if health.get("live_store") not in ("up", None):
        found.append(
            Finding(
                f"The store is {health['live_store']}: {health.get('live_store_problem') or 'no reason given'}",
                "Check that Redis runs, and its disk and memory. Answers go on meanwhile, without stored histories "
                "where it is away; events and changes are refused. See “When Redis is in trouble” in Operating.",
            )
        )
    if health.get("problem"):
        found.append(
            Finding(str(health["problem"]), "Requests are answered all the same. The service's log says more.")
        )
    return found


def _of_events(reading: Reading) -> list[Finding]:
    found = []
    if reading.waiting_limit and reading.waiting_events > FULL_SHARE * reading.waiting_limit:
        found.append(
            Finding(
                f"{number(reading.waiting_events)} events of at most {number(reading.waiting_limit)} wait for training",
                "Run a retraining, or raise ETEGREC_MAX_UNDRAINED_EVENTS: beyond it the oldest are dropped.",
            )
        )
    if reading.waiting_s > OLD_EVENTS_S:
        found.append(
            Finding(
                f"The oldest event has waited for training for {duration(reading.waiting_s)}",
                "Check that etegrec-train schedule runs, and what its last run said.",
            )
        )
    if reading.catalogue_lag > 0:
        found.append(
            Finding(
                f"The catalogue lacks {number(reading.catalogue_lag)} changes",
                "They come within seconds. If the number stays, the service's log says which change is refused.",
            )
        )
    return found


def _of_answers(reading: Reading) -> list[Finding]:
    total = sum(reading.answers.values())
    popular = reading.answers.get("popular", 0)
    if total < ENOUGH_ANSWERS or popular <= POPULAR_SHARE * total:
        return []

    reasons = {reason: count for reason, count in reading.popular.items() if count}
    main = max(reasons, key=lambda reason: reasons[reason], default="")
    advice = {
        "no_history": "Most users had no history: send their events, or import histories, under the same user ids.",
        "unknown_items": "Histories name items that the catalogue lacks: compare the ids of your shop and of training.",
        "budget": "The time budget of requests is too short: raise budget_ms, or add replicas.",
        "empty_rule": "Filters of requests leave nothing: check the categories and ranges that your shop sends.",
        "store_away": "The store did not answer: check Redis.",
    }.get(main, "See etegrec_popular_answers_total for the reasons.")
    return [Finding(f"{share(popular / total)} of answers are popular items, not the model's", advice)]
