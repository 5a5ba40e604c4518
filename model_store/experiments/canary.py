"""Judgement of a canary: whether a candidate does worse than the live version, with confidence at whatever time.

A canary is looked at every second, so each figure is compared by a confidence sequence, see
:mod:`model_store.experiments.confidence`: a version that is as good is rolled back by chance in hardly any canary.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from model_store.experiments.confidence import half_width
from model_store.experiments.guardrails import MORE_AT_MOST, Figure, Guardrail, Health
from model_store.experiments.report import Comparison

CLICKED: Final = "clicked"
CanaryFigure = Figure | Literal["clicked"]
CANARY_FIGURES: tuple[CanaryFigure, ...] = ("latency_p99_ms", "error_share", "empty_share", CLICKED)
"""Figures for which a canary is rolled back; answers of the live model instead are judged in experiments alone."""

FEWEST_REQUESTS = 30
"""Requests of the candidate, and of the live version, below which nothing is judged."""

PLANNED_REQUESTS = 500
"""Number of requests at which the comparisons are tightest. They hold at any number."""

ALPHA = 0.01
"""Probability that a figure of a version that is as good ever looks worse."""

TAIL = 0.01
"""Share of answers above the 99th percentile."""


class Failure(NamedTuple):
    """The figure for which a canary is rolled back, and the reason in words."""

    figure: CanaryFigure
    reason: str


def check_canary(live: Health, candidate: Health, slow: int) -> list[Guardrail]:
    """Compare the health of a candidate with that of the live version.

    A share may exceed that of the live version by :data:`MORE_AT_MOST`. The 99th percentile of latency may be
    :data:`SLOWER_AT_MOST` times as high: it is higher if more than one of 100 answers is slower than that.

    Args:
        live: Requests that the live version answered meanwhile.
        candidate: Requests that the candidate answered.
        slow: Answers of the candidate that took longer than :data:`SLOWER_AT_MOST` times the live version's 99th
            percentile.
    """
    requests = (live.answers + live.errors, candidate.answers + candidate.errors)
    answers = (live.answers, candidate.answers)
    errors = _Shares(*requests, live.errors, candidate.errors)
    empty = _Shares(*answers, live.empty, candidate.empty)
    is_compared = live.answers >= FEWEST_REQUESTS
    is_slower = _exceeds(_Shares(candidate.answers, candidate.answers, 0, slow), TAIL) if is_compared else None
    return [
        _guardrail("error_share", errors.live_share, errors.candidate_share, _exceeds(errors, MORE_AT_MOST)),
        _guardrail("empty_share", empty.live_share, empty.candidate_share, _exceeds(empty, MORE_AT_MOST)),
        _guardrail("latency_p99_ms", live.p99_ms, candidate.p99_ms, is_slower),
    ]


def find_failure(guardrails: list[Guardrail], clicked: Comparison | None) -> Failure | None:
    """Return why a canary must be rolled back; ``None`` if nothing is worse.

    Args:
        guardrails: What :func:`check_canary` found.
        clicked: Comparison of the users and sessions who clicked; ``None`` while it is not known.
    """
    for each in guardrails:
        if each.holds is False:
            return Failure(each.figure, _say(each))
    if clicked is None or clicked.interval is None or clicked.verdict != "lower":
        return None

    low, high = (f"{100 * end:+.2f}" for end in (clicked.interval.low, clicked.interval.high))
    reason = (
        f"fewer users and sessions click: {100 * clicked.mean:.2f} %, {100 * clicked.control_mean:.2f} % of the live"
        f" version's (the difference is between {low} and {high} percentage points)"
    )
    return Failure(CLICKED, reason)


class _Shares(NamedTuple):
    """Numbers of requests, and of those that count, of the live version and of the candidate."""

    live: int
    candidate: int
    live_hits: int
    candidate_hits: int

    @property
    def live_share(self) -> float:
        return self.live_hits / max(1, self.live)

    @property
    def candidate_share(self) -> float:
        return self.candidate_hits / max(1, self.candidate)


def _exceeds(shares: _Shares, allowed: float) -> bool | None:
    """Tell whether the candidate's share exceeds the live one by more than is allowed; ``None`` with too few."""
    if min(shares.live, shares.candidate) < FEWEST_REQUESTS:
        return None
    unsure = _width(shares.candidate, shares.candidate_hits)
    unsure += _width(shares.live, shares.live_hits) if shares.live_hits else 0.0
    return shares.candidate_share - shares.live_share - allowed > unsure


def _width(requests: int, hits: int) -> float:
    """Return how far the share of requests that count may be from the true one.

    One more that counts and one more that does not keep the variance above 0, as if nothing could happen by chance.
    """
    smoothed = (hits + 1) / (requests + 2)
    return half_width(smoothed * (1 - smoothed), requests, ALPHA, PLANNED_REQUESTS)


def _guardrail(figure: Figure, live: float | None, candidate: float | None, exceeds: bool | None) -> Guardrail:
    return Guardrail("candidate", figure, live, candidate, None if exceeds is None else not exceeds)


def _say(found: Guardrail) -> str:
    if found.figure == "latency_p99_ms":
        own, live = (_milliseconds(each) for each in (found.value, found.control))
        return f"it answers too slowly: 99 of 100 answers within {own}, {live} by the live version"

    what = {"error_share": "requests fail", "empty_share": "answers are empty"}[found.figure]
    own_share, live_share = (100 * (each or 0.0) for each in (found.value, found.control))
    return f"too many {what}: {own_share:.2f} %, {live_share:.2f} % of the live version's"


def _milliseconds(number: float | None) -> str:
    return "more than can be told" if number is None or number == float("inf") else f"{number:g} ms"
