"""Test harness: the real app on a small model store, with fake, slow and broken engines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from model_store.bundle.bundle import Bundle
from model_store.bundle.registry import ModelStore
from model_store.catalogue.catalogue import Catalogue
from model_store.search.interface import SearchInputs, SearchOutputs
from service.app import create_app
from service.engines.base import Engine
from service.engines.fake_engine import FakeEngine
from service.models.loaded_model import LoadedModel
from service.models.loading import EngineOpener, open_engine
from service.service import Service
from service.settings import Settings
from tests.support.bundles import publish_small

Json = dict[str, Any]


def fast_settings(store: Path, **given: Any) -> Settings:
    """Return settings for tests: nothing waits for a poll."""
    quick = {"engine": "fake", "reload_s": 0.02, "live_check_s": 0.02, "batch_wait_ms": 0.0, "deadline_ms": 20_000}
    quick["load_trial"] = False  # tests of the trial ask for it: it starts a process
    quick["result_cache_entries"] = 0  # tests that repeat a request mean the engine
    return Settings(store=str(store), **{**quick, **given})


def live_store(folder: Path, seed: int = 0) -> str:
    """Publish and promote the small bundle of a seed; returns its version."""
    store = ModelStore(folder)
    version = publish_small(store, seed)
    store.promote(version)
    return version


class GatedEngine(FakeEngine):
    """Engine that computes only while its gate is open, and keeps the inputs of every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.batches: list[SearchInputs] = []

    def compute(self, inputs: SearchInputs, catalogue: Catalogue) -> SearchOutputs:
        self.batches.append(inputs)
        self.entered.release()
        assert self.gate.wait(30)
        return super().compute(inputs, catalogue)

    def opened(self, _: Bundle, __: Settings) -> Engine:
        return self


class BrokenEngine(FakeEngine):
    """Engine that fails on every request with more than four history items."""

    def compute(self, inputs: SearchInputs, catalogue: Catalogue) -> SearchOutputs:
        if inputs.lengths.max() > 4:
            raise RuntimeError("a secret of the engine")
        return super().compute(inputs, catalogue)


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Start the app's lifespan and yield a client that calls it in-process."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://t") as client:
        yield client


@asynccontextmanager
async def serving(
    folder: Path, opener: EngineOpener = open_engine, **given: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, Service]]:
    """Start an app and yield a client once its model is loaded."""
    app = create_app(fast_settings(folder, **given), opener=opener)
    service: Service = app.state.service
    async with running(app) as client:
        await until(lambda: service.models.current is not None)
        yield client, service


def loaded_model(service: Service) -> LoadedModel:
    """Return the model that answers now; fail the test if there is none."""
    model = service.models.current
    assert model is not None
    return model


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; fail after half a minute."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def until_answered(client: httpx.AsyncClient, path: str, is_right: Callable[[Any], bool]) -> None:
    """Ask until the answer is right, for what is done in the background; fail after a minute."""
    async with asyncio.timeout(60):
        while not is_right((await client.get(path)).json()):
            await asyncio.sleep(0.02)


def metric(service: Service, name: str, **labels: str) -> float:
    """Return the value of a metric, 0 while it has none."""
    return service.telemetry.registry.get_sample_value(name, labels) or 0.0
