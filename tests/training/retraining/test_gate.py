from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from model_store.bundle.withheld import MAX_REASON
from model_store.errors import ConfigError
from tests.support.comparisons import USERS, comparison, figures
from training.config import GateConfig, load_config
from training.retraining.figures import Figures
from training.retraining.gate import Check, Gate, Judgement
from training.retraining.replay import Replay

NAN = float("nan")


def judge(candidate: Figures | float, incumbent: Figures | float | None, **other: Any) -> Judgement:
    return Gate(GateConfig()).judge(comparison(candidate, incumbent, **other))


def line(judgement: Judgement, name: str) -> Check:
    [found] = [check for check in judgement.checks if check.name == name]
    return found


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
    judgement = judge(candidate, incumbent)
    assert judgement.verdict == verdict
    assert judgement.reason.startswith(reason)


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
    assert judge(candidate, incumbent).verdict == verdict


def test_the_limits_can_be_set_and_switched_off() -> None:
    def verdict(candidate: float, incumbent: float, **limits: float) -> str:
        return Gate(GateConfig(**limits)).judge(comparison(candidate, incumbent)).verdict

    assert verdict(0.5, 0.0, max_gain=0) == "promote"
    assert verdict(0.5, 0.1, max_gain=6) == "promote"
    assert verdict(0.5, 0.1, plausible_gain=0.4) == "promote"
    assert verdict(0.5, 0.49, max_gain=1, plausible_gain=0) == "hold back"
    assert verdict(0.5, 0.5, max_gain=1, plausible_gain=0) == "promote"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("gate.max_gain=0.5", "largest gain is 0.5"),
        ("gate.max_gain=-1", "gate.max_gain"),
        ("gate.max_gain=nan", "gate.max_gain"),
        ("gate.plausible_gain=-0.1", "gate.plausible_gain"),
        ("gate.plausible_gain=1.1", "gate.plausible_gain"),
        ("gate.margin=2", "gate.margin"),
    ],
)
def test_limits_without_a_meaning_are_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config("demo", [override])


def test_the_limits_make_no_other_model() -> None:
    usual = load_config("demo")
    strict = load_config("demo", ["gate.max_size=1.1"])
    assert strict.fingerprint == usual.fingerprint
    assert strict.of_run() == usual


def noisy_gains(users: int, mean: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Gains of the live version and of a candidate whose users differ a lot, and by exactly this much on average."""
    rng = np.random.default_rng(seed)
    old = rng.choice([0.0, 0.0, 0.0, 0.3, 0.5, 1.0], users)
    noise = rng.choice([-0.2, 0.2], users)
    return old, old + (noise - noise.mean()) + mean


def judged_gains(users: int, mean: float, margin: float = 0.02, seed: int = 0) -> Judgement:
    old, new = noisy_gains(users, mean, seed)
    compared = comparison(figures(float(new.mean()), new), figures(float(old.mean()), old))
    return Gate(GateConfig(margin=margin)).judge(compared)


def test_many_users_show_that_a_little_less_is_within_the_margin() -> None:
    judgement = judged_gains(50_000, -0.002)
    check = line(judgement, "ndcg@10, difference")
    assert (judgement.verdict, check.value) == ("promote", "-0.0020")
    assert "too few users" not in check.note
    assert judged_gains(50_000, -0.002, margin=0.0).verdict == "drop"
    assert judged_gains(50_000, -0.010).verdict == "drop"


def test_a_loss_of_just_the_margin_is_within_it() -> None:
    def verdict(margin: float) -> str:  # every user loses an eighth, which is a quarter of what they had
        return Gate(GateConfig(margin=margin)).judge(comparison(0.375, 0.5)).verdict

    assert verdict(0.25) == "promote"
    assert verdict(0.249) == "drop"


def test_a_small_shop_promotes_what_is_not_worse_and_reads_that_it_shows_little() -> None:
    judgement = judged_gains(500, 0.001)
    assert judgement.verdict == "promote"
    assert "too few users to rule out a loss" in line(judgement, "ndcg@10, difference").note
    assert judged_gains(500, -0.001).verdict == "drop", "a little less, and not shown to be within the margin"


def test_the_bound_is_that_of_95_percent_of_samples() -> None:
    old, new = noisy_gains(2_000, 0.0, 3)
    note = line(judged_gains(2_000, 0.0, seed=3), "ndcg@10, difference").note
    low = float(note.split("below ")[1].split(",")[0])
    expected = -1.645 * (new - old).std(ddof=1) / np.sqrt(2_000)  # the normal approximation
    assert low == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("name", "broken", "kept"),
    [
        ("coverage of the catalogue", {"coverage": 0.29}, {"coverage": 0.31}),
        ("answers from the most popular 1%", {"heads": (0.31, 0.3)}, {"heads": (0.29, 0.3)}),
        ("answers from the most popular 10%", {"heads": (0.1, 0.51)}, {"heads": (0.1, 0.49)}),
        ("answers that are new items", {"new_exposure": 0.019}, {"new_exposure": 0.021}),
        ("items whose codes collide", {"collision_rate": 0.16}, {"collision_rate": 0.14}),
        ("calibration error", {"calibration": 0.09}, {"calibration": 0.07}),
        ("bytes", {"size": 2_000_001}, {"size": 2_000_000}),
        ("time of a search", {"search_ms": 8.1}, {"search_ms": 8.0}),
    ],
)
def test_a_broken_limit_holds_back_and_says_which(name: str, broken: dict[str, Any], kept: dict[str, Any]) -> None:
    held = judge(figures(0.2, **broken), 0.2)
    assert held.verdict == "hold back"
    assert held.reason.startswith(f"{name}: ")
    assert line(held, name).result == "hold back"
    assert [check.result for check in held.checks].count("hold back") == 1

    passed = judge(figures(0.2, **kept), 0.2)
    assert passed.verdict == "promote"
    assert line(passed, name).result == "pass"


def test_moved_codes_have_a_limit_if_one_is_set() -> None:
    compared = comparison(0.2, 0.2, codes_moved=0.4)
    assert Gate(GateConfig()).judge(compared).verdict == "promote"
    assert Gate(GateConfig(max_codes_moved=0.4)).judge(compared).verdict == "promote"
    held = Gate(GateConfig(max_codes_moved=0.3)).judge(compared)
    assert (held.verdict, held.reason) == ("hold back", "known items with other codes: 40.0%, at most 30%")


def test_goldens_that_are_answered_otherwise_drop_any_candidate() -> None:
    wrong = Replay(24, "golden 3: rank 1: another item")
    for incumbent in (0.2, None):
        judgement = judge(0.2, incumbent, goldens=wrong)
        assert judgement.verdict == "drop"
        assert judgement.reason.endswith("golden 3: rank 1: another item")


@pytest.mark.parametrize(
    ("name", "candidate", "incumbent", "other"),
    [
        ("answers that are new items", figures(0.2, new_exposure=0.0), figures(0.2), {"new_targets": 29}),
        ("items whose codes collide", figures(0.2, collision_rate=1.0), figures(0.2, collision_rate=None), {}),
        ("calibration error", figures(0.2, calibration=1.0), figures(0.2, calibration=None), {}),
        ("calibration error", figures(0.2, calibration=NAN), figures(0.2), {}),
        ("calibration error", figures(0.2), figures(0.2, calibration=NAN), {}),
        ("known items with other codes", figures(0.2), figures(0.2), {"codes_moved": None}),
        ("time of a search", figures(0.2), figures(0.2, search_ms=0.0), {}),
    ],
)
def test_what_cannot_be_compared_is_not_judged(
    name: str, candidate: Figures, incumbent: Figures, other: dict[str, Any]
) -> None:
    judgement = judge(candidate, incumbent, **other)
    assert judgement.verdict == "promote"
    check = line(judgement, name)
    assert check.result == "not judged"
    assert check.note, "why it was not"


def test_the_worst_line_is_the_verdict_and_the_reason_stays_short() -> None:
    bad = figures(0.1, coverage=0.0, heads=(1.0, 1.0), size=9_000_000, search_ms=90.0, collision_rate=0.9)
    dropped = judge(bad, 0.2)
    assert dropped.verdict == "drop"
    assert dropped.reason.startswith("the candidate is worse")

    held = judge(bad, 0.1)
    assert held.verdict == "hold back"
    assert held.reason.endswith("; and 4 more")
    assert len(held.reason) < MAX_REASON, "it is remembered with the version"


def test_the_first_model_shows_its_figures_without_limits() -> None:
    judgement = judge(0.1, None)
    results = {check.name: check.result for check in judgement.checks}
    assert results.pop("goldens answered as in training") == "pass"
    assert set(results.values()) == {"not judged"}
    assert line(judgement, "time of a search").value == "4.00 ms"


def test_a_judgement_is_plain_values() -> None:
    plain = judge(0.2, 0.1).as_dict()
    assert (plain["verdict"], len(plain["checks"])) == ("promote", 12)
    assert plain["checks"][0] == {
        "name": "ndcg@10, difference",
        "value": "+0.1000",
        "live": "",
        "limit": "at least 0, or in 95% of samples at least -0.0020",
        "result": "pass",
        "note": f"{USERS} users: 5% of samples lie below +0.1000, as many above +0.1000",
    }
