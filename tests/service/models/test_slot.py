"""A slot before any model came, its metrics, and the end of a model in it; :mod:`test_manager` proves the rest."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.app import create_app
from service.async_tasks import cancel_and_wait
from service.engines.base import Engine
from service.engines.fake_engine import FakeEngine
from service.errors import NotReady
from service.models.manager import ModelManager
from service.models.slot import ModelSlot
from service.settings import Settings
from service.telemetry.telemetry import Telemetry
from tests.service.models.test_manager import any_request, serving_model
from tests.support.service_harness import GatedEngine, fast_settings, live_store, metric, until

pytestmark = pytest.mark.anyio


def test_an_empty_slot_has_no_problem_and_answers_nobody() -> None:
    slot = ModelSlot(Settings(), Telemetry())
    assert (slot.problem, slot.current, slot.queued) == ("", None, 0)
    with pytest.raises(NotReady), slot.lease():
        raise AssertionError("nothing may be answered")


async def test_the_metrics_show_the_items_of_the_model_that_serves(tmp_path: Path) -> None:
    live_store(tmp_path)
    service = create_app(fast_settings(tmp_path)).state.service
    models: ModelManager = service.models

    def shown() -> list[float]:
        return [metric(service, "etegrec_catalogue_items", state=state) for state in ("trained", "new", "hidden")]

    await models.poll()
    first = serving_model(models)
    assert shown() == [40, 0, 0]

    is_hidden = np.arange(len(first.catalogue)) < 3
    assert models.swap_catalogue(first, replace(first, catalogue=replace(first.catalogue, is_hidden=is_hidden)))
    assert shown() == [37, 0, 3]

    live_store(tmp_path, 1)
    await models.poll()
    assert shown() == [40, 0, 0]
    await models.close()


async def test_an_engine_is_not_closed_while_it_computes_for_a_client_that_left(tmp_path: Path) -> None:
    """The lease is over by then; only the batcher knows that the engine is still at work."""
    gated = GatedEngine()
    gated.gate.set()
    closed: list[Engine] = []
    gated.close = lambda: closed.append(gated)  # type: ignore[method-assign]
    engines: list[Engine] = [gated, FakeEngine()]
    live_store(tmp_path)
    models: ModelManager = create_app(fast_settings(tmp_path), opener=lambda *_: engines.pop(0)).state.service.models
    await models.poll()

    gated.gate.clear()
    computed = len(gated.batches)
    with models.lease() as serving:
        asked = asyncio.create_task(serving.batcher.submit(any_request(serving.model), 30.0))
        await until(lambda: len(gated.batches) > computed)
        await cancel_and_wait(asked)

    live_store(tmp_path, 1)
    await models.poll()
    await asyncio.sleep(0.05)  # nothing may happen
    assert not closed
    gated.gate.set()
    await until(lambda: closed == [gated])
    await models.close()
