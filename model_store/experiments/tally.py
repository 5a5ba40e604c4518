"""Tallies of an experiment: what is counted of each variant, in the store and again from the event log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from model_store.experiments.confidence import Outcomes


@dataclass(frozen=True)
class Variant:
    """A variant by name, with the share of the traffic that it has by design."""

    name: str
    share: float


@dataclass(frozen=True)
class Tally:
    """What is counted of one variant.

    A *goal* is what the experiment wants, such as a purchase. Outcomes are by user or session, each once: whether there
    was a click, whether a goal was reached, and the value of goals by currency.

    Attributes:
        subjects: Users and sessions who got an answer.
        answers: Answers.
        empty: Answers without items.
        clicks: Clicks on items of these answers.
        goals: Goals reached with items of these answers.
        clickers: Users and sessions with a click.
        achievers: Users and sessions with a goal.
        value: Value of goals by currency.
    """

    subjects: int = 0
    answers: int = 0
    empty: int = 0
    clicks: int = 0
    goals: int = 0
    clickers: int = 0
    achievers: int = 0
    value: Mapping[str, Value] = field(default_factory=dict)

    def outcomes(self) -> dict[str, Outcomes]:
        """Return the outcomes by name: ``clicked``, ``reached_goal``, and ``value_EUR`` of each currency."""
        found = {
            "clicked": Outcomes.of_yes_or_no(self.subjects, self.clickers),
            "reached_goal": Outcomes.of_yes_or_no(self.subjects, self.achievers),
        }
        for currency, value in sorted(self.value.items()):
            found[f"value_{currency}"] = Outcomes(self.subjects, value.payers, value.total, value.squares)
        return found


@dataclass(frozen=True)
class Value:
    """Value of goals in one currency, summed over users and sessions.

    Attributes:
        payers: Users and sessions whose value is not 0.
        total: Sum of their values.
        squares: Sum of the squares of their values.
    """

    payers: int
    total: float
    squares: float
