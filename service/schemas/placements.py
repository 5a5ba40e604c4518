"""Placements: named sets of rules, and what is answered about them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from service.schemas.rules import Rules
from service.schemas.types import Query

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
"""Pattern of the names of placements."""

PlacementName = Annotated[str, Field(pattern=NAME_PATTERN)]
"""Name of a placement."""


class Placement(Rules):
    """Body of `PUT /placements/{name}`: rules that hold where a request gives none. Only given fields count."""

    description: str = Field("", max_length=1000, description="what the placement is for, for people")
    experiment: PlacementName | None = Field(
        None, description="name of an experiment, whose variants' rules hold in place of these"
    )

    def payload(self) -> bytes:
        """Return what is stored: the given fields, as JSON."""
        return self.model_dump_json(exclude_unset=True).encode()


ONE_PLACEMENT: TypeAdapter[Placement] = TypeAdapter(Placement)
"""Body of `PUT /placements/{name}`."""


class ExpectedRevision(Query):
    """Query of writes."""

    revision: int | None = Field(
        None,
        ge=0,
        description="write only if what has this name has this revision; 0: only if there is none of this name",
    )


class UsedPlacement(TypedDict):
    """The placement whose rules held for an answer."""

    name: str
    revision: int


class PlacementResponse(TypedDict):
    """A placement as it is stored."""

    name: str
    revision: Annotated[int, Field(description="number of the write that made it; each write of any placement counts")]
    description: str
    rules: Annotated[dict[str, Any], Field(description="the fields that were given")]


class PlacementsResponse(TypedDict):
    """Answer of `GET /placements`."""

    revision: Annotated[int, Field(description="number of the newest write of any placement")]
    placements: Annotated[list[PlacementResponse], Field(description="by name")]


class DeletedPlacementResponse(TypedDict):
    """Answer of `DELETE /placements/{name}`."""

    name: str
    revision: Annotated[int, Field(description="number of this write")]
