"""Upkeep of experiments: users and sessions of an ended one are forgotten once nothing can count, and not before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model_store.errors import StoreError
from service.app import create_app
from service.experiments.experiments import Experiments, counted_as
from service.experiments.upkeep import DAY_S, ExperimentUpkeep
from service.service import Service
from service.store.subject_store import Exposure
from tests.support.flaky_store import FlakyStore
from tests.support.service_harness import fast_settings, live_store, running

pytestmark = pytest.mark.anyio

ENDED = 1_700_000_000
TTL_S = 3600
OVER = ENDED + TTL_S + DAY_S
VARIANTS = [{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5}]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def upkeep_of(service: Service, clock: Clock) -> ExperimentUpkeep:
    return ExperimentUpkeep(service.experiments, service.store_client.store.subjects, TTL_S, clock)


def label_of(experiments: Experiments, name: str) -> str:
    found = experiments.known(name)
    assert found is not None
    return counted_as(found)


async def counted(service: Service, label: str) -> float:
    """Count one user in, and return how many there are: a user who is known already adds nothing."""
    subjects = service.store_client.store.subjects
    await subjects.expose([Exposure(label, 0, "0000000000aa", "u")])
    return (await subjects.sums(label))["0|#subjects"]


async def test_subjects_go_when_nothing_can_count_any_more_and_sums_stay(tmp_path: Path) -> None:
    live_store(tmp_path)
    app = create_app(fast_settings(tmp_path))
    async with running(app) as client:
        service: Service = app.state.service
        body: dict[str, Any] = {"variants": VARIANTS, "starts": ENDED - 10, "ends": ENDED}
        assert (await client.put("/experiments/ended", json=body)).status_code == 200
        assert (await client.put("/experiments/endless", json={"variants": VARIANTS})).status_code == 200
        ended, endless = (label_of(service.experiments, name) for name in ("ended", "endless"))
        assert [await counted(service, ended), await counted(service, endless)] == [1, 1]

        clock = Clock()
        upkeep = upkeep_of(service, clock)
        clock.now = OVER - 1
        await upkeep.step()
        assert await counted(service, ended) == 1

        clock.now = OVER
        await upkeep.step()
        assert [await counted(service, ended), await counted(service, endless)] == [2, 1]
        await upkeep.step()  # once is enough: what came since is not looked at again
        assert await counted(service, ended) == 2


async def test_while_the_store_is_away_nothing_is_taken_as_deleted(tmp_path: Path) -> None:
    live_store(tmp_path)
    store = FlakyStore(tmp_path / "live")
    app = create_app(fast_settings(tmp_path), store=store)
    async with running(app) as client:
        service: Service = app.state.service
        body: dict[str, Any] = {"variants": VARIANTS, "starts": ENDED - 10, "ends": ENDED}
        assert (await client.put("/experiments/ended", json=body)).status_code == 200
        label = label_of(service.experiments, "ended")
        assert await counted(service, label) == 1

        clock = Clock()
        clock.now = OVER
        upkeep = upkeep_of(service, clock)
        store.is_away = True
        with pytest.raises(StoreError):
            await upkeep.step()
        store.is_away = False
        await upkeep.step()
        assert await counted(service, label) == 2
