"""What a request can be refused with, as one tree, and the table from class to problem document (RFC 9457).

    EtegrecError
    └── RequestError           status 400
        ├── BadJson                  400  not JSON, or JSON that this service refuses
        ├── KeyMissing               401  no API key, or one that is not known
        ├── KeyForbidden             403  the key may not do this
        ├── NotFound                 404  no such item or code prefix
        ├── BodyTooSlow              408
        ├── CatalogueIsFull          409  no semantic ID is left for a new item
        ├── BodyTooLarge             413
        ├── WrongContentType         415
        ├── InvalidFields            422  a field is missing, unknown or out of bounds
        │   └── InvalidLines         422  the same, of lines of a bulk upload
        ├── QueueFull                429  with Retry-After
        ├── ClientGone               499  nobody reads the answer
        ├── NotReady                 503  no model is live, or the process is shutting down
        └── DeadlineMissed           504  the time budget ran out

Details name fields and limits; they never repeat input, paths or exception texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from pydantic import ValidationError

from model_store.errors import EtegrecError, StoreError

PROBLEM_TYPE = "urn:etegrec:problem:"

SHOWN_FIELDS = 10
"""Field errors listed in one problem document at most."""


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one field; ``field`` is a path like ``filter.allow.3``, empty for the whole body."""

    field: str
    message: str


class RequestError(EtegrecError):
    """A request that is refused on purpose."""

    status = 400
    slug = "bad-request"

    def __init__(self, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.headers = dict(headers or {})
        self.fields: Sequence[FieldError] = ()


class BadJson(RequestError):
    """The body is no JSON that this service accepts."""

    slug = "bad-json"


class KeyMissing(RequestError):
    """No API key came, or one that is not known."""

    status, slug = 401, "key-missing"

    def __init__(self) -> None:
        super().__init__(
            "send a valid API key in the header X-API-Key", headers={"WWW-Authenticate": 'ApiKey realm="etegrec"'}
        )


class KeyForbidden(RequestError):
    """The key is valid but may not do this."""

    status, slug = 403, "key-forbidden"


class NotFound(RequestError):
    """What the path names does not exist."""

    status, slug = 404, "not-found"


class BodyTooSlow(RequestError):
    """The body did not arrive in time."""

    status, slug = 408, "body-too-slow"


class CatalogueIsFull(RequestError):
    """Every semantic ID is taken."""

    status, slug = 409, "catalogue-full"

    def __init__(self, room: int) -> None:
        super().__init__(
            f"the catalogue has room for {room} more new items; train a model with a larger tokenizer.codebook_size"
        )


class BodyTooLarge(RequestError):
    """The body exceeds ``max_body_bytes``."""

    status, slug = 413, "body-too-large"


class WrongContentType(RequestError):
    """The body is not declared as JSON."""

    status, slug = 415, "wrong-content-type"


class InvalidFields(RequestError):
    """A field is missing, unknown, of the wrong type or out of bounds."""

    status, slug = 422, "invalid-fields"

    def __init__(self, fields: Sequence[FieldError]) -> None:
        super().__init__("; ".join(f"{each.field or 'body'}: {each.message}" for each in fields))
        self.fields = fields

    @classmethod
    def of(cls, refused: ValidationError) -> InvalidFields:
        """Translate pydantic's report, leaving out everything that repeats input."""
        found = []
        for problem in refused.errors(include_url=False, include_input=False, include_context=False)[:SHOWN_FIELDS]:
            unknown = problem["type"] == "extra_forbidden"  # its location ends with a name that the client chose
            location = problem["loc"][:-1] if unknown else problem["loc"]
            reason = problem["msg"].removeprefix("Value error, ")
            message = (
                "holds a field that this endpoint does not know; GET /docs lists those it knows" if unknown else reason
            )
            found.append(FieldError(".".join(map(str, location)), message))
        return cls(found)


class InvalidLines(RequestError):
    """Lines of a bulk upload are wrong, so nothing of it was stored."""

    status, slug = 422, "invalid-lines"

    def __init__(self, wrong: int, fields: Sequence[FieldError]) -> None:
        shown = f"; the first {len(fields)} problems are listed" if wrong > len(fields) else ""
        lines = "1 line is" if wrong == 1 else f"{wrong} lines are"
        super().__init__(f"{lines} wrong, nothing was stored{shown}")
        self.fields = fields


class QueueFull(RequestError):
    """As many requests wait as may."""

    status, slug = 429, "queue-full"

    def __init__(self, limit: int, retry_after_s: int) -> None:
        super().__init__(
            f"{limit} requests are waiting already (queue_size); try again later",
            headers={"Retry-After": str(retry_after_s)},
        )


class QueueTooLong(QueueFull):
    """The requests that wait take longer than the time budget allows."""

    def __init__(self, retry_after_s: int) -> None:
        detail = (
            "the requests that are waiting take longer than the time budget (budget_ms, deadline_ms); try again later"
        )
        super(QueueFull, self).__init__(detail, headers={"Retry-After": str(retry_after_s)})


class ClientGone(RequestError):
    """The client closed the connection; nobody reads this."""

    status, slug = 499, "client-gone"


class NotReady(RequestError):
    """There is no model to answer with, or the process is about to end."""

    status, slug = 503, "not-ready"

    def __init__(self, reason: str) -> None:
        super().__init__(reason, headers={"Retry-After": "1"})


class DeadlineMissed(RequestError):
    """The time budget ran out before the answer was there."""

    status, slug = 504, "deadline-missed"

    def __init__(self) -> None:
        super().__init__("there was no answer within the time budget (budget_ms, or deadline_ms of the service)")


@dataclass(frozen=True)
class Problem:
    """One problem document; ``headers`` go with it."""

    status: int
    slug: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)
    fields: Sequence[FieldError] = ()

    def document(self, request_id: str) -> dict[str, object]:
        """The JSON body."""
        title = HTTPStatus(self.status).phrase if self.status != ClientGone.status else "Client Closed Request"
        body: dict[str, object] = {
            "type": PROBLEM_TYPE + self.slug,
            "title": title,
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
        }
        if self.fields:
            body["errors"] = [{"field": each.field, "message": each.message} for each in self.fields]
        return body


def problem_of(error: Exception) -> Problem:
    """The one table from exception to problem document; unexpected errors say nothing about themselves."""
    if isinstance(error, RequestError):
        return Problem(error.status, error.slug, str(error), error.headers, error.fields)
    if isinstance(error, StoreError):
        detail = "the live store did not confirm; repeat the request: events recorded already count once"
        return Problem(503, "live-store-unavailable", detail, {"Retry-After": "1"})
    return Problem(500, "internal", "the service failed; its log has the details under this request_id")


def problem_of_status(status: int, headers: Mapping[str, str] | None = None) -> Problem:
    """The problem document of an error that the framework raised itself (404, 405, …)."""
    phrase = HTTPStatus(status).phrase
    return Problem(status, phrase.lower().replace(" ", "-"), _FRAMEWORK_DETAILS.get(status, phrase), headers or {})


_FRAMEWORK_DETAILS = {
    404: "there is no such path; GET /docs lists all of them, and none ends with a slash",
    405: "this path takes other methods; the header Allow names them",
}
