"""Marks: what an event says about a user or session in an experiment, and the sums over all of them.

A user or session, the *subject*, stands for itself as the hash in the token of its answers. Of each one it is kept
whether it got an answer (*exposed*), the types of its events and the sum of their values by currency. Sums over
subjects have names with parts between bars:

    <variant>|#subjects                      subjects who got an answer
    <variant>|<type>|#active                 subjects with an event of this type
    <variant>|<type>|<currency>|#payers      subjects whose sum of values is not 0
    <variant>|<type>|<currency>|#total       sum over subjects of their sums
    <variant>|<type>|<currency>|#squares     sum over subjects of the squares of their sums

``service/store/redis_subject_scripts.py`` does the same inside Redis.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

BAR = "|"
SUBJECTS = "#subjects"
ACTIVE = "#active"
PAYERS = "#payers"
TOTAL = "#total"
SQUARES = "#squares"

MOST_MARKS = 16
"""Types, and types with a currency, that are kept of one subject in one experiment; what comes after is left out."""


class Mark(NamedTuple):
    """What an event says about a subject.

    ``is_asker`` tells whether the event's user is who asked: then the answer's exposure may be counted with the event,
    since both are kept in the same place.
    """

    experiment: str  # hash, as counters write it
    variant: int
    subject: str  # hash, twelve hexadecimal digits
    type: str
    value: float | None
    currency: str  # "-" for none
    is_asker: bool

    @property
    def who(self) -> str:
        """Name of the subject among those of its experiment; the variant is part of it."""
        return who(self.variant, self.subject)


def who(variant: int, subject: str) -> str:
    """Return the name of a subject among those of its experiment."""
    return f"{variant}{BAR}{subject}"


@dataclass
class Subject:
    """What is kept of one subject: 1 by type, and the sum of values by type and currency."""

    is_exposed: bool = False
    marks: dict[str, float] = field(default_factory=dict)


class SubjectCounts:
    """Subjects of one experiment, and the sums over them."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.subjects: dict[str, Subject] = {}

    def expose(self, variant: int, subject: str) -> None:
        """Note that a subject got an answer of a variant."""
        found = self.subjects.setdefault(who(variant, subject), Subject())
        if not found.is_exposed:
            found.is_exposed = True
            self._add(f"{variant}{BAR}{SUBJECTS}", 1)

    def add(self, mark: Mark, *, exposes: bool = True) -> None:
        """Note what an event says; with ``exposes`` also that the subject got an answer before."""
        if exposes:
            self.expose(mark.variant, mark.subject)

        marks = self.subjects.setdefault(mark.who, Subject()).marks
        group = f"{mark.variant}{BAR}{mark.type}"
        if mark.type not in marks and len(marks) < MOST_MARKS:
            marks[mark.type] = 1.0
            self._add(f"{group}{BAR}{ACTIVE}", 1)
        if mark.value is not None:
            self._add_value(marks, group, mark)

    def _add_value(self, marks: dict[str, float], group: str, mark: Mark) -> None:
        name = f"{mark.type}{BAR}{mark.currency}"
        if name not in marks and len(marks) >= MOST_MARKS:
            return

        before = marks.get(name, 0.0)
        after = before + (mark.value or 0.0)
        marks[name] = after
        self._add(f"{group}{BAR}{mark.currency}{BAR}{PAYERS}", (after != 0) - (before != 0))
        self._add(f"{group}{BAR}{mark.currency}{BAR}{TOTAL}", after - before)
        self._add(f"{group}{BAR}{mark.currency}{BAR}{SQUARES}", after**2 - before**2)

    def _add(self, name: str, amount: float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + amount


def values_in(sums: dict[str, float], variant: int, kind: str) -> Iterator[tuple[str, int, float, float]]:
    """Yield currency, payers, total and squares of the values of a type of events in a variant."""
    beginning = f"{variant}{BAR}{kind}{BAR}"
    for name in sorted(sums):
        currency = name.removeprefix(beginning).removesuffix(f"{BAR}{TOTAL}")
        if name == f"{beginning}{currency}{BAR}{TOTAL}":
            of_currency = f"{beginning}{currency}{BAR}"
            payers = round(sums.get(f"{of_currency}{PAYERS}", 0.0))
            yield currency, payers, sums[name], sums.get(f"{of_currency}{SQUARES}", 0.0)
