"""Endpoints of placements: named sets of rules that are stored, shown and deleted."""

from __future__ import annotations

import json
import re

from starlette.requests import Request

from service.access.keys import HEADER
from service.errors import InvalidFields, NoSuchExperiment
from service.field_errors import FieldError
from service.http.body import read_json
from service.http.endpoints import Endpoint, read_query
from service.http.limits import check_limits, placement_bounds
from service.schemas.placements import (
    NAME_PATTERN,
    ONE_PLACEMENT,
    DeletedPlacementResponse,
    ExpectedRevision,
    Placement,
    PlacementResponse,
    PlacementsResponse,
)
from service.service import Service
from service.store.documents import Named


async def put_placement(service: Service, request: Request) -> PlacementResponse:
    """Store a placement, in place of any older one of this name.

    Only fields that are given count. The answer comes once this replica uses it; others follow within a second.
    """
    name = read_name(request)
    expected = read_query(request, ExpectedRevision).revision
    rules = await read_json(request, service.settings, ONE_PLACEMENT, placement_bounds(service.settings))
    check_limits(rules, service.settings)
    await service.range_check.check(rules)
    await _check_experiment(service, rules)
    await _check_scope(service, request, name, rules.experiment)
    return _build_placement(await service.placements.put(name, rules, expected))


async def get_placement(service: Service, request: Request) -> PlacementResponse:
    """Show a placement as this replica uses it."""
    return _build_placement(await service.placements.find(read_name(request)))


async def list_placements(service: Service, _: Request) -> PlacementsResponse:
    """Show all placements as this replica uses them."""
    await service.placements.read_first()
    placements = [_build_placement(each) for each in service.placements.all()]
    return {"revision": service.placements.revision, "placements": placements}


async def delete_placement(service: Service, request: Request) -> DeletedPlacementResponse:
    """Delete a placement. Requests that name it are refused from then on, on other replicas within a second."""
    name = read_name(request)
    expected = read_query(request, ExpectedRevision).revision
    await _check_scope(service, request, name, None)
    return {"name": name, "revision": await service.placements.delete(name, expected)}


def read_name(request: Request) -> str:
    """Return the name in the path of a placement, or of another document.

    Raises:
        InvalidFields: It does not fit the pattern of names.
    """
    name: str = request.path_params["name"]
    if re.fullmatch(NAME_PATTERN, name) is None:
        message = (
            "must be 1 to 64 of the characters a-z, 0-9, dot, hyphen and underscore, and begin with one of a-z, 0-9"
        )
        raise InvalidFields([FieldError("name", message)])
    return name


def check_may_choose_models(service: Service, request: Request) -> None:
    """Refuse a request whose key may not decide which model answers users.

    Raises:
        KeyForbidden: It lacks the scope ``admin``.
    """
    service.gate.check_scope(request.headers.get(HEADER), "admin", "an experiment that names a model")


async def _check_scope(service: Service, request: Request, name: str, after: str | None) -> None:
    """Refuse to let a key that may not choose models begin or end an experiment that does, where a placement is used.

    Whoever leaves the placement's experiment as it is needs no more than for any other change.

    Args:
        service: The service.
        request: The request.
        name: Name of the placement.
        after: Experiment that the placement is to have; ``None`` for none.
    """
    await service.placements.read()  # another replica may have stored it a moment ago
    found = service.placements.known(name)
    before = found and found.content.experiment
    if before == after:
        return

    await service.experiments.read()
    for each in (before, after):
        experiment = service.experiments.known(each) if each is not None else None
        if experiment is not None and experiment.content.names_models:
            check_may_choose_models(service, request)


async def _check_experiment(service: Service, rules: Placement) -> None:
    """Refuse the name of an experiment that does not exist: it would be ignored silently."""
    if rules.experiment is None:
        return
    try:
        await service.experiments.find(rules.experiment)
    except NoSuchExperiment:
        message = "there is no such experiment: PUT /experiments/{name} first"
        raise InvalidFields([FieldError("experiment", message)]) from None


def _build_placement(placement: Named[Placement]) -> PlacementResponse:
    rules = json.loads(placement.payload)
    description = rules.pop("description", "")
    return {"name": placement.name, "revision": placement.revision, "description": description, "rules": rules}


ENDPOINTS = (
    Endpoint("GET", "/placements", list_placements, "read", "placements", problems=(503,)),
    Endpoint(
        "PUT",
        "/placements/{name}",
        put_placement,
        "catalogue",
        "placements",
        problems=(400, 404, 409, 503),
        body=Placement,
        query=ExpectedRevision,
    ),
    Endpoint("GET", "/placements/{name}", get_placement, "read", "placements", problems=(404, 422, 503)),
    Endpoint(
        "DELETE",
        "/placements/{name}",
        delete_placement,
        "catalogue",
        "placements",
        problems=(404, 409, 422, 503),
        query=ExpectedRevision,
    ),
)
