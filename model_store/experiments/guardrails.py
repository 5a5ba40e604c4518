"""Guardrails of an experiment: whether a variant answers as fast, as often and as fully as the control does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

FEWEST_ANSWERS = 100
"""Answers of a variant, and of the control, below which nothing is judged."""

SLOWER_AT_MOST = 2.0
"""Factor by which the latency of a variant, at the 99th percentile, may exceed that of the control."""

MORE_AT_MOST = 0.01
"""Share of requests by which failures, or empty answers, of a variant may exceed those of the control."""

Figure = Literal["latency_p99_ms", "error_share", "empty_share", "fallback_share"]


class Health(NamedTuple):
    """How the requests of one variant went.

    Attributes:
        answers: Answers.
        empty: Answers without items.
        errors: Requests that failed.
        p99_ms: Latency of answers at the 99th percentile, in milliseconds; ``None`` without answers.
        fallbacks: Answers that the live model gave in place of the variant's own.
    """

    answers: int
    empty: int
    errors: int
    p99_ms: float | None
    fallbacks: int = 0


class Guardrail(NamedTuple):
    """One figure of a variant beside that of the control; ``holds`` is ``None`` while there are too few answers."""

    variant: str
    figure: Figure
    control: float | None
    value: float | None
    holds: bool | None


def check_guardrails(names: Sequence[str], health: Sequence[Health]) -> list[Guardrail]:
    """Compare every variant with the control, which is the first one.

    Of a variant whose own model did not always answer, the share of such answers is judged by itself, of the control's
    as well: either makes a difference between models look smaller than it is.
    """
    found = []
    for name, each in zip(names[1:], health[1:], strict=True):
        enough = min(each.answers + each.errors, health[0].answers + health[0].errors) >= FEWEST_ANSWERS
        control_ms, own_ms = health[0].p99_ms, each.p99_ms
        is_fast = None if control_ms is None or own_ms is None else own_ms <= SLOWER_AT_MOST * control_ms
        found.append(Guardrail(name, "latency_p99_ms", control_ms, own_ms, is_fast if enough else None))

        shares: list[tuple[Figure, float, float]] = [
            ("error_share", _error_share(health[0]), _error_share(each)),
            ("empty_share", _empty_share(health[0]), _empty_share(each)),
        ]
        for figure, control, own in shares:
            holds = own <= control + MORE_AT_MOST if enough else None
            found.append(Guardrail(name, figure, control, own, holds))
    return found + [_check_fallbacks(name, each) for name, each in zip(names, health, strict=True) if each.fallbacks]


def _check_fallbacks(name: str, health: Health) -> Guardrail:
    share = health.fallbacks / max(1, health.answers)
    holds = share <= MORE_AT_MOST if health.answers >= FEWEST_ANSWERS else None
    return Guardrail(name, "fallback_share", None, share, holds)


def _error_share(health: Health) -> float:
    return health.errors / max(1, health.answers + health.errors)


def _empty_share(health: Health) -> float:
    return health.empty / max(1, health.answers)
