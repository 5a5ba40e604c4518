"""Lists of what was shown, in the memory of a single process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from service.store.shown_answers import SHOWN_ITEMS, SHOWN_S, ShownAnswer, Subject

_SUBJECTS = 100_000
"""Lists that are kept at most; those that nothing was added to for longest go first."""


class ShownLists:
    """Lists of what users and sessions were shown. A restart forgets them.

    Args:
        clock: Returns Unix seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lists: OrderedDict[Subject, list[ShownAnswer]] = OrderedDict()

    def of(self, subject: Subject) -> list[ShownAnswer]:
        """Return the answers to a subject, oldest first."""
        answers = self._lists.get(subject, [])
        is_expired = not answers or answers[-1].shown_at / 1e6 + SHOWN_S <= self._clock()
        return [] if is_expired else list(answers)

    def add(self, answer: ShownAnswer) -> None:
        """Append an answer; the oldest items of the list go, and lists that have expired."""
        answers = [*self.of(answer.subject), answer]
        excess = sum(len(each.item_ids) for each in answers) - SHOWN_ITEMS
        while excess > 0:
            oldest = answers[0]
            kept = oldest.item_ids[excess:]
            excess -= len(oldest.item_ids)
            answers[:1] = [oldest._replace(item_ids=kept)] if kept else []

        self._lists[answer.subject] = answers
        self._lists.move_to_end(answer.subject)
        while self._lists and (len(self._lists) > _SUBJECTS or not self.of(next(iter(self._lists)))):
            self._lists.popitem(last=False)

    def forget(self, subject: Subject) -> None:
        """Drop a list."""
        self._lists.pop(subject, None)
