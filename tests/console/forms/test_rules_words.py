"""Rules in words, and the moments at which they change."""

from __future__ import annotations

from typing import Any

from console.forms.rules_words import Change, changes_ahead, is_active, words_of

NOW = 1_000


def test_rules_are_told_in_one_line() -> None:
    assert words_of({}, NOW) == "no rules of its own"
    rules = {
        "k": 20,
        "exclude_shown": {"answers": 3},
        "filter": {"categories": ["a", "b", "c", "d"], "not": {"categories": ["x"]}, "deny": ["1"], "allow": ["2"]},
        "max_per_prefix": {"1": 4},
        "boosts": [{"nats": 1, "items": ["1"]}] * 2 + [{"nats": 1, "items": ["1"], "from": NOW + 1}],
        "pins": [{"position": 1, "item": "2"}],
        "steer": {"3": 0.5, "4": 1},
    }
    assert words_of(rules, NOW) == (
        "20 items, only a, b, c and 1 more, no x, 1 item denied, further conditions, nothing shown of late, "
        "at most 4 of a group, 3 boosts (2 now), 1 pin, 2 steered groups"
    )


def test_places_left_to_chance_are_told() -> None:
    assert words_of({"exploration": {"share": 0.3}}, NOW) == "30% of the places left to chance"
    assert words_of({"k": 5, "exploration": {"slots": 1, "temperature": 9}}, NOW) == "5 items, 1 place left to chance"


def test_few_boosts_are_told_one_by_one() -> None:
    boosts = [
        {"nats": -0.5, "categories": ["War"]},
        {"nats": 1, "attributes": [{"field": "year", "gte": 1990, "lt": 2000.5}], "from": NOW + 1},
    ]
    assert words_of({"boosts": boosts}, NOW) == "-0.5 for War, +1 for year ≥ 1990 and year < 2000.5 (not now)"


def test_conditions_without_words_of_their_own_are_not_left_out() -> None:
    for filter_ in (
        {"categories": {"viewed": True}},
        {"not": {"categories": {"viewed": True}}},
        {"not": {"categories": ["a"], "allow": ["1"]}},
        {"attributes": [{"field": "year", "gte": 1}]},
    ):
        assert "further conditions" in words_of({"filter": filter_}, NOW)
    assert words_of({"filter": {"categories": None, "not": {"categories": ["a"]}}}, NOW) == "no a"


def test_a_boost_applies_from_its_begin_until_before_its_end() -> None:
    boost = {"nats": 1, "items": ["1"], "from": 10, "until": 20}
    assert [is_active(boost, now) for now in (9, 10, 19, 20)] == [False, True, True, False]
    assert is_active({"nats": 1, "items": ["1"]}, NOW)


def test_changes_ahead_are_in_the_order_of_time() -> None:
    placements: list[tuple[str, dict[str, Any]]] = [
        ("home", {"boosts": [{"nats": 0.5, "categories": ["Animation"], "from": NOW + 50, "until": NOW + 90}]}),
        ("cart", {"boosts": [{"nats": -2.0, "prefix": [3, 7], "from": NOW - 5, "until": NOW + 60}]}),
        ("item", {"k": 3}),
    ]
    assert changes_ahead(placements, NOW) == [
        Change(NOW + 50, "home", "+0.5 for Animation begins"),
        Change(NOW + 60, "cart", "-2 for group 3-7 ends"),
        Change(NOW + 90, "home", "+0.5 for Animation ends"),
    ]
