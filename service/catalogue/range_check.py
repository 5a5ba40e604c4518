"""Check that ranges of a filter are over fields that hold numbers: a typing error gets no empty answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from heapq import nsmallest
from itertools import islice

from service.catalogue.updater import CatalogueUpdater
from service.errors import FieldError, InvalidFields, is_ordinary_name
from service.filters import RuleKey
from service.models.manager import ModelManager
from service.schemas.recommend import AttributeRange

SHOWN_NUMBER_FIELDS = 20
"""Largest number of fields with numbers that a refusal lists."""


class RangeCheck:
    """Check of the ranges of requests, in the catalogue that answers."""

    def __init__(self, models: ModelManager, updater: CatalogueUpdater) -> None:
        self._models = models
        self._updater = updater

    async def check(self, key: RuleKey, ranges: Sequence[AttributeRange]) -> None:
        """Refuse ranges over fields in which no item has, or had, a number.

        Another replica may have acknowledged the first item with a number there a moment ago, so this replica reads
        the change stream once before it refuses. Where the rule is compiled already, nothing is looked up.

        Args:
            key: Rule that the ranges are part of.
            ranges: Ranges as the client listed them.

        Raises:
            InvalidFields: Names each such field, and the fields in which there are numbers.
            NotReady: No model is loaded.
        """
        if not ranges:
            return

        fields = await self._find_number_fields(key)
        if fields is None or all(each.field in fields for each in ranges):
            return

        await self._updater.try_step()
        fields = await self._find_number_fields(key)
        if fields is not None:
            _refuse_others(ranges, fields)

    async def _find_number_fields(self, key: RuleKey) -> frozenset[str] | None:
        """Return the fields with numbers; ``None`` if the rule is compiled, since it was checked then."""
        with self._models.lease() as serving:
            model = serving.model
            if model.rules.find(key) is not None:
                return None
            return await asyncio.to_thread(model.catalogue.number_fields)


def _refuse_others(ranges: Sequence[AttributeRange], fields: frozenset[str]) -> None:
    shown = nsmallest(SHOWN_NUMBER_FIELDS, islice(fields, 1000))  # a strange catalogue may have ever so many
    more = f" and {len(fields) - len(shown)} more" if len(fields) > len(shown) else ""
    known = ", ".join(shown) + more
    advice = f"fields with numbers: {known}" if known else "no field has any"

    wrong = [
        FieldError(
            f"filter.attributes.{place}.field",
            f"no item of the catalogue has a number {_named(each.field)}; {advice}",
            expected=f"one of {known}" if known else "",
        )
        for place, each in enumerate(ranges)
        if each.field not in fields
    ]
    if wrong:
        raise InvalidFields(wrong)


def _named(field: str) -> str:
    return f"in {field}" if is_ordinary_name(field) else "in this field"
