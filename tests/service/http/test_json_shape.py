"""Counting without parsing agrees with counting what was parsed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidFields
from service.http.json_shape import Bounds, Shape, measure

texts = st.text() | st.text('\\"[]{},:')
values = st.recursive(
    st.none() | st.integers() | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=40,
)


def count(value: Any) -> Shape:
    """Count by walking through the parsed value; entries and values of empty containers are those of one value."""
    if not isinstance(value, list | dict):
        return Shape(0, 0, 0, 0)
    inner = [count(each) for each in (value.values() if isinstance(value, dict) else value)]
    return Shape(
        depth=1 + max((each.depth for each in inner), default=0),
        containers=1 + sum(each.containers for each in inner),
        values=max(1, len(value)) + sum(each.values for each in inner),
        entries=max(1, len(value)) if isinstance(value, list) else 0,
    )


@given(values, st.booleans(), st.sampled_from([None, 2]))
def test_the_shape_is_that_of_the_parsed_text(value: Any, is_ascii: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii, indent=indent)
    assert measure(text.encode()) == count(value)


@given(st.binary() | st.text('[]{},"\\').map(str.encode))
def test_what_is_no_json_is_counted_all_the_same(text: bytes) -> None:
    shape = measure(text)
    assert min(shape) >= 0
    assert shape.containers <= text.count(b"{") + text.count(b"[")


def test_bounds_are_exact_and_text_does_not_count() -> None:
    bounds = Bounds(containers=4, values=20, entries=3, settings="max_things")
    for good in (
        b"[{},{},{}]",
        b'[{"a": "{{{{{{{,,,,,,,,,,,,,,,,,,,,,,,,,"},{},{}]',
        b"[" + b"1," * 2 + b"1]",
        b"no JSON",
    ):
        bounds.check(measure(good))
    for wrong, reason in {
        b"[{},{},{},{}]": r"1 to 3 entries \(max_things\)",
        b"[{},{},[{},{}]]": "at most 4 lists and objects",
        b"[[1,2,3,4,5,6,7,8,9,0],[1,2,3,4,5,6,7,8,9,0],[]]": "at most 20 values",
        b"[" + b"1," * 21 + b"1]": "1 to 3 entries",
    }.items():
        with pytest.raises(InvalidFields, match=reason):
            bounds.check(measure(wrong))
