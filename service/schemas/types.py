"""Base types of requests and answers: bodies, query strings, lists, JSON objects.

Requests are pydantic models, which validate them. Answers are typed dictionaries: they cost no more than plain ones,
mypy compares every one with its documented fields, and pydantic describes them in ``GET /openapi.json``.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

T = TypeVar("T")


class Body(BaseModel):
    """A request body: types are strict, unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, serialize_by_alias=True)


class Query(BaseModel):
    """A query string: unknown parameters are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Listed = Annotated[list[T], Field(fail_fast=True)]
"""A list checked up to its first wrong entry: reporting half a million would keep the event loop busy for seconds."""

NonEmpty = Annotated[list[T], Field(min_length=1)]
"""A list of at least one entry, for descriptions. :mod:`service.http.limits` checks the length of real lists."""

Nullable = Annotated[T | None, Field(json_schema_extra={"default": None})]
"""A field of an answer that may be null or absent."""

JsonObject = Annotated[dict[str, Any], WithJsonSchema({"type": "object"})]
"""An answer whose fields are not described."""

PlainText = Annotated[bytes, WithJsonSchema({"type": "string"})]
"""An answer that is not JSON, encoded already."""
