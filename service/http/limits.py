"""The bounds that operators choose, checked after a body has its types."""

from __future__ import annotations

from collections.abc import Sequence

from model_store.events.event import Event
from service.errors import FieldError, InvalidFields
from service.schemas.recommend import RecommendRequest
from service.settings import Settings


def check_request(request: RecommendRequest, settings: Settings, where: str = "") -> None:
    """Refuse a request that exceeds the settings; ``where`` is its place in a list, like ``3.``.

    Raises:
        InvalidFields: Names every field that is out of bounds, and its limit.
    """
    found = _k_problems(request.k, settings, where)
    rules = request.filter
    counted = [
        ("history", request.history, settings.max_history_ids, "max_history_ids"),
        ("filter.categories", rules and rules.categories, settings.max_filter_ids, "max_filter_ids"),
        ("filter.categories_all", rules and rules.categories_all, settings.max_filter_ids, "max_filter_ids"),
        ("filter.attributes", rules and rules.attributes, settings.max_filter_ids, "max_filter_ids"),
        ("filter.allow", rules and rules.allow, settings.max_filter_ids, "max_filter_ids"),
        ("filter.deny", rules and rules.deny, settings.max_filter_ids, "max_filter_ids"),
    ]
    for name, entries, limit, setting in counted:
        if entries and len(entries) > limit:
            found.append(FieldError(where + name, f"must have at most {limit} entries ({setting})"))
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
    """Refuse more answers than the settings allow."""
    if found := _k_problems(k, settings, ""):
        raise InvalidFields(found)


def check_events(events: Sequence[Event], settings: Settings) -> None:
    """Refuse more events in one request than the settings allow."""
    _check_count(len(events), settings.max_events, "max_events")


def _k_problems(k: int, settings: Settings, where: str) -> list[FieldError]:
    if k <= settings.max_k:
        return []
    return [FieldError(f"{where}k", f"must be at most {settings.max_k} (max_k)")]


def _check_count(count: int, limit: int, setting: str) -> None:
    if not 1 <= count <= limit:
        raise InvalidFields([FieldError("", f"must have 1 to {limit} entries ({setting})")])
