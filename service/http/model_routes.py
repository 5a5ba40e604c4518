"""The endpoint that shows the live model and those of aliases, and how a canary goes."""

from __future__ import annotations

from math import isfinite

from starlette.requests import Request

from model_store.attribution.experiment_counters import VariantAnswers
from service.http.endpoints import Endpoint
from service.schemas.experiment_report import build_comparison, build_guardrail
from service.schemas.models import (
    AliasReport,
    CanaryEnd,
    CanaryEndReport,
    CanaryFigures,
    CanaryReport,
    HealthReport,
    ModelsResponse,
    ShadowReport,
)
from service.second_models.canary_trial import CanaryTrial, Lane, judge
from service.second_models.second_model import SecondModel
from service.second_models.shadow import ShadowFigures
from service.service import Service


async def get_models(service: Service, _: Request) -> ModelsResponse:
    """Show the live model of this replica, those of the aliases candidate and shadow, and how a canary goes."""
    live = service.models.current
    trial = service.canary.trial
    return {
        "live": {"version": live.version if live else None, "problem": service.models.problem},
        "candidate": _alias(service.second_models.candidate),
        "shadow": _alias(service.second_models.shadow),
        "canary": None if trial is None else _canary(trial),
        "comparison": None if service.shadow.figures is None else _comparison(service.shadow.figures),
        "rolled_back": [_end(each) for each in service.canary_ends.newest_first()],
    }


def _alias(model: SecondModel) -> AliasReport | None:
    alias = model.alias
    if alias is None:
        return None
    return {
        "version": alias.version,
        "share": alias.share,
        "since": alias.since.isoformat(timespec="seconds"),
        "state": model.state,
        "problem": model.problem,
        "memory_mb": model.memory_bytes >> 20,
    }


def _canary(trial: CanaryTrial) -> CanaryReport:
    return {
        "version": trial.alias.version,
        "share": trial.alias.share,
        "here": _figures(trial.here),
        "all_replicas": None if trial.everywhere is None else _figures(trial.everywhere),
        "clicks": None if trial.clicked is None else build_comparison(trial.clicked),
    }


def _comparison(found: ShadowFigures) -> ShadowReport:
    return {
        "dropped": found.dropped,
        "overlap": found.overlap,
        "score_shift": found.score_shift,
        "live": _health(found.live),
        "shadow": _health(found.shadow),
    }


def _end(end: CanaryEnd) -> CanaryEndReport:
    return {"version": end.version, "share": end.share, "figure": end.figure, "reason": end.reason, "at": end.at}


def _figures(answers: dict[Lane, VariantAnswers]) -> CanaryFigures:
    return {
        "live": _health(answers["live"]),
        "candidate": _health(answers["candidate"]),
        "guardrails": [build_guardrail(each) for each in judge(answers)],
    }


def _health(answers: VariantAnswers) -> HealthReport:
    found = answers.health()
    is_known = found.p99_ms is not None and isfinite(found.p99_ms)
    return {
        "answers": found.answers,
        "empty_answers": found.empty,
        "errors": found.errors,
        "latency_p99_ms": found.p99_ms if is_known else None,
    }


ENDPOINTS = (Endpoint("GET", "/models", get_models, "admin", "operation"),)
