"""Endpoints for recommendations: one request, or a list of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from starlette.requests import Request

from service.access.keys import HEADER
from service.answers.absences import why_not_document
from service.answers.explanations import explanation_documents
from service.async_tasks import gather_or_cancel
from service.errors import InvalidFields
from service.http.body import read_json
from service.http.disconnect import run_until_client_leaves
from service.http.endpoints import Endpoint
from service.http.limits import check_limits, check_request, check_requests, request_bounds, requests_bounds
from service.placements import PlacedRequest
from service.recommender import Recommendation
from service.schemas.absences import ONE_WHY_NOT, WhyNotRequest, WhyNotResponse
from service.schemas.experiments import UsedExperiment
from service.schemas.recommend import (
    ONE_REQUEST,
    REQUESTS,
    RecommendRequest,
    RecommendResponse,
    build_recommended_items,
)
from service.schemas.types import NonEmpty
from service.service import Service


async def recommend(service: Service, request: Request) -> RecommendResponse:
    """Recommend items to one user, by inline or stored history."""
    asked = await read_json(request, service.settings, ONE_REQUEST, request_bounds(service.settings))
    _check_scope(service, request, [asked])
    check_request(asked, service.settings)
    placed = await _place(service, asked)
    answer = await run_until_client_leaves(
        request, service.recommender.recommend(placed.request, placed.assignment, placed.model)
    )

    document = _build_document(answer, placed, request)
    if answer.explanations is not None:
        model = answer.model
        explain = partial(explanation_documents, model.catalogue, model.names, answer.found.rows, answer.explanations)
        explanations = await service.lookups.run(explain)

        for item, explanation in zip(document["items"], explanations, strict=True):
            item["explanation"] = explanation
    return document


async def recommend_batch(service: Service, request: Request) -> NonEmpty[RecommendResponse]:
    """Answer a list of requests with a list of answers in the same order; the first problem answers for all."""
    asked = await read_json(request, service.settings, REQUESTS, requests_bounds(service.settings))
    _check_scope(service, request, asked)
    check_requests(asked, service.settings)
    placed = [await _place(service, each, f"{row}.") for row, each in enumerate(asked)]
    work = gather_or_cancel([_recommend_row(service, row, each) for row, each in enumerate(placed)])
    answers = await run_until_client_leaves(request, work)
    return [_build_document(answer, each, request) for answer, each in zip(answers, placed, strict=True)]


def _check_scope(service: Service, request: Request, asked: Sequence[RecommendRequest]) -> None:
    """Refuse to let a key choose the model that may only ask: a shop's page must not load a shadow by accident."""
    if any(each.model is not None for each in asked):
        service.gate.check_scope(request.headers.get(HEADER), "admin", "a request that names a model")


async def _place(service: Service, asked: RecommendRequest, where: str = "") -> PlacedRequest:
    """Lay the rules of the request's placement under it; limits may have become lower since the placement was put."""
    if asked.placement is None:
        return PlacedRequest(asked, None)

    placed = await service.placements.apply(asked)
    check_limits(placed.request, service.settings, f"{where}placement.")
    return placed


async def why_not(service: Service, request: Request) -> WhyNotResponse:
    """Say why an item is not in the answer to a request: a rule that closes it, or where and by how much it lost.

    It costs one search a code of a semantic ID, and three more, which share a batch.
    """
    asked = await read_json(request, service.settings, ONE_WHY_NOT, request_bounds(service.settings))
    recommendation = asked.recommendation
    check_request(recommendation, service.settings)
    found = await run_until_client_leaves(request, service.why_not.find(recommendation, asked.item_id))
    return await service.lookups.run(partial(why_not_document, found))


async def _recommend_row(service: Service, row: int, placed: PlacedRequest) -> Recommendation:
    """Answer one request of a batch; wrong fields are named with its place."""
    try:
        return await service.recommender.recommend(placed.request, placed.assignment, placed.model)
    except InvalidFields as refused:
        raise InvalidFields([replace(each, field=f"{row}.{each.field}") for each in refused.fields]) from None


def _build_document(answer: Recommendation, placed: PlacedRequest, request: Request) -> RecommendResponse:
    document: RecommendResponse = {
        "request_id": request.state.request_id,
        "model_version": answer.model.version,
        "served_by": answer.served_by,
        "degraded": answer.is_degraded,
        "took_ms": round(answer.took_ms, 3),
        "attribution": answer.attribution,
        "placement": placed.placement,
        "experiment": _build_experiment(placed),
        "ignored_rules": answer.ignored_rules,
        "unknown_items": answer.unknown_items,
        "items": build_recommended_items(
            answer.model.catalogue, answer.item_ids, answer.found.rows, answer.found.score, answer.found.log_prob
        ),
    }
    if answer.propensities is not None:
        for place, item in enumerate(document["items"]):
            known = place < len(answer.propensities)
            item["propensity"] = float(answer.propensities[place]) if known else None
    if answer.rule_costs is not None:
        document["rules"] = [*answer.rule_costs]
    if answer.skipped_pins is not None:
        document["skipped_pins"] = [*answer.skipped_pins]
    return document


def _build_experiment(placed: PlacedRequest) -> UsedExperiment | None:
    found = placed.assignment
    return None if found is None else {"name": found.experiment, "variant": found.variant_name}


ENDPOINTS = (
    Endpoint(
        "POST",
        "/recommend",
        recommend,
        "read",
        "recommendations",
        problems=(400, 404, 409, 429, 503, 504),
        body=RecommendRequest,
    ),
    Endpoint(
        "POST",
        "/recommend/why-not",
        why_not,
        "read",
        "recommendations",
        problems=(400, 404, 429, 503, 504),
        body=WhyNotRequest,
    ),
    Endpoint(
        "POST",
        "/recommend/batch",
        recommend_batch,
        "read",
        "recommendations",
        problems=(400, 404, 409, 429, 503, 504),
        body=NonEmpty[RecommendRequest],
        max_entries="max_batch_requests",
    ),
)
