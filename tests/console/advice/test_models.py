"""What to do about the live version, a candidate and a shadow, for each thing that the service can say."""

from __future__ import annotations

from typing import Any, cast

import pytest
from etegrec_client.types import ModelsResponse

from console.advice.models import candidate_advice, live_advice, set_alias, shadow_advice

LIVE = "20261124t020000z-0b54f9aa"
OTHER = "20261125t020000z-7c1d9e55"

GOOD = [{"figure": name, "holds": True} for name in ("error_share", "empty_share", "latency_p99_ms")]
EARLY = [{**each, "holds": None} for each in GOOD]
SLOW = [*GOOD[:2], {**GOOD[2], "holds": False}]


def models(**given: Any) -> ModelsResponse:
    """Return what a service with a live version says that tries nothing, but for what is given."""
    nothing: dict[str, Any] = {"candidate": None, "shadow": None, "canary": None, "comparison": None, "rolled_back": []}
    return cast(ModelsResponse, {"live": {"version": LIVE, "problem": ""}, **nothing, **given})


def alias(state: str = "serving", **given: Any) -> dict[str, Any]:
    return {"version": OTHER, "share": 0.2, "state": state, "problem": "the problem", **given}


def canary(
    guardrails: list[dict[str, Any]], verdict: str | None = None, low: float | None = None, **given: Any
) -> dict[str, Any]:
    """Return a canary with guardrails of this replica, and what clicks say."""
    difference = None if low is None else {"difference": low + 0.01, "low": low, "high": low + 0.02}
    clicks = None if verdict is None else {"verdict": verdict, "difference": difference}
    return {"version": OTHER, "here": {"guardrails": guardrails}, "all_replicas": None, "clicks": clicks, **given}


def shadow(answers: int = 100, *, empty: int = 0, errors: int = 0, dropped: int = 0) -> dict[str, Any]:
    live = {"answers": answers + errors, "empty_answers": 0, "errors": 0}
    return {"live": live, "shadow": {"answers": answers, "empty_answers": empty, "errors": errors}, "dropped": dropped}


def test_nothing_is_said_where_nothing_is_to_do() -> None:
    assert live_advice(models()) is None
    assert candidate_advice(models()) is None
    assert shadow_advice(models()) is None


@pytest.mark.parametrize(
    ("live", "title", "command"),
    [
        ({"version": None, "problem": "no model is live yet"}, "No version answers: no model is live yet", "promote"),
        ({"version": LIVE, "problem": "version x was refused"}, "version x was refused", "rollback --reason"),
    ],
)
def test_trouble_of_the_live_version_names_the_way_out(live: dict[str, Any], title: str, command: str) -> None:
    advice = live_advice(models(live=live))
    assert advice is not None
    assert title in advice.title
    assert advice.mood == "attention"
    assert any(command in each for each in advice.commands)


@pytest.mark.parametrize(
    ("candidate", "title", "commands"),
    [
        (alias("loading"), "is being loaded", ()),
        (alias("waiting"), "waits: the problem", ("etegrec-models list",)),
        (alias("waiting", version=LIVE), "is the live version", ("etegrec-models alias candidate --remove",)),
        (
            alias("refused"),
            "not loaded: the problem",
            (f"etegrec-models verify {OTHER}", "etegrec-models alias candidate --remove"),
        ),
        (
            alias("ended"),
            "rolled back: it answers too slowly",
            ("etegrec-models alias candidate --remove", f"etegrec-models alias candidate {OTHER} --share 0.2"),
        ),
        (
            alias(share=0.0),
            "its share is 0",
            (f"etegrec-models alias candidate {OTHER} --share 0.05", "etegrec-models alias candidate --remove"),
        ),
        (alias(), "has not begun here", ()),
    ],
)
def test_a_candidate_that_is_not_tried_says_why(
    candidate: dict[str, Any], title: str, commands: tuple[str, ...]
) -> None:
    ends = [{"version": OTHER, "reason": "it answers too slowly"}]
    advice = candidate_advice(models(candidate=candidate, rolled_back=ends))
    assert advice is not None
    assert title in advice.title
    assert advice.commands == commands


@pytest.mark.parametrize(
    ("found", "title", "action", "is_promoted"),
    [
        (canary(EARLY), "Too few requests", "user_id or session_id", False),
        (canary(SLOW), "does worse: slowest 1 % of answers", "rolled back by itself", False),
        (canary(GOOD, "lower", -0.05), "does worse: share who click", "rolled back by itself", False),
        (canary(GOOD), "no worse so far", "too little is known yet", True),
        (canary(GOOD, "open", -0.01), "no worse so far", "between -1.00 and +1.00 percentage points", True),
        (canary(GOOD, "higher", 0.01), "does better", "Promote it", True),
        (canary(GOOD, all_replicas={"guardrails": SLOW}), "does worse: slowest", "rolled back by itself", False),
    ],
)
def test_a_canary_says_whether_to_promote(found: dict[str, Any], title: str, action: str, is_promoted: bool) -> None:
    advice = candidate_advice(models(candidate=alias(), canary=found))
    assert advice is not None
    assert title in advice.title
    assert action in advice.action
    assert (f"etegrec-models promote {OTHER}" in advice.commands) is is_promoted


@pytest.mark.parametrize(
    ("given", "title", "command"),
    [
        ({"shadow": alias("refused")}, "The shadow was not loaded", "etegrec-models alias shadow --remove"),
        ({"shadow": alias()}, "searched nothing yet", None),
        ({"shadow": alias(share=0.0)}, "searched nothing yet", f"etegrec-models alias shadow {OTHER} --share 0.1"),
        (
            {"shadow": alias(), "comparison": shadow(40, dropped=60)},
            "60.0 % of the sampled requests were dropped",
            f"etegrec-models alias shadow {OTHER} --share 0.05",
        ),
        ({"shadow": alias(), "comparison": shadow(empty=5)}, "more empty answers", f"etegrec-models show {OTHER}"),
        ({"shadow": alias(), "comparison": shadow(errors=5)}, "more failed searches", f"etegrec-models show {OTHER}"),
        ({"shadow": alias(), "comparison": shadow(3)}, "has searched 3 requests", None),
        (
            {"shadow": alias(), "comparison": shadow()},
            "as well as the live version",
            f"etegrec-models alias candidate {OTHER} --share 0.05",
        ),
    ],
)
def test_a_shadow_says_what_its_figures_mean(given: dict[str, Any], title: str, command: str | None) -> None:
    advice = shadow_advice(models(**given))
    assert advice is not None
    assert title in advice.title
    assert command in advice.commands if command else advice.commands == ()


def test_names_are_quoted_for_the_shell() -> None:
    assert set_alias("shadow", "a; rm -rf b", 0.1) == "etegrec-models alias shadow 'a; rm -rf b' --share 0.1"
