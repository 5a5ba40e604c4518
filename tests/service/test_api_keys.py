from __future__ import annotations

from pathlib import Path

import pytest

from model_store.errors import ConfigError
from service.api_keys import Keys
from service.errors import KeyForbidden, KeyMissing
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


def may(keys: Keys, given: str | None, *, write: bool) -> bool | None:
    """Tell whether a key may do this; ``None`` if it is no key at all. Headers are decoded as Latin-1."""
    try:
        keys.check(None if given is None else given.encode().decode("latin-1"), write=write)
    except KeyForbidden:
        return False
    except KeyMissing:
        return None
    return True


def near_misses(key: str) -> set[str]:
    """Return every text that a sloppy comparison could take for the key."""
    prefixes = {key[:length] for length in range(len(key))}
    suffixes = {key[start:] for start in range(1, len(key) + 1)}
    extensions = {key + more for more in ("x", "\0", ",", " x", key, f",{SECOND}")} | {"x" + key, f"{SECOND},{key}"}
    changed = {key[:at] + chr(ord(key[at]) ^ 1) + key[at + 1 :] for at in range(len(key))}
    reshaped = {key.upper(), key[::-1], f'"{key}"', key.replace("-", ""), "*", "None"}
    return (prefixes | suffixes | extensions | changed | reshaped) - {key}


def test_only_the_whole_key_is_a_key() -> None:
    keys = Keys.of(Settings.model_validate({"read_keys": f"{READER},{SECOND}", "write_keys": WRITER}))
    for key in (READER, SECOND, WRITER):
        assert may(keys, key, write=False) is True
        assert may(keys, key, write=True) is (key == WRITER)
        for wrong in near_misses(key):
            assert may(keys, wrong, write=False) is None, wrong
            assert may(keys, wrong, write=True) is None, wrong
    assert may(keys, None, write=False) is None


def test_keys_of_one_kind_never_do_for_the_other() -> None:
    readers = Keys.of(Settings.model_validate({"read_keys": READER}))
    assert may(readers, READER, write=True) is False
    assert may(readers, None, write=True) is may(readers, "", write=True) is None
    writers = Keys.of(Settings.model_validate({"write_keys": WRITER}))
    assert may(writers, WRITER, write=False) is True
    assert may(writers, None, write=False) is may(writers, READER, write=False) is None
    without = Keys.of(Settings())
    assert may(without, None, write=True) is may(without, "anything", write=True) is True


async def test_parts_of_a_key_are_refused_over_http(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path, read_keys=READER, write_keys=WRITER) as (client, _):
        for wrong in (WRITER[:-1], WRITER[:1], f"{WRITER}x", f"{READER},{WRITER}"):
            assert (await client.post("/recommend", json={}, headers=with_key(wrong))).status_code == 401
            assert (await client.post("/events", json=EVENT, headers=with_key(wrong))).status_code == 401
        assert (await client.post("/events", json=EVENT, headers=with_key(WRITER))).status_code == 200


@pytest.mark.parametrize("setting", ["read_keys", "write_keys"])
def test_a_key_has_eight_bytes_at_least(setting: str) -> None:
    shortest = "12345678"
    keys = Keys.of(Settings.model_validate({setting: f" {shortest} , "}))
    assert may(keys, shortest, write=False) is True
    with pytest.raises(ConfigError, match="shorter than 8 bytes"):
        Keys.of(Settings.model_validate({setting: shortest[1:]}))
