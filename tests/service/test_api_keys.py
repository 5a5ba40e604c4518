from __future__ import annotations

from pathlib import Path

import pytest

from model_store.errors import ConfigError
from service.api_keys import Keys
from service.settings import Settings
from tests.support.service_harness import live_store, serving

pytestmark = pytest.mark.anyio

READER, WRITER, SECOND = "reader-key-1", "writer-key-1", "reader-key-ü2"
EVENT = {"event_id": "e", "user_id": "u", "item_id": "item-1", "timestamp": 1}


def with_key(key: str) -> dict[bytes, bytes]:
    return {b"X-API-Key": key.encode()}


async def test_each_key_may_do_its_part(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path, read_keys=f"{READER}, {SECOND}", write_keys=WRITER) as (client, _):
        for key, read, write in (
            (READER, 200, 403),
            (SECOND, 200, 403),
            (WRITER, 200, 200),
            ("wrong", 401, 401),
            ("", 401, 401),
        ):
            headers = with_key(key)
            assert (await client.post("/recommend", json={}, headers=headers)).status_code == read
            assert (await client.post("/recommend/batch", json=[{}], headers=headers)).status_code == read
            assert (await client.get("/model", headers=headers)).status_code == read
            assert (await client.post("/events", json=EVENT, headers=headers)).status_code == write
        missing = await client.post("/recommend", json={})
    assert missing.status_code == 401
    assert missing.headers["www-authenticate"].startswith("ApiKey")
    assert missing.headers["content-type"] == "application/problem+json"


async def test_health_metrics_and_docs_stay_open(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path, read_keys=READER) as (client, _):
        for path in ("/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json"):
            assert (await client.get(path)).status_code == 200


async def test_with_read_keys_only_nobody_writes(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path, read_keys=READER) as (client, _):
        assert (await client.post("/events", json=EVENT, headers=with_key(READER))).status_code == 403
        assert (await client.post("/events", json=EVENT)).status_code == 401


async def test_a_key_is_checked_before_the_body_is_read(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path, read_keys=READER, max_body_bytes=1024) as (client, _):
        assert (await client.post("/recommend", content=b" " * 5000)).status_code == 401


def test_short_keys_are_refused_and_keys_never_shown() -> None:
    with pytest.raises(ConfigError, match="ETEGREC_READ_KEYS") as refused:
        Keys.of(Settings.model_validate({"read_keys": "long-enough-key,tiny"}))
    assert "tiny" not in str(refused.value)
    with pytest.raises(ConfigError, match="ETEGREC_WRITE_KEYS is set but holds no key"):
        Keys.of(Settings.model_validate({"write_keys": " , "}))
    assert READER not in repr(Settings.model_validate({"read_keys": READER}))
