"""Whatever a writing endpoint accepts can be read, now and after a restart; the rest is refused, never a 500."""

from __future__ import annotations

import asyncio
import json
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from model_store.events.event import KNOWN_TYPES, OWN_TYPE, Event
from service.app import create_app
from service.schemas.items import ItemBody, StoredItem
from service.service import Service
from service.store.base import Store
from service.store.embedded_store import EmbeddedStore
from service.store.redis_store import RedisStore
from tests.support.hash_coder import hash_coder
from tests.support.redis_server import RedisServer
from tests.support.service_harness import fast_settings, live_store, loaded_model, running, until

Json = dict[str, Any]
OpenStore = Callable[[], Store]

JSON = {"Content-Type": "application/json"}
JSONL = {"Content-Type": "application/jsonl"}
EDGES = [0, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**30]
WHERE = {"year": EDGES, "deep": [{"a": [[EDGES]]}], "floats": [1e308, 5e-324, -0.0, 1e16, 0.1]}


@dataclass
class Write:
    """A request that writes."""

    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=lambda: JSON)
    items: dict[str, Json] = field(default_factory=dict)  # content by id, as it must be read if this is accepted
    events: Sequence[Json] = ()


@dataclass
class Expected:
    """State that the service has acknowledged."""

    items: dict[str, Json] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    histories: dict[str, list[Json]] = field(default_factory=dict)  # events by user
    event_ids: set[str] = field(default_factory=set)
    revision: int = 0

    def accept(self, write: Write, answer: Json) -> None:
        self.revision = answer.get("revision", self.revision)
        self.items |= write.items
        self.hidden -= write.items.keys()
        if write.method == "DELETE":
            self.hidden |= {item_id for item_id in self.items if write.path == path("items", item_id)}
        for event in write.events:
            if event["event_id"] not in self.event_ids:
                self.event_ids.add(event["event_id"])
                user = event["user_id"]
                self.histories.setdefault(user, []).append(event)

    async def check(self, client: httpx.AsyncClient) -> None:
        for item_id, content in self.items.items():
            answer = await client.get(path("items", item_id))
            assert answer.status_code == 200, answer.text
            shown = answer.json()
            found = {name: shown[name] for name in content}
            assert json.dumps(found, sort_keys=True) == json.dumps(content, sort_keys=True)  # 1 and 1.0 differ here
            assert shown["hidden"] == (item_id in self.hidden)
        for user, history in self.histories.items():
            shown = (await client.get(path("users", user))).json()
            by_time = sorted(history, key=lambda event: int(event["timestamp"]))
            assert shown["interactions"] == [
                {"item_id": each["item_id"], "type": shown_type(each), "timestamp": each["timestamp"] or None}
                for each in by_time
            ]
            assert shown["history"] == [each["item_id"] for each in by_time]
            assert shown["newest_event_at"] == (by_time[-1]["timestamp"] or None)


def shown_type(event: Json) -> str:
    """Return what a history says of an event's type."""
    named = event.get("type", Event.model_fields["type"].default)
    return named if named in KNOWN_TYPES else OWN_TYPE


def path(kind: str, name: str) -> str:
    return f"/{kind}/{quote(name, safe='')}"


def content(body: Json) -> Json:
    """Return what GET shows of an item that was put like this."""
    attributes = body.get("attributes", {})
    named = ({"text": attributes} if attributes else {}) if isinstance(attributes, str) else attributes
    categories = list(dict.fromkeys(body.get("categories", [])))
    return {"title": body.get("title") or None, "categories": categories, "attributes": named}


def put(item_id: str, body: Json, *, is_ascii: bool) -> Write:
    text = json.dumps(body, ensure_ascii=is_ascii).encode(errors="surrogatepass")
    return Write("PUT", path("items", item_id), text, items={item_id: content(body)})


def bulk(bodies: dict[str, Json]) -> Write:
    lines = [json.dumps({"item_id": item_id, **body}) for item_id, body in bodies.items()]
    items = {item_id: content(body) for item_id, body in bodies.items()}
    return Write("POST", "/items/bulk", "\n".join(lines).encode(), JSONL, items=items)


def events(sent: Sequence[Json]) -> Write:
    return Write("POST", "/events", json.dumps(sent).encode(), events=sent)


any_text = st.text(max_size=8) | st.text(st.characters(categories=["Cs", "Cc", "Lo", "Zl"]), max_size=4)
ids = st.text(min_size=1, max_size=5) | st.sampled_from(["item-1", "item-2", "new", "\0", "\n", "\u2028", "ä" * 64])
numbers = st.integers() | st.sampled_from(EDGES) | st.floats()
values = st.recursive(
    st.none() | st.booleans() | numbers | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=12,
)
bodies = st.fixed_dictionaries(
    {},
    optional={
        "title": any_text,
        "categories": st.lists(any_text, max_size=3),
        "attributes": any_text | st.dictionaries(any_text, values, max_size=4),
    },
)
event = st.fixed_dictionaries(
    {
        "event_id": ids,
        "user_id": ids,
        "item_id": ids,
        "timestamp": st.integers(0, 253_402_300_799) | st.sampled_from([-1, 253_402_300_800, *EDGES]),
    },
    optional={"type": st.sampled_from(["view", "rating", "zebra"])},
)
writes = st.one_of(
    st.builds(put, ids, bodies, is_ascii=st.booleans()),
    st.builds(bulk, st.dictionaries(ids, bodies, min_size=1, max_size=4)),
    st.builds(events, st.lists(event, min_size=1, max_size=4)),
    st.builds(lambda item_id: Write("DELETE", path("items", item_id)), ids),
)
many_writes = st.lists(writes, min_size=1, max_size=12)
each_edge = [put("50", {"attributes": {"year": each}}, is_ascii=True) for each in EDGES]
each_edge_in_bulk = [bulk({"50": {"attributes": {"in": [{"a": each}]}}}) for each in EDGES]


def is_loaded(service: Service) -> bool:
    return service.models.current is not None


async def write_and_read_twice(models: Path, open_store: OpenStore, sent: Sequence[Write]) -> None:
    expected = Expected()
    for is_first in (True, False):
        app = create_app(fast_settings(models, catalogue_poll_s=0.01), store=open_store(), coders=hash_coder)
        async with running(app) as client:
            service = app.state.service
            await until(partial(is_loaded, service))
            for write in sent if is_first else ():
                answer = await client.request(write.method, write.path, content=write.body, headers=write.headers)
                assert answer.status_code in (200, 400, 404, 422), answer.text
                if answer.status_code == 200:
                    expected.accept(write, answer.json())
            await service.updater.catch_up(expected.revision)
            await expected.check(client)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    live_store(folder)
    return folder


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@example(each_edge)
@example(each_edge_in_bulk)
@example([put("new", {"attributes": WHERE}, is_ascii=True), events([])])
@given(many_writes)
def test_the_embedded_store_gives_back_what_was_accepted(models: Path, sent: Sequence[Write]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(write_and_read_twice(models, lambda: EmbeddedStore(Path(folder)), sent))


@pytest.mark.redis
@settings(max_examples=2, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@example(each_edge)
@given(many_writes)
def test_redis_gives_back_what_was_accepted(models: Path, redis_server: RedisServer, sent: Sequence[Write]) -> None:
    prefix = f"test-{uuid.uuid4().hex}"
    url = redis_server.url
    asyncio.run(write_and_read_twice(models, lambda: RedisStore(url, prefix=prefix, timeout_ms=10_000), sent))


def test_the_largest_integers_are_accepted_and_their_neighbours_name_the_limit() -> None:
    for good in (2**63 - 1, -(2**63)):
        assert ItemBody.model_validate({"attributes": {"a": [good]}}).attributes == {"a": [good]}
    for wrong in (2**63, -(2**63) - 1):
        with pytest.raises(ValueError, match="-9223372036854775808 to 9223372036854775807"):
            ItemBody.model_validate({"attributes": {"a": {"zebra": wrong}}})


@pytest.mark.anyio
async def test_what_an_older_release_accepted_is_still_answered(models: Path, tmp_path: Path) -> None:
    old = StoredItem.model_validate_json('{"title":"old","attributes":{"year":18446744073709551616,"n":[1e3]}}')
    store = EmbeddedStore(tmp_path / "old")
    await store.catalogue.append([old.change("50"), old.change("item-1")], 0)
    app = create_app(fast_settings(models, catalogue_poll_s=0.01), store=store, coders=hash_coder)
    async with running(app) as client:
        await until(lambda: app.state.service.models.current is not None)
        await until(lambda: loaded_model(app.state.service).revision == 2)
        code = loaded_model(app.state.service).catalogue.codes[1, 0]
        for url in ("/items/50", "/items/item-1"):
            answer = await client.get(url)
            assert answer.status_code == 200
            assert answer.json()["attributes"] == {"year": 2**64, "n": [1000.0]}
        for url in ("/items/50/similar", "/popular", f"/codes/{code}"):
            assert (await client.get(url)).status_code == 200
        query = {"filter": {"attributes": [{"field": "year", "gte": 1e19}]}}
        found = (await client.post("/recommend", json=query)).json()["items"]
        assert {item["item_id"] for item in found} == {"50", "item-1"}
