"""The part of a request that changes the order of its answer, as hashable keys."""

from __future__ import annotations

from typing import NamedTuple

from service.ranking.filters import NumberRange, RuleKey
from service.schemas.ranking import Boost
from service.schemas.rules import Rules

Prefix = tuple[int, ...]

STEERED = -1
"""Place of a boost that is no boost of the request, but a prefix that it steers."""


class BoostKey(NamedTuple):
    """A boost that applies now."""

    place: int  # in the request; STEERED for a steered prefix that popular items take as a boost
    nats: float
    items: RuleKey  # items that match by category, attribute or id; unused if there is a prefix
    prefix: Prefix = ()  # codes that the items' semantic IDs begin with

    @classmethod
    def of(cls, place: int, boost: Boost) -> BoostKey:
        """Return the key of a request's boost. Its conditions are those of filters."""
        items = RuleKey(
            categories=None if boost.categories is None else frozenset(boost.categories),
            allow=None if boost.items is None else frozenset(boost.items),
            attributes=frozenset(
                NumberRange(each.field, each.gte, each.gt, each.lte, each.lt) for each in boost.attributes or ()
            ),
        )
        return cls(place, boost.nats, items, tuple(boost.prefix or ()))


class PinKey(NamedTuple):
    """A pin; its order among others is that of positions."""

    position: int  # from 1
    item: str
    place: int  # in the request


class PrefixLimit(NamedTuple):
    """A limit of the answers that share their first codes."""

    depth: int  # how many codes
    answers: int


class RankingKey(NamedTuple):
    """What changes the order of an answer at one moment; equal keys change it equally."""

    boosts: tuple[BoostKey, ...] = ()
    pins: tuple[PinKey, ...] = ()  # by position
    limits: tuple[PrefixLimit, ...] = ()  # deepest first
    steer: tuple[tuple[Prefix, float], ...] = ()  # prefixes with their nats, ascending

    @classmethod
    def of(cls, rules: Rules, now: float) -> RankingKey:
        """Return the key of a request's rules.

        Args:
            rules: The rules.
            now: Unix time, which decides which boosts apply.
        """
        if rules.boosts is None and rules.pins is None and rules.max_per_prefix is None and rules.steer is None:
            return UNRANKED

        boosts = [BoostKey.of(place, each) for place, each in enumerate(rules.boosts or ()) if each.is_active(now)]
        pins = sorted(PinKey(pin.position, pin.item, place) for place, pin in enumerate(rules.pins or ()))
        steer = sorted((read_prefix(name), nats) for name, nats in (rules.steer or {}).items())
        return cls(tuple(boosts), tuple(pins), _limits(rules), tuple(steer))

    @property
    def is_arranged(self) -> bool:
        """True if the search alone cannot give the answer: its candidates are arranged afterwards.

        The search itself limits first codes, and steers.
        """
        return bool(self.boosts or self.pins or (self.limits and self.limits[0].depth > 1))

    @property
    def first_code_limit(self) -> int | None:
        """How many answers may share their first code; ``None``: any number."""
        return next((each.answers for each in self.limits if each.depth == 1), None)

    @property
    def name_count(self) -> int:
        """Number of categories, items, attributes and prefixes that it names."""
        in_boosts = sum(1 + each.items.name_count for each in self.boosts)
        return in_boosts + len(self.pins) + len(self.limits) + len(self.steer)

    def for_popular_items(self) -> RankingKey:
        """Return the same for popular items, which no search steers: a steered prefix is a boost there."""
        steered = [BoostKey(STEERED, nats, RuleKey(), prefix) for prefix, nats in self.steer]
        return self._replace(boosts=(*self.boosts, *steered), steer=())


UNRANKED = RankingKey()
"""Key of requests that change no order."""


def read_prefix(name: str) -> Prefix:
    """Return the codes of a prefix that is written like ``3-7``."""
    return tuple(int(code) for code in name.split("-"))


def _limits(rules: Rules) -> tuple[PrefixLimit, ...]:
    given = rules.max_per_prefix
    if given is None:
        return ()
    by_depth = {"1": given} if isinstance(given, int) else given
    return tuple(sorted((PrefixLimit(int(depth), most) for depth, most in by_depth.items()), reverse=True))
