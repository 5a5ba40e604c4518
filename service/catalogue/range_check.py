"""Check that ranges of a filter are over fields that hold numbers: a typing error gets no empty answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from heapq import nsmallest
from itertools import islice
from typing import Protocol

from service.errors import InvalidFields
from service.field_errors import FieldError, is_ordinary_name
from service.models.slot import ModelSlot
from service.ranking.filters import RuleKey
from service.schemas.rules import Rules, ViewedNumber

SHOWN_NUMBER_FIELDS = 20
"""Largest number of fields with numbers that a refusal lists."""


class Updater(Protocol):
    """Follower of the changes of one model's catalogue."""

    async def try_step(self) -> None:
        """Read the changes once, if the store answers in time."""


class RangeCheck:
    """Check of the ranges of requests, in the catalogue of the model that answers.

    Args:
        models: The slot of that model.
        updater: Brings its catalogue up to date.
    """

    def __init__(self, models: ModelSlot, updater: Updater) -> None:
        self._models = models
        self._updater = updater

    async def check(self, rules: Rules, key: RuleKey | None = None) -> None:
        """Refuse ranges, of the filter and of boosts, over fields in which no item has, or had, a number.

        Another replica may have acknowledged the first item with a number there a moment ago, so this replica reads
        the change stream once before it refuses. Where the rule is compiled already, nothing is looked up.

        Args:
            rules: Rules with the ranges.
            key: Rule that the filter results in for a request.

        Raises:
            InvalidFields: Names each such field, and the fields in which there are numbers.
            NotReady: No model is loaded.
        """
        if rules.filter is None and not rules.boosts:
            return  # as most requests: nothing compares a number
        if not any(number_fields_of(rules)):
            return

        filter_key = None if rules.boosts else key  # a compiled filter says nothing about boosts
        fields = await self._find_number_fields(filter_key)
        if fields is None or all(field in fields for _, field in number_fields_of(rules)):
            return

        await self._updater.try_step()
        fields = await self._find_number_fields(filter_key)
        if fields is not None:
            refuse_unknown_fields(rules, fields)

    async def _find_number_fields(self, key: RuleKey | None) -> frozenset[str] | None:
        """Return the fields with numbers; ``None`` if the rule is compiled, since it was checked then."""
        with self._models.lease() as serving:
            model = serving.model
            if key is not None and model.rules.find(key) is not None:
                return None
            return await asyncio.to_thread(model.catalogue.number_fields)


def number_fields_of(rules: Rules) -> Iterator[tuple[str, str]]:
    """Yield the path and the value of each attribute that a filter or a boost compares as a number."""
    filter_ = rules.filter
    parts = {} if filter_ is None else {"filter": filter_, "filter.not": filter_.not_}
    for path, conditions in parts.items():
        for place, each in enumerate((conditions and conditions.attributes) or ()):
            yield f"{path}.attributes.{place}.field", each.field
            for name in ("gte", "gt", "lte", "lt"):
                bound = getattr(each, name)
                if isinstance(bound, ViewedNumber):
                    yield f"{path}.attributes.{place}.{name}.viewed", bound.viewed

    for place, boost in enumerate(rules.boosts or ()):
        for number, bounds in enumerate(boost.attributes or ()):
            yield f"boosts.{place}.attributes.{number}.field", bounds.field


def refuse_unknown_fields(rules: Rules, fields: frozenset[str]) -> None:
    """Refuse ranges over other fields than those in which the catalogue has numbers.

    Raises:
        InvalidFields: Names each such field, and the fields in which there are numbers.
    """
    shown = nsmallest(SHOWN_NUMBER_FIELDS, islice(fields, 1000))  # a strange catalogue may have ever so many
    more = f" and {len(fields) - len(shown)} more" if len(fields) > len(shown) else ""
    known = ", ".join(shown) + more
    advice = f"fields with numbers: {known}" if known else "no field has any"

    wrong = [
        FieldError(
            path,
            f"no item of the catalogue has a number {_named(field)}; {advice}",
            expected=f"one of {known}" if known else "",
        )
        for path, field in number_fields_of(rules)
        if field not in fields
    ]
    if wrong:
        raise InvalidFields(wrong)


def _named(field: str) -> str:
    return f"in {field}" if is_ordinary_name(field) else "in this field"
