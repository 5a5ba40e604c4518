"""Limits that operators choose, checked before and after a body is parsed, and shown in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from model_store.events.event import Event
from service.errors import InvalidFields
from service.field_errors import FieldError
from service.http.json_shape import Bounds
from service.schemas.experiments import MAX_VARIANTS
from service.schemas.items import MAX_CONTAINERS, MAX_PAYLOAD_BYTES
from service.schemas.recommend import CONTAINERS, RecommendRequest
from service.schemas.rules import Conditions, Rules
from service.settings import Settings

ITEM_BOUNDS = Bounds(MAX_CONTAINERS, MAX_PAYLOAD_BYTES // 2)
"""Bounds of an item: a value and what separates it from the next one take at least two bytes."""

_CONDITION_LISTS = tuple(Conditions.model_fields)  # each may be a list
_FILTER_LISTS = (*_CONDITION_LISTS, "deny")
_BOOST_LISTS = ("categories", "items")  # of all boosts together
_OTHER_VALUES = 16 * CONTAINERS  # values of a request that are not in one of its long lists, generously
_EVENT_VALUES = 16  # of an event, generously


def request_bounds(settings: Settings) -> Bounds:
    """Return the bounds of the body of ``POST /recommend``."""
    return Bounds(CONTAINERS, _request_values(settings), settings="max_history_ids, max_filter_ids")


def requests_bounds(settings: Settings) -> Bounds:
    """Return the bounds of the body of ``POST /recommend/batch``."""
    most = settings.max_batch_requests
    return Bounds(1 + most * CONTAINERS, most * _request_values(settings), most, "max_batch_requests")


def placement_bounds(settings: Settings) -> Bounds:
    """Return the bounds of the body of ``PUT /placements/{name}``: a request without a history."""
    return Bounds(CONTAINERS, _request_values(settings), settings="max_filter_ids")


def experiment_bounds(settings: Settings) -> Bounds:
    """Return the bounds of the body of ``PUT /experiments/{name}``: rules of each variant."""
    most = MAX_VARIANTS
    return Bounds(3 + most * (1 + CONTAINERS), most * _request_values(settings), settings="max_filter_ids")


def events_bounds(settings: Settings) -> Bounds:
    """Return the bounds of the body of ``POST /events``."""
    most = settings.max_events
    return Bounds(1 + most, most * _EVENT_VALUES, most, "max_events")


def _request_values(settings: Settings) -> int:
    lists = len(_FILTER_LISTS) + len(_CONDITION_LISTS) + 1
    return settings.max_history_ids + lists * settings.max_filter_ids + _OTHER_VALUES


def check_request(request: RecommendRequest, settings: Settings, where: str = "") -> None:
    """Refuse a request that exceeds the settings; ``where`` is its place in a list, like ``3.``.

    Raises:
        InvalidFields: Names every field that is out of bounds, and its limit.
    """
    found = _find_problems(request, settings, where)
    if request.history and len(request.history) > settings.max_history_ids:
        found.append(_length_error(f"{where}history", settings.max_history_ids, "max_history_ids"))
    if found:
        raise InvalidFields(found)


def check_limits(rules: Rules, settings: Settings, where: str = "") -> None:
    """Refuse rules that exceed the settings, as :func:`check_request` does."""
    found = _find_problems(rules, settings, where)
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
    for body in ("RecommendRequest", "WhyNotRequest", "Placement", "Rules"):
        fields = schemas[body]["properties"]
        fields["k"]["maximum"] = settings.max_k
        if "history" in fields:
            describe_length(fields["history"], settings.max_history_ids)
    for model, names in (("Filter", _FILTER_LISTS), ("NotConditions", _CONDITION_LISTS)):
        for name in names:
            describe_length(schemas[model]["properties"][name], settings.max_filter_ids)


def describe_length(schema: dict[str, Any], limit: int) -> None:
    """Write the largest length into the schema of a list, or into the list among its alternatives; keep a lower one."""
    for each in (schema, *schema.get("anyOf", ())):
        if each.get("type") == "array":
            each["maxItems"] = min(limit, each.get("maxItems", limit))


def _find_problems(rules: Rules, settings: Settings, where: str) -> list[FieldError]:
    found = _find_k_problems(rules.k, settings, where)
    if rules.filter is not None:
        found += _find_length_problems(rules.filter, _FILTER_LISTS, settings, f"{where}filter")
        if rules.filter.not_ is not None:
            found += _find_length_problems(rules.filter.not_, _CONDITION_LISTS, settings, f"{where}filter.not")

    if not rules.boosts:
        return found

    named = [len(getattr(boost, name) or ()) for boost in rules.boosts for name in _BOOST_LISTS]
    if sum(named) > settings.max_filter_ids:
        message = f"must name at most {settings.max_filter_ids} categories and items together (max_filter_ids)"
        found.append(FieldError(f"{where}boosts", message, limit=settings.max_filter_ids))
    return found


def _find_length_problems(
    conditions: Conditions, names: Sequence[str], settings: Settings, where: str
) -> list[FieldError]:
    most = settings.max_filter_ids
    lists = {name: getattr(conditions, name) for name in names}
    return [
        _length_error(f"{where}.{name}", most, "max_filter_ids")
        for name, entries in lists.items()
        if isinstance(entries, list) and len(entries) > most
    ]


def _find_k_problems(k: int, settings: Settings, where: str) -> list[FieldError]:
    if k <= settings.max_k:
        return []
    return [FieldError(f"{where}k", f"must be at most {settings.max_k} (max_k)", limit=settings.max_k)]


def _length_error(field: str, limit: int, setting: str) -> FieldError:
    return FieldError(field, f"must have at most {limit} entries ({setting})", limit=limit)


def _check_count(count: int, limit: int, setting: str) -> None:
    if not 1 <= count <= limit:
        raise InvalidFields([FieldError("", f"must have 1 to {limit} entries ({setting})", limit=limit)])
