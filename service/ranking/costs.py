"""What each rule cost an answer: nats of the model's own score given up, and items displaced.

Both come from a comparison with the answer that all other rules give. Answers without a boost, a pin or a limit of more
than one code are arranged anew from the candidates that are known already; those without a filter, a limit of first
codes or steering need a search of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model_store.catalogue.catalogue import Catalogue
from service.ranking.arrangement import Int64Array
from service.ranking.keys import STEERED
from service.ranking.ranking import Ranking
from service.schemas.ranking import RuleCost
from service.schemas.rules import Rules


class Shown(NamedTuple):
    """The items of an answer, best first."""

    rows: Int64Array  # [n]
    own: npt.NDArray[np.float32]  # [n], the model's own score of each, without boosts and steering


def cost_of(catalogue: Catalogue, rule: str, shown: Shown, without: Shown) -> RuleCost:
    """Compare an answer with that without one rule.

    A rule may leave fewer items to show. Then the first of the other answer are compared, as many.
    """
    size = min(len(shown.rows), len(without.rows))
    nats = float(without.own[:size].sum(dtype=np.float64) - shown.own[:size].sum(dtype=np.float64))
    displaced = without.rows[~np.isin(without.rows, shown.rows)]
    ids = [catalogue.item_ids[row] for row in displaced.tolist()]
    return {"rule": rule, "applied": True, "nats": round(nats, 6), "displaced": ids}


def costs_of_arranging(catalogue: Catalogue, ranking: Ranking, steering: npt.NDArray[np.float32]) -> list[RuleCost]:
    """Return what boosts, pins and limits of more than one code cost.

    Args:
        catalogue: The catalogue that answered.
        ranking: The finished ranking.
        steering: Nats of the candidates' scores that come from steering, ``[n]``.
    """
    rows = ranking.candidates.rows
    own = ranking.candidates.score - steering

    def shown(order: Int64Array) -> Shown:
        return Shown(rows[order], own[order])

    answer = shown(ranking.order())
    places = dict.fromkeys(boost.place for boost in ranking.compiled.key.boosts)
    found = [
        cost_of(catalogue, _boost_field(place), answer, shown(ranking.order(boosts_without=place))) for place in places
    ]
    for pin in ranking.pins:
        others = [each for each in ranking.pins if each is not pin]
        found.append(cost_of(catalogue, f"pins.{pin.place}", answer, shown(ranking.order(pins=others))))
    for limit in ranking.limits:
        if limit.depth > 1:
            without = shown(ranking.order(limits_without=limit.depth))
            found.append(cost_of(catalogue, f"max_per_prefix.{limit.depth}", answer, without))
    return found


def list_costs(rules: Rules, measured: Sequence[RuleCost]) -> list[RuleCost]:
    """Return the costs of all rules of a request, by field; boosts and pins that did not apply cost nothing."""
    boosts = [_boost_field(place) for place in range(len(rules.boosts or ()))]
    pins = [f"pins.{place}" for place in range(len(rules.pins or ()))]
    known = {each["rule"] for each in measured}
    without_effect: list[RuleCost] = [
        {"rule": rule, "applied": False, "nats": 0.0, "displaced": []} for rule in (*boosts, *pins) if rule not in known
    ]
    return sorted([*measured, *without_effect], key=_place_of)


def _place_of(cost: RuleCost) -> tuple[str, int]:
    """Return a field's name and the number in it, so that ``boosts.10`` comes after ``boosts.9``."""
    name, _, number = cost["rule"].partition(".")
    return name, int(number or 0)


def _boost_field(place: int) -> str:
    """Return the field of a boost; of a steered prefix that is a boost of popular items, that of all steering."""
    return "steer" if place == STEERED else f"boosts.{place}"
