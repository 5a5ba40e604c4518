"""Subjects of experiments of a single process: in memory, and every change first in its log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from model_store.events.event_log import DroppedSubjectsLine, ExposuresLine
from model_store.events.marks import Subject, who
from service.store.embedded_state import Batch, Step
from service.store.embedded_subject_state import SubjectState
from service.store.subject_store import Exposure, SubjectStore


class EmbeddedSubjects(SubjectStore):
    """Subjects in the memory of one process.

    Args:
        state: The state, which only written operations change.
        commit: Writes an operation, given it and whether it only takes data away.
    """

    def __init__(self, state: SubjectState, commit: Callable[[Step, bool], Awaitable[int]]) -> None:
        self._state = state
        self._commit = commit

    async def expose(self, exposures: Sequence[Exposure]) -> None:
        """Log who is new, and return after fsync."""
        new: dict[tuple[str, int], list[str]] = {}
        for each in exposures:
            if not self._is_exposed(each):
                new.setdefault((each.experiment, each.variant), []).append(each.subject)
        lines = [
            ExposuresLine(experiment=experiment, variant=variant, subjects=tuple(subjects))
            for (experiment, variant), subjects in new.items()
        ]
        if lines:
            await self._commit(lambda batch: sum(map(batch.add_line, lines)), False)

    async def sums(self, experiment: str) -> dict[str, float]:
        """Read from memory."""
        found = self._state.experiments.get(experiment)
        return {} if found is None else dict(found.sums)

    async def delete(self, experiment: str, *, with_sums: bool) -> None:
        """Log the deletion, if there is anything to delete."""
        found = self._state.experiments.get(experiment)
        if found is None or not (with_sums or found.subjects):
            return

        def step(batch: Batch) -> int:
            return batch.add_line(DroppedSubjectsLine(experiment=experiment, with_sums=with_sums))

        await self._commit(step, True)

    def _is_exposed(self, exposure: Exposure) -> bool:
        counts = self._state.experiments.get(exposure.experiment)
        nobody = Subject()
        return counts is not None and counts.subjects.get(who(exposure.variant, exposure.subject), nobody).is_exposed
