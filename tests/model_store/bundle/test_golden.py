from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from model_store.bundle.golden import (
    GOLDEN_LIMIT,
    TOLERANCE,
    Answer,
    Golden,
    compare,
    goldens_from_json,
    goldens_to_json,
    overlap,
)
from model_store.errors import BundleRefused


def golden_of(items: Iterable[str], score: Iterable[float]) -> Golden:
    """Scores are log-probabilities plus twice a dense score of 0.5."""
    return Golden(history=("h",), items=tuple(items), score=tuple(score), log_prob=tuple(each - 1.0 for each in score))


def answer_of(golden: Golden, items: Sequence[str], score: Sequence[float]) -> Answer:
    """An answer of such scores in which each item has the log-probability that the golden expects."""
    expected = dict(zip(golden.items, golden.log_prob, strict=True))
    return Answer(items, score, [expected.get(item, each - 1.0) for item, each in zip(items, score, strict=False)])


SPREAD = golden_of("abcd", (-1.0, -2.0, -2.0005, -3.0))
TIED_AT_THE_END = golden_of("abc", (-1.0, -2.0, -2.0005))
CHAIN = golden_of("abc", (-1.0, -1.0009, -1.0018))


def check(golden: Golden, items: str, score: tuple[float, ...]) -> None:
    compare([golden], [answer_of(golden, tuple(items), score)])


@pytest.mark.parametrize(
    ("golden", "items", "score"),
    [
        (SPREAD, "abcd", SPREAD.score),
        (SPREAD, "abcd", (-1.0009, -1.9991, -2.0, -3.0009)),
        (SPREAD, "acbd", (-1.0, -2.0, -2.0005, -3.0)),
        (TIED_AT_THE_END, "abx", (-1.0, -2.0, -2.0006)),
        (TIED_AT_THE_END, "axc", (-1.0, -2.0004, -2.0005)),
        (SPREAD, "abcx", (-1.0, -2.0, -2.0005, -3.0002)),
    ],
    ids=["equal", "within margin", "near tie swaps", "swap at the cut-off", "swap above the cut-off", "unseen tie"],
)
def test_the_same_answer_is_accepted(golden: Golden, items: str, score: tuple[float, ...]) -> None:
    check(golden, items, score)


@pytest.mark.parametrize(
    ("golden", "items", "score", "problem"),
    [
        (SPREAD, "abcd", (-1.0, -2.0, -2.0005, -3.0011), "rank 4: score -3.001100"),
        (SPREAD, "abcd", (math.nan, -2.0, -2.0005, -3.0), "rank 1: score nan"),
        (SPREAD, "abcd", (-1.0, -2.0, -math.inf, -3.0), "rank 3: score -inf"),
        (SPREAD, "bacd", SPREAD.score, "rank 1: item 'b' answered where 'a' is expected"),
        (SPREAD, "xbcd", SPREAD.score, "rank 1: item 'x' answered where 'a' is expected"),
        (SPREAD, "aacd", SPREAD.score, "an item was answered twice"),
        (SPREAD, "abc", SPREAD.score[:3], "4 items expected, got 3 items"),
        (SPREAD, "abcd", SPREAD.score[:3], "4 items expected, got 4 items and 3 scores"),
        (CHAIN, "bcx", CHAIN.score, "item 'a' is missing"),
    ],
    ids=["score", "nan", "infinite", "swap", "stranger", "twice", "short", "scores short", "chain of ties"],
)
def test_another_answer_is_refused(golden: Golden, items: str, score: tuple[float, ...], problem: str) -> None:
    with pytest.raises(BundleRefused) as caught:
        check(golden, items, score)
    assert str(caught.value).startswith("golden.json: golden 0: ")
    assert problem in str(caught.value)
    assert caught.value.hint


def test_a_right_score_from_a_wrong_log_probability_is_refused() -> None:
    log_prob = [*SPREAD.log_prob[:1], -2.5, *SPREAD.log_prob[2:]]
    with pytest.raises(BundleRefused, match=r"rank 2: log_prob -2\.500000 differs from -3\.000000"):
        compare([SPREAD], [Answer(SPREAD.items, SPREAD.score, log_prob)])


def test_every_golden_needs_its_answer() -> None:
    with pytest.raises(BundleRefused, match="1 goldens but 0 answers"):
        compare([SPREAD], [])


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), ties=st.booleans())
def test_an_engine_with_small_errors_is_accepted_at_any_cutoff(seed: int, ties: bool) -> None:
    """Errors below half the margin reorder only near ties: the replay must never refuse them."""
    random = np.random.default_rng(seed)
    exact = np.sort(-random.exponential(0.002 if ties else 2.0, size=30))[::-1]
    noisy = exact + random.uniform(-0.49, 0.49, size=30) * TOLERANCE
    k, order = int(random.integers(1, 30)), np.argsort(-noisy)
    names = np.array([f"i{row}" for row in range(30)])
    golden = golden_of(names[:k].tolist(), exact[:k].tolist())
    log_prob = (noisy - 1.0)[order[:k]].tolist()
    compare([golden], [Answer(names[order[:k]].tolist(), noisy[order[:k]].tolist(), log_prob)])


def ranking(size: int) -> Golden:
    return golden_of(map(str, range(size)), [-float(x) for x in range(size)])


def test_reduced_precision_counts_overlap_not_scores() -> None:
    whole, one_off = ranking(100), [*map(str, range(99)), "x"]
    compare([whole], [Answer(one_off[::-1], [0.0] * 100, [])], reduced_precision=True)
    assert overlap(whole, Answer(one_off, [], [])) == 0.99
    compare(
        [whole, whole], [Answer([*one_off[:98], "x", "y"], [], []), Answer(whole.items, [], [])], reduced_precision=True
    )
    with pytest.raises(BundleRefused, match=r"overlap 98\.00% .* at least 99%"):
        compare([whole], [Answer([*one_off[:98], "x", "y"], [], [])], reduced_precision=True)


def test_what_is_written_is_read() -> None:
    assert goldens_from_json(goldens_to_json([SPREAD, CHAIN])) == (SPREAD, CHAIN)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"[{}]",
        b"[" * 50_000,
        goldens_to_json([SPREAD])[:-5],
        goldens_to_json([SPREAD]).replace(b"-3.0", b"NaN"),
        goldens_to_json([SPREAD]).replace(b"-3.0", b"-0.5"),
        goldens_to_json([SPREAD]).replace(b'"d"', b'"a"'),
        goldens_to_json([SPREAD]).replace(b"history", b"past"),
    ],
    ids=["empty", "none", "no list", "no fields", "deep", "cut", "nan", "ascending", "twice", "unknown field"],
)
def test_goldens_that_are_no_rankings_are_refused(data: bytes) -> None:
    with pytest.raises(BundleRefused, match=r"^golden\.json: "):
        goldens_from_json(data)


def test_more_goldens_than_may_be_read_are_refused_before_they_are_parsed() -> None:
    with pytest.raises(BundleRefused, match=rf"{GOLDEN_LIMIT + 1} bytes, at most {GOLDEN_LIMIT} are allowed"):
        goldens_from_json(b" " * (GOLDEN_LIMIT + 1))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"history": ()}, "history"),
        ({"items": (), "score": (), "log_prob": ()}, "items"),
        (
            {"items": tuple(map(str, range(1001))), "score": (0.0,) * 1001, "log_prob": (0.0,) * 1001},
            "at most 1000 items",
        ),
        ({"score": (math.nan, -2.0, -2.0005, -3.0)}, "finite number"),
        ({"log_prob": (-1.0, -2.0, -2.0, -math.inf)}, "finite number"),
        ({"score": (-1.0, -2.0)}, "4 items but 2 score and 4 log_prob"),
        ({"score": ("-1.0", -2.0, -2.0005, -3.0)}, "valid number"),
        ({"more": 1}, "Extra inputs"),
    ],
)
def test_a_golden_is_a_ranking_of_numbers(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Golden(**(SPREAD.model_dump() | change))


def test_a_golden_of_the_longest_answer_is_allowed_and_stays_as_it_is() -> None:
    golden = golden_of(map(str, range(1000)), [-float(x) for x in range(1000)])
    with pytest.raises(ValidationError, match="frozen"):
        golden.history = ("other",)  # type: ignore[misc]


def test_a_difference_of_exactly_the_tolerance_is_accepted() -> None:
    golden = golden_of("abc", (-1.0, -2.0, -2.5))
    compare([golden], [answer_of(golden, "abc", (-1.5, -2.0, -2.5))], tolerance=0.5)
    compare([golden], [answer_of(golden, "axc", (-1.0, -2.0, -2.5))], tolerance=0.5)
    with pytest.raises(BundleRefused):
        compare([golden], [answer_of(golden, "abc", (-1.5, -2.0, -2.5))], tolerance=0.499)


def test_the_overlap_is_the_share_of_the_expected_items() -> None:
    whole = ranking(100)
    half = Answer(whole.items[:50], [], [])
    assert overlap(whole, half) == 0.5
    with pytest.raises(BundleRefused, match=r"overlap 50\.00%"):
        compare([whole], [half], reduced_precision=True)
