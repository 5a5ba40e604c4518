"""Counts of the answers of experiments' variants, and who got them, until they are sent to the store."""

from __future__ import annotations

from model_store.attribution.counters import day_of
from model_store.attribution.experiment_counters import VariantAnswers
from model_store.attribution.names import hash_of, label_of
from model_store.events.counts import Counts
from model_store.experiments.assignment import Assignment
from service.store.subject_store import Exposure

MAX_EXPOSURES = 100_000
"""Largest number of users and sessions that wait for a store that is away; further ones are counted when they get
their next answer, or do something."""

_Group = tuple[str, Assignment]  # day


class VariantCounts:
    """Counts that the store does not have yet. Used from one event loop."""

    def __init__(self) -> None:
        self._answers: dict[_Group, VariantAnswers] = {}
        self._exposures: dict[Exposure, None] = {}  # a set that keeps its order

    @property
    def is_empty(self) -> bool:
        """Whether no counts wait; exposures may."""
        return not self._answers

    def note_answer(self, seconds: int, assignment: Assignment, version: str, items: int, took_ms: float) -> None:
        """Count an answer.

        Args:
            seconds: Its Unix time.
            assignment: The variant.
            version: Version of the model that answered.
            items: Number of its items.
            took_ms: Its latency in milliseconds.
        """
        answers = self._of(seconds, assignment)
        answers.note(items, took_ms)
        answers.note_version(label_of(hash_of(version)))

    def note_fallback(self, seconds: int, assignment: Assignment) -> None:
        """Count an answer of the live model in place of that of the variant; it is counted as an answer besides."""
        self._of(seconds, assignment).fallbacks += 1

    def note_error(self, seconds: int, assignment: Assignment) -> None:
        """Count a request that failed."""
        self._of(seconds, assignment).errors += 1

    def note_exposure(self, assignment: Assignment, subject: bytes, home: str) -> None:
        """Note who got an answer.

        Args:
            assignment: The variant.
            subject: Hash of the user or session, as in the token, ``[6]``.
            home: Id of the user or session.
        """
        if len(self._exposures) < MAX_EXPOSURES:
            label = label_of(hash_of(assignment.key))
            self._exposures[Exposure(label, assignment.variant, subject.hex(), home)] = None

    def take_counts(self) -> tuple[list[Counts], set[str]]:
        """Return what waits, by day, with the names in it; and begin anew."""
        taken, self._answers = self._answers, {}
        counts = [
            Counts(day, answers.amounts(label_of(hash_of(assignment.key)), assignment.variant))
            for (day, assignment), answers in taken.items()
        ]
        return counts, {assignment.key for _, assignment in taken}

    def exposures(self) -> list[Exposure]:
        """Return who got an answer since the last sending that succeeded."""
        return list(self._exposures)

    def forget_exposures(self, sent: list[Exposure]) -> None:
        """Forget those that the store has."""
        for each in sent:
            self._exposures.pop(each, None)

    def _of(self, seconds: int, assignment: Assignment) -> VariantAnswers:
        return self._answers.setdefault((day_of(seconds), assignment), VariantAnswers())
