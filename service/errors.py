"""Reasons for which a request is refused: one tree of errors, each with its HTTP status.

    EtegrecError
    └── RequestError           status 400
        ├── BadHttp                  400  bytes that are no HTTP/1.1 request which this service takes
        ├── BadJson                  400  not JSON, or JSON that this service refuses
        ├── KeyMissing               401  no API key, or an unknown one
        ├── KeyForbidden             403  the key may not do this
        ├── NotFound                 404  no such item or code prefix
        ├── NoSuchPlacement          404  the request names a placement that does not exist
        ├── NoSuchExperiment         404  the request names an experiment that does not exist
        ├── NoSuchModel              404  no version has the alias that the request names
        ├── BodyTooSlow              408  the body did not arrive in time
        ├── CatalogueIsFull          409  no semantic ID is left for a new item
        ├── PlacementConflict        409  another revision of the placement is stored, or there are too many
        ├── ExperimentConflict       409  the experiment does not fit what is stored
        ├── ModelNotLoaded           409  this replica has not loaded the model that the request names
        ├── BodyTooLarge             413  the body has too many bytes
        ├── WrongContentType         415  the body is not declared as JSON, or is compressed
        ├── InvalidFields            422  a field is missing, unknown or out of bounds
        ├── InvalidLines             422  the same, of lines of a bulk upload
        ├── QueueFull                429  with Retry-After
        │   └── QueueTooLong         429  the same, where the wait would exceed the time budget
        ├── RateLimited              429  the key is over its limits, or too many wrong keys came
        ├── TooManyUploads           429  as many bulk uploads are read as may
        ├── TooManyPreviews          429  as many previews wait as may
        ├── HeadTooLarge             431  request line and headers have too many bytes
        ├── ClientGone               499  nobody reads the answer
        ├── NotReady                 503  no model is loaded, or the process is shutting down
        ├── PlacementsNotRead        503  the store could not be asked for placements since the start
        ├── ExperimentsNotRead       503  the store could not be asked for experiments since the start
        ├── TooManyConnections       503  no connection is left, but for probes
        └── DeadlineMissed           504  the time budget ran out

Messages name fields and limits; they never repeat values of input, paths or the text of exceptions. Fields that do
not exist are named, if their names are ordinary ones.
:mod:`service.http.problems` turns these errors into problem documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

from model_store.errors import EtegrecError
from service.field_errors import FieldError

_CLOSE = {"Connection": "close"}  # the rest of the body is not read, so the connection cannot be used again
_SOON = {"Retry-After": "1"}
_LATER = {"Retry-After": "5"}
_CHALLENGE = {"WWW-Authenticate": 'ApiKey realm="etegrec"'}


class RequestError(EtegrecError):
    """A request that is refused on purpose.

    Attributes:
        status: HTTP status of the answer.
        slug: Last part of the problem's type, and label of metrics.
        usual_headers: Headers of every answer with an error of this class.
        headers: Headers of this answer: the usual ones, and those of its own.
        fields: The wrong fields, if fields are the reason.
    """

    status = 400
    slug = "bad-request"
    usual_headers: Mapping[str, str] = {}

    def __init__(self, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.headers = {**self.usual_headers, **(headers or {})}
        self.fields: Sequence[FieldError] = ()


class BadHttp(RequestError):
    """The bytes are no HTTP/1.1 request that this service takes."""

    slug = "bad-http"
    usual_headers = _CLOSE


class BadJson(RequestError):
    """The body is not JSON that this service accepts."""

    slug = "bad-json"


class KeyMissing(RequestError):
    """The request has no API key, or an unknown one."""

    status = 401
    slug = "key-missing"
    usual_headers = _CHALLENGE

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "send a valid API key in the header X-API-Key")


class KeyForbidden(RequestError):
    """The key is valid but may not do this."""

    status = 403
    slug = "key-forbidden"


class NotFound(RequestError):
    """The path names something that does not exist."""

    status = 404
    slug = "not-found"


class NoSuchPlacement(RequestError):
    """No placement has this name, which fits the pattern of names."""

    status = 404
    slug = "no-such-placement"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no placement {name}; GET /placements lists all, PUT /placements/{name} adds it")


class PlacementConflict(RequestError):
    """Another revision of the placement is stored, or there are as many placements as may be."""

    status = 409
    slug = "placement-conflict"


class PlacementsNotRead(RequestError):
    """The store could not be asked for placements since this process started."""

    status = 503
    slug = "placements-not-read"
    usual_headers = _SOON

    def __init__(self) -> None:
        super().__init__(
            "the store could not be asked for placements since the start; requests without a placement are answered"
        )


class NoSuchExperiment(RequestError):
    """No experiment has this name, which fits the pattern of names."""

    status = 404
    slug = "no-such-experiment"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no experiment {name}; GET /experiments lists all, PUT /experiments/{name} adds it")


class ExperimentConflict(RequestError):
    """The experiment has begun and would change, or runs, or shares traffic with another, or is another revision."""

    status = 409
    slug = "experiment-conflict"


class ExperimentsNotRead(RequestError):
    """The store could not be asked for experiments since this process started."""

    status = 503
    slug = "experiments-not-read"
    usual_headers = _SOON

    def __init__(self) -> None:
        super().__init__(
            "the store could not be asked for experiments since the start; requests are answered without them"
        )


class NoSuchModel(RequestError):
    """No version has the alias that the request names."""

    status = 404
    slug = "no-such-model"

    def __init__(self, alias: str) -> None:
        super().__init__(f"no version is the {alias}: `etegrec-models alias {alias} VERSION` gives one the alias")


class ModelNotLoaded(RequestError):
    """A version has the alias that the request names, but this replica has not loaded it.

    Args:
        alias: The alias.
        state: What became of its version.
        problem: The reason; empty if there is none.
    """

    status = 409
    slug = "model-not-loaded"

    def __init__(self, alias: str, state: str, problem: str) -> None:
        reason = f": {problem}" if problem else ""
        super().__init__(f"the {alias} does not answer on this replica, its state is {state}{reason}")


class BodyTooSlow(RequestError):
    """The body did not arrive within the time that ``setting`` allows."""

    status = 408
    slug = "body-too-slow"
    usual_headers = _CLOSE

    def __init__(self, timeout_s: float, setting: str) -> None:
        super().__init__(f"the body must arrive within {timeout_s:g} s ({setting})")


class CatalogueIsFull(RequestError):
    """Every semantic ID is taken."""

    status = 409
    slug = "catalogue-full"

    def __init__(self, room: int) -> None:
        super().__init__(
            f"the catalogue has room for {room} more new items; train a model with a larger tokenizer.codebook_size"
        )


class BodyTooLarge(RequestError):
    """The body has more bytes than ``setting`` allows."""

    status = 413
    slug = "body-too-large"
    usual_headers = _CLOSE

    def __init__(self, max_bytes: int, setting: str) -> None:
        super().__init__(f"the body must be at most {max_bytes} bytes long ({setting})")


class WrongContentType(RequestError):
    """The body is not declared as JSON, or is compressed."""

    status = 415
    slug = "wrong-content-type"
    usual_headers = _CLOSE


class InvalidFields(RequestError):
    """A field is missing, unknown, of the wrong type or out of bounds."""

    status = 422
    slug = "invalid-fields"

    def __init__(self, fields: Sequence[FieldError]) -> None:
        super().__init__("; ".join(f"{each.field or 'body'}: {each.message}" for each in fields))
        self.fields = fields


class InvalidLines(RequestError):
    """Lines of a bulk upload are wrong, so nothing of it was stored.

    Args:
        wrong: Number of wrong lines.
        fields: Problems of the first of them.
        is_whole: Whether the upload was read to its end.
    """

    status = 422
    slug = "invalid-lines"

    def __init__(self, wrong: int, fields: Sequence[FieldError], *, is_whole: bool = True) -> None:
        shown = f"; the first {len(fields)} problems are listed" if wrong > len(fields) else ""
        lines = "1 line is" if wrong == 1 else f"{wrong} lines are"
        super().__init__(f"{lines} wrong, nothing was stored{shown}", headers=None if is_whole else _CLOSE)
        self.fields = fields


class QueueFull(RequestError):
    """The queue has no place left."""

    status = 429
    slug = "queue-full"

    def __init__(self, limit: int, retry_after_s: int) -> None:
        super().__init__(
            f"{limit} requests are waiting already (queue_size); try again later",
            headers={"Retry-After": str(retry_after_s)},
        )


class QueueTooLong(QueueFull):
    """The wait in the queue would take longer than the time budget allows."""

    def __init__(self, retry_after_s: int) -> None:
        detail = (
            "the requests that are waiting take longer than the time budget (budget_ms, deadline_ms); try again later"
        )
        super(QueueFull, self).__init__(detail, headers={"Retry-After": str(retry_after_s)})


class RateLimited(RequestError):
    """Too many requests of one key, or too many wrong keys from one address.

    Args:
        message: Names the limit and its value.
        wait_s: Seconds after which a request can pass.
    """

    status = 429
    slug = "rate-limited"

    def __init__(self, message: str, wait_s: float) -> None:
        super().__init__(message, headers={"Retry-After": str(max(1, ceil(wait_s)))})


class TooManyUploads(RequestError):
    """As many bulk uploads are read as may be in memory at the same time."""

    status = 429
    slug = "too-many-uploads"
    usual_headers = _LATER | _CLOSE

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} bulk uploads are read already (max_bulk_uploads); try again later")


class TooManyPreviews(RequestError):
    """As many previews wait for their turn as may."""

    status = 429
    slug = "too-many-previews"
    usual_headers = _LATER

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} previews wait for the one that runs; try again later")


class HeadTooLarge(RequestError):
    """Request line and headers have more than ``max_bytes`` bytes, or there are more than ``max_headers``."""

    status = 431
    slug = "head-too-large"
    usual_headers = _CLOSE

    def __init__(self, max_bytes: int, max_headers: int) -> None:
        super().__init__(
            f"request line and headers must have at most {max_bytes} bytes together, and {max_headers} headers"
        )


class ClientGone(RequestError):
    """The client closed the connection; nobody reads this."""

    status = 499
    slug = "client-gone"

    def __init__(self) -> None:
        super().__init__("the client closed the connection")


class NotReady(RequestError):
    """No model is loaded to answer with, or the process is about to end."""

    status = 503
    slug = "not-ready"
    usual_headers = _SOON


class TooManyConnections(RequestError):
    """Every connection is taken; those of the reserve answer probes only."""

    status = 503
    slug = "too-many-connections"
    usual_headers = _SOON | _CLOSE

    def __init__(self) -> None:
        super().__init__(
            "too many connections are open (max_connections, max_connections_per_address); try again later"
        )


class DeadlineMissed(RequestError):
    """The time budget ran out before the answer was there."""

    status = 504
    slug = "deadline-missed"

    def __init__(self) -> None:
        super().__init__("there was no answer within the time budget (budget_ms, or deadline_ms of the service)")
