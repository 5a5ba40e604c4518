"""Items that were put reach a file that training keeps, from both stores, and mean what the service meant."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from model_store.errors import DataError, StoreUnavailable
from model_store.events import event_log
from model_store.replication import redis_keys
from model_store.replication.item_payload import ItemContent, read_content
from service.schemas.items import ItemBody, delete_change
from service.store.base import Store
from service.store.change_stream import RawChange
from service.store.embedded_store import EmbeddedStore
from service.store.redis_store import RedisStore
from tests.support.redis_server import RedisServer
from training.retraining.drain_items import ITEMS, drain_items

pytestmark = pytest.mark.redis


@pytest.fixture(params=["redis", "embedded"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        return server.url
    return tmp_path / "events"


def change(source: str | Path, prefix: str, changes: Sequence[RawChange], restarts: int = 0) -> None:
    """Append changes as a service does, which is then restarted so often."""

    def opened() -> Store:
        return (
            EmbeddedStore(source) if isinstance(source, Path) else RedisStore(source, prefix=prefix, timeout_ms=10_000)
        )

    async def go() -> None:
        store = opened()
        await store.catalogue.append(changes)
        await store.close()
        for _ in range(restarts):
            store = opened()
            await store.ping()
            await store.close()

    asyncio.run(go())


def put(item_id: str, title: str, **fields: object) -> RawChange:
    return ItemBody.model_validate({"title": title, **fields}).change(item_id)


def titles(found: dict[str, ItemContent]) -> dict[str, str]:
    return {item_id: content.title for item_id, content in found.items()}


@pytest.mark.parametrize("restarts", [0, 2])
def test_the_latest_content_arrives_and_outlives_the_item(
    source: str | Path, prefix: str, tmp_path: Path, restarts: int
) -> None:
    out = tmp_path / "items"
    assert drain_items(source, out, prefix=prefix) == {}
    assert not out.exists()
    full = put("b", "first", categories=["x", "y", "x"], attributes={"year": 1999, "tags": ["a", {"b": None}]})
    change(source, prefix, [full, put("a", "one"), put("a", "two"), put("ü/\n", "odd")], restarts)
    found = drain_items(source, out, prefix=prefix)
    assert list(found) == ["a", "b", "ü/\n"]
    assert titles(found) == {"a": "two", "b": "first", "ü/\n": "odd"}
    assert found["b"] == ItemContent("first", ("x", "y"), {"year": 1999, "tags": ["a", {"b": None}]})
    change(source, prefix, [delete_change("b"), put("a", "three"), put("c", "new")], restarts)
    again = drain_items(source, out, prefix=prefix)
    assert titles(again) == {"a": "three", "b": "first", "c": "new", "ü/\n": "odd"}
    assert drain_items(source, out, prefix=prefix) == again


@pytest.mark.parametrize("restarts", [0, 2])
def test_an_item_that_is_hidden_before_the_first_drain_is_known(
    source: str | Path, prefix: str, tmp_path: Path, restarts: int
) -> None:
    change(source, prefix, [put("a", "known"), delete_change("a"), delete_change("b")], restarts)
    assert titles(drain_items(source, tmp_path, prefix=prefix)) == {"a": "known"}


def test_what_does_not_decode_leaves_the_rest(source: str | Path, prefix: str, tmp_path: Path) -> None:
    change(source, prefix, [put("a", "known"), put("b", "fine")])
    drain_items(source, tmp_path, prefix=prefix)
    change(source, prefix, [RawChange("a", "put", b'{"title":1}'), RawChange("c", "put", b"[]")])
    assert titles(drain_items(source, tmp_path, prefix=prefix)) == {"a": "known", "b": "fine"}


def test_noise_in_redis_leaves_the_rest(redis_server: RedisServer, prefix: str, tmp_path: Path) -> None:
    change(redis_server.url, prefix, [put("a", "fine")])
    with redis_server.client() as client:
        client.hset(redis_keys.Keys(prefix).items, "noise", b"noise")
        client.hset(redis_keys.Keys(prefix).items, b"\xff", b"1 1-0 put {}")
    assert titles(drain_items(redis_server.url, tmp_path, prefix=prefix)) == {"a": "fine"}


def test_a_state_that_is_replaced_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "events"
    change(folder, "", [put("a", "one")], restarts=1)
    read, replaced = event_log.read_lines, 0

    def reading(path: Path, offset: int = 0) -> event_log.SegmentContent:
        nonlocal replaced
        if not replaced:
            replaced = 1
            change(folder, "", [put("b", "two")], restarts=1)
            for number in event_log.segment_numbers(folder):
                event_log.segment_path(folder, number).unlink()  # what a drain does to those that the state covers
        return read(path, offset)

    monkeypatch.setattr(event_log, "read_lines", reading)
    assert titles(drain_items(folder, tmp_path / "items")) == {"a": "one", "b": "two"}


def test_a_payload_means_what_the_service_means_by_it() -> None:
    bodies = [
        ItemBody(title=""),
        ItemBody(title="t", categories=["b", "a", "b"], attributes="some text"),
        ItemBody(attributes={"a": [1, None, {"b": True}], "": 0.5}, embedding=[1.0, 2.0]),
        ItemBody(attributes=""),
    ]
    for body in bodies:
        meant = body.put("i")
        assert read_content(body.payload()) == (meant.title, meant.categories, meant.attributes)
    assert read_content(b"") is None


def test_a_damaged_file_is_named_and_a_missing_redis_told(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        drain_items("redis://127.0.0.1:1/0", tmp_path)
    (tmp_path / ITEMS).write_bytes(b"PAR1 noise")
    with pytest.raises(DataError, match=ITEMS):
        drain_items(tmp_path / "events", tmp_path)
    pl.DataFrame({"item_id": ["a"]}).write_parquet(tmp_path / ITEMS)
    with pytest.raises(DataError, match=ITEMS):
        drain_items(tmp_path / "events", tmp_path)


def test_content_that_the_store_forgot_is_read_from_the_file(prefix: str, tmp_path: Path) -> None:
    full = put("b", "kept", categories=["x", "y"], attributes={"year": 1999})
    change(tmp_path / "events", prefix, [full])
    out = tmp_path / "not there" / "items"
    found = drain_items(tmp_path / "events", out)
    assert found == {"b": ItemContent("kept", ("x", "y"), {"year": 1999})}
    assert drain_items(tmp_path / "other events", out) == found
