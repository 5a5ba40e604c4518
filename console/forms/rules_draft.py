"""Draft of rules: what the form of placements and variants edits, made of stored rules and back again.

What the form has no field for stays as it was stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

Document = dict[str, Any]
"""Rules as the API takes them."""

Condition = Literal["categories", "items", "range", "prefix", "other"]
"""Which items a boost is about."""

Seen = Literal["unset", "true", "false", "types"]
"""What ``exclude_seen`` says; ``unset``: nothing."""

Chance = Literal["unset", "slots", "share"]
"""How a draft says how many places are left to chance; ``unset``: none are."""

_RANGE = frozenset({"field", "gte", "lte"})


_FIELDS = frozenset(
    {"k", "exclude_seen", "exclude_shown", "filter", "max_per_prefix", "boosts", "pins", "steer", "exploration"}
)
"""Fields of rules that the form has."""


class DraftError(Exception):
    """A field of a form cannot be read. The message names it and says what it takes."""


@dataclass
class Moment:
    """A moment that a form shows in UTC, to the minute."""

    text: str = ""
    stored: int | None = None  # Unix seconds

    @classmethod
    def of(cls, stored: int | None) -> Moment:
        """Return the moment of stored rules; ``None`` for none."""
        return cls(_minutes(stored), stored)

    def value(self, name: str) -> int | None:
        """Return Unix seconds; a moment that nobody touched keeps its seconds."""
        if self.text == _minutes(self.stored):
            return self.stored
        if not self.text:
            return None
        try:
            return int(datetime.fromisoformat(self.text).replace(tzinfo=UTC).timestamp())
        except ValueError:
            raise DraftError(f"{name}: give a day and a time in UTC, such as 2026-12-24T18:00") from None


@dataclass
class RangeDraft:
    """A range of a numeric attribute."""

    name: str = ""
    least: float | None = None
    most: float | None = None

    def document(self, where: str) -> Document:
        """Return the range as the API takes it."""
        if not self.name.strip():
            raise DraftError(f"{where}: name the attribute, such as year")
        bounds = {"gte": self.least, "lte": self.most}
        given = {bound: number for bound, number in bounds.items() if number is not None}
        if not given:
            raise DraftError(f"{where}: give at least one bound")
        return {"field": self.name.strip(), **given}


@dataclass
class BoostDraft:
    """A boost."""

    nats: float | None = 0.5
    condition: Condition = "categories"
    names: list[str] = field(default_factory=list)  # categories, or ids of items
    range: RangeDraft = field(default_factory=RangeDraft)
    prefix: str = ""
    other: Document = field(default_factory=dict)
    begins: Moment = field(default_factory=Moment)
    ends: Moment = field(default_factory=Moment)

    @classmethod
    def of(cls, boost: Mapping[str, Any]) -> BoostDraft:
        """Return the draft of a stored boost."""
        draft = cls(boost["nats"], begins=Moment.of(boost.get("from")), ends=Moment.of(boost.get("until")))
        if boost.get("categories") is not None:
            draft.names = list(boost["categories"])
        elif boost.get("items") is not None:
            draft.condition, draft.names = "items", list(boost["items"])
        elif boost.get("prefix") is not None:
            draft.condition, draft.prefix = "prefix", "-".join(map(str, boost["prefix"]))
        elif _is_simple(boost["attributes"]):
            draft.condition, draft.range = "range", _range_of(boost["attributes"][0])
        else:
            draft.condition, draft.other = "other", {"attributes": boost["attributes"]}
        return draft

    def document(self, where: str) -> Document:
        """Return the boost as the API takes it."""
        if self.nats is None:
            raise DraftError(f"{where}: give the nats, such as 0.5")
        times = {"from": self.begins.value(f"{where}, begins"), "until": self.ends.value(f"{where}, ends")}
        given = {name: moment for name, moment in times.items() if moment is not None}
        return {"nats": self.nats, **self._conditions(where), **given}

    def _conditions(self, where: str) -> Document:
        if self.condition == "other":
            return self.other
        if self.condition == "range":
            return {"attributes": [self.range.document(where)]}
        if self.condition == "prefix":
            return {"prefix": read_codes(self.prefix, where)}
        if not self.names:
            raise DraftError(f"{where}: name at least one, and press Enter after each")
        return {self.condition: list(self.names)}


@dataclass
class PinDraft:
    """An item at a place of the answer."""

    position: float | None = 1
    item: str = ""

    def document(self, where: str) -> Document:
        """Return the pin as the API takes it."""
        if self.position is None or not self.item.strip():
            raise DraftError(f"{where}: give a place and the id of an item")
        return {"position": int(self.position), "item": self.item.strip()}


@dataclass
class SteerDraft:
    """A prefix of codes whose items rise or fall inside the search."""

    prefix: str = ""
    nats: float | None = 0.5


@dataclass
class ExplorationDraft:
    """Places of an answer that are left to chance."""

    by: Chance = "unset"
    slots: float | None = None
    percent: float | None = None
    temperature: float | None = None

    @classmethod
    def of(cls, stored: Mapping[str, Any] | None) -> ExplorationDraft:
        """Return the draft of what is stored; ``None`` for nothing."""
        if stored is None:
            return cls()
        temperature = stored.get("temperature")
        if stored.get("slots") is not None:
            return cls("slots", slots=stored["slots"], temperature=temperature)
        return cls("share", percent=round(100 * stored["share"], 6), temperature=temperature)

    def document(self) -> Document | None:
        """Return the exploration as the API takes it; ``None`` for none."""
        if self.by == "unset":
            return None
        if (self.slots if self.by == "slots" else self.percent) is None:
            raise DraftError("Left to chance: give how many places, or which part of them in percent")
        size = {"slots": int(self.slots or 0)} if self.by == "slots" else {"share": round((self.percent or 0) / 100, 8)}
        return {**size, **({} if self.temperature is None else {"temperature": self.temperature})}


@dataclass
class RulesDraft:
    """Rules, field by field."""

    k: float | None = None
    seen: Seen = "unset"
    seen_types: list[str] = field(default_factory=list)
    shown_answers: float | None = None
    shown_hours: float | None = None
    categories: list[str] = field(default_factory=list)
    not_categories: list[str] = field(default_factory=list)
    deny: list[str] = field(default_factory=list)
    ranges: list[RangeDraft] = field(default_factory=list)
    other_filter: str = ""  # further parts of the filter, JSON
    first_code: float | None = None  # answers that may share their first code
    two_codes: float | None = None  # answers that may share their first two
    deeper: Document = field(default_factory=dict)  # limits of more codes
    boosts: list[BoostDraft] = field(default_factory=list)
    pins: list[PinDraft] = field(default_factory=list)
    steer: list[SteerDraft] = field(default_factory=list)
    exploration: ExplorationDraft = field(default_factory=ExplorationDraft)
    nulls: list[str] = field(default_factory=list)  # fields that are given as null
    others: Document = field(default_factory=dict)  # fields that the form does not have

    @classmethod
    def of(cls, rules: Mapping[str, Any]) -> RulesDraft:
        """Return the draft of stored rules."""
        shown = rules.get("exclude_shown") or {}
        draft = cls(
            k=rules.get("k"),
            shown_answers=shown.get("answers"),
            shown_hours=shown.get("hours"),
            boosts=[BoostDraft.of(each) for each in rules.get("boosts") or ()],
            pins=[PinDraft(each["position"], each["item"]) for each in rules.get("pins") or ()],
            steer=[SteerDraft(prefix, nats) for prefix, nats in (rules.get("steer") or {}).items()],
            exploration=ExplorationDraft.of(rules.get("exploration")),
            nulls=[name for name, value in rules.items() if value is None],
            others={name: value for name, value in rules.items() if name not in _FIELDS and value is not None},
        )
        draft._read_seen(rules)
        draft._read_filter(dict(rules.get("filter") or {}))
        draft._read_limits(rules.get("max_per_prefix"))
        return draft

    def _read_seen(self, rules: Mapping[str, Any]) -> None:
        seen = rules.get("exclude_seen")
        if isinstance(seen, list):
            self.seen, self.seen_types = "types", list(seen)
        elif seen is not None:
            self.seen = "true" if seen else "false"

    def _read_filter(self, parts: Document) -> None:
        if isinstance(parts.get("categories"), list):
            self.categories = parts.pop("categories")
        without = parts.get("not") or {}
        if without.keys() == {"categories"} and isinstance(without["categories"], list):
            self.not_categories = parts.pop("not")["categories"]
        if parts.get("deny"):
            self.deny = parts.pop("deny")
        ranges = parts.get("attributes") or []
        if ranges and all(_is_simple([each]) for each in ranges):
            self.ranges = [_range_of(each) for each in parts.pop("attributes")]
        others = {name: value for name, value in parts.items() if value is not None}
        self.other_filter = json.dumps(others, ensure_ascii=False, indent=1) if others else ""

    def _read_limits(self, limits: int | Document | None) -> None:
        by_depth = {"1": limits} if isinstance(limits, int) else dict(limits or {})
        self.first_code = by_depth.pop("1", None)
        self.two_codes = by_depth.pop("2", None)
        self.deeper = by_depth

    def document(self) -> Document:
        """Return the rules as the API takes them; only what is given is in them.

        Raises:
            DraftError: A field cannot be read.
        """
        boosts = [each.document(f"Boost {place}") for place, each in enumerate(self.boosts, start=1)]
        pins = [each.document(f"Pin {place}") for place, each in enumerate(self.pins, start=1)]
        given = {
            "k": None if self.k is None else int(self.k),
            "exclude_seen": self._seen(),
            "exclude_shown": self._shown(),
            "filter": self._filter(),
            "max_per_prefix": self._limits(),
            "boosts": boosts or None,
            "pins": pins or None,
            "steer": self._steer() or None,
            "exploration": self.exploration.document(),
            **self.others,
        }
        nulls = dict.fromkeys(name for name in self.nulls if given.get(name) is None)
        return {**nulls, **{name: value for name, value in given.items() if value is not None}}

    def _seen(self) -> bool | list[str] | None:
        if self.seen == "types":
            return list(self.seen_types)
        return {"unset": None, "true": True, "false": False}[self.seen]

    def _shown(self) -> Document | None:
        parts = {
            "answers": None if self.shown_answers is None else int(self.shown_answers),
            "hours": self.shown_hours,
        }
        return {name: value for name, value in parts.items() if value is not None} or None

    def _filter(self) -> Document | None:
        parts: Document = read_json_object(self.other_filter, "Further parts of the filter")
        given = {
            "categories": list(self.categories),
            "not": {"categories": list(self.not_categories)} if self.not_categories else None,
            "deny": list(self.deny),
            "attributes": [each.document(f"Range {place}") for place, each in enumerate(self.ranges, start=1)],
        }
        for name, value in given.items():
            if value and name in parts:
                raise DraftError(f"Further parts of the filter: {name} has fields of its own above, give it only once")
            if value:
                parts[name] = value
        return parts or None

    def _limits(self) -> int | Document | None:
        limits = {"1": self.first_code, "2": self.two_codes}
        given = {depth: int(limit) for depth, limit in limits.items() if limit is not None} | self.deeper
        return given["1"] if given.keys() == {"1"} else given or None

    def _steer(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for place, each in enumerate(self.steer, start=1):
            codes = read_codes(each.prefix, f"Steered group {place}")
            if each.nats is None:
                raise DraftError(f"Steered group {place}: give the nats, such as 0.5")
            found["-".join(map(str, codes))] = each.nats
        return found


def read_codes(text: str, where: str) -> list[int]:
    """Return the codes of a prefix as people write it, such as ``3-22``."""
    parts = text.strip().split("-")
    if not all(part.isdecimal() for part in parts):
        raise DraftError(f"{where}: give codes joined by hyphens, such as 3-22")
    return [int(part) for part in parts]


def read_json_object(text: str, where: str) -> Document:
    """Return the JSON object in a field; an empty one if the field is empty."""
    if not text.strip():
        return {}
    try:
        found = json.loads(text)
    except ValueError as broken:
        raise DraftError(f"{where}: not JSON: {broken}") from None
    if not isinstance(found, dict):
        raise DraftError(f'{where}: give parts by name, such as {{"allow": ["50"]}}')
    return found


def _minutes(stored: int | None) -> str:
    return "" if stored is None else datetime.fromtimestamp(stored, UTC).strftime("%Y-%m-%dT%H:%M")


def _is_simple(ranges: list[Document]) -> bool:
    """Tell whether ranges are one that the form can show: of numbers, with the bounds themselves inside."""
    if len(ranges) != 1:
        return False
    given = {name: value for name, value in ranges[0].items() if value is not None}
    return given.keys() <= _RANGE and all(isinstance(given.get(name, 0), int | float) for name in ("gte", "lte"))


def _range_of(document: Document) -> RangeDraft:
    return RangeDraft(document["field"], document.get("gte"), document.get("lte"))
