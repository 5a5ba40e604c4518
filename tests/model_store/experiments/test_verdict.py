"""The verdict says first what makes figures useless, then what is broken, then what differs."""

from __future__ import annotations

from model_store.experiments.guardrails import Guardrail
from model_store.experiments.report import Report, judge
from model_store.experiments.tally import Tally, Variant
from model_store.experiments.verdict import say_verdict

HALVES = [Variant("control", 0.5), Variant("fresh", 0.5)]
HOLDS = Guardrail("fresh", "latency_p99_ms", 50.0, 50.0, True)
FAILS = Guardrail("fresh", "empty_share", 0.0, 0.5, False)
UNKNOWN = Guardrail("fresh", "error_share", 0.0, 0.0, None)


def report(subjects: tuple[int, int], achievers: tuple[int, int]) -> Report:
    return judge(HALVES, [tally(*each) for each in zip(subjects, achievers, strict=True)])


def tally(subjects: int, achievers: int) -> Tally:
    return Tally(
        subjects=subjects,
        answers=subjects,
        empty=0,
        clicks=0,
        goals=achievers,
        clickers=0,
        achievers=achievers,
        value={},
    )


def test_wrong_sizes_are_all_that_is_said() -> None:
    said = say_verdict(report((20_000, 10_000), (200, 900)), [FAILS])
    assert said.startswith("do not use these figures")
    assert "fresh" not in said


def test_a_clear_difference_is_said_with_its_interval() -> None:
    said = say_verdict(report((20_000, 20_000), (2_000, 3_000)), [HOLDS, UNKNOWN])
    assert said.startswith("fresh: better than the control (15.00 % reach the goal, 10.00 % in the control; ")
    assert "percentage points" in said
    assert say_verdict(report((20_000, 20_000), (3_000, 2_000)), []).startswith("fresh: worse than the control")


def test_no_difference_is_no_proof_that_there_is_none() -> None:
    assert say_verdict(report((2_000, 2_000), (200, 201)), []).startswith("fresh: no difference found so far")


def test_a_broken_guardrail_comes_before_what_is_better() -> None:
    said = say_verdict(report((20_000, 20_000), (2_000, 3_000)), [HOLDS, FAILS, UNKNOWN])
    assert said.startswith("fresh: too many of its answers are empty; fresh: better")


def test_a_handful_of_users_says_nothing() -> None:
    assert say_verdict(report((1, 1), (0, 1)), []) == "fresh: too few users and sessions to judge"
