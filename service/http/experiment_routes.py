"""Endpoints of experiments: stored, shown, deleted, and reported on."""

from __future__ import annotations

import json
import time

from starlette.requests import Request

from model_store.attribution.counters import day_of, days_until
from service.experiments.experiments import counted_as
from service.http.body import read_json
from service.http.endpoints import Endpoint, read_query
from service.http.limits import check_limits, experiment_bounds
from service.http.placement_routes import check_may_choose_models, read_name
from service.schemas.experiment_report import ExperimentReportResponse, build_experiment_report
from service.schemas.experiments import (
    ONE_EXPERIMENT,
    DeletedExperimentResponse,
    Experiment,
    ExperimentDeletion,
    ExperimentResponse,
    ExperimentsResponse,
    Status,
)
from service.schemas.placements import ExpectedRevision
from service.service import Service
from service.store.documents import Named

_DAY_S = 86_400


async def put_experiment(service: Service, request: Request) -> ExperimentResponse:
    """Store an experiment. Placements name it in their field `experiment`.

    Once it has begun, only `ends` and `description` can change. The answer comes once this replica uses it; others
    follow within a second.
    """
    name = read_name(request)
    expected = read_query(request, ExpectedRevision).revision
    experiment = await read_json(request, service.settings, ONE_EXPERIMENT, experiment_bounds(service.settings))
    await _check_scope(service, request, name, experiment)
    for place, variant in enumerate(experiment.variants):
        check_limits(variant.rules, service.settings, f"variants.{place}.rules.")
        await service.range_check.check(variant.rules)
    return _build_experiment(await service.experiments.put(name, experiment, expected))


async def get_experiment(service: Service, request: Request) -> ExperimentResponse:
    """Show an experiment as this replica uses it."""
    return _build_experiment(await service.experiments.find(read_name(request)))


async def list_experiments(service: Service, _: Request) -> ExperimentsResponse:
    """Show all experiments as this replica uses them."""
    await service.experiments.read_first()
    experiments = [_build_experiment(each) for each in service.experiments.all()]
    return {"revision": service.experiments.revision, "experiments": experiments}


async def delete_experiment(service: Service, request: Request) -> DeletedExperimentResponse:
    """Delete an experiment, with what was counted of its users and sessions; placements go on without it."""
    name = read_name(request)
    query = read_query(request, ExperimentDeletion)
    await _check_scope(service, request, name, None)
    found = await service.experiments.check_deletion(name, force=query.force)
    revision = await service.experiments.delete(name, query.revision)
    await service.store_client.store.subjects.delete(counted_as(found), with_sums=True)
    return {"name": name, "revision": revision}


async def get_experiment_report(service: Service, request: Request) -> ExperimentReportResponse:
    """Show what each variant of an experiment led to, whether they differ, and whether the figures can be trusted.

    The intervals hold however often one looks. Answers are counted about a second after they were given.
    """
    found = await service.experiments.find(read_name(request))
    experiment = found.content
    now = int(time.time())
    first = experiment.starts or 0
    last = now if experiment.ends is None else min(now, experiment.ends)

    count = min(service.settings.counters_days, max(1, last // _DAY_S - first // _DAY_S + 1))
    days = [day for day in days_until(last, count) if day >= day_of(first)]
    store = service.store_client.store
    label = counted_as(found)
    counters = await store.counters.read(days)
    sums = await store.subjects.sums(label)
    names = await store.counters.names()
    return build_experiment_report(found.name, experiment, _status(experiment), label, days, counters, sums, names)


async def _check_scope(service: Service, request: Request, name: str, after: Experiment | None) -> None:
    """Refuse to let a key that may not choose models store, change or delete an experiment that does.

    Args:
        service: The service.
        request: The request.
        name: Name of the experiment.
        after: The experiment that is to have this name; ``None`` for none.
    """
    if after is not None and after.names_models:
        check_may_choose_models(service, request)
        return
    await service.experiments.read()  # another replica may have stored it a moment ago
    before = service.experiments.known(name)
    if before is not None and before.content.names_models:
        check_may_choose_models(service, request)


def _build_experiment(found: Named[Experiment]) -> ExperimentResponse:
    return {
        "name": found.name,
        "revision": found.revision,
        "status": _status(found.content),
        "experiment": json.loads(found.payload),
    }


def _status(experiment: Experiment) -> Status:
    now = time.time()
    if experiment.runs(now):
        return "running"
    return "planned" if (experiment.starts or 0) > now else "ended"


ENDPOINTS = (
    Endpoint("GET", "/experiments", list_experiments, "read", "experiments", problems=(503,)),
    Endpoint(
        "PUT",
        "/experiments/{name}",
        put_experiment,
        "catalogue",
        "experiments",
        problems=(400, 404, 409, 503),
        body=Experiment,
        query=ExpectedRevision,
    ),
    Endpoint("GET", "/experiments/{name}", get_experiment, "read", "experiments", problems=(404, 422, 503)),
    Endpoint(
        "DELETE",
        "/experiments/{name}",
        delete_experiment,
        "catalogue",
        "experiments",
        problems=(404, 409, 422, 503),
        query=ExperimentDeletion,
    ),
    Endpoint(
        "GET", "/experiments/{name}/report", get_experiment_report, "admin", "experiments", problems=(404, 422, 503)
    ),
)
