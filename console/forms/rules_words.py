"""Rules in words: what a placement does, and when that changes, for lists that people read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_NAMED = 3
"""Names that a sentence lists before it only counts."""

_SPELLED = 2
"""Boosts that are told one by one; more are only counted."""

_BOUNDS = {"gte": "≥", "gt": ">", "lte": "≤", "lt": "<"}


@dataclass(frozen=True)
class Change:
    """A moment at which a boost of a placement begins or ends."""

    at: int  # Unix seconds
    placement: str
    what: str


def words_of(rules: Mapping[str, Any], now: float) -> str:
    """Return rules in one line.

    Args:
        rules: As they are stored.
        now: Unix time, which decides which boosts apply.
    """
    parts = [f"{rules['k']} items"] if rules.get("k") else []
    parts += _of_filter(rules.get("filter") or {})
    if rules.get("exclude_shown"):
        parts.append("nothing shown of late")
    limits = rules.get("max_per_prefix")
    if limits:
        most = limits if isinstance(limits, int) else limits.get("1")
        parts.append(f"at most {most} of a group" if most else "few of a group")

    parts += _of_boosts(rules.get("boosts") or [], now)
    if rules.get("pins"):
        parts.append(_counted(len(rules["pins"]), "pin"))
    if rules.get("steer"):
        parts.append(_counted(len(rules["steer"]), "steered group"))
    chance = rules.get("exploration")
    if chance:
        places = f"{chance['share']:.0%} of the places" if chance.get("share") else _counted(chance["slots"], "place")
        parts.append(f"{places} left to chance")
    return ", ".join(parts) or "no rules of its own"


def boost_words(boost: Mapping[str, Any]) -> str:
    """Return which items a boost is about, and by how much, such as ``+0.5 for Animation``."""
    for name, noun in (("categories", ""), ("items", "items "), ("prefix", "group ")):
        if boost.get(name) is not None:
            joiner = "-" if name == "prefix" else ", "
            return f"{boost['nats']:+g} for {noun}{_some(boost[name], joiner)}"
    ranges = [
        f"{each['field']} {sign} {each[bound]:g}"
        for each in boost["attributes"]
        for bound, sign in _BOUNDS.items()
        if each.get(bound) is not None
    ]
    return f"{boost['nats']:+g} for {_some(ranges, ' and ')}"


def is_active(boost: Mapping[str, Any], now: float) -> bool:
    """Tell whether a boost applies at a Unix time."""
    begins = boost.get("from")
    ends = boost.get("until")
    return (begins is None or begins <= now) and (ends is None or now < ends)


def changes_ahead(placements: Iterable[tuple[str, Mapping[str, Any]]], now: float) -> list[Change]:
    """Return when boosts of placements, by name, will begin and end, the next one first."""
    found: list[Change] = []
    for name, rules in placements:
        for boost in rules.get("boosts") or ():
            for moment, word in ((boost.get("from"), "begins"), (boost.get("until"), "ends")):
                if moment is not None and moment > now:
                    found.append(Change(moment, name, f"{boost_words(boost)} {word}"))
    return sorted(found, key=lambda each: (each.at, each.placement, each.what))


def _of_boosts(boosts: Sequence[Mapping[str, Any]], now: float) -> list[str]:
    """Return a word on boosts: each by itself if they are few."""
    if len(boosts) <= _SPELLED:
        return [boost_words(each) + ("" if is_active(each, now) else " (not now)") for each in boosts]
    active = sum(is_active(each, now) for each in boosts)
    return [f"{len(boosts)} boosts" + ("" if active == len(boosts) else f" ({active} now)")]


def _of_filter(filter_: Mapping[str, Any]) -> list[str]:
    parts = []
    if isinstance(filter_.get("categories"), list):
        parts.append(f"only {_some(filter_['categories'], ', ')}")
    without = (filter_.get("not") or {}).get("categories")
    if isinstance(without, list):
        parts.append(f"no {_some(without, ', ')}")
    if filter_.get("deny"):
        parts.append(f"{_counted(len(filter_['deny']), 'item')} denied")
    if _has_more(filter_):
        parts.append("further conditions")
    return parts


def _has_more(filter_: Mapping[str, Any]) -> bool:
    """Tell whether a filter has parts that no other words speak of."""
    parts = {name: value for name, value in filter_.items() if value is not None and name != "deny"}
    without = parts.pop("not", {})
    categories = [parts.pop("categories", []), without.get("categories") or []]
    return bool(parts) or len(without) > 1 or not all(isinstance(each, list) for each in categories)


def _some(names: Iterable[Any], joiner: str) -> str:
    listed = [str(each) for each in names]
    if joiner != ", " or len(listed) <= _NAMED:
        return joiner.join(listed)
    return f"{joiner.join(listed[:_NAMED])} and {len(listed) - _NAMED} more"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
