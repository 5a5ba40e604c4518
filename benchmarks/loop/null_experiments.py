"""Experiments without a difference, many times: how many of them claim one.

People, variants, tokens and counters are those of the service; answers are drawn here, by what people like and chance,
so that hundreds of experiments take minutes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from benchmarks.loop.shop import K
from benchmarks.loop.world import World, item_id, user_id
from model_store.attribution.counters import counts_of_event, day_of
from model_store.attribution.experiment_counters import VariantAnswers, mark_of_event, tally_of, variant_of_days
from model_store.attribution.keys import AttributionKeys
from model_store.attribution.names import hash_of, label_of
from model_store.attribution.token import Answered, Refusal, hash_subject, sign, subject_of, verify
from model_store.console import say
from model_store.events.counts import add_all
from model_store.events.event import Event
from model_store.events.marks import SubjectCounts
from model_store.experiments.assignment import choose_variant
from model_store.experiments.report import Report, judge
from model_store.experiments.tally import Variant

VARIANTS = [Variant("one", 0.5), Variant("other", 0.5)]
GOAL = "purchase"
FIRST_SECOND = 1_760_000_000
DAY_S = 86_400
TTL_S = 7 * DAY_S
POOL = 3
"""Size of the pool of both variants, see :class:`InProcessExperiment`: people get what they like, but not always."""

RUNS_BETWEEN_NEWS = 25
"""Experiments after which the command says how far it is."""


@dataclass
class InProcessExperiment:
    """One experiment of two variants, answered and counted in this process.

    Args:
        world: People and items.
        key: What stands for the experiment in tokens, counters and the choice of variants.
        likes: What each person likes, ``[users, items]``.
        keys: Keys that sign.
        rng: Source of what is answered and done.
        pools: By variant, how many times as many random items the best ones of an answer are chosen from. Alike, the
            variants are the same; a larger pool is a better recommender.
    """

    world: World
    key: str
    likes: npt.NDArray[np.float64]
    keys: AttributionKeys
    rng: np.random.Generator
    pools: tuple[int, int] = (POOL, POOL)
    subjects: SubjectCounts = field(default_factory=SubjectCounts)
    counters: dict[str, dict[str, float]] = field(default_factory=dict)

    def run_day(self, day: int) -> None:
        """Answer the visitors of a day, and count what they do."""
        seconds = FIRST_SECOND + day * DAY_S
        budget: Counter[int] = Counter()
        answered = [VariantAnswers() for _ in VARIANTS]
        for user in self.world.visitors(self.rng).tolist():
            place = choose_variant(self.key, [each.share for each in VARIANTS], subject_of(user_id(user), None))
            pool = self.rng.choice(self.world.items, min(self.pools[place] * K, self.world.items), replace=False)
            answer = pool[np.argsort(-self.likes[user, pool])[:K]]
            answered[place].note(len(answer), took_ms=5.0)

            left = self.world.purchases_a_day - budget[user]
            deeds = self.world.visit(user, answer.tolist(), left, self.rng)
            budget[user] += sum(deed.type == GOAL for deed in deeds)
            token = self._sign(user, place, answer.tolist(), seconds)
            for number, deed in enumerate(deeds):
                self._count(
                    Event(
                        event_id=f"{day}-{user}-{number}",
                        user_id=user_id(user),
                        item_id=item_id(deed.item),
                        type=deed.type,
                        timestamp=seconds,
                        attribution=token,
                        value=deed.value,
                        currency=None if deed.value is None else "EUR",
                    )
                )

        amounts = self.counters.setdefault(day_of(seconds), {})
        for place, each in enumerate(answered):
            add_all(amounts, each.amounts(self._label, place))

    def report(self) -> Report:
        """Return what the report says now."""
        days = list(self.counters.values())
        tallies = [
            tally_of(variant_of_days(days, self._label, place), self.subjects.sums, place, GOAL)
            for place in range(len(VARIANTS))
        ]
        return judge(VARIANTS, tallies)

    def claims(self) -> set[str]:
        """Return the outcomes in which the report says now that the variants differ."""
        return {each.outcome for each in self.report().comparisons if each.verdict in ("higher", "lower")}

    @property
    def _label(self) -> str:
        return label_of(hash_of(self.key))

    def _sign(self, user: int, place: int, answer: list[int], seconds: int) -> str:
        answered = Answered(
            seconds,
            subject_of(user_id(user), None),
            "version",
            [item_id(row) for row in answer],
            placement="aside",
            experiment=self.key,
            variant=place,
        )
        self.subjects.expose(place, hash_subject(answered.subject, self.keys.signing).hex())
        return sign(answered, self.keys.signing)

    def _count(self, event: Event) -> None:
        found = verify(event.attribution or "", self.keys, TTL_S, event.timestamp)
        assert not isinstance(found, Refusal)
        counts = counts_of_event(event, found)
        add_all(self.counters.setdefault(counts.day, {}), counts.amounts)
        mark = mark_of_event(event, found, is_asker=True)
        assert mark is not None
        self.subjects.add(mark)


def false_alarms(world: World, runs: int, days: int, seed: int) -> dict[str, int]:
    """Return how many of the experiments claimed a difference on any evening, by outcome.

    Args:
        world: People and items.
        runs: Number of experiments.
        days: Days of each.
        seed: Source of all chance.
    """
    likes = np.stack([world.likes(user) for user in range(world.users)])
    keys = AttributionKeys.of([b"only for this benchmark"], "")
    alarms: Counter[str] = Counter(reached_goal=0, clicked=0)
    for run in range(runs):
        one = InProcessExperiment(world, f"equal@{run}", likes, keys, np.random.default_rng([seed, run]))
        claimed: set[str] = set()
        for day in range(days):
            one.run_day(day)
            claimed |= one.claims()
        alarms.update(claimed)
        if (run + 1) % RUNS_BETWEEN_NEWS == 0:
            say(f"{run + 1} of {runs} experiments without a difference: {alarms['reached_goal']} claimed one")
    return dict(alarms)
