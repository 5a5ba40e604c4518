"""One replica of the service on a Redis, and a client of it that goes on asking while Redis has trouble."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from service.app import create_app
from service.service import Service
from service.store.redis_store import RedisStore
from tests.support.hash_coder import hash_coder
from tests.support.service_harness import Json, fast_settings, running, until

INLINE = {"history": ["item-1", "item-2"], "k": 10}
TIMEOUT_MS = 250  # long enough for a healthy server beside a busy test machine


class Replica:
    """One replica and a client of it."""

    def __init__(self, service: Service, client: httpx.AsyncClient) -> None:
        self.service, self.client = service, client

    @property
    def place(self) -> tuple[str, int, str]:
        """Lineage, revision and digest of the catalogue that answers."""
        model = self.service.models.current
        assert model is not None
        return model.lineage, model.revision, model.catalogue.digest()

    async def recommended(self, **asked: Any) -> Json:
        """Ask for recommendations, which must come."""
        response = await self.client.post("/recommend", json=asked)
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def accepted(self, method: str, path: str, body: object = None) -> Json:
        """Repeat a write, as the answer 503 asks for, until it is taken."""
        async with asyncio.timeout(60):
            while True:
                response = await self.client.request(method, path, json=body)
                if response.status_code == 200:
                    return dict(response.json())
                assert response.status_code == 503, response.text
                await asyncio.sleep(0.02)

    async def refused(self, method: str, path: str, body: object = None) -> None:
        """Send a write, which must be refused as the store's state demands."""
        response = await self.client.request(method, path, json=body)
        assert response.status_code == 503, response.text
        assert response.headers["content-type"] == "application/problem+json"
        is_read_only = self.service.store_client.status == "read-only"
        slug = "live-store-read-only" if is_read_only else "live-store-unavailable"
        assert response.json()["type"] == f"urn:etegrec:problem:{slug}"
        assert "retry-after" in response.headers

    async def until_degraded(self, is_degraded: bool, **asked: Any) -> None:
        """Wait until answers are degraded, or no longer; without ``asked`` those to a history in the request."""
        async with asyncio.timeout(60):
            while (await self.recommended(**(asked or INLINE)))["degraded"] != is_degraded:
                await asyncio.sleep(0.01)

    @asynccontextmanager
    async def asked_all_along(self) -> AsyncIterator[None]:
        """Inline histories, one after another while the block runs: each is answered by the model."""

        async def ask() -> None:
            while True:
                answer = await self.recommended(**INLINE)
                assert (len(answer["items"]) >= 9, answer["served_by"]) == (True, "model")  # 9: one was just deleted
                await asyncio.sleep(0.005)

        asking = asyncio.create_task(ask())
        try:
            yield
        finally:
            asking.cancel()
            [outcome] = await asyncio.gather(asking, return_exceptions=True)
        assert isinstance(outcome, asyncio.CancelledError), outcome


@asynccontextmanager
async def open_replica(folder: Path, url: str, pause_s: float = 0.05, **given: Any) -> AsyncIterator[Replica]:
    """Start a replica on a model store and a Redis, and yield it once its model answers."""
    store = RedisStore(url, timeout_ms=TIMEOUT_MS, breaker_pause_s=pause_s)
    settings = fast_settings(folder, **{"catalogue_poll_s": 0.01, **given})
    app = create_app(settings, store=store, coders=hash_coder)
    service: Service = app.state.service
    async with running(app) as client:
        await until(lambda: service.models.current is not None)
        yield Replica(service, client)


async def same_place(*replicas: Replica) -> None:
    """Wait until the replicas have the same catalogue."""
    await until(lambda: len({each.place for each in replicas}) == 1 and bool(replicas[0].place[0]))


def event(number: int, user: str = "u") -> Json:
    """Return an event as a client sends it."""
    return {"event_id": f"e{number}", "user_id": user, "item_id": f"item-{number}", "timestamp": number}
