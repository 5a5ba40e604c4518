"""Processes of replicas are killed while they write, apply changes and save snapshots: nothing acknowledged is lost,
and whoever comes next agrees with those that stayed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import httpx
import pytest

from service.schemas.recommend import RecommendRequest
from tests.service.catalogue.test_manager import Replicas, place, same_place
from tests.support.killable_replica import Killable
from tests.support.redis_server import RedisServer
from tests.support.service_harness import live_store

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

KILLS, WRITERS = 3, 4


class Writers:
    """Clients that put, and now and then hide, items that nobody else touches; they know what was acknowledged."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self.put: set[str] = set()
        self.hidden: set[str] = set()
        self.asked = 0

    async def until_killed(self, url: str, random: Random) -> None:
        """One after another, until the process does not answer any more."""
        try:
            while self.asked < 400:  # what the small catalogue has room for
                await self._one(url, random)
        except httpx.TransportError:
            return

    async def _one(self, url: str, random: Random) -> None:
        self.asked += 1
        path = f"/items/mine-{self.asked}"
        answer = await self._client.put(url + path, json={"title": f"title {self.asked}"})
        assert answer.status_code == 200, answer.text
        self.put.add(path)
        if random.random() < 0.3:
            self.put.discard(path)  # from now on either is right
            answer = await self._client.delete(url + path)
            assert answer.status_code == 200, answer.text
            self.hidden.add(path)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=60) as client:
        yield client


async def ready(process: Killable, client: httpx.AsyncClient) -> None:
    process.start()
    async with asyncio.timeout(60):
        while not await process.is_ready(client):
            await asyncio.sleep(0.05)


async def shows(url: str, is_hidden: bool, client: httpx.AsyncClient) -> None:
    """Wait for what was acknowledged: a replica is ready with a snapshot, before it has read the stream to its end."""
    shown = await client.get(url)
    async with asyncio.timeout(30):
        while shown.status_code != 200 or shown.json()["hidden"] != is_hidden:
            await asyncio.sleep(0.05)
            shown = await client.get(url)


async def test_killed_at_any_point_nothing_acknowledged_is_lost(
    tmp_path: Path, redis_server: RedisServer, prefix: str, client: httpx.AsyncClient
) -> None:
    live_store(tmp_path / "store")
    replicas, random, writers = Replicas(tmp_path / "store", redis_server.url, prefix), Random(5), Writers(client)
    process = Killable(tmp_path / "store", redis_server.url, prefix)
    async with replicas.one() as steady:
        try:
            for _ in range(KILLS):
                await ready(process, client)
                before = len(writers.put) + len(writers.hidden)
                writing = [asyncio.create_task(writers.until_killed(process.url, random)) for _ in range(WRITERS)]
                while len(writers.put) + len(writers.hidden) < before + random.randrange(5, 60):
                    await asyncio.sleep(0.001)
                process.kill()
                await asyncio.gather(*writing)
            await ready(process, client)
            async with replicas.one() as fresh:
                await same_place(steady, fresh)
                acknowledged = len(writers.put) + 2 * len(writers.hidden)
                assert acknowledged <= place(steady)[1] <= acknowledged + 2 * WRITERS * KILLS
            for path in sorted(writers.put | writers.hidden):
                await shows(process.url + path, path in writers.hidden, client)
            ours = await steady.recommender.recommend(RecommendRequest(history=["item-1"], k=100))
            theirs = await client.post(f"{process.url}/recommend", json={"history": ["item-1"], "k": 100})
            ids = [ours.model.catalogue.item_ids[row] for row in ours.found.rows.tolist()]
            assert [item["item_id"] for item in theirs.json()["items"]] == ids
        finally:
            process.kill()
