"""One rule for all ids of all bodies: text, or an integer that counts as its decimal text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from service.schemas.events import ONE_EVENT
from service.schemas.ids import ID_RULE, ShortId, ShortIds
from service.schemas.items import BULK_ITEM
from service.schemas.recommend import ONE_REQUEST

ONE: TypeAdapter[str] = TypeAdapter(ShortId)
MANY: TypeAdapter[list[str]] = TypeAdapter(ShortIds)


@pytest.mark.parametrize(
    ("given", "meant"),
    [("a", "a"), (7, "7"), (-7, "-7"), (0, "0"), (2**80, str(2**80)), ("7", "7"), ("007", "007"), ("é" * 64, "é" * 64)],
)
def test_text_and_integers_are_ids(given: object, meant: str) -> None:
    text = json.dumps(given)
    assert ONE.validate_json(text, strict=True) == meant
    assert MANY.validate_json(f"[{text}, {text}]", strict=True) == [meant, meant]


@pytest.mark.parametrize(
    "given", ["1.0", "1e3", "true", "null", "[]", "{}", '""', '"' + "x" * 129 + '"', '"' + "é" * 65 + '"', "9" * 129]
)
def test_nothing_else_is_an_id(given: str) -> None:
    with pytest.raises(ValidationError) as one:
        ONE.validate_json(given, strict=True)
    assert [each["msg"] for each in one.value.errors()] == [ID_RULE]
    with pytest.raises(ValidationError) as many:
        MANY.validate_json(f'["good", {given}, {given}]', strict=True)
    [wrong] = many.value.errors()
    assert wrong["loc"] == (1,) or "entry 1 must be" in wrong["msg"]


def test_the_rule_holds_for_all_bodies() -> None:
    asked = {"user_id": 1, "history": [2, "3"], "filter": {"allow": [4], "deny": [5]}}
    request = ONE_REQUEST.validate_json(json.dumps(asked), strict=True)
    assert (request.user_id, request.history) == ("1", ["2", "3"])
    assert request.filter is not None
    assert (request.filter.allow, request.filter.deny) == (["4"], ["5"])

    event = ONE_EVENT.validate_json('{"event_id": 1, "user_id": 2, "item_id": 3, "timestamp": 4}', strict=True)
    assert (event.event_id, event.user_id, event.item_id) == ("1", "2", "3")
    assert BULK_ITEM.validate_json('{"item_id": 9, "title": "t"}', strict=True).bulk_change.item_id == "9"


@pytest.mark.parametrize("adapter", [ONE, MANY])
def test_the_description_has_both_kinds(adapter: TypeAdapter[Any]) -> None:
    schema = adapter.json_schema()
    kinds = schema.get("items", schema)["anyOf"]
    assert [each["type"] for each in kinds] == ["string", "integer"]
