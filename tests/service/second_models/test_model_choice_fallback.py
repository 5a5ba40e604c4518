"""A candidate that fails is replaced by the live model: one deadline for both, and all that the asker waited counts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NoReturn

import pytest

from model_store.experiments.assignment import Assignment
from service.engines.base import SearchRequest, SearchResult
from service.errors import DeadlineMissed, InvalidFields
from service.field_errors import FieldError
from service.models.slot import ModelSlot
from service.schemas.recommend import RecommendRequest
from service.service import Service
from tests.service.second_models.test_model_choice import quiet, shop
from tests.service.second_models.test_model_choice_experiments import REASONS, TWO, Failing, begin
from tests.support.service_harness import Json, metric

pytestmark = pytest.mark.anyio

__all__ = ["quiet"]

SLOW_S = 0.2


class SlowlyFailing(Failing):
    """Engine that takes its time before it fails."""

    def compute(self, *args: Any) -> Any:
        if self.is_out_of_order:
            time.sleep(SLOW_S)
        return super().compute(*args)


def user_of_candidate(service: Service) -> str:
    """Return a user whom the canary gives the candidate."""
    trial = service.canary.trial
    assert trial is not None
    return next(user for user in map(str, range(1000)) if trial.lane_of(user, None) == "candidate")


def record_budgets(service: Service, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list that takes the seconds which each search of both models is given."""
    budgets: list[float] = []

    def record(slot: ModelSlot) -> None:
        with slot.lease() as serving:
            submit = serving.batcher.submit

        async def recorded(request: SearchRequest, budget_s: float) -> SearchResult:
            budgets.append(budget_s)
            return await submit(request, budget_s)

        monkeypatch.setattr(serving.batcher, "submit", recorded)

    record(service.models)
    record(service.second_models.candidate)
    return budgets


@pytest.mark.parametrize("is_canary", [True, False])
async def test_both_models_have_one_deadline_and_the_time_of_both_is_measured(
    tmp_path: Path, is_canary: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = SlowlyFailing()
    share = 0.5 if is_canary else 0
    async with shop(tmp_path, "candidate", share=share, opener=engine.opened) as (client, service, _, versions):
        asked: Json = {"history": ["item-1"]}
        if is_canary:
            asked |= {"user_id": user_of_candidate(service)}
        else:  # where nobody is named, the model of the control answers
            await begin(client, [TWO[1], TWO[0]])
            asked |= {"placement": "home"}

        engine.is_out_of_order = True
        budgets = record_budgets(service, monkeypatch)
        answer = (await client.post("/recommend", json=asked)).json()

    assert answer["model_version"] == versions["live"]
    assert answer["took_ms"] >= SLOW_S * 1000
    by_candidate, by_live = budgets
    assert by_live <= by_candidate - SLOW_S


LIVE_FAILURES = [(DeadlineMissed(), 1), (RuntimeError(), 1), (InvalidFields([FieldError("k", "is wrong")]), 0)]


@pytest.mark.parametrize(("failure", "errors"), LIVE_FAILURES, ids=lambda given: type(given).__name__)
async def test_what_the_live_model_cannot_mend_is_the_candidates_error_unless_the_request_is_wrong(
    tmp_path: Path, failure: Exception, errors: int
) -> None:
    async with shop(tmp_path, "candidate") as (_, service, _, _):
        trial = service.canary.trial
        assert trial is not None

        async def ask(slot: ModelSlot, _: Assignment | None) -> NoReturn:
            raise failure if slot is service.models else RuntimeError("the candidate is out of order")

        request = RecommendRequest(user_id=user_of_candidate(service))
        with pytest.raises(type(failure)):
            await service.canary.answer(request, None, ask)
        assert [trial.here[lane].errors for lane in ("candidate", "live")] == [errors, 0]


async def test_a_wrong_request_is_no_fallback(tmp_path: Path) -> None:
    async with shop(tmp_path, "candidate", share=0) as (client, service, _, _):
        await begin(client, [TWO[1], TWO[0]])
        wrong = {"placement": "home", "filter": {"attributes": [{"field": "no-such", "gte": 1}]}}
        assert (await client.post("/recommend", json=wrong)).status_code == 422
        told = [metric(service, "etegrec_variant_fallbacks_total", reason=reason) for reason in REASONS]
    assert told == [0, 0]
