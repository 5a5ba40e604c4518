"""Counters of experiments: what the answers of each variant led to, by the day of the answer.

They stand beside the other counters of a day (:mod:`model_store.attribution.counters`), as
``x|<experiment>.<variant>|<what>``. ``<what>`` is what it is there, or one of

    #empty           answers without items
    #errors          requests that failed
    #fallbacks       answers that the live model gave in place of the variant's own
    #ms|<bucket>     answers by latency, a bucket's number in :data:`LATENCY_MS`
    #version|<hash>  answers by the version that gave them
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from model_store.attribution.counters import ANSWERS, BAR, EXPERIMENT, NO_CURRENCY
from model_store.attribution.names import label_of
from model_store.attribution.token import Attribution
from model_store.events.event import IMPRESSION, Event
from model_store.events.marks import ACTIVE, SUBJECTS, Mark, values_in
from model_store.events.marks import BAR as MARK_BAR
from model_store.experiments.guardrails import Health
from model_store.experiments.tally import Tally, Value

EMPTY = "#empty"
ERRORS = "#errors"
FALLBACKS = "#fallbacks"
LATENCY = "#ms"
BY_VERSION = "#version"

LATENCY_MS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 5000)
"""Upper ends of the buckets of latency, in milliseconds; one more bucket holds what is slower."""

CLICK = "click"

_P99 = 0.99


@dataclass
class VariantAnswers:
    """What was answered for one variant.

    Attributes:
        answers: Answers.
        empty: Those without items.
        errors: Requests that failed.
        fallbacks: Answers that the live model gave in place of the variant's own.
        latencies: Number of answers by bucket of :data:`LATENCY_MS`.
        versions: Number of answers by the version that gave them, as counters write its hash.
    """

    answers: int = 0
    empty: int = 0
    errors: int = 0
    fallbacks: int = 0
    latencies: dict[int, int] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)

    def note(self, items: int, took_ms: float) -> None:
        """Count an answer."""
        self.answers += 1
        self.empty += items == 0
        bucket = bisect_left(LATENCY_MS, took_ms)
        self.latencies[bucket] = self.latencies.get(bucket, 0) + 1

    def note_version(self, label: str) -> None:
        """Count the version that gave an answer."""
        self.versions[label] = self.versions.get(label, 0) + 1

    def amounts(self, experiment: str, variant: int) -> dict[str, float]:
        """Return what this adds to counters, by name."""
        group = f"{EXPERIMENT}{BAR}{experiment}.{variant}{BAR}"
        found = {
            f"{group}{ANSWERS}": self.answers,
            f"{group}{EMPTY}": self.empty,
            f"{group}{ERRORS}": self.errors,
            f"{group}{FALLBACKS}": self.fallbacks,
        }
        found |= {f"{group}{LATENCY}{BAR}{bucket}": count for bucket, count in self.latencies.items()}
        found |= {f"{group}{BY_VERSION}{BAR}{label}": count for label, count in self.versions.items()}
        return {name: float(amount) for name, amount in found.items() if amount}

    def slower_than(self, milliseconds: float) -> int:
        """Return the number of answers that certainly took longer: those in buckets that begin there or above."""
        return sum(
            count for bucket, count in self.latencies.items() if bucket and LATENCY_MS[bucket - 1] >= milliseconds
        )

    def health(self) -> Health:
        """Return what guardrails look at."""
        return Health(self.answers, self.empty, self.errors, self.latency_ms(_P99), self.fallbacks)

    def latency_ms(self, share: float) -> float | None:
        """Return a latency that so many of the answers kept within, in milliseconds.

        It is the upper end of a bucket: infinity for the last one, ``None`` if there are no answers.
        """
        total = sum(self.latencies.values())
        passed = 0
        for bucket in sorted(self.latencies):
            passed += self.latencies[bucket]
            if passed >= share * total:
                return float(LATENCY_MS[bucket]) if bucket < len(LATENCY_MS) else float("inf")
        return None


@dataclass
class VariantDay:
    """What the answers of one variant were and led to, on one day or on several.

    Attributes:
        answered: The answers.
        events: Events by type.
        values: Sums of values by type and currency.
    """

    answered: VariantAnswers = field(default_factory=VariantAnswers)
    events: dict[str, int] = field(default_factory=dict)
    values: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, what: Sequence[str], amount: float) -> None:
        """Add the amount of a counter, by the end of its name."""
        match what:
            case ["#answers"]:
                self.answered.answers += round(amount)

            case ["#empty"]:
                self.answered.empty += round(amount)

            case ["#errors"]:
                self.answered.errors += round(amount)

            case ["#fallbacks"]:
                self.answered.fallbacks += round(amount)

            case ["#version", label]:
                known_versions = self.answered.versions
                known_versions[label] = known_versions.get(label, 0) + round(amount)

            case ["#ms", bucket]:
                known = self.answered.latencies
                known[int(bucket)] = known.get(int(bucket), 0) + round(amount)

            case [kind, currency]:
                sums = self.values.setdefault(kind, {})
                sums[currency] = sums.get(currency, 0.0) + amount

            case [kind]:
                self.events[kind] = self.events.get(kind, 0) + round(amount)


def variant_of_days(days: Iterable[Mapping[str, float]], experiment: str, variant: int) -> VariantDay:
    """Return what the counters of days say about a variant, added up.

    Args:
        days: Counters of each day by name.
        experiment: Hash of the experiment, as counters write it.
        variant: Place of the variant.
    """
    group = f"{EXPERIMENT}{BAR}{experiment}.{variant}{BAR}"
    found = VariantDay()
    for amounts in days:
        for name, amount in amounts.items():
            if name.startswith(group):
                found.add(name.removeprefix(group).split(BAR), amount)
    return found


def tally_of(found: VariantDay, sums: Mapping[str, float], variant: int, goal: str) -> Tally:
    """Return the tally of a variant.

    Args:
        found: What its answers led to, on all days.
        sums: Sums over subjects, see :mod:`model_store.events.marks`.
        variant: Place of the variant.
        goal: Type of the events that are goals.
    """

    def subjects(*what: str) -> int:
        return round(sums.get(MARK_BAR.join((str(variant), *what)), 0))

    return Tally(
        subjects=subjects(SUBJECTS),
        answers=found.answered.answers,
        empty=found.answered.empty,
        clicks=found.events.get(CLICK, 0),
        goals=found.events.get(goal, 0),
        clickers=subjects(CLICK, ACTIVE),
        achievers=subjects(goal, ACTIVE),
        value={
            currency: Value(payers, total, squares)
            for currency, payers, total, squares in values_in(dict(sums), variant, goal)
        },
    )


def mark_of_event(event: Event, attribution: Attribution, *, is_asker: bool) -> Mark | None:
    """Return what an event says about the subject of its answer; ``None`` outside of experiments."""
    if not attribution.experiment or event.type == IMPRESSION:
        return None
    return Mark(
        label_of(attribution.experiment),
        attribution.variant,
        attribution.subject.hex(),
        event.type,
        event.value,
        event.currency or NO_CURRENCY,
        is_asker,
    )
