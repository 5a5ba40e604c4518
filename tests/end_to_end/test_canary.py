"""A canary through the real app: a model that does worse is rolled back by itself, one that does not stays."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import structlog

from model_store.bundle.bundle import Bundle
from model_store.bundle.registry import ModelStore
from model_store.catalogue.catalogue import Catalogue
from model_store.search.interface import SearchInputs, SearchOutputs
from service.app import create_app
from service.engines.base import Engine
from service.engines.fake_engine import FakeEngine
from service.models.loading import EngineOpener
from service.service import Service
from service.settings import Settings
from tests.support.bundles import publish_small
from tests.support.flaky_store import FlakyStore
from tests.support.service_harness import Json, fast_settings, live_store, metric, running, serving, until

pytestmark = pytest.mark.anyio

SHARE = 0.5


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    """Keep what is logged: to print a traceback for each failed batch would take a minute."""
    with structlog.testing.capture_logs() as entries:
        yield entries


class Failing(FakeEngine):
    """Engine that fails at every request, once its goldens are replayed."""

    is_ready = False

    def compute(self, inputs: SearchInputs, catalogue: Catalogue) -> SearchOutputs:
        if self.is_ready:
            raise RuntimeError("out of order")
        return super().compute(inputs, catalogue)


class Silent(Failing):
    """Engine that finds nothing."""

    def compute(self, inputs: SearchInputs, catalogue: Catalogue) -> SearchOutputs:
        found = FakeEngine.compute(self, inputs, catalogue)
        if self.is_ready:
            found.leaves[:] = -1
            found.log_prob[:] = -np.inf
        return found


class Slow(Failing):
    """Engine that takes three seconds: more than a loaded machine makes of some milliseconds."""

    def compute(self, inputs: SearchInputs, catalogue: Catalogue) -> SearchOutputs:
        if self.is_ready:
            time.sleep(3)
        return FakeEngine.compute(self, inputs, catalogue)


def opener_of(version: str, engine: FakeEngine) -> EngineOpener:
    """Return an opener that gives one version this engine, and the others one that works."""

    def opener(bundle: Bundle, _: Settings) -> Engine:
        return engine if bundle.version == version else FakeEngine()

    return opener


def two_versions(folder: Path) -> tuple[ModelStore, str, str]:
    """Publish a live version and another one."""
    live = live_store(folder, 0)
    store = ModelStore(folder)
    return store, live, publish_small(store, 1)


async def begin(service: Service, store: ModelStore, version: str) -> None:
    """Make a version the candidate, and wait until its trial runs."""
    store.set_alias("candidate", version, SHARE)
    await until(lambda: service.canary.trial is not None)


async def ask(client: httpx.AsyncClient, count: int, **given: Any) -> list[Json]:
    """Ask for users u0, u1 …; all must be answered."""
    answers = []
    for start in range(0, count, 20):
        numbers = range(start, min(count, start + 20))
        asked = [client.post("/recommend", json={"user_id": f"u{n}", "history": ["item-1"], **given}) for n in numbers]
        for response in await asyncio.gather(*asked):
            assert response.status_code == 200, response.text
            answers.append(response.json())
    return answers


async def test_a_good_candidate_answers_its_share_the_same_users_again_and_stays(tmp_path: Path) -> None:
    store, live, other = two_versions(tmp_path)
    async with serving(tmp_path) as (client, service):
        assert (await client.get("/models")).json()["candidate"] is None
        assert {each["model_version"] for each in await ask(client, 20)} == {live}
        await begin(service, store, other)

        first = [each["model_version"] for each in await ask(client, 400)]
        again = [each["model_version"] for each in await ask(client, 400)]
        assert first == again
        assert 140 < first.count(other) < 260
        assert {each["experiment"] for each in await ask(client, 20)} == {None}
        anonymous = (await client.post("/recommend", json={"history": ["item-1"]})).json()
        assert anonymous["model_version"] == live

        await service.canary.step()
        shown = (await client.get("/models")).json()
    assert shown["candidate"]["state"] == "serving"
    assert (shown["canary"]["version"], shown["rolled_back"]) == (other, [])
    assert shown["canary"]["here"]["candidate"]["answers"] + shown["canary"]["here"]["live"]["answers"] == 820
    assert store.aliases()["candidate"].version == other


@pytest.mark.parametrize(
    ("engine", "figure", "words"),
    [
        (Failing(), "error_share", "too many requests fail: 100.00 %"),
        (Silent(), "empty_share", "too many answers are empty: 100.00 %"),
    ],
)
async def test_a_candidate_that_does_worse_is_rolled_back_with_the_reason(
    tmp_path: Path, logged: list[MutableMapping[str, Any]], engine: Failing, figure: str, words: str
) -> None:
    store, live, other = two_versions(tmp_path)
    async with serving(tmp_path, opener_of(other, engine)) as (client, service):
        await begin(service, store, other)
        engine.is_ready = True
        asked = asyncio.create_task(ask(client, 200))
        await until(lambda: service.canary.trial is None)
        await asked
        await until(lambda: service.second_models.candidate.current is None)
        await until(lambda: "candidate" not in store.aliases())

        assert {each["model_version"] for each in await ask(client, 40)} == {live}
        shown = (await client.get("/models")).json()
        assert metric(service, "etegrec_canary_rollbacks_total", figure=figure) == 1
        assert metric(service, "etegrec_alias_info", alias="candidate", version=other) == 0
    [end] = shown["rolled_back"]
    assert (end["version"], end["figure"]) == (other, figure)
    assert words in end["reason"]
    assert shown["live"]["version"] == live
    assert words in store.withheld()[other].words
    assert store.live() == live
    [entry] = [each for each in logged if each["event"] == "canary_rolled_back"]
    assert (entry["version"], entry["log_level"], entry["reason"]) == (other, "error", end["reason"])


async def test_a_candidate_that_is_slower_is_rolled_back(tmp_path: Path) -> None:
    store, _, other = two_versions(tmp_path)
    engine = Slow()
    async with serving(tmp_path, opener_of(other, engine)) as (client, service):
        await begin(service, store, other)
        trial = service.canary.trial
        assert trial is not None
        lanes = [trial.lane_of(f"u{number}", None) for number in range(90)]
        assert min(lanes.count("live"), lanes.count("candidate")) >= 30

        # One after another, so that none waits for others: the live version must be quick.
        asked = [{"user_id": f"u{number}", "history": ["item-1"]} for number in range(90)]
        for body in (body for body, lane in zip(asked, lanes, strict=True) if lane == "live"):
            assert (await client.post("/recommend", json=body)).status_code == 200
        engine.is_ready = True
        slow = [client.post("/recommend", json=body) for body, lane in zip(asked, lanes, strict=True) if lane != "live"]
        assert {response.status_code for response in await asyncio.gather(*slow)} == {200}

        await until(lambda: service.canary.trial is None)
        [end] = (await client.get("/models")).json()["rolled_back"]
    assert (end["version"], end["figure"]) == (other, "latency_p99_ms")
    assert "it answers too slowly" in end["reason"]


async def test_a_model_store_that_is_read_only_keeps_the_alias_and_the_rollback_holds_after_a_restart(
    tmp_path: Path, logged: list[MutableMapping[str, Any]]
) -> None:
    store, live, other = two_versions(tmp_path)
    engine = Failing()
    async with serving(tmp_path, opener_of(other, engine)) as (client, service):
        await begin(service, store, other)
        with store.lock():  # nobody else can write now
            engine.is_ready = True
            await ask(client, 200)
            await until(lambda: service.canary.trial is None)
            await until(lambda: service.second_models.candidate.state == "ended")
            await until(lambda: any(each["event"] == "canary_not_marked_in_model_store" for each in logged))
    assert store.aliases()["candidate"].version == other

    async with serving(tmp_path, opener_of(other, engine)) as (client, service):
        await until(lambda: service.second_models.candidate.state == "ended")
        assert {each["model_version"] for each in await ask(client, 40)} == {live}
        assert (await client.get("/models")).json()["rolled_back"][0]["version"] == other

        engine.is_ready = False  # it is mended, and the operator tries it again
        await begin(service, store, other)
        assert {each["model_version"] for each in await ask(client, 40)} == {live, other}


async def test_while_the_store_is_away_the_assignment_stays_and_the_guardrails_hold(tmp_path: Path) -> None:
    model_store, live, other = two_versions(tmp_path)
    engine = Failing()
    flaky = FlakyStore(tmp_path / "events")
    app = create_app(fast_settings(tmp_path), store=flaky, opener=opener_of(other, engine))
    service: Service = app.state.service
    async with running(app) as client:
        await until(lambda: service.models.current is not None)
        await begin(service, model_store, other)
        before = [each["model_version"] for each in await ask(client, 60)]
        flaky.is_away = True
        assert [each["model_version"] for each in await ask(client, 60)] == before

        engine.is_ready = True
        await ask(client, 400)
        await until(lambda: service.canary.trial is None)
        assert {each["model_version"] for each in await ask(client, 40)} == {live}
        flaky.is_away = False
        await until(lambda: bool(service.canary_ends.all()))


async def test_a_candidate_that_gets_fewer_clicks_is_rolled_back(tmp_path: Path) -> None:
    store, live, other = two_versions(tmp_path)
    async with serving(tmp_path) as (client, service):
        await begin(service, store, other)
        answers = await ask(client, 300)
        of_candidate = [user for user, answer in enumerate(answers) if answer["model_version"] == other]
        clicks = [
            {
                "event_id": f"click-{user}",
                "user_id": f"u{user}",
                "item_id": answer["items"][0]["item_id"],
                "type": "click",
                "timestamp": int(time.time()),
                "attribution": answer["attribution"],
            }
            for user, answer in enumerate(answers)
            if answer["model_version"] == live or user in of_candidate[:12]
        ]
        assert (await client.post("/events", json=clicks)).status_code == 200
        await until(lambda: service.canary.trial is None)
        shown = (await client.get("/models")).json()
    [end] = shown["rolled_back"]
    assert (end["version"], end["figure"]) == (other, "clicked")
    assert "100.00 % of the live version's" in end["reason"]
