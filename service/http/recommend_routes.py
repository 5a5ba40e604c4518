"""Endpoints for recommendations: one request, or a list of them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from starlette.requests import Request

from service.answers.explanations import explanation_documents
from service.async_tasks import gather_or_cancel
from service.errors import InvalidFields
from service.http.body import read_json
from service.http.disconnect import run_until_client_leaves
from service.http.endpoints import Endpoint
from service.http.limits import check_request, check_requests, request_bounds, requests_bounds
from service.recommender import Recommendation
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
    check_request(asked, service.settings)
    answer = await run_until_client_leaves(request, service.recommender.recommend(asked))

    document = _build_document(answer, request)
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
    check_requests(asked, service.settings)
    work = gather_or_cancel([_recommend_row(service, row, each) for row, each in enumerate(asked)])
    answers = await run_until_client_leaves(request, work)
    return [_build_document(answer, request) for answer in answers]


async def _recommend_row(service: Service, row: int, asked: RecommendRequest) -> Recommendation:
    """Answer one request of a batch; wrong fields are named with its place."""
    try:
        return await service.recommender.recommend(asked)
    except InvalidFields as refused:
        raise InvalidFields([replace(each, field=f"{row}.{each.field}") for each in refused.fields]) from None


def _build_document(answer: Recommendation, request: Request) -> RecommendResponse:
    return {
        "request_id": request.state.request_id,
        "model_version": answer.model.version,
        "served_by": answer.served_by,
        "degraded": answer.is_degraded,
        "took_ms": round(answer.took_ms, 3),
        "unknown_items": answer.unknown_items,
        "items": build_recommended_items(
            answer.model.catalogue, answer.found.rows, answer.found.score, answer.found.log_prob
        ),
    }


ENDPOINTS = (
    Endpoint(
        "POST", "/recommend", recommend, "read", "recommendations", problems=(400, 429, 503, 504), body=RecommendRequest
    ),
    Endpoint(
        "POST",
        "/recommend/batch",
        recommend_batch,
        "read",
        "recommendations",
        problems=(400, 429, 503, 504),
        body=NonEmpty[RecommendRequest],
        max_entries="max_batch_requests",
    ),
)
