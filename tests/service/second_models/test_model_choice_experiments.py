"""Experiments whose variants name models, through the real app: who answers, what counts, what the report says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from model_store.bundle.bundle import Bundle
from service.engines.base import Engine
from service.engines.fake_engine import FakeEngine
from service.schemas.experiments import Experiment
from service.service import Service
from service.settings import Settings
from tests.service.second_models.test_model_choice import quiet, shop
from tests.support.service_harness import Json, metric, until

pytestmark = pytest.mark.anyio

__all__ = ["quiet"]

TWO = [{"name": "now", "share": 0.5}, {"name": "next", "share": 0.5, "model": "candidate", "rules": {"k": 3}}]
PEOPLE = 240
Ask = Callable[..., Awaitable[int]]
REASONS = ("absent", "failed")


class Failing(FakeEngine):
    """Engine that fails at every request, once it is told to."""

    is_out_of_order = False

    def compute(self, *args: Any) -> Any:
        if self.is_out_of_order:
            raise RuntimeError("out of order")
        return super().compute(*args)

    def opened(self, bundle: Bundle, _: Settings) -> Engine:
        """Open this engine for the second version, and another one for the first."""
        return self if "t1201" in bundle.version else FakeEngine()


async def begin(client: httpx.AsyncClient, variants: list[Json]) -> None:
    assert (await client.put("/experiments/try", json={"variants": variants})).status_code == 200
    assert (await client.put("/placements/home", json={"experiment": "try"})).status_code == 200


async def visit(client: httpx.AsyncClient, people: int = PEOPLE, **given: Any) -> list[Json]:
    asked = [{"user_id": f"u{number}", "history": ["item-1"], "placement": "home", **given} for number in range(people)]
    answers: list[Json] = []
    for start in range(0, people, 30):
        response = await client.post("/recommend/batch", json=asked[start : start + 30])
        assert response.status_code == 200, response.text
        answers += response.json()
    return answers


async def report_of(client: httpx.AsyncClient, service: Service) -> tuple[Json, dict[str, Json]]:
    await service.attribution_upkeep.step()
    report: Json = (await client.get("/experiments/try/report")).json()
    return report, {each["name"]: each for each in report["variants"]}


async def test_each_variant_is_answered_by_its_model_and_the_report_names_the_versions(tmp_path: Path) -> None:
    async with shop(tmp_path, "candidate", share=0) as (client, service, _, versions):
        await begin(client, TWO)
        answers = await visit(client)
        model_of = {"now": versions["live"], "next": versions["candidate"]}
        for answer in answers:
            assert answer["model_version"] == model_of[answer["experiment"]["variant"]]
            assert len(answer["items"]) == (3 if answer["experiment"]["variant"] == "next" else 10)
        assert [each["experiment"] for each in await visit(client)] == [each["experiment"] for each in answers]

        report, variants = await report_of(client, service)
    counts = {name: sum(each["experiment"]["variant"] == name for each in answers) for name in variants}
    assert min(counts.values()) >= 90
    for name, model in (("now", "live"), ("next", "candidate")):
        assert (variants[name]["model"], variants[name]["fallbacks"]) == (model, 0)
        assert variants[name]["versions"] == [{"version": model_of[name], "answers": 2 * counts[name]}]
        assert variants[name]["subjects"] == counts[name]
    assert "fallback_share" not in {each["figure"] for each in report["guardrails"]}


@pytest.mark.parametrize("is_removed", [True, False])
async def test_while_the_candidate_does_not_answer_the_live_one_does_which_is_told(
    tmp_path: Path, is_removed: bool
) -> None:
    engine = Failing()
    async with shop(tmp_path, "candidate", share=0, opener=engine.opened) as (client, service, store, versions):
        await begin(client, TWO)
        before = await visit(client)
        if is_removed:
            store.remove_alias("candidate")
            await until(lambda: service.second_models.candidate.current is None)
        else:
            engine.is_out_of_order = True

        after = await visit(client)
        assert [each["experiment"] for each in after] == [each["experiment"] for each in before]
        assert {each["model_version"] for each in after} == {versions["live"]}

        report, variants = await report_of(client, service)
        told = {reason: metric(service, "etegrec_variant_fallbacks_total", reason=reason) for reason in REASONS}
    count = sum(each["experiment"]["variant"] == "next" for each in before)
    assert told == {"absent": count * is_removed, "failed": count * (not is_removed)}
    assert (variants["next"]["answers"], variants["next"]["fallbacks"]) == (2 * count, count)
    assert (variants["next"]["errors"], variants["now"]["fallbacks"]) == (0, 0)
    assert sorted(each["version"] for each in variants["next"]["versions"]) == sorted(versions.values())
    # Those who got the live model's answer stay in their variant, so its size is that of its share.
    assert report["sample_ratio"]["is_as_designed"]
    [fallen] = [each for each in report["guardrails"] if each["figure"] == "fallback_share"]
    assert fallen == {"variant": "next", "figure": "fallback_share", "control": None, "value": 0.5, "holds": False}
    assert report["verdict_kind"] == "guardrail"
    assert "next: the live model gave too many of its answers" in report["verdict"]


async def test_the_experiment_decides_where_a_canary_runs_as_well(tmp_path: Path) -> None:
    async with shop(tmp_path, "candidate", share=0.5) as (client, service, _, versions):
        await begin(client, TWO)
        for answer in await visit(client):
            expected = versions["candidate" if answer["experiment"]["variant"] == "next" else "live"]
            assert answer["model_version"] == expected
        trial = service.canary.trial
        assert trial is not None
        assert [trial.here[lane].answers for lane in ("live", "candidate")] == [0, 0]

        # Elsewhere the canary goes on, for the same people.
        elsewhere = await visit(client, 40, placement=None)
        assert {each["model_version"] for each in elsewhere} == set(versions.values())
        assert sum(trial.here[lane].answers for lane in ("live", "candidate")) == 40


async def test_a_canary_goes_on_in_an_experiment_that_names_no_model(tmp_path: Path) -> None:
    async with shop(tmp_path, "candidate", share=0.5) as (client, service, _, versions):
        await begin(client, [{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5, "rules": {"k": 2}}])
        answers = await visit(client)
        for variant in "ab":
            of_variant = {each["model_version"] for each in answers if each["experiment"]["variant"] == variant}
            assert of_variant == set(versions.values())
        _, variants = await report_of(client, service)
    assert all(each["model"] is None and len(each["versions"]) == 2 for each in variants.values())


async def test_where_nobody_is_named_the_model_of_the_control_answers_uncounted(tmp_path: Path) -> None:
    async with shop(tmp_path, "candidate", share=0) as (client, service, _, versions):
        await begin(client, [{"name": "next", "share": 0.5, "model": "candidate"}, {"name": "now", "share": 0.5}])
        answer = (await client.post("/recommend", json={"history": ["item-1"], "placement": "home"})).json()
        assert (answer["model_version"], answer["experiment"]) == (versions["candidate"], None)
        _, variants = await report_of(client, service)
    assert {each["answers"] for each in variants.values()} == {0}


async def test_only_a_key_of_scope_admin_stores_one_and_its_models_stay(tmp_path: Path) -> None:
    keys: Json = {"write_keys": "writer-key-1", "admin_keys": "admin-key-1"}
    admin = {"X-API-Key": "admin-key-1"}
    async with shop(tmp_path, **keys) as (client, _, _, _):

        async def put(variants: list[Json], key: str) -> httpx.Response:
            return await client.put("/experiments/try", json={"variants": variants}, headers={"X-API-Key": key})

        refused = await put(TWO, "writer-key-1")
        assert refused.status_code == 403
        assert "lacks the scope admin, which an experiment that names a model needs" in refused.json()["detail"]
        stored = (await put(TWO, "admin-key-1")).json()
        assert stored["experiment"]["variants"][1]["model"] == "candidate"

        changed = await put([TWO[0], {**TWO[1], "model": "live"}], "admin-key-1")
        assert (changed.status_code, "keeps its variants" in changed.json()["detail"]) == (409, True)
        wrong = await client.put(
            "/experiments/other", json={"variants": [TWO[0], {**TWO[1], "model": "shadow"}]}, headers=admin
        )
        assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "variants.1.model")


ONE_KIND: list[Json] = [{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5, "rules": {"k": 2}}]
KEYS: Json = {"write_keys": "writer-key-1", "admin_keys": "admin-key-1"}


@asynccontextmanager
async def two_people(folder: Path) -> AsyncIterator[tuple[Ask, Ask, Service]]:
    """Yield calls with a key of scope ``admin`` and with one that has all scopes but this, which return statuses."""
    async with shop(folder, **KEYS) as (client, service, _, _):

        def with_key(key: str) -> Ask:
            async def send(method: str, path: str, body: Json | None = None) -> int:
                response = await client.request(method, path, json=body, headers={"X-API-Key": key})
                if response.status_code == 403:
                    reason = "lacks the scope admin, which an experiment that names a model needs"
                    assert reason in response.json()["detail"]
                return response.status_code

            return send

        admin = with_key("admin-key-1")
        for name, variants in (("models", TWO), ("rules", ONE_KIND)):
            body = {"variants": variants, "starts": 4_000_000_000}
            assert await admin("PUT", f"/experiments/{name}", body) == 200
        yield admin, with_key("writer-key-1"), service


async def test_only_a_key_of_scope_admin_changes_or_deletes_one(tmp_path: Path) -> None:
    async with two_people(tmp_path) as (admin, writer, _):
        for body in ({"variants": ONE_KIND}, {"variants": TWO, "description": "new"}):
            assert await writer("PUT", "/experiments/models", body) == 403
        assert await writer("DELETE", "/experiments/models?force=true") == 403
        assert await admin("DELETE", "/experiments/models") == 200

        # One that names no model is a matter of rules, as placements are.
        assert await writer("PUT", "/experiments/rules", {"variants": ONE_KIND, "description": "new"}) == 200
        assert await writer("DELETE", "/experiments/rules?force=true") == 200
        assert await writer("DELETE", "/experiments/rules") == 404


async def test_only_a_key_of_scope_admin_begins_or_ends_one_where_a_placement_is_used(tmp_path: Path) -> None:
    async with two_people(tmp_path) as (admin, writer, _):
        assert await writer("PUT", "/placements/home", {"experiment": "rules"}) == 200
        assert await writer("PUT", "/placements/home", {"experiment": "models"}) == 403
        assert await admin("PUT", "/placements/home", {"experiment": "models"}) == 200

        assert await writer("PUT", "/placements/home", {"experiment": "models", "k": 4}) == 200, "it stays as it is"
        for other in ({"experiment": "rules"}, {"k": 4}):
            assert await writer("PUT", "/placements/home", other) == 403
        assert await writer("DELETE", "/placements/home") == 403

        assert await admin("PUT", "/placements/home", {"experiment": "rules"}) == 200
        assert await writer("DELETE", "/placements/home") == 200


async def test_what_another_replica_stored_a_moment_ago_is_protected_at_once(tmp_path: Path) -> None:
    async with two_people(tmp_path) as (_, writer, service):
        experiment = Experiment.model_validate({"variants": TWO, "starts": 4_000_000_000})
        stored = service.store_client.store
        await stored.experiments.put("new", experiment.payload(), service.experiments.revision, None)
        assert await writer("DELETE", "/experiments/new") == 403

        await stored.placements.put("home", b'{"experiment": "new"}', service.placements.revision, None)
        assert await writer("DELETE", "/placements/home") == 403
