"""A newly promoted version answers without a restart; a bad one changes nothing."""

from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import structlog

from model_store.bundle.bundle import Bundle
from model_store.bundle.registry import ModelStore
from model_store.errors import BundleRefused, LoadTimeout
from service.app import create_app
from service.async_tasks import cancel_and_wait
from service.engines.base import Engine, SearchRequest
from service.engines.fake_engine import FakeEngine
from service.models.loaded_model import PARTS, LoadedModel
from service.models.loading import open_engine
from service.models.manager import ModelManager
from service.models.trial import Tried
from service.settings import Settings
from tests.support.bundles import publish_small, small_catalogue
from tests.support.flaky_store import FlakyStore
from tests.support.service_harness import (
    GatedEngine,
    fast_settings,
    live_store,
    loaded_model,
    metric,
    running,
    serving,
    until,
)

pytestmark = pytest.mark.anyio


class StrictFake(FakeEngine):
    """Claims to be the model, and is not."""

    checks_goldens = True


async def test_promotion_and_rollback_are_followed(tmp_path: Path) -> None:
    first = live_store(tmp_path, 0)
    async with serving(tmp_path) as (client, service):
        second = live_store(tmp_path, 1)
        await until(lambda: loaded_model(service).version == second)
        answer = (await client.post("/recommend", json={"history": ["item-1"], "k": 40})).json()
        ModelStore(tmp_path).rollback()
        await until(lambda: loaded_model(service).version == first)
        assert metric(service, "etegrec_model_info", version=first, engine="fake") == 1
        assert metric(service, "etegrec_model_info", version=second, engine="fake") == 0
        assert metric(service, "etegrec_model_loads_total", result="ok") == 3
    catalogue = small_catalogue(1)
    assert answer["model_version"] == second
    for item in answer["items"]:
        assert item["codes"] == catalogue.codes[catalogue.row_of[item["item_id"]]].tolist()


async def test_accepted_requests_finish_on_the_old_model_before_it_is_freed(tmp_path: Path) -> None:
    engine = GatedEngine()
    engine.gate.set()
    closed = []
    engine.close = lambda: closed.append(True)  # type: ignore[method-assign]
    engines: list[Engine] = [engine, FakeEngine()]
    first = live_store(tmp_path, 0)
    async with serving(tmp_path, lambda *_: engines.pop(0)) as (client, service):
        engine.gate.clear()
        computed = len(engine.batches)
        waiting = [asyncio.create_task(client.post("/recommend", json={"history": ["item-1"]})) for _ in range(3)]
        await until(lambda: len(engine.batches) > computed)
        second = live_store(tmp_path, 1)
        await until(lambda: loaded_model(service).version == second)
        newer = (await client.post("/recommend", json={"history": ["item-1"]})).json()
        assert not closed
        engine.gate.set()
        older = [response.json() for response in await asyncio.gather(*waiting)]
        await until(lambda: bool(closed))
        await until(lambda: not service.models._background)  # nothing is kept of a model that is gone
    assert newer["model_version"] == second
    assert {each["model_version"] for each in older} == {first}


class Cyclic(FakeEngine):
    """Part of a cycle, as real engines are: counting references alone never frees it."""

    def __init__(self) -> None:
        super().__init__()
        self.itself = self


class CyclicAndWrong(Cyclic):
    """An engine that is refused for its answers."""

    checks_goldens = True


@pytest.mark.parametrize(("second", "freed", "kept"), [(Cyclic, 0, 1), (CyclicAndWrong, 1, 0)])
async def test_replaced_and_refused_engines_are_freed_at_once(
    tmp_path: Path, second: type[Cyclic], freed: int, kept: int
) -> None:
    made: list[weakref.ref[Engine]] = []

    def opener(_: Bundle, __: Settings) -> Engine:
        engine = second() if made else Cyclic()
        made.append(weakref.ref(engine))
        return engine

    live_store(tmp_path, 0)
    gc.disable()  # no collection by chance
    try:
        async with serving(tmp_path, opener):
            live_store(tmp_path, 1)
            await until(lambda: len(made) > 1 and made[freed]() is None)
            assert made[kept]() is not None
    finally:
        gc.enable()


async def test_a_version_that_fails_to_load_keeps_the_old_one(tmp_path: Path) -> None:
    first = live_store(tmp_path, 0)
    async with serving(tmp_path) as (client, service):
        second = live_store(tmp_path, 1)
        goldens = tmp_path / second / "golden.json"  # the catalogue comes from its snapshot by now
        await until(lambda: loaded_model(service).version == second)
        ModelStore(tmp_path).rollback()
        await until(lambda: loaded_model(service).version == first)
        whole = goldens.read_bytes()
        goldens.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        (tmp_path / "LIVE").write_text(f"{second}\n{first}\n")
        await until(lambda: metric(service, "etegrec_model_loads_total", result="refused") >= 1)
        ready = await client.get("/health/ready")
        answer = (await client.post("/recommend", json={})).json()
        goldens.write_bytes(whole)  # a failed version is tried again
        await until(lambda: loaded_model(service).version == second)
        assert (await client.get("/health/ready")).json()["problem"] == ""
    assert ready.status_code == 200
    assert ready.json()["model_version"] == answer["model_version"] == first
    assert ready.json()["problem"] == f"version {second} could not be loaded; see the service's log"


async def test_an_engine_that_answers_otherwise_than_the_goldens_is_refused(tmp_path: Path) -> None:
    live_store(tmp_path)
    app = create_app(fast_settings(tmp_path), opener=lambda *_: StrictFake())
    async with running(app) as client:
        await until(lambda: "could not be loaded" in app.state.service.models.problem)
        assert (await client.get("/health/ready")).status_code == 503


async def test_an_unreadable_store_is_no_end(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, service):
        assert [metric(service, "etegrec_model_part_refused", part=part) for part in PARTS] == [0, 0]
        store = (tmp_path / "LIVE").read_bytes()
        (tmp_path / "LIVE").write_bytes(b"../../etc\n")
        await until(lambda: metric(service, "etegrec_store_check_failures_total") >= 1)
        assert service.models.problem == "the model store cannot be read; see the service's log"
        assert (await client.post("/recommend", json={})).status_code == 200
        (tmp_path / "LIVE").unlink()
        await until(lambda: "any more" in service.models.problem)
        assert (await client.get("/health/ready")).status_code == 200
        (tmp_path / "LIVE").write_bytes(store)
        await until(lambda: service.models.problem == "")


class CrashingStore(ModelStore):
    """Model store whose reading fails in a way that nobody expects."""

    def live(self) -> str | None:
        raise RuntimeError("a bug")


async def test_polls_go_on_after_a_crash_and_count_it(tmp_path: Path) -> None:
    service = create_app(fast_settings(tmp_path)).state.service
    models: ModelManager = service.models
    models._store = CrashingStore(tmp_path)
    watching = asyncio.create_task(models.watch())
    with structlog.testing.capture_logs() as lines:
        await until(lambda: metric(service, "etegrec_store_check_failures_total") >= 2)
    assert {line["event"] for line in lines} == {"store_check_crashed"}
    await cancel_and_wait(watching)


async def test_an_unreadable_store_counts_and_supersedes_nothing_while_a_version_is_tried(tmp_path: Path) -> None:
    """The app does not run, so nothing else asks the store, which would count in the same metric."""
    first = live_store(tmp_path, 0)
    service = create_app(fast_settings(tmp_path)).state.service
    models: ModelManager = service.models
    tried: list[str] = []

    async def hang(version: str) -> Tried:
        tried.append(version)
        return await asyncio.Future()

    models._loader.trial = hang
    polling = asyncio.create_task(models.poll())
    await until(lambda: tried == [first])
    (tmp_path / "LIVE").write_bytes(b"../../etc\n")
    await until(lambda: metric(service, "etegrec_store_check_failures_total") >= 2)
    assert not polling.done()

    second = publish_small(ModelStore(tmp_path), 1)
    (tmp_path / "LIVE").write_text(f"{second}\n{first}\n")
    await until(polling.done)
    assert models.current is None
    assert models.problem == "the model store was not read yet", "a version that nobody wants any more has not failed"
    assert metric(service, "etegrec_model_loads_total", result="failed") == 0
    await models.close()


def test_bytes_that_are_no_graph_are_refused(tmp_path: Path) -> None:
    live_store(tmp_path)
    bundle: Bundle = ModelStore(tmp_path).bundle()
    with pytest.raises(BundleRefused, match=r"search\.onnx"):
        open_engine(bundle, Settings(engine="onnx"))


class Engines:
    """Opener that keeps every engine it made, and which of them were closed."""

    def __init__(self) -> None:
        self.made: list[Engine] = []
        self.closed: list[Engine] = []

    def __call__(self, _: Bundle, __: Settings) -> Engine:
        engine = FakeEngine()
        engine.close = lambda: self.closed.append(engine)  # type: ignore[method-assign]
        self.made.append(engine)
        return engine


def serving_model(models: ModelManager) -> LoadedModel:
    """Return the model that serves; fail the test if there is none."""
    assert models.current is not None
    return models.current


def any_request(model: LoadedModel) -> SearchRequest:
    nothing = np.empty(0, dtype=np.int64)
    return SearchRequest(np.array([1]), 5, 20, model.rules.everything.mask, nothing, model.catalogue)


async def test_only_the_model_that_serves_gets_a_newer_catalogue(tmp_path: Path) -> None:
    engines = Engines()
    live_store(tmp_path, 0)
    models: ModelManager = create_app(fast_settings(tmp_path), opener=engines).state.service.models
    await models.poll()
    first = serving_model(models)
    newer = replace(first)
    assert models.swap_catalogue(first, newer)
    assert models.current is newer
    assert models.swap_catalogue(first, replace(first)) is False, "it was replaced by now"
    assert models.current is newer

    live_store(tmp_path, 1)
    await models.poll()
    second = serving_model(models)
    assert models.swap_catalogue(newer, replace(newer)) is False, "its engine does not serve any more"
    assert models.current is second
    assert second.engine is engines.made[1]

    await models.close()
    assert models.swap_catalogue(second, replace(second)) is False
    assert models.current is None


async def test_a_leased_model_serves_on_after_a_swap_even_if_others_were_leased_before(tmp_path: Path) -> None:
    engines = Engines()
    first = live_store(tmp_path, 0)
    models: ModelManager = create_app(fast_settings(tmp_path), opener=engines).state.service.models
    await models.poll()
    with models.lease():
        pass  # a request that ends while the model serves retires nothing
    with models.lease() as shorter, models.lease() as longer:
        assert shorter is longer
        live_store(tmp_path, 1)
        await models.poll()
        assert serving_model(models).version != first
    with pytest.raises(ZeroDivisionError), models.lease():
        _ = 1 / 0  # a request that fails gives its lease back
    await until(lambda: engines.closed == [engines.made[0]])

    with models.lease() as old:
        with models.lease():
            live_store(tmp_path, 2)
            await models.poll()
        await asyncio.sleep(0.05)  # nothing may happen: one request still holds it
        found = await old.batcher.submit(any_request(old.model), 30.0)
        assert len(found.rows) == 5
        assert engines.closed == [engines.made[0]]
    await until(lambda: len(engines.closed) == 2)
    await models.close()
    assert engines.closed == engines.made


async def test_an_engine_is_closed_if_its_version_cannot_catch_up(tmp_path: Path) -> None:
    engines = Engines()
    first = live_store(tmp_path, 0)
    store = FlakyStore(tmp_path / "events")
    settings = fast_settings(tmp_path, catalogue_poll_s=0.01)
    app = create_app(settings, store=store, opener=engines)
    service = app.state.service
    async with running(app) as client:
        await until(lambda: service.models.current is not None)
        assert (await client.delete("/items/item-3")).status_code == 200
        store.is_away = True
        second = live_store(tmp_path, 1)
        await until(lambda: len(engines.made) >= 3)  # it is tried again, after the first attempt was cleared away
        assert engines.made[1] in engines.closed
        assert engines.made[0] not in engines.closed
        assert loaded_model(service).version == first
        assert second in service.models.problem
        store.is_away = False
        await until(lambda: loaded_model(service).version == second)
        assert loaded_model(service).catalogue.is_hidden[3]  # what was hidden does not come back with a swap
        opened = len(engines.made)
        await until(lambda: len(engines.closed) == opened - 1)
        assert engines.made[-1] not in engines.closed
        assert (await client.post("/recommend", json={"history": ["item-1"]})).status_code == 200
    assert len(engines.closed) == len(engines.made)


async def test_after_a_rollback_a_version_that_failed_is_tried_at_once(tmp_path: Path) -> None:
    """The long rest after a timeout is for a version that stays live; people who promote it again have mended it."""
    broken: list[str] = []

    def opener(bundle: Bundle, _: Settings) -> Engine:
        if bundle.version in broken:
            raise LoadTimeout("took too long")
        return FakeEngine()

    live_store(tmp_path, 0)
    async with serving(tmp_path, opener) as (_, service):
        second = publish_small(ModelStore(tmp_path), 1)
        broken.append(second)
        ModelStore(tmp_path).promote(second)
        await until(lambda: metric(service, "etegrec_model_loads_total", result="timeout") == 1)
        ModelStore(tmp_path).rollback()
        await until(lambda: service.models.problem == "")
        broken.clear()
        ModelStore(tmp_path).promote(second)
        await until(lambda: loaded_model(service).version == second)
