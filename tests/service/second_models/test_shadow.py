"""A shadow searches requests again: nobody sees it, nobody waits for it, and it is compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.bundle.bundle import Bundle
from model_store.bundle.registry import ModelStore
from service.engines.base import Engine
from service.engines.fake_engine import FakeEngine
from service.second_models.shadow import MAX_WAITING
from service.service import Service
from service.settings import Settings
from tests.support.bundles import publish_small
from tests.support.service_harness import GatedEngine, live_store, metric, serving, until

pytestmark = pytest.mark.anyio

ASKED = {"history": ["item-1"], "k": 5}


async def begin(service: Service, folder: Path, share: float = 1.0) -> str:
    """Publish another version, make it the shadow, and wait until it is loaded."""
    store = ModelStore(folder)
    version = publish_small(store, 1)
    store.set_alias("shadow", version, share)
    await until(lambda: service.shadow.is_on)
    return version


def compared(service: Service) -> float:
    """Return the number of requests that were searched again, whatever came of it."""
    results = ("compared", "empty", "failed", "dropped")
    return sum(metric(service, "etegrec_shadow_requests_total", result=each) for each in results)


async def test_the_shadow_is_compared_and_answers_nobody(tmp_path: Path) -> None:
    live = live_store(tmp_path, 0)
    async with serving(tmp_path) as (client, service):
        assert (await client.get("/models")).json()["comparison"] is None
        shadow = await begin(service, tmp_path)
        for _ in range(3):
            answer = (await client.post("/recommend", json=ASKED)).json()
            assert answer["model_version"] == live
        await until(lambda: compared(service) == 3)

        shown = (await client.get("/models")).json()
        assert (shown["shadow"]["version"], shown["shadow"]["state"]) == (shadow, "serving")
        found = shown["comparison"]
        assert (found["shadow"]["answers"], found["live"]["answers"], found["dropped"]) == (3, 3, 0)
        assert 0 <= found["overlap"] < 1, "the catalogues of the two have other codes"
        assert found["score_shift"] == pytest.approx(0, abs=0.2)
        assert metric(service, "etegrec_shadow_overlap_count") == 3

        ModelStore(tmp_path).remove_alias("shadow")
        await until(lambda: not service.shadow.is_on)
        await until(lambda: metric(service, "etegrec_alias_memory_bytes", alias="shadow") == 0)
        assert (await client.post("/recommend", json=ASKED)).status_code == 200
        assert compared(service) == 3


async def test_requests_that_the_shadow_has_no_time_for_are_dropped(tmp_path: Path) -> None:
    engine = GatedEngine()
    engine.gate.set()
    live = live_store(tmp_path, 0)

    def opener(bundle: Bundle, _: Settings) -> Engine:
        return FakeEngine() if bundle.version == live else engine

    async with serving(tmp_path, opener) as (client, service):
        await begin(service, tmp_path)
        engine.gate.clear()
        for _ in range(MAX_WAITING + 5):
            assert (await client.post("/recommend", json=ASKED)).status_code == 200
        figures = service.shadow.figures
        assert figures is not None
        assert figures.dropped in (4, 5), "one is being searched, the others wait"
        engine.gate.set()
        await until(lambda: compared(service) == MAX_WAITING + 5)


async def test_a_share_of_none_searches_nothing(tmp_path: Path) -> None:
    live_store(tmp_path, 0)
    async with serving(tmp_path) as (client, service):
        await begin(service, tmp_path, 0.0)
        for _ in range(5):
            await client.post("/recommend", json=ASKED)
        assert service.shadow.figures is not None
        assert compared(service) == 0
