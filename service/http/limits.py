"""Limits that operators choose: checked after a body has its types, and described in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from model_store.events.event import Event
from service.errors import FieldError, InvalidFields
from service.schemas.recommend import Filter, RecommendRequest
from service.settings import Settings

_FILTER_LISTS = tuple(Filter.model_fields)  # every part of a filter is a list


def check_request(request: RecommendRequest, settings: Settings, where: str = "") -> None:
    """Refuse a request that exceeds the settings; ``where`` is its place in a list, like ``3.``.

    Raises:
        InvalidFields: Names every field that is out of bounds, and its limit.
    """
    found = _find_k_problems(request.k, settings, where)

    if request.history and len(request.history) > settings.max_history_ids:
        found.append(_length_error(f"{where}history", settings.max_history_ids, "max_history_ids"))

    if request.filter is not None:
        for name in _FILTER_LISTS:
            entries = getattr(request.filter, name)
            if entries and len(entries) > settings.max_filter_ids:
                found.append(_length_error(f"{where}filter.{name}", settings.max_filter_ids, "max_filter_ids"))

    if found:
        raise InvalidFields(found)


def check_requests(requests: Sequence[RecommendRequest], settings: Settings) -> None:
    """Refuse a batch that is too long, or any of whose requests exceeds the settings or asks for explanations."""
    _check_count(len(requests), settings.max_batch_requests, "max_batch_requests")
    for row, request in enumerate(requests):
        if request.explain:
            message = "only in POST /recommend: explaining one answer takes a batch of its own"
            raise InvalidFields([FieldError(f"{row}.explain", message)])
        check_request(request, settings, f"{row}.")


def check_k(k: int, settings: Settings) -> None:
    """Refuse a request for more answers than the settings allow."""
    found = _find_k_problems(k, settings, "")
    if found:
        raise InvalidFields(found)


def check_events(events: Sequence[Event], settings: Settings) -> None:
    """Refuse more events in one request than the settings allow."""
    _check_count(len(events), settings.max_events, "max_events")


def describe_limits(schemas: dict[str, Any], settings: Settings) -> None:
    """Write the limits that :func:`check_request` checks into the JSON schemas of the bodies, by name of the model."""
    request = schemas["RecommendRequest"]["properties"]
    request["k"]["maximum"] = settings.max_k
    describe_length(request["history"], settings.max_history_ids)
    for name in _FILTER_LISTS:
        describe_length(schemas["Filter"]["properties"][name], settings.max_filter_ids)


def describe_length(schema: dict[str, Any], limit: int) -> None:
    """Write the largest length into the schema of a list, or into the list among its alternatives."""
    for each in (schema, *schema.get("anyOf", ())):
        if each.get("type") == "array":
            each["maxItems"] = limit


def _find_k_problems(k: int, settings: Settings, where: str) -> list[FieldError]:
    if k <= settings.max_k:
        return []
    return [FieldError(f"{where}k", f"must be at most {settings.max_k} (max_k)")]


def _length_error(field: str, limit: int, setting: str) -> FieldError:
    return FieldError(field, f"must have at most {limit} entries ({setting})")


def _check_count(count: int, limit: int, setting: str) -> None:
    if not 1 <= count <= limit:
        raise InvalidFields([FieldError("", f"must have 1 to {limit} entries ({setting})")])
