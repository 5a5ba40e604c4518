"""Loading of one version: what is left behind, what is refused, and that a swap goes back to no older revision."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from model_store.errors import StoreUnavailable
from service.app import create_app
from service.models.manager import ModelManager
from tests.service.models.test_manager import Engines, serving_model
from tests.support.hash_coder import hash_coder
from tests.support.service_harness import fast_settings, live_store

pytestmark = pytest.mark.anyio


def waiters() -> int:
    """Return how many tasks wait for another version to become live."""
    running = [task.get_coro() for task in asyncio.all_tasks()]
    return sum(getattr(each, "__qualname__", "") == "ModelManager._wait_until_superseded" for each in running)


async def test_nobody_waits_for_the_next_version_once_this_one_is_tried(tmp_path: Path) -> None:
    live_store(tmp_path)
    models: ModelManager = create_app(fast_settings(tmp_path)).state.service.models
    tried = models._loader.trial
    seen: list[int] = []

    async def observe(version: str) -> object:
        await asyncio.sleep(0)
        seen.append(waiters())
        return await tried(version)

    models._loader.trial = observe  # type: ignore[assignment]
    await models.poll()
    await asyncio.sleep(0)
    assert serving_model(models)
    assert [*seen, waiters()] == [1, 0]
    await models.close()


async def test_a_version_whose_item_encoder_this_machine_takes_has_all_its_parts(tmp_path: Path) -> None:
    live_store(tmp_path)
    models: ModelManager = create_app(fast_settings(tmp_path), coders=hash_coder).state.service.models
    await models.poll()
    assert serving_model(models).refused_parts == frozenset()
    assert models.problem == ""
    await models.close()


async def test_a_version_that_cannot_reach_the_serving_revision_is_refused_and_its_engine_closed(
    tmp_path: Path,
) -> None:
    """The change stream is empty: a store that lost its end, which the serving catalogue holds."""
    engines = Engines()
    version = live_store(tmp_path)
    loader = create_app(fast_settings(tmp_path), opener=engines).state.service.models._loader
    digest = (await loader.trial(version)).digest

    async with asyncio.timeout(20):
        with pytest.raises(StoreUnavailable, match="cannot catch up with the change stream"):
            await loader.load(version, digest, lambda: 1)
    assert len(engines.made) == 1
    assert engines.closed == engines.made

    model = await loader.load(version, digest, lambda: 0)
    assert model.engine is engines.made[1]
    assert model.revision == 0
