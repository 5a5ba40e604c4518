"""Signer of answers: makes the token of each, and counts it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from model_store.attribution.token import Answered, Chance, hash_subject, sign, subject_of
from model_store.experiments.assignment import Assignment
from service.attribution.answer_counts import AnswerCounts
from service.attribution.key_ring import KeyRing


class Signer:
    """Signer of the answers of this replica.

    Args:
        keys: Keys of this shop.
        counts: Where answers are counted.
        is_implicit: Whether answers count as shown.
    """

    def __init__(self, keys: KeyRing, counts: AnswerCounts, *, is_implicit: bool) -> None:
        self._keys = keys
        self._counts = counts
        self._is_implicit = is_implicit

    def sign(
        self,
        version: str,
        item_ids: Sequence[str],
        served_by: Literal["model", "cache", "popular"],
        user_id: str | None,
        session_id: str | None,
        placement: str | None = None,
        assignment: Assignment | None = None,
        took_ms: float = 0.0,
        chance: Chance | None = None,
    ) -> str | None:
        """Count an answer and return its token; ``None`` while no key is known, because the store is away.

        Args:
            version: Version of the model.
            item_ids: The items, best first.
            served_by: What served the answer.
            user_id: Who asked.
            session_id: Who asked, if there is no user.
            placement: Name of the placement that was asked for.
            assignment: Variant of an experiment that answered.
            took_ms: Time that the answer took, in milliseconds.
            chance: What was left to chance, if the answer explored.
        """
        answer = Answered(
            seconds=int(time.time()),
            subject=subject_of(user_id, session_id),
            version=version,
            item_ids=item_ids,
            served_by=served_by,
            placement=placement,
            experiment=assignment and assignment.key,
            variant=assignment.variant if assignment is not None else 0,
            is_implicit=self._is_implicit,
            chance=chance,
        )
        self._counts.note(answer)
        if assignment is not None:
            self._counts.variants.note_answer(answer.seconds, assignment, version, len(item_ids), took_ms)

        keys = self._keys.current
        if keys is None:
            return None
        if assignment is not None:
            home = user_id if user_id is not None else session_id or ""
            self._counts.variants.note_exposure(assignment, hash_subject(answer.subject, keys.signing), home)
        return sign(answer, keys.signing)

    def note_items(self, version: str, codes: npt.NDArray[np.int16], rows: npt.NDArray[np.int64]) -> None:
        """Count the items of an answer by their codes, if answers count as shown.

        Args:
            version: Version of the model.
            codes: Codes of its catalogue, ``[items, L]``.
            rows: Rows of the items, ``[n]``.
        """
        if self._is_implicit:
            self._counts.codes.note(int(time.time()), version, codes, rows)

    def note_fallback(self, assignment: Assignment) -> None:
        """Count an answer of the live model in place of that of the variant."""
        self._counts.variants.note_fallback(int(time.time()), assignment)

    def note_error(self, assignment: Assignment) -> None:
        """Count a request of a variant that failed."""
        self._counts.variants.note_error(int(time.time()), assignment)
