"""Requests that name a model, through the real app: who answers, what counts, and who may ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import structlog

from model_store.bundle.aliases import AliasName
from model_store.bundle.bundle import Bundle
from model_store.bundle.registry import ModelStore
from service.engines.base import Engine
from service.engines.fake_engine import FakeEngine
from service.second_models.second_model import SecondModel
from service.service import Service
from service.settings import Settings
from tests.service.attribution.test_code_counts import code_attribution
from tests.support.bundles import publish_small
from tests.support.service_harness import Json, live_store, metric, serving, until

pytestmark = pytest.mark.anyio

ASKED = {"user_id": "u", "history": ["item-1"], "k": 5}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Print no tracebacks: one of a whole service takes seconds."""
    with structlog.testing.capture_logs():
        yield


class Shop(NamedTuple):
    """A service with a live version, and others with aliases."""

    client: httpx.AsyncClient
    service: Service
    store: ModelStore
    versions: dict[str, str]  # by what a request calls them


@asynccontextmanager
async def shop(
    folder: Path, *aliases: AliasName, share: float = 0.5, opener: Any = None, **given: Any
) -> AsyncIterator[Shop]:
    """Serve a live version; give others these aliases and wait until they are loaded."""
    versions = {"live": live_store(folder, 0)}
    store = ModelStore(folder)
    async with serving(folder, opener or (lambda *_: FakeEngine()), **given) as (client, service):
        for seed, alias in enumerate(aliases, 1):
            versions[alias] = publish_small(store, seed)
            store.set_alias(alias, versions[alias], share)
        await until(lambda: all(model_of(service, alias).current is not None for alias in aliases))
        if "candidate" in aliases and share:
            await until(lambda: service.canary.trial is not None)
        yield Shop(client, service, store, versions)


def model_of(service: Service, alias: AliasName) -> SecondModel:
    second = service.second_models
    return second.candidate if alias == "candidate" else second.shadow


async def answered(client: httpx.AsyncClient, **given: Any) -> Json:
    response = await client.post("/recommend", json={**ASKED, **given})
    assert response.status_code == 200, response.text
    return dict(response.json())


def ids(answer: Json) -> Sequence[str]:
    return [each["item_id"] for each in answer["items"]]


async def test_the_named_model_answers_whoever_asks(tmp_path: Path) -> None:
    async with shop(tmp_path, "candidate", "shadow") as (client, _, _, versions):
        answers = {name: await answered(client, model=name) for name in versions}
        assert {name: answer["model_version"] for name, answer in answers.items()} == versions
        assert len({tuple(ids(answer)) for answer in answers.values()}) == 3

        batch = [{**ASKED, "model": name} for name in versions]
        together = (await client.post("/recommend/batch", json=batch)).json()
        assert [ids(each) for each in together] == [ids(answers[name]) for name in versions]


async def test_it_is_a_look_that_counts_nowhere(tmp_path: Path) -> None:
    async with shop(tmp_path, "candidate", "shadow", share=0.5) as (client, service, _, versions):
        variants = [{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5, "rules": {"k": 2}}]
        assert (await client.put("/experiments/try", json={"variants": variants})).status_code == 200
        assert (await client.put("/placements/home", json={"experiment": "try", "k": 4})).status_code == 200
        trial = service.canary.trial
        assert trial is not None

        async def visit(model: str | None) -> list[Json]:
            asked = {"history": ["item-1"], "placement": "home", "model": model}
            body = [{**asked, "user_id": f"u{number}"} for number in range(20)]
            response = await client.post("/recommend/batch", json=body)
            assert response.status_code == 200, response.text
            return list(response.json())

        async def counted() -> list[int]:
            """Return whether the shadow was asked, answers of canary, experiment and versions, items by code, users."""
            codes = await code_attribution(client, service)
            report = (await client.get("/experiments/try/report")).json()
            [day] = (await client.get("/attribution?days=1")).json()["days"]
            return [
                int(service.shadow.figures is not None),  # a request is offered before it is answered
                sum(trial.here[lane].answers for lane in ("live", "candidate")),
                sum(each["answers"] for each in report["variants"]),
                sum(row["answers"] for row in day["versions"]),
                codes["shown"],
                len(service.recent_users.newest(100)),
            ]

        for name, version in versions.items():
            for answer in await visit(name):
                assert (answer["model_version"], answer["experiment"], len(answer["items"])) == (version, None, 4)
                assert answer["attribution"] is None, "events that come of it cannot count either"
        assert await counted() == [0, 0, 0, 0, 0, 0]

        # All of this can count: it does for those who name no model.
        items = sum(len(each["items"]) for each in await visit(None) if each["model_version"] == versions["live"])
        assert await counted() == [1, 20, 20, 20, items, 20]


async def test_what_it_shows_is_not_left_out_of_the_next_answer(tmp_path: Path) -> None:
    async with shop(tmp_path, "candidate", share=0) as (client, _, _, _):
        rule: Json = {"exclude_shown": {"answers": 100}}
        shown = ids(await answered(client, **rule))
        named = [await answered(client, **rule, model=name) for name in ("live", "live", "candidate")]
        assert ids(named[0]) == ids(named[1])
        for answer in named:
            assert len(answer["items"]) == 5
            assert not set(ids(answer)) & set(shown), "what the user was shown counts all the same"
        assert ids(await answered(client, **rule)) == ids(named[0])


async def test_each_model_has_answers_of_its_own_in_the_cache(tmp_path: Path) -> None:
    async with shop(tmp_path, "candidate", "shadow", result_cache_entries=8) as (client, service, _, versions):
        first = {name: await answered(client, model=name) for name in versions}
        again = {name: await answered(client, model=name) for name in versions}
        assert {answer["served_by"] for answer in first.values()} == {"model"}
        assert {answer["served_by"] for answer in again.values()} == {"cache"}
        assert [ids(answer) for answer in again.values()] == [ids(answer) for answer in first.values()]
        assert metric(service, "etegrec_result_cache_lookups_total", result="hit") == 3


async def test_an_alias_without_a_version_is_not_found(tmp_path: Path) -> None:
    async with shop(tmp_path) as (client, _, _, _):
        for name in ("candidate", "shadow"):
            response = await client.post("/recommend", json={**ASKED, "model": name})
            assert response.status_code == 404
            problem = response.json()
            assert problem["type"] == "urn:etegrec:problem:no-such-model"
            assert f"etegrec-models alias {name} VERSION" in problem["detail"]
        wrong = await client.post("/recommend", json={**ASKED, "model": "newest"})
        assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "model")
        assert (await answered(client, model="live"))["items"]


async def test_a_version_that_is_not_loaded_here_is_told_with_its_state(tmp_path: Path) -> None:
    def opener(bundle: Bundle, _: Settings) -> Engine:
        if "t1201" in bundle.version:
            raise RuntimeError("out of order")
        return FakeEngine()

    async with shop(tmp_path, opener=opener) as (client, service, store, _):
        version = publish_small(store, 1)
        store.set_alias("candidate", version, 0.1)
        await until(lambda: service.second_models.candidate.state == "refused")
        response = await client.post("/recommend", json={**ASKED, "model": "candidate"})
        assert (response.status_code, response.json()["type"]) == (409, "urn:etegrec:problem:model-not-loaded")
        assert "its state is refused: " in response.json()["detail"]
        assert version in response.json()["detail"]


async def test_a_named_model_that_fails_is_not_replaced_by_another(tmp_path: Path) -> None:
    class Failing(FakeEngine):
        is_ready = False

        def compute(self, *args: Any) -> Any:
            if self.is_ready:
                raise RuntimeError("out of order")
            return super().compute(*args)

    engine = Failing()

    def opener(bundle: Bundle, _: Settings) -> Engine:
        return engine if "t1201" in bundle.version else FakeEngine()

    async with shop(tmp_path, "candidate", opener=opener) as (client, service, _, _):
        engine.is_ready = True
        response = await client.post("/recommend", json={**ASKED, "model": "candidate"})
        assert response.status_code == 500
        trial = service.canary.trial
        assert trial is not None
        assert trial.here["candidate"].errors == 0


async def test_only_a_key_of_scope_admin_names_a_model(tmp_path: Path) -> None:
    keys: Json = {"read_keys": "reader-key-1", "write_keys": "writer-key-1", "admin_keys": "admin-key-1"}
    async with shop(tmp_path, **keys) as (client, _, _, _):
        for name, expected in (("live", 200), ("candidate", 404), ("shadow", 404)):
            for key, status in (("reader-key-1", 403), ("writer-key-1", 403), ("admin-key-1", expected)):
                asked = {**ASKED, "model": name}
                one, many = await asyncio.gather(
                    client.post("/recommend", json=asked, headers={"X-API-Key": key}),
                    client.post("/recommend/batch", json=[ASKED, asked], headers={"X-API-Key": key}),
                )
                assert (one.status_code, many.status_code) == (status, status)
                if status == 403:
                    assert "lacks the scope admin, which a request that names a model needs" in one.json()["detail"]
        asked = {**ASKED, "model": None}
        assert (await client.post("/recommend", json=asked, headers={"X-API-Key": "reader-key-1"})).status_code == 200
