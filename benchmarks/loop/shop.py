"""Simulated shop: asks the service over HTTP for each visit, and sends back what people do, with attribution."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np
from etegrec_client import Client
from etegrec_client.retries import Retries

from benchmarks.loop.world import World, item_id, row_of, user_id

K = 10
PATIENCE_MS = 30_000
"""Deadline of the service: people of a simulation wait, also on a machine that does much else meanwhile."""

PATIENT = Retries(attempts=60)
"""When the clients of a simulation ask again: as often as any client is told to, for a minute instead of two seconds.
Redis writes every event to the disk before it answers, and a disk that others fill takes seconds at times."""

COUNTED_S = 1.5
"""Seconds after which answers are counted: the service sends its counts every second."""


def patient_client(port: int) -> Client:
    """Return a client of a service on this machine that waits while it is slow, and asks again while it refuses."""
    return Client(f"http://127.0.0.1:{port}", timeout_s=60, retries=PATIENT)


class Shop:
    """Shop whose page shows one answer of each of its placements to every visitor.

    Args:
        client: Client of the service.
        world: People and items.
        placements: Names of the placements of the page, which the service has.
        seed: Source of what people do.

    Attributes:
        answers: Answers by placement.
        longest_token: Characters of the longest attribution seen.
        served: Answers by what served them.
    """

    def __init__(self, client: Client, world: World, placements: list[str], seed: int) -> None:
        self._client = client
        self._world = world
        self._placements = placements
        self._rng = np.random.default_rng(seed)
        self._budget: dict[int, int] = {}
        self.answers: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        self.longest_token = 0

    def open_day(self) -> list[int]:
        """Begin a day with fresh budgets, and return who visits in it."""
        self._budget = dict.fromkeys(range(self._world.users), self._world.purchases_a_day)
        visitors: list[int] = self._world.visitors(self._rng).tolist()
        return visitors

    def serve(self, user: int) -> None:
        """Show the page to a visitor, and record what she does."""
        for placement in self._placements:
            answer = self._client.recommend(user_id=user_id(user), placement=placement)
            self.answers[placement] += 1
            self.served[answer["served_by"]] += 1

            token = answer["attribution"]
            if token is None:
                raise RuntimeError("an answer has no attribution: the service has not reached its store yet")
            self.longest_token = max(self.longest_token, len(token))
            self._act(user, [row_of(each["item_id"]) for each in answer["items"]], token)

    def reports(self, *experiments: str) -> list[dict[str, Any]]:
        """Return the reports of experiments once all answers given so far are counted."""
        time.sleep(COUNTED_S)
        return [dict(self._client.get_experiment_report(name)) for name in experiments]

    def _act(self, user: int, answer: list[int], token: str) -> None:
        deeds = self._world.visit(user, answer, self._budget[user], self._rng)
        self._budget[user] -= sum(deed.type == "purchase" for deed in deeds)
        if deeds:
            self._client.record_events(
                {
                    "user_id": user_id(user),
                    "item_id": item_id(deed.item),
                    "type": deed.type,
                    "attribution": token,
                    "value": deed.value,
                    "currency": None if deed.value is None else "EUR",
                }
                for deed in deeds
            )


def verdict_of(report: dict[str, Any], outcome: str = "reached_goal") -> str:
    """Return what a report with two variants says about an outcome: higher, lower, open or too few."""
    [found] = [each["verdict"] for each in report["comparisons"] if each["outcome"] == outcome]
    return str(found)
