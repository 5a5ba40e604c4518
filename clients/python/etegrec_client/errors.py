"""Errors of the client: one class for each thing that a caller would do differently.

EtegrecError
├── ServiceUnreachable   no connection, or no answer in time
└── ServiceProblem       the service refused; it has the fields of the problem document
    ├── InvalidRequest       400, 408, 413, 415, 422, 431: correct the request; `fields` says what is wrong
    ├── AccessDenied         401, 403: use another key
    ├── NotFound             404: no such item or code prefix
    ├── CatalogueFull        409: no semantic ID is left for a new item
    ├── PlacementConflict    409: another revision of the placement is stored, or there are too many
    ├── ExperimentConflict   409: the experiment does not fit what is stored
    ├── ModelNotLoaded       409: the named model is not loaded on the replica that answered
    ├── Overloaded           429, 503: wait `retry_after_s`; the client has repeated the request already
    ├── DeadlineMissed       504: allow more time, or set `budget_ms`
    └── ServiceFailure       500 and whatever else: a bug; its log knows the `request_id`
"""

from __future__ import annotations

from collections.abc import Sequence

import httpx

from etegrec_client.types import FieldProblem


class EtegrecError(Exception):
    """Base of all errors of this client."""


class ServiceUnreachable(EtegrecError):
    """There was no connection, or no answer in time. The cause is the error of httpx."""


class ServiceProblem(EtegrecError):
    """The service refused a request.

    Attributes:
        status: HTTP status.
        slug: Kind of the problem, such as ``invalid-fields`` (the table in docs/API.md); "" if a proxy answered.
        detail: What is wrong, in words.
        request_id: Id under which the service's log knows the request.
        fields: Wrong fields, each with what it takes.
        retry_after_s: Seconds to wait before another try, if the service named them.
    """

    def __init__(
        self,
        status: int,
        slug: str,
        detail: str,
        request_id: str,
        fields: Sequence[FieldProblem] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{status} {slug}: {detail}")
        self.status = status
        self.slug = slug
        self.detail = detail
        self.request_id = request_id
        self.fields = list(fields)
        self.retry_after_s = retry_after_s


class InvalidRequest(ServiceProblem):
    """The request is wrong; ``fields`` and ``detail`` say where."""


class AccessDenied(ServiceProblem):
    """The key is missing, unknown, or may not do this."""


class NotFound(ServiceProblem):
    """There is no such item, code prefix, placement or experiment, or no version has the alias."""


class CatalogueFull(ServiceProblem):
    """No semantic ID is left for a new item."""


class PlacementConflict(ServiceProblem):
    """Another revision of the placement is stored, or there are too many placements."""


class ExperimentConflict(ServiceProblem):
    """The experiment has begun and would change, or runs, or shares traffic with another, or is another revision."""


class ModelNotLoaded(ServiceProblem):
    """The model that the request names is not loaded on the replica that answered."""


class Overloaded(ServiceProblem):
    """The service cannot answer now."""


class DeadlineMissed(ServiceProblem):
    """There was no answer within the time budget."""


class ServiceFailure(ServiceProblem):
    """The service failed."""


_CLASSES: dict[int, type[ServiceProblem]] = {
    **dict.fromkeys((400, 408, 413, 415, 422, 431), InvalidRequest),
    **dict.fromkeys((401, 403), AccessDenied),
    404: NotFound,
    409: CatalogueFull,
    **dict.fromkeys((429, 503), Overloaded),
    504: DeadlineMissed,
}


_BY_SLUG: dict[str, type[ServiceProblem]] = {
    "placement-conflict": PlacementConflict,
    "experiment-conflict": ExperimentConflict,
    "model-not-loaded": ModelNotLoaded,
}


def problem_of(response: httpx.Response) -> ServiceProblem:
    """Return the error for an answer that is not a success, whoever sent it."""
    try:
        document = response.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        document = {"detail": response.text[:200]}

    slug = str(document.get("type", "")).rpartition(":")[2]
    class_ = _BY_SLUG.get(slug) or _CLASSES.get(response.status_code, ServiceFailure)
    return class_(
        response.status_code,
        slug,
        str(document.get("detail", "")),
        str(document.get("request_id", "")),
        document.get("errors") or (),
        retry_after_s(response),
    )


def retry_after_s(response: httpx.Response) -> float | None:
    """Return the seconds of the header Retry-After; ``None`` if it is missing, or a date."""
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdecimal() else None
