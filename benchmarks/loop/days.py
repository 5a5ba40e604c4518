"""Days of a simulated shop through the real service: an experiment with a better variant, and one with none."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from etegrec_client import Client

from benchmarks.loop.shop import K, Shop, verdict_of
from benchmarks.loop.world import World
from model_store.console import say

LONG = 40
"""Items of the longer answers, more than a token has ranks for."""

LOOKS_A_DAY = 4
"""Times a day at which somebody looks at the report: the interval allows it."""

BETTER = "favourites"
"""Experiment whose second variant puts forward what people like most; the goal is a purchase."""

EQUAL = "nothing-new"
"""Experiment whose variants are the same."""

NATS = 20.0
"""Boost of what the better variant puts forward: the most that rules take, and more than the scores of most candidates
lie apart."""


@dataclass
class Days:
    """What the days showed.

    Attributes:
        shop: What was asked and answered.
        days: Days that were finished.
        win_found_after: Answers of the better experiment's placement when its interval excluded 0 for the better
            variant; ``None`` if it never did.
        win_found_on_day: That day, from 1.
        false_alarms: Looks at which the experiment without a difference claimed one.
        nights: What each night brought.
        better: The newest report of the better experiment.
    """

    shop: Shop
    days: int = 0
    win_found_after: int | None = None
    win_found_on_day: int | None = None
    false_alarms: int = 0
    nights: list[dict[str, Any]] = field(default_factory=list)
    better: dict[str, Any] = field(default_factory=dict)

    def look(self) -> None:
        """Look at both experiments."""
        self.better, equal = self.shop.reports(BETTER, EQUAL)
        if self.win_found_after is None and verdict_of(self.better) == "higher":
            self.win_found_after = self.shop.answers["home"]
            self.win_found_on_day = self.days + 1
        self.false_alarms += equal["verdict_kind"] == "found"


def set_up(client: Client, world: World, count: int) -> None:
    """Store the experiments, and the placements that name them.

    Args:
        client: Client of the service.
        world: People and items.
        count: Number of items that the better variant puts forward.
    """
    favourites: list[str | int] = [*world.favourites(count)]
    client.put_experiment(
        BETTER,
        {
            "description": "Do people buy more if what most of them like stands further up?",
            "variants": [
                {"name": "control", "share": 0.5},
                {"name": "favourites", "share": 0.5, "rules": {"boosts": [{"nats": NATS, "items": favourites}]}},
            ],
        },
    )
    client.put_experiment(EQUAL, {"variants": [{"name": "one", "share": 0.5}, {"name": "other", "share": 0.5}]})
    client.put_placement("home", {"k": K, "experiment": BETTER})
    client.put_placement("aside", {"k": LONG, "experiment": EQUAL})


def run_days(
    client: Client, world: World, days: int, end: float, night: Callable[[int], dict[str, Any]], seed: int
) -> Days:
    """Run days of visits; each ends with a night. The placements must be stored, see :func:`set_up`.

    Args:
        client: Client of the service.
        world: People and items.
        days: Number of days.
        end: Time of ``time.monotonic()`` after which no day begins.
        night: Does what is done at night, by the number of the day before it, from 1, and says what came of it.
        seed: Source of what people do.
    """
    run = Days(Shop(client, world, ["home", "aside"], seed))
    while run.days < days and time.monotonic() < end:
        visitors = run.shop.open_day()
        part = max(1, -(-len(visitors) // LOOKS_A_DAY))
        for start in range(0, len(visitors), part):
            for user in visitors[start : start + part]:
                run.shop.serve(user)
            run.look()

        run.days += 1
        run.nights.append(night(run.days))
        say(f"day {run.days}: {len(visitors)} visits; {run.better['verdict']}; {run.nights[-1]['reason']}")
    return run
