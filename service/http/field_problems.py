"""Translation of validation errors into field errors: path, reason, what was expected, limit, likely name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from service.errors import InvalidFields
from service.field_errors import FieldError, is_ordinary_name
from service.http.expectations import SchemaWalk

SHOWN_FIELDS = 10
"""Largest number of field errors in one refusal."""

_LIMITS = ("le", "ge", "lt", "gt", "max_length", "min_length")


def invalid_fields(refused: ValidationError, schema: TypeAdapter[Any]) -> InvalidFields:
    """Return the refusal that says what is wrong and what was expected. No value of the input is in it.

    Args:
        refused: Report of the validation library.
        schema: What the input was validated with.
    """
    found: dict[str, FieldError] = {}
    for problem in refused.errors(include_url=False, include_input=False):
        error = _translate(problem, SchemaWalk(_json_schema(schema)))
        found.setdefault(error.field, error)  # each alternative of a field has complained; one of them is enough
        if len(found) == SHOWN_FIELDS:
            break
    return InvalidFields(list(found.values()))


def unknown_field(name: str, known: Sequence[str], path: str = "") -> FieldError:
    """Return the error for a field that does not exist, with the name that was probably meant.

    Args:
        name: As the client wrote it. It is only repeated if it is an ordinary name.
        known: Fields that exist there.
        path: Where the field was found.
    """
    expected = f"fields of {', '.join(known)}" if known else "no fields"
    if not is_ordinary_name(name):
        return FieldError(path, "has a field that does not exist; GET /docs lists all fields", expected)

    likely = _find_likely(name, known)
    advice = f"did you mean {likely}?" if likely else f"known are {', '.join(known) or 'none'}"
    return FieldError(f"{path}.{name}" if path else name, f"does not exist; {advice}", expected)


@lru_cache(maxsize=64)
def _json_schema(schema: TypeAdapter[Any]) -> dict[str, Any]:
    return schema.json_schema()


def _translate(problem: ErrorDetails, walk: SchemaWalk) -> FieldError:
    location = problem["loc"]
    is_unknown = problem["type"] == "extra_forbidden"
    parents = location[:-1] if is_unknown else location

    path: list[str] = []
    is_alternative = False
    for part in parents:
        if walk.enter(part):
            path.append(str(part))
        else:
            is_alternative = True  # a name of the validation library, which means nothing to clients

    where = ".".join(path)
    if is_unknown:
        return unknown_field(str(location[-1]), walk.fields, where)

    expected = walk.describe()
    if problem["type"] == "missing":
        return FieldError(where, "is needed", expected)
    message = f"must be {expected}" if is_alternative else problem["msg"].removeprefix("Value error, ")
    return FieldError(where, message, expected, _find_limit(problem))


def _find_limit(problem: ErrorDetails) -> float | None:
    context = problem.get("ctx", {})
    return next((context[name] for name in _LIMITS if isinstance(context.get(name), int | float)), None)


def _find_likely(name: str, known: Sequence[str]) -> str:
    """Return the known field that is most like a name, whatever its case and its separators; "" if none is."""
    plain = {_plain(each): each for each in known}
    matches = get_close_matches(_plain(name), list(plain), n=1, cutoff=0.7)
    return plain[matches[0]] if matches else ""


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
