"""Subjects of experiments in the embedded store, built from the lines of its log."""

from __future__ import annotations

from collections.abc import Iterator

from model_store.events.event_log import DroppedSubjectsLine, ExposuresLine, LogLine, SubjectLine, SubjectSumsLine
from model_store.events.marks import Mark, Subject, SubjectCounts


class SubjectState:
    """Subjects and sums by experiment. Only applied lines change them."""

    def __init__(self) -> None:
        self.experiments: dict[str, SubjectCounts] = {}

    def add(self, mark: Mark | None) -> None:
        """Add what an event says about a subject, if anything."""
        if mark is not None:
            self._of(mark.experiment).add(mark)

    def apply(self, line: ExposuresLine | SubjectLine | SubjectSumsLine | DroppedSubjectsLine) -> None:
        """Apply one line."""
        match line:
            case ExposuresLine():
                for subject in line.subjects:
                    self._of(line.experiment).expose(line.variant, subject)

            case SubjectLine():
                self._of(line.experiment).subjects[line.subject] = Subject(line.is_exposed, dict(line.marks))

            case SubjectSumsLine():
                self._of(line.experiment).sums = dict(line.sums)

            case DroppedSubjectsLine():
                self._drop(line)

    def lines(self) -> Iterator[LogLine]:
        """Yield lines that rebuild this state."""
        for experiment, counts in self.experiments.items():
            yield SubjectSumsLine(experiment=experiment, sums=counts.sums)
            for subject, each in counts.subjects.items():
                yield SubjectLine(
                    experiment=experiment, subject=subject, is_exposed=each.is_exposed, marks=dict(each.marks)
                )

    def _of(self, experiment: str) -> SubjectCounts:
        return self.experiments.setdefault(experiment, SubjectCounts())

    def _drop(self, line: DroppedSubjectsLine) -> None:
        if line.with_sums:
            self.experiments.pop(line.experiment, None)
        elif line.experiment in self.experiments:
            self.experiments[line.experiment].subjects.clear()
