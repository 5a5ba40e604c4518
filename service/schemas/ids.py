"""Ids of users, items and events in JSON bodies: text, or integers that count as their decimal text.

One rule for all ids of all bodies: 1 to 128 bytes of text, or a JSON integer ``n``, which is the id ``str(n)``. Floats
and booleans are refused: whether ``1.0`` is ``1`` or ``1.0`` is for the client to say. Text is checked without a call
of Python for each id, since a request may hold ten thousand of them.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from model_store.catalogue.catalogue import ID_BYTES

ID_ERROR = "invalid_id"
"""Type of the validation error for what is no id."""

ID_RULE = (
    f"must be text of 1 to {ID_BYTES} bytes in UTF-8, or an integer, which counts as its decimal text; "
    "other numbers and booleans are no ids"
)
"""The rule, as errors say it."""

_JSON_SCHEMA = {"anyOf": [{"type": "string", "minLength": 1, "maxLength": ID_BYTES}, {"type": "integer"}]}


def _refusal() -> PydanticCustomError:
    return PydanticCustomError(ID_ERROR, ID_RULE)


def _check_bytes(value: str) -> str:
    """Refuse text that is too long in bytes, although it is not in characters."""
    if not value.isascii() and len(value.encode()) > ID_BYTES:
        raise _refusal()
    return value


def _check_all_bytes(values: list[str]) -> list[str]:
    """Do the same for a list, whose entries are hardly ever anything but ASCII."""
    if "".join(values).isascii():
        return values

    for place, value in enumerate(values):
        if len(value.encode()) > ID_BYTES:
            raise PydanticCustomError(ID_ERROR, f"entry {place} {ID_RULE}")
    return values


def _to_text(value: int) -> str:
    text = str(value)
    if len(text) > ID_BYTES:
        raise _refusal()
    return text


def _id_schema(text: CoreSchema) -> CoreSchema:
    number = core_schema.no_info_after_validator_function(_to_text, core_schema.int_schema(strict=True))
    return core_schema.union_schema(
        [text, number], mode="left_to_right", custom_error_type=ID_ERROR, custom_error_message=ID_RULE
    )


_TEXT = core_schema.str_schema(min_length=1, max_length=ID_BYTES, strict=True)


class _Id:
    """Annotation of one id."""

    def __get_pydantic_core_schema__(self, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        return _id_schema(core_schema.no_info_after_validator_function(_check_bytes, _TEXT))

    def __get_pydantic_json_schema__(self, _: CoreSchema, __: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(_JSON_SCHEMA)


class _IdList:
    """Annotation of a list of ids, checked up to its first wrong entry."""

    def __get_pydantic_core_schema__(self, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        entries = core_schema.list_schema(_id_schema(_TEXT), fail_fast=True, strict=True)
        return core_schema.no_info_after_validator_function(_check_all_bytes, entries)

    def __get_pydantic_json_schema__(self, _: CoreSchema, __: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "array", "items": dict(_JSON_SCHEMA)}


ShortId = Annotated[str, _Id()]
"""An id in a body. The JSON parser has already refused lone surrogates."""

ShortIds = Annotated[list[str], _IdList()]
"""A list of ids in a body."""
