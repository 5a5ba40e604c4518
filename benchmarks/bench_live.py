"""Time from a change of the catalogue until two replicas on a real Redis recommend by it (``make bench-live``).

Both replicas run in this process and share its cores, so times of changes include the other replica's work. An item is
recommendable when the catalogue that answers holds it. 200 single changes are sent one after another while both
replicas poll as they do by default. Before the bulk upload the other replica stops, because in production it has cores
of its own. The upload goes through HTTP parsing and comes back from the stream. Starting from the model store reads,
verifies and indexes the bundle's catalogue; starting from Redis does the same with its snapshot. Fill is the share of
wanted answers that a search under a category rule returns, and that remain of the unfiltered top k under that rule.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer

from benchmarks.served_store import K, histories
from benchmarks.untrained_store import UntrainedEngine, new_item, publish_large
from model_store.bundle.bundle import Bundle
from model_store.bundle.registry import ModelStore
from service.app import create_app
from service.cli import tune_interpreter
from service.engines.onnx_engine import GRAPH
from service.models.loading import open_coder
from service.replication.catalogue_source import CatalogueSource
from service.schemas.recommend import RecommendRequest
from service.schemas.rules import Filter
from service.service import Service
from service.settings import Settings
from service.store.redis_store import RedisStore
from service.telemetry.logs import set_up_logs
from tests.support.redis_server import RedisServer


def open_untrained(bundle: Bundle, settings: Settings) -> UntrainedEngine:
    return UntrainedEngine(bundle.read(GRAPH), bundle.config, settings.threads)


@asynccontextmanager
async def replica(folder: Path, url: str) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """Run a service in this process, and yield it once its model is loaded."""
    settings = Settings(store=str(folder), deadline_ms=60_000, catalogue_wait_s=600)
    store = RedisStore(url, timeout_ms=2000, background_timeout_s=600, lock_ttl_s=600)
    app = create_app(settings, store=store, opener=open_untrained)
    service: Service = app.state.service
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://live") as client,
    ):
        await wait_until(lambda: service.models.current is not None and bool(service.models.current.lineage))
        yield service, client


async def wait_until(condition: Callable[[], bool]) -> float:
    """Wait for a condition; return the seconds that it took."""
    started = time.perf_counter()
    while not condition():
        await asyncio.sleep(0.001)
    return time.perf_counter() - started


def can_recommend(service: Service, item_id: str) -> bool:
    """Tell whether an item is in the catalogue that answers."""
    model = service.models.current
    return model is not None and model.catalogue.row(item_id) is not None


async def change_s(client: httpx.AsyncClient, same: Service, other: Service, number: int) -> tuple[float, float]:
    """Put a new item; return the seconds until each replica can recommend it."""
    item_id = f"single {number}"
    waits = asyncio.gather(
        wait_until(lambda: can_recommend(same, item_id)), wait_until(lambda: can_recommend(other, item_id))
    )
    response = await client.put(f"/items/{item_id}", json=new_item(number))
    response.raise_for_status()
    on_same, on_other = await waits
    return on_same, on_other


async def bulk_items_s(client: httpx.AsyncClient, count: int) -> float:
    """Upload items; return items a second, from the first byte until this replica can recommend all of them."""
    body = b"".join(json.dumps({"item_id": f"bulk {n}", **new_item(n)}).encode() + b"\n" for n in range(count))
    started = time.perf_counter()
    response = await client.post(
        "/items/bulk", content=body, headers={"Content-Type": "application/jsonl"}, timeout=None
    )
    response.raise_for_status()
    return count / (time.perf_counter() - started)


async def fill(service: Service, requests: int) -> tuple[float, float]:
    """Return the share of wanted answers that exist: with the rule inside the search, and with its answer filtered."""
    model = service.models.current
    assert model is not None

    inside = 0
    post = 0
    for number, history in enumerate(histories(model.catalogue, requests)):
        rule = Filter(categories=[f"category {150 + number % 100}"])
        found = await service.recommender.recommend(RecommendRequest(history=history, k=K, filter=rule))
        free = await service.recommender.recommend(RecommendRequest(history=history, k=K))
        inside += len(found.found.rows)
        wanted = set(rule.categories or ())
        post += sum(bool(wanted & set(free.model.catalogue.categories[row])) for row in free.found.rows.tolist())

    return inside / (requests * K), post / (requests * K)


async def median_s(work: Callable[[], Awaitable[object]], repeats: int) -> float:
    """Return the median seconds of a call."""
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        await work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


async def boot_s(store: ModelStore, service: Service, settings: Settings, repeats: int) -> tuple[float, float]:
    """Return the seconds to a catalogue that answers searches and lookups: from Redis, from the model store."""
    bundle = store.bundle()
    items = CatalogueSource(bundle, open_coder(bundle, settings))

    def from_store() -> None:
        catalogue = bundle.catalogue()
        _ = catalogue.trie, catalogue.row_of

    async def from_redis() -> None:
        replica = await service.follower.open(items)
        if not replica.lineage:
            raise RuntimeError("the snapshot was not used")

    return await median_s(from_redis, repeats), await median_s(lambda: asyncio.to_thread(from_store), repeats)


async def measure(
    folder: Path, url: str, items: int, changes: int, bulk: int, requests: int, repeats: int, overrides: list[str]
) -> dict[str, Any]:
    """Return all figures, as the benchmark prints them."""
    store = publish_large(folder, items, overrides)

    async with AsyncExitStack() as stack:
        same, client = await stack.enter_async_context(replica(folder, url))
        await wait_until(lambda: not same.follower.is_publishing)

        redis_s, store_s = await boot_s(store, same, same.settings, repeats)
        async with replica(folder, url) as (other, _):
            pairs = np.array([await change_s(client, same, other, number) for number in range(changes)])

        inside, post = await fill(same, requests)
        rate = await bulk_items_s(client, bulk)

    p50_same, p50_other = np.median(pairs, axis=0).tolist()
    p99_same, p99_other = np.percentile(pairs, 99, axis=0).tolist()
    return {
        "bench": "live",
        "p50_same_s": round(p50_same, 4),
        "p50_other_s": round(p50_other, 4),
        "p99_same_s": round(p99_same, 4),
        "p99_other_s": round(p99_other, 4),
        "bulk_items_s": round(rate, 1),
        "boot_redis_s": round(redis_s, 3),
        "boot_store_s": round(store_s, 3),
        "fill_inside": round(inside, 4),
        "fill_post": round(post, 4),
        "items": items,
        "changes": changes,
        "bulk": bulk,
        "threads": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
    }


def main(
    items: Annotated[int, typer.Option(help="Items of the catalogue.")] = 1_000_000,
    changes: Annotated[int, typer.Option(min=1)] = 200,
    bulk: Annotated[int, typer.Option(min=1, help="Items of the bulk upload.")] = 100_000,
    requests: Annotated[int, typer.Option(min=1, help="Requests under a rule.")] = 100,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Overrides of the paper preset.")] = None,
    folder: Annotated[str, typer.Option(help="Folder for the data; default: the system's temporary folder.")] = "",
) -> None:
    set_up_logs("error")
    work = Path(tempfile.mkdtemp(prefix="bench-live-", dir=folder or None))
    (work / "redis").mkdir()
    server = RedisServer(work / "redis")
    server.start()
    try:
        found = measure(work / "store", server.url, items, changes, bulk, requests, repeats, overrides or [])
        typer.echo(json.dumps(asyncio.run(found)))
    finally:
        server.kill()
        shutil.rmtree(work)


if __name__ == "__main__":
    tune_interpreter()
    typer.run(main)
