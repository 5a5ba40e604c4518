"""Counts of what an attack found, with a few examples of each kind, so that a failure can be repeated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Kind = Literal["fivexx", "hangs", "lost", "wrong"]
"""Kind of failure."""

KINDS: tuple[Kind, ...] = get_args(Kind)

SHOWN = 5
"""Examples that a report keeps of each kind."""


@dataclass
class Findings:
    """Cases that were tried and the failures among them.

    Attributes:
        cases: Requests, probes, bundles, crashes or swaps that were tried.
        fivexx: Answers that say that the service failed.
        hangs: Requests without an answer in time, or connections that nobody closed.
        lost: Acknowledged writes that are gone, and requests that were cut off without an answer.
        wrong: Answers or states that differ from what is promised.
        examples: The first failures, by kind.
        facts: Figures of one part, by name.
    """

    cases: int = 0
    fivexx: int = 0
    hangs: int = 0
    lost: int = 0
    wrong: int = 0
    examples: dict[str, list[str]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        """True if nothing failed."""
        return not any(getattr(self, kind) for kind in KINDS)

    def add(self, kind: Kind, example: str) -> None:
        """Count one failure."""
        setattr(self, kind, getattr(self, kind) + 1)
        shown = self.examples.setdefault(kind, [])
        if len(shown) < SHOWN:
            shown.append(example[:400])

    def check(self, is_right: bool, example: str, kind: Kind = "wrong") -> None:
        """Count one case, and one failure unless it went right."""
        self.cases += 1
        if not is_right:
            self.add(kind, example)

    def report(self) -> dict[str, Any]:
        """Return the counts, the facts and, where something failed, the examples."""
        return self.counts() | self.facts | ({"examples": self.examples} if self.examples else {})

    def counts(self) -> dict[str, int]:
        """Return the number of cases and of failures of each kind."""
        return {"cases": self.cases, **{kind: getattr(self, kind) for kind in KINDS}}

    def absorb(self, other: Findings, name: str = "") -> Findings:
        """Add the findings of another part, its examples after its name, its facts beside those here; return all."""
        self.cases += other.cases
        for kind in KINDS:
            setattr(self, kind, getattr(self, kind) + getattr(other, kind))
        for label, examples in other.examples.items():
            self.examples.setdefault(label, []).extend(f"{name}: {each}" if name else each for each in examples)
        self.facts |= other.facts
        return self


def total(parts: Mapping[str, Findings]) -> Findings:
    """Return the sum of all parts, each example with the name of its part; facts stay with their parts."""
    whole = Findings()
    for name, part in parts.items():
        whole.absorb(part, name)
    whole.facts = {}
    return whole
