"""State of the embedded store, built from the lines of its log; batches of operations that share one write."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import cast

from model_store.events.counts import Counts, add_all, by_day
from model_store.events.event import IMPRESSION, NEGATIVE_TYPES
from model_store.events.event_log import (
    CanaryLine,
    ChangeLine,
    CounterLine,
    CounterNamesLine,
    CountLine,
    DocumentLine,
    DroppedCountersLine,
    DroppedSubjectsLine,
    EventLine,
    ExperimentLine,
    ExposuresLine,
    ForgetLine,
    HistoryLine,
    ImportedLine,
    ImportLine,
    ItemLine,
    LogLine,
    PlacementLine,
    SeenLine,
    SubjectLine,
    SubjectSumsLine,
    TombstoneLine,
)
from model_store.events.history_entry import UNTIMED, letter_of
from model_store.events.tombstones import tombstone_of
from model_store.replication import redis_keys
from service.store.base import ImportProgress
from service.store.decayed_counts import DecayedCounts
from service.store.embedded_change_state import ChangeState
from service.store.embedded_document_state import DocumentState
from service.store.embedded_subject_state import SubjectState
from service.store.user_history import Interaction, UserHistory

_CounterLine = CounterLine | CounterNamesLine | DroppedCountersLine | ExposuresLine | DroppedSubjectsLine


class CounterState:
    """Counters by day, and the names in them."""

    def __init__(self) -> None:
        self.days: dict[str, dict[str, float]] = {}
        self.names: dict[str, str] = {}

    def add(self, counts: Counts) -> None:
        """Add amounts."""
        for day, amounts in by_day([counts]).items():
            add_all(self.days.setdefault(day, {}), amounts)

    def apply(self, line: CounterLine | CounterNamesLine | DroppedCountersLine) -> None:
        """Apply one line."""
        match line:
            case CounterLine():
                self.add(line.counts)

            case CounterNamesLine():
                self.names |= line.names

            case DroppedCountersLine():
                for day in line.days:
                    self.days.pop(day, None)

    def lines(self) -> Iterator[LogLine]:
        """Yield lines that rebuild this state."""
        for day, amounts in self.days.items():
            yield CounterLine(counts=Counts(day, amounts))
        if self.names:
            yield CounterNamesLine(names=self.names)


class EmbeddedState:
    """Histories, counts, event ids, catalogue changes, documents. Only applied lines change it."""

    def __init__(self, history_cap: int, half_lives_s: Sequence[int] = (), user_ttl_s: int = 0) -> None:
        self._history_cap = history_cap
        self._user_ttl_s = user_ttl_s
        self.counts = {half_life: DecayedCounts(half_life) for half_life in half_lives_s}
        self.histories: dict[str, UserHistory] = {}
        self.erased: dict[str, int] = {}  # when users were erased, by tombstone
        self.imports: dict[str, ImportProgress] = {}  # by model version
        self.recorded_at: dict[str, int] = {}  # when the last event came, by user; empty if users never expire
        self.seen: dict[str, int] = {}  # Unix time of recording by event id, oldest first
        self.counters = CounterState()
        self.changes = ChangeState()
        self.placements = DocumentState(PlacementLine)
        self.experiments = DocumentState(ExperimentLine)
        self.canaries = DocumentState(CanaryLine)
        self.subjects = SubjectState()

    def apply(self, line: LogLine) -> None:  # noqa: C901 - one case for each kind of line
        """Apply one line; an event that was seen before has no effect, and an erased line says nothing."""
        match line:
            case EventLine():
                if line.event.event_id not in self.seen:
                    self._apply_event(line)

            case HistoryLine() | ImportLine() | ForgetLine() | TombstoneLine():
                self._apply_to_user(line)

            case ChangeLine() | ItemLine():
                self.changes.apply(line)

            case PlacementLine():
                self.placements.apply(line)

            case ExperimentLine():
                self.experiments.apply(line)

            case CanaryLine():
                self.canaries.apply(line)

            case ExposuresLine() | SubjectLine() | SubjectSumsLine() | DroppedSubjectsLine():
                self.subjects.apply(line)

            case ImportedLine():
                self.imports[line.version] = ImportProgress(line.users, line.is_complete)

            case CountLine():
                if line.half_life_s in self.counts:
                    self.counts[line.half_life_s].restore(line.item_id, line.score)

            case CounterLine() | CounterNamesLine() | DroppedCountersLine():
                self.counters.apply(line)

            case SeenLine():
                self.seen[line.event_id] = line.recorded_at

    def expire(self, now: int) -> None:
        """Forget event ids that were recorded before the window, at most 1000 at a time.

        An id from the future was recorded before the clock was put back: it counts as recorded now. Else it would stay
        for as long as the clock was wrong, and all ids after it.
        """
        for event_id, recorded_at in list(itertools.islice(self.seen.items(), 1000)):
            if now - redis_keys.SEEN_WINDOW_S < recorded_at <= now:
                return
            del self.seen[event_id]
            if recorded_at > now:
                self.seen[event_id] = now

    def forget_idle(self, now: int) -> int:
        """Forget users without an event for ``user_ttl_s``, and return their number.

        Where the time of the last event is not known, it counts as recorded now.
        """
        if not self._user_ttl_s:
            return 0

        before = len(self.histories)
        for user_id in list(self.histories):
            last = min(now, self.recorded_at.get(user_id, now))  # the clock may have been put back
            self.recorded_at[user_id] = last
            if last <= now - self._user_ttl_s:
                self._forget(user_id)
        return before - len(self.histories)

    def lines(self) -> Iterator[LogLine]:
        """Yield lines that rebuild this state."""
        for user_id, history in self.histories.items():
            yield HistoryLine(
                user_id=user_id,
                item_ids=tuple(history.item_ids),
                timestamps=tuple(history.timestamps),
                letters=history.letters.decode("ascii"),
                recorded_at=self.recorded_at.get(user_id),
            )

        for tombstone, erased_at in self.erased.items():
            yield TombstoneLine(user=tombstone, erased_at=erased_at)

        for version, progress in self.imports.items():
            yield ImportedLine(version=version, users=progress.users, is_complete=progress.is_complete)

        for half_life, counts in self.counts.items():
            for item_id, score in counts.scores.items():
                yield CountLine(item_id=item_id, half_life_s=half_life, score=score)

        yield from self.counters.lines()

        for event_id, recorded_at in self.seen.items():
            yield SeenLine(event_id=event_id, recorded_at=recorded_at)

        yield from self.changes.lines()
        yield from self.subjects.lines()
        for documents in (self.placements, self.experiments, self.canaries):
            yield from cast(Iterator[LogLine], documents.lines())

    def imported(self, line: ImportLine) -> tuple[UserHistory, int]:
        """Return the history that an import makes, and how many of its interactions come."""
        history = self.histories.get(line.user_id, UserHistory())
        erased_at = self.erased.get(tombstone_of(line.user_id), -1)
        columns = zip(line.timestamps, line.letters, line.item_ids, strict=True)
        merged, came = history.merged([Interaction(*row) for row in columns if row[0] > erased_at], self._history_cap)

        is_idle = self._user_ttl_s and came and _last_sign(merged, line) <= line.recorded_at - self._user_ttl_s
        return (history, 0) if is_idle and not len(history) else (merged, came)

    def _apply_to_user(self, line: HistoryLine | ImportLine | ForgetLine | TombstoneLine) -> None:
        match line:
            case HistoryLine():
                self._restore_history(line)

            case ImportLine():
                self._apply_import(line)

            case ForgetLine():
                self._forget(line.user_id)
                if line.erased_at is not None:
                    self.erased[tombstone_of(line.user_id)] = line.erased_at

            case TombstoneLine():
                self.erased[line.user] = line.erased_at

    def _restore_history(self, line: HistoryLine) -> None:
        timestamps = line.timestamps or [line.newest or 0] * len(line.item_ids)
        letters = line.letters or UNTIMED * len(line.item_ids)
        rows = [Interaction(*row) for row in zip(timestamps, letters, line.item_ids, strict=True)]
        self.histories[line.user_id] = UserHistory(rows[-self._history_cap :])
        if line.recorded_at is not None and self._user_ttl_s:
            self.recorded_at[line.user_id] = line.recorded_at

    def _apply_import(self, line: ImportLine) -> None:
        merged, came = self.imported(line)
        if not came:
            return

        self.histories[line.user_id] = merged
        if self._user_ttl_s:  # an import is no sign of life
            self.recorded_at.setdefault(line.user_id, _last_sign(merged, line))

    def _apply_event(self, line: EventLine) -> None:
        event = line.event
        self.seen[event.event_id] = line.recorded_at
        if line.counts is not None:
            self.counters.add(line.counts)
            self.subjects.add(line.counts.mark)
        if event.type == IMPRESSION:
            return

        history = self.histories.setdefault(event.user_id, UserHistory())
        history.insert(Interaction(event.timestamp, letter_of(event.type), event.item_id), self._history_cap)
        if self._user_ttl_s:
            self.recorded_at[event.user_id] = line.recorded_at
        if event.type not in NEGATIVE_TYPES:
            for counts in self.counts.values():
                counts.add(event.item_id, min(event.timestamp, line.recorded_at))

    def _forget(self, user_id: str) -> None:
        self.histories.pop(user_id, None)
        self.recorded_at.pop(user_id, None)


def _last_sign(history: UserHistory, line: ImportLine) -> int:
    """Return when a user who was imported was last seen: at the newest interaction, or now if its time is unknown."""
    return history.timestamps[-1] or line.recorded_at


class Batch:
    """Lines that will share one fsync. Operations add to it in order, and each one sees those before it."""

    def __init__(self, state: EmbeddedState) -> None:
        self.lines: list[LogLine] = []
        self.revision = state.changes.revision
        self._document_revisions: dict[DocumentState, int] = {}
        self._state = state
        self._event_ids: set[str] = set()

    def add_event(self, line: EventLine) -> int:
        """Add an event and return 1; return 0 for a repeated event id."""
        event_id = line.event.event_id
        if event_id in self._state.seen or event_id in self._event_ids:
            return 0

        self._event_ids.add(event_id)
        self.lines.append(line)
        return 1

    def add_change(self, line: ChangeLine) -> int:
        """Add a change and return the revision that it got."""
        self.revision += 1
        self.lines.append(line.model_copy(update={"revision": self.revision}))
        return self.revision

    def add_restart(self, line: ChangeLine) -> int:
        """Add a restart at the line's revision or a higher one, and return the revision that it got."""
        self.revision = max(self.revision + 1, line.revision)
        self.lines.append(line.model_copy(update={"revision": self.revision}))
        return self.revision

    def add_document(self, line: DocumentLine, state: DocumentState) -> int:
        """Add a write of a document of some kind and return the revision that it got."""
        revision = self._document_revisions.get(state, state.revision) + 1
        self._document_revisions[state] = revision
        self.lines.append(cast(LogLine, line.model_copy(update={"revision": revision})))
        return revision

    def add_import(self, line: ImportLine) -> int:
        """Add an import and return how many of its interactions come; one that changes nothing is not logged."""
        came = self._state.imported(line)[1]
        if came:
            self.lines.append(line)
        return came

    def add_progress(self, line: ImportedLine) -> int:
        """Add the progress of an import."""
        self.lines.append(line)
        return 0

    def add_line(self, line: _CounterLine) -> int:
        """Add what changes counters, or what is kept of users and sessions in experiments."""
        self.lines.append(line)
        return 0

    def add_forget(self, line: ForgetLine) -> int:
        """Add a user to forget; return the number of interactions in the history before this batch."""
        self.lines.append(line)
        return len(self._state.histories.get(line.user_id, ()))


Step = Callable[[Batch], int]
"""Operation that adds its lines to a batch and returns its answer."""
