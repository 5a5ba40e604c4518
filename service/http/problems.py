"""Problem documents (RFC 9457): the JSON body of every error, and the one table from exception to document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, NotRequired

import orjson
from pydantic import Field
from starlette.responses import Response
from typing_extensions import TypedDict

from model_store.errors import StoreError, StoreReadOnly
from model_store.random_bytes import RandomBytes
from service.errors import ClientGone, RequestError
from service.field_errors import FieldError
from service.schemas.types import Nullable

PROBLEM_JSON = "application/problem+json"
"""Media type of problem documents."""

PROBLEM_TYPE = "urn:etegrec:problem:"
"""Beginning of the type of every problem; its slug follows."""

_REQUEST_IDS = RandomBytes(16)

_FRAMEWORK_DETAILS = {
    404: "there is no such path; GET /docs lists all of them, and none ends with a slash",
    405: "this path takes other methods; the header Allow names them",
}


class FieldProblem(TypedDict):
    """A wrong field and the reason."""

    field: Annotated[str, Field(description="path like `filter.allow.3`; empty for the whole body")]
    message: Annotated[str, Field(description="what is wrong")]
    expected: NotRequired[Nullable[Annotated[str, Field(description="what the field takes")]]]
    limit: NotRequired[Nullable[Annotated[float, Field(description="the bound that was broken")]]]


class ProblemDocument(TypedDict):
    """Body of every error (RFC 9457, application/problem+json)."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: NotRequired[Nullable[list[FieldProblem]]]


@dataclass(frozen=True)
class Problem:
    """One error as clients see it; ``headers`` are sent with the document."""

    status: int
    slug: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)
    fields: Sequence[FieldError] = ()

    def document(self, request_id: str) -> ProblemDocument:
        """Return the JSON body."""
        is_standard = self.status != ClientGone.status
        document: ProblemDocument = {
            "type": PROBLEM_TYPE + self.slug,
            "title": HTTPStatus(self.status).phrase if is_standard else "Client Closed Request",
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
        }

        if self.fields:
            document["errors"] = [_describe_field(each) for each in self.fields]
        return document

    def response(self, request_id: str) -> Response:
        """Return the HTTP answer that carries the document."""
        body = orjson.dumps(self.document(request_id))
        return Response(body, self.status, headers=dict(self.headers), media_type=PROBLEM_JSON)


def _describe_field(error: FieldError) -> FieldProblem:
    problem: FieldProblem = {"field": error.field, "message": error.message}
    if error.expected:
        problem["expected"] = error.expected
    if error.limit is not None:
        problem["limit"] = error.limit
    return problem


def new_request_id() -> str:
    """Return a new, random request id."""
    return _REQUEST_IDS.take().hex()


def problem_of(error: Exception) -> Problem:
    """Return the problem for any exception. Unexpected ones say nothing about themselves."""
    if isinstance(error, RequestError):
        return Problem(error.status, error.slug, str(error), error.headers, error.fields)

    if isinstance(error, StoreReadOnly):
        detail = f"the store takes no writes now ({error.reason}); repeat the request later: deletions work meanwhile"
        return Problem(503, "live-store-read-only", detail, {"Retry-After": "5"})

    if isinstance(error, StoreError):
        detail = "the store did not confirm; repeat the request: events recorded already count once"
        return Problem(503, "live-store-unavailable", detail, {"Retry-After": "1"})

    return Problem(500, "internal", "the service failed; its log has the details under this request_id")


def problem_of_status(status: int, headers: Mapping[str, str] | None = None) -> Problem:
    """Return the problem for an error that the framework raised itself (404, 405, …)."""
    phrase = HTTPStatus(status).phrase
    slug = phrase.lower().replace(" ", "-")
    return Problem(status, slug, _FRAMEWORK_DETAILS.get(status, phrase), headers or {})
