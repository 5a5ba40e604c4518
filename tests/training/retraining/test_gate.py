from __future__ import annotations

import pytest

from model_store.errors import ConfigError
from training.retraining.gate import GATE_METRIC, Gate

NAN = float("nan")


@pytest.mark.parametrize(
    ("candidate", "incumbent", "verdict", "reason"),
    [
        (0.2, 0.1, "promote", "not worse, ndcg@10 0.2000 against 0.1000"),
        (0.1, 0.1, "promote", "not worse, ndcg@10 0.1000 against 0.1000"),
        (0.1, 0.2, "drop", "the candidate is worse, ndcg@10 0.1000 against 0.2000"),
        (NAN, 0.2, "drop", "the candidate is worse, ndcg@10 nan against 0.2000"),
        (0.0, None, "promote", "the first model, ndcg@10 0.0000"),
        (0.9, None, "promote", "the first model, ndcg@10 0.9000"),
        (0.7490, 0.0250, "hold back", "implausible gain, ndcg@10 0.7490 against 0.0250: more than 3 times as good"),
        (0.2, 0.0, "hold back", "implausible gain, ndcg@10 0.2000 against 0.0000: more than 3 times"),
    ],
)
def test_the_verdict_and_its_reason(candidate: float, incumbent: float | None, verdict: str, reason: str) -> None:
    # The other metrics point the other way: they must not decide.
    before = {} if incumbent is None else {GATE_METRIC: incumbent, "recall@10": -incumbent}
    decision = Gate().judge({GATE_METRIC: candidate, "recall@10": -candidate}, before)
    assert decision.verdict == verdict
    assert decision.reason.startswith(reason)


@pytest.mark.parametrize(
    ("candidate", "incumbent", "verdict"),
    [
        (0.09, 0.01, "promote"),  # nine times, but first small models do that
        (0.1 + 0.03, 0.03, "promote"),  # the limits themselves are plausible
        (0.14, 0.03, "hold back"),
        (0.75, 0.25, "promote"),
        (0.76, 0.25, "hold back"),
        (0.9, 0.5, "promote"),  # much more, but not by the factor
    ],
)
def test_a_gain_is_implausible_only_beyond_both_limits(candidate: float, incumbent: float, verdict: str) -> None:
    assert Gate().judge({GATE_METRIC: candidate}, {GATE_METRIC: incumbent}).verdict == verdict


def test_the_limits_can_be_set_and_switched_off() -> None:
    new, old = {GATE_METRIC: 0.5}, {GATE_METRIC: 0.1}
    assert Gate(max_gain=0).judge(new, {GATE_METRIC: 0.0}).verdict == "promote"
    assert Gate(max_gain=6).judge(new, old).verdict == "promote"
    assert Gate(plausible_gain=0.4).judge(new, old).verdict == "promote"
    assert Gate(max_gain=1, plausible_gain=0).judge(new, {GATE_METRIC: 0.49}).verdict == "hold back"
    assert Gate(max_gain=1, plausible_gain=0).judge(new, new).verdict == "promote"


@pytest.mark.parametrize(
    ("max_gain", "plausible_gain", "said"),
    [
        (0.5, 0.1, "largest gain is 0.5"),
        (-1.0, 0.1, "largest gain is -1"),
        (NAN, 0.1, "largest gain is nan"),
        (3.0, -0.1, "plausible gain is -0.1"),
        (3.0, 1.1, "plausible gain is 1.1"),
        (3.0, NAN, "plausible gain is nan"),
    ],
)
def test_limits_without_a_meaning_are_refused(max_gain: float, plausible_gain: float, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Gate(max_gain, plausible_gain)
