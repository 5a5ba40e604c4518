"""Details of a refused request."""

from typing import NotRequired, TypedDict


class FieldProblem(TypedDict):
    """A wrong field of a request, and what it takes."""

    field: str
    message: str
    expected: NotRequired[str | None]
    limit: NotRequired[float | None]
