"""Goldens: histories with the answers that the model gave when it was exported.

Whoever loads a bundle replays them through its own engine and compares: exporter, service and the retraining gate.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from model_store.errors import BundleRefused
from model_store.events import Id
from model_store.manifest import first_problem

GOLDEN = "golden.json"
TOLERANCE = 1e-3
"""Largest difference of a log-probability, natural logarithm, that counts as the same answer."""

REDUCED_OVERLAP = 0.99
"""Smallest mean share of expected items that an engine of reduced precision must answer."""

_HINT = "this engine computes something else than the exporter did: check its precision settings and library versions"


class Golden(BaseModel):
    """One history and its expected answer, best first."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    history: tuple[Id, ...] = Field(min_length=1, description="item ids, oldest first")
    items: tuple[Id, ...] = Field(min_length=1, max_length=1000, description="the k best item ids, best first")
    log_prob: tuple[float, ...] = Field(description="of each item, natural logarithm, descending")

    @model_validator(mode="after")
    def _is_a_ranking(self) -> Self:
        if len(self.items) != len(self.log_prob):
            raise ValueError(f"{len(self.items)} items but {len(self.log_prob)} log_prob")
        if len(set(self.items)) != len(self.items):
            raise ValueError("an item is expected twice")
        if any(later > earlier for earlier, later in zip(self.log_prob, self.log_prob[1:], strict=False)):
            raise ValueError("log_prob must descend")
        return self


class Answer(NamedTuple):
    """What an engine answered to one golden, best first, with k = the number of expected items."""

    items: Sequence[str]
    log_prob: Sequence[float]


_GOLDENS = TypeAdapter(Annotated[tuple[Golden, ...], Field(min_length=1)])


def goldens_to_json(goldens: Sequence[Golden]) -> bytes:
    """Serialise as ``golden.json``."""
    return json.dumps([golden.model_dump(mode="json") for golden in goldens], indent=1).encode()


def goldens_from_json(data: bytes) -> tuple[Golden, ...]:
    """Read what :func:`goldens_to_json` wrote; there is at least one.

    Raises:
        BundleRefused: The bytes are no such list.
    """
    try:
        return _GOLDENS.validate_json(data, strict=True)
    except ValidationError as cause:
        raise BundleRefused(f"{GOLDEN}: {first_problem(cause)}", "export the bundle again") from cause


def compare(
    goldens: Sequence[Golden], answers: Sequence[Answer], tolerance: float = TOLERANCE, reduced_precision: bool = False
) -> None:
    """Refuse an engine whose answers are not the expected ones.

    The score at each rank must be within ``tolerance``; items may swap places only where their expected scores are
    within ``tolerance`` of each other, which includes a swap with an item just below the cut-off. With
    ``reduced_precision`` scores are free, and the mean share of expected items that were answered must reach
    :data:`REDUCED_OVERLAP`.

    Raises:
        BundleRefused: Names the first golden, rank and item that differ.
    """
    if len(answers) != len(goldens):
        raise BundleRefused(f"{GOLDEN}: {len(goldens)} goldens but {len(answers)} answers", _HINT)
    if reduced_precision:
        _check_overlap(goldens, answers)
        return
    for number, (golden, answer) in enumerate(zip(goldens, answers, strict=True)):
        if problem := _difference(golden, answer, tolerance):
            raise BundleRefused(f"{GOLDEN}: golden {number}: {problem}", _HINT)


def overlap(golden: Golden, answer: Answer) -> float:
    """Share of the expected items that were answered, 0 to 1."""
    return len(set(golden.items) & set(answer.items)) / len(golden.items)


def _check_overlap(goldens: Sequence[Golden], answers: Sequence[Answer]) -> None:
    mean = float(np.mean([overlap(golden, answer) for golden, answer in zip(goldens, answers, strict=True)]))
    if not mean >= REDUCED_OVERLAP:
        raise BundleRefused(
            f"{GOLDEN}: answers overlap {mean:.2%} with the expected ones, at least {REDUCED_OVERLAP:.0%} is required",
            "serve this version at full precision",
        )


def _difference(golden: Golden, answer: Answer, tolerance: float) -> str:
    """What is wrong with the answer, or an empty string."""
    k = len(golden.items)
    if len(answer.items) != k or len(answer.log_prob) != k:
        return f"{k} items expected, got {len(answer.items)} items and {len(answer.log_prob)} scores"
    if len(set(answer.items)) != k:
        return "an item was answered twice"
    gap = np.abs(np.asarray(answer.log_prob, dtype=np.float64) - golden.log_prob)
    if not (gap <= tolerance).all():  # negated, so that NaN differs too
        rank = int(np.argmax(~(gap <= tolerance)))
        return (
            f"rank {rank + 1}: log_prob {answer.log_prob[rank]:.6f} differs from {golden.log_prob[rank]:.6f}"
            f" by more than {tolerance}"
        )
    return _misplaced(golden, answer, tolerance)


def _misplaced(golden: Golden, answer: Answer, tolerance: float) -> str:
    expected = dict(zip(golden.items, golden.log_prob, strict=True))
    cutoff = golden.log_prob[-1]  # an item that is not expected scored this at most
    for rank, (item, here) in enumerate(zip(answer.items, golden.log_prob, strict=True)):
        if abs(expected.get(item, cutoff) - here) > tolerance:
            return (
                f"rank {rank + 1}: item {item!r} answered where {golden.items[rank]!r} is expected, beyond a near tie"
            )
    for item in golden.items:
        if item not in answer.items and expected[item] - cutoff > tolerance:
            return f"item {item!r} is missing, though it is no near tie with the last rank"
    return ""
