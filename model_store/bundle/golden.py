"""Goldens: histories with the answers that the model gave when it was exported.

The exporter and the service replay them through their own engine and compare the answers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from model_store.bundle.manifest import first_problem
from model_store.errors import BundleRefused, GraphRefused
from model_store.events.event import Id

GOLDEN = "golden.json"
GOLDEN_LIMIT = 16 << 20
"""Size of the largest file of goldens that is read, in bytes; as Python objects they take many times that."""

TOLERANCE = 1e-3
"""Largest difference of a score or log-probability that counts as the same answer."""

REDUCED_OVERLAP = 0.99
"""Smallest mean share of expected items in the answers of an engine with reduced precision."""

_HINT = "this engine computes other results than the exporter did: check its precision settings and library versions"


class Golden(BaseModel):
    """One history and its expected answer, best first."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    history: tuple[Id, ...] = Field(min_length=1, description="item ids, oldest first")
    items: tuple[Id, ...] = Field(min_length=1, max_length=1000, description="the k best item ids, best first")
    score: tuple[float, ...] = Field(description="score of each item, by which the items are ranked, descending")
    log_prob: tuple[float, ...] = Field(description="log-probability of each item, natural logarithm")

    @model_validator(mode="after")
    def _is_a_ranking(self) -> Self:
        if len({len(self.items), len(self.score), len(self.log_prob)}) != 1:
            raise ValueError(f"{len(self.items)} items but {len(self.score)} score and {len(self.log_prob)} log_prob")
        if len(set(self.items)) != len(self.items):
            raise ValueError("an item is expected twice")
        if any(later > earlier for earlier, later in zip(self.score, self.score[1:], strict=False)):
            raise ValueError("score must descend")
        return self


class Answer(NamedTuple):
    """The answer of an engine to one golden, best first, with as many items as expected."""

    items: Sequence[str]
    score: Sequence[float]
    log_prob: Sequence[float]


_GOLDENS = TypeAdapter(Annotated[tuple[Golden, ...], Field(min_length=1)])


def goldens_to_json(goldens: Sequence[Golden]) -> bytes:
    """Serialise as ``golden.json``."""
    return json.dumps([golden.model_dump(mode="json") for golden in goldens], indent=1).encode()


def goldens_from_json(data: bytes) -> tuple[Golden, ...]:
    """Read the output of :func:`goldens_to_json`; there is at least one golden.

    Raises:
        BundleRefused: The bytes are not a valid list of goldens, or more than :data:`GOLDEN_LIMIT`.
    """
    if len(data) > GOLDEN_LIMIT:
        raise BundleRefused(f"{GOLDEN}: {len(data)} bytes, at most {GOLDEN_LIMIT} are allowed", "export fewer goldens")
    try:
        return _GOLDENS.validate_json(data, strict=True)
    except ValidationError as cause:
        raise BundleRefused(f"{GOLDEN}: {first_problem(cause)}", "export the bundle again") from cause


def compare(
    goldens: Sequence[Golden], answers: Sequence[Answer], tolerance: float = TOLERANCE, reduced_precision: bool = False
) -> None:
    """Compare an engine's answers with the expected ones, and raise an error if they differ.

    The score at each rank must be within ``tolerance``, and so must the log-probability of each expected item. Items
    may swap places only if their expected scores are within ``tolerance`` of each other, which includes a swap with an
    item just below the cut-off. With ``reduced_precision`` scores may differ, and the mean share of expected items
    among the answers must reach :data:`REDUCED_OVERLAP`.

    Raises:
        GraphRefused: Names the first golden, rank and item that differ.
    """
    if len(answers) != len(goldens):
        raise GraphRefused(f"{GOLDEN}: {len(goldens)} goldens but {len(answers)} answers", _HINT)
    if reduced_precision:
        _check_overlap(goldens, answers)
        return
    for number, (golden, answer) in enumerate(zip(goldens, answers, strict=True)):
        problem = _find_difference(golden, answer, tolerance)
        if problem:
            raise GraphRefused(f"{GOLDEN}: golden {number}: {problem}", _HINT)


def overlap(golden: Golden, answer: Answer) -> float:
    """Return the share of the expected items that were answered, 0 to 1."""
    return len(set(golden.items) & set(answer.items)) / len(golden.items)


def _check_overlap(goldens: Sequence[Golden], answers: Sequence[Answer]) -> None:
    mean = float(np.mean([overlap(golden, answer) for golden, answer in zip(goldens, answers, strict=True)]))
    if not mean >= REDUCED_OVERLAP:
        raise GraphRefused(
            f"{GOLDEN}: answers overlap {mean:.2%} with the expected ones, at least {REDUCED_OVERLAP:.0%} is required",
            "serve this version at full precision",
        )


def _find_difference(golden: Golden, answer: Answer, tolerance: float) -> str:
    """Return the first problem of an answer, or an empty string."""
    k = len(golden.items)
    if not k == len(answer.items) == len(answer.score) == len(answer.log_prob):
        return f"{k} items expected, got {len(answer.items)} items and {len(answer.score)} scores"
    if len(set(answer.items)) != k:
        return "an item was answered twice"
    return (
        _find_deviation("score", answer.score, golden.score, tolerance)
        or _find_misplaced(golden, answer, tolerance)
        or _find_deviation("log_prob", answer.log_prob, _expected_log_prob(golden, answer), tolerance)
    )


def _find_deviation(name: str, values: Sequence[float], expected: Sequence[float], tolerance: float) -> str:
    """Return the first rank whose value is not within the tolerance, in words, or an empty string."""
    gap = np.abs(np.asarray(values, dtype=np.float64) - expected)
    if (gap <= tolerance).all():
        return ""
    rank = int(np.argmax(~(gap <= tolerance)))  # negated, so that NaN differs too
    return f"rank {rank + 1}: {name} {values[rank]:.6f} differs from {expected[rank]:.6f} by more than {tolerance}"


def _expected_log_prob(golden: Golden, answer: Answer) -> list[float]:
    """Return the expected log-probability of each answered item; for an unexpected item, its own one."""
    expected = dict(zip(golden.items, golden.log_prob, strict=True))
    return [expected.get(item, log_prob) for item, log_prob in zip(answer.items, answer.log_prob, strict=True)]


def _find_misplaced(golden: Golden, answer: Answer, tolerance: float) -> str:
    """Return the first item that is missing or on a wrong rank, in words, or an empty string."""
    expected = dict(zip(golden.items, golden.score, strict=True))
    cutoff = golden.score[-1]  # an unexpected item has at most this score
    for rank, (item, here) in enumerate(zip(answer.items, golden.score, strict=True)):
        if abs(expected.get(item, cutoff) - here) > tolerance:
            return (
                f"rank {rank + 1}: item {item!r} answered where {golden.items[rank]!r} is expected, beyond a near tie"
            )

    for item in golden.items:
        if item not in answer.items and expected[item] - cutoff > tolerance:
            return f"item {item!r} is missing, though it is not a near tie with the last rank"
    return ""
