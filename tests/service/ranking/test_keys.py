"""Keys of rules: which boosts apply when, and what is arranged after the search."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from service.ranking.filters import RuleKey
from service.ranking.keys import STEERED, UNRANKED, PinKey, PrefixLimit, RankingKey
from service.schemas.rules import Rules

RULES: TypeAdapter[Rules] = TypeAdapter(Rules)


def key(body: str, now: float = 0.0) -> RankingKey:
    return RankingKey.of(RULES.validate_json(body), now)


def test_rules_that_change_no_order_have_one_key() -> None:
    assert key('{"k": 3, "filter": {"allow": ["a"]}}') is UNRANKED
    assert not UNRANKED.is_arranged


@pytest.mark.parametrize(
    ("now", "places"), [(99, [0, 2]), (100, [0, 1, 2]), (199.5, [0, 1, 2]), (200, [0, 1]), (300, [0])]
)
def test_boosts_apply_from_their_first_second_up_to_their_last(now: float, places: list[int]) -> None:
    boosts = '{"nats": 1, "items": ["a"]}, {"nats": 1, "items": ["a"], "from": 100, "until": 300}'
    body = f'{{"boosts": [{boosts}, {{"nats": 1, "items": ["a"], "until": "1970-01-01T00:03:20Z"}}]}}'
    assert [boost.place for boost in key(body, now).boosts] == places


def test_limits_go_from_deep_to_shallow() -> None:
    assert key('{"max_per_prefix": 3}').limits == (PrefixLimit(1, 3),)
    deep = key('{"max_per_prefix": {"1": 4, "3": 1, "2": 2}}')
    assert deep.limits == (PrefixLimit(3, 1), PrefixLimit(2, 2), PrefixLimit(1, 4))
    assert deep.first_code_limit == 4


@pytest.mark.parametrize(
    ("body", "is_arranged"),
    [
        ('{"max_per_prefix": 3}', False),
        ('{"max_per_prefix": {"1": 3}}', False),
        ('{"steer": {"3-7": 1.0}}', False),
        ('{"max_per_prefix": {"2": 3}}', True),
        ('{"pins": [{"position": 1, "item": "a"}]}', True),
        ('{"boosts": [{"nats": 1, "items": ["a"]}]}', True),
    ],
)
def test_what_the_search_does_itself_is_not_arranged(body: str, is_arranged: bool) -> None:
    assert key(body).is_arranged == is_arranged


def test_pins_are_sorted_by_position_and_keep_their_place_in_the_request() -> None:
    pins = key('{"pins": [{"position": 5, "item": "a"}, {"position": 2, "item": 7}]}').pins
    assert pins == (PinKey(2, "7", 1), PinKey(5, "a", 0))


def test_popular_items_take_steered_prefixes_as_boosts() -> None:
    found = key('{"steer": {"3-7": -1.5, "12": 0.7}}')
    assert found.steer == (((3, 7), -1.5), ((12,), 0.7))
    popular = found.for_popular_items()
    assert popular.steer == ()
    assert [(each.place, each.nats, each.items, each.prefix) for each in popular.boosts] == [
        (STEERED, -1.5, RuleKey(), (3, 7)),
        (STEERED, 0.7, RuleKey(), (12,)),
    ]


def test_conditions_are_part_of_the_key() -> None:
    bodies = ['"items": ["a"]', '"categories": ["a"]', '"prefix": [1]', '"attributes": [{"field": "a", "gte": 1}]']
    keys = {key(f'{{"boosts": [{{"nats": 1, {body}}}]}}') for body in bodies}
    assert len(keys) == len(bodies)
