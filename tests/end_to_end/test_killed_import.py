"""A replica is killed while it imports histories: the next one goes on where it was, and nobody is imported twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from model_store.bundle.histories import HISTORIES
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from service.store.redis_store import RedisStore
from tests.support.bundles import NOON, bundle_files, description, small_histories
from tests.support.killable_replica import Killable
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

USERS = 3000


@pytest.fixture
async def store(redis_server: RedisServer, prefix: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(redis_server.url, prefix=prefix, timeout_ms=10_000)
    yield store
    await store.close()


async def test_a_killed_import_goes_on_in_another_replica(
    tmp_path: Path, redis_server: RedisServer, prefix: str, store: RedisStore
) -> None:
    histories = {f"u{user}": [(f"item-{(user + n) % 40}", 100 + n, -1) for n in range(20)] for user in range(USERS)}
    models = ModelStore(tmp_path)
    files = {**bundle_files(), HISTORIES: small_histories(histories)}
    version = publish(models, files, description(), NOON)
    models.promote(version)

    killed, next_one = (Killable(tmp_path, redis_server.url, prefix) for _ in range(2))
    try:
        async with asyncio.timeout(120), httpx.AsyncClient(timeout=60) as client:
            killed.start()
            while (await store.import_progress(version)).users < 300:
                await asyncio.sleep(0.005)
            killed.kill()
            stopped = await store.import_progress(version)
            assert not stopped.is_complete

            next_one.start()
            while not (await store.import_progress(version)).is_complete:
                await asyncio.sleep(0.05)
            metrics = (await client.get(f"{next_one.url}/metrics")).text
            asked = {"user_id": f"u{USERS - 1}"}
            answer = (await client.post(f"{next_one.url}/recommend", json=asked)).json()
    finally:
        killed.kill()
        next_one.kill()

    assert answer["served_by"] == "model"
    written, unchanged = (counted(metrics, result) for result in ("written", "unchanged"))
    assert written + unchanged == USERS - stopped.users
    assert unchanged <= 256  # the chunk that was on its way
    for user in range(0, USERS, 100):
        assert (await store.history(f"u{user}")).item_ids == [item for item, _, _ in histories[f"u{user}"]]


def counted(metrics: str, result: str) -> int:
    begin = f'etegrec_history_import_users_total{{result="{result}"}} '
    return sum(int(float(line.removeprefix(begin))) for line in metrics.splitlines() if line.startswith(begin))
