"""Replicas that share one Redis keep one catalogue, whatever happens to either."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from redis import Redis

from model_store.bundle.registry import ModelStore
from model_store.errors import StoreError
from model_store.replication import redis_keys
from service.app import create_app
from service.catalogue import manager
from service.catalogue.manager import Line
from service.errors import CatalogueIsFull, InvalidFields, NotFound
from service.schemas.items import ItemBody, ItemPatch, delete_change
from service.schemas.recommend import RecommendRequest
from service.service import Service
from service.store.change_stream import RawChange
from service.store.embedded_store import EmbeddedStore
from service.store.redis_store import RedisStore
from tests.support.hash_coder import hash_coder
from tests.support.redis_server import RedisServer
from tests.support.service_harness import fast_settings, live_store, loaded_model, metric, running, until

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

PATIENT_MS = 10_000
Start = Callable[..., Awaitable[Service]]


class Replicas:
    """Services on one store and one Redis; each can be stopped and another begun at any point."""

    def __init__(self, folder: Path, url: str, prefix: str) -> None:
        self.folder, self.url, self.prefix = folder, url, prefix

    @asynccontextmanager
    async def one(self, **given: Any) -> AsyncIterator[Service]:
        timeout_ms = given.pop("timeout_ms", PATIENT_MS)
        writing_s = max(1.0, timeout_ms / 1000)
        store = RedisStore(
            self.url, prefix=self.prefix, timeout_ms=timeout_ms, write_timeout_s=writing_s, breaker_pause_s=0.05
        )
        settings = fast_settings(self.folder, **{"catalogue_poll_s": 0.01, "compact_changes": 100, **given})
        app = create_app(settings, store=store, coders=hash_coder)
        async with running(app):
            await until(lambda: app.state.service.models.current is not None)
            yield app.state.service


@pytest.fixture
def replicas(tmp_path: Path, redis_server: RedisServer, prefix: str) -> Replicas:
    live_store(tmp_path / "store")
    return Replicas(tmp_path / "store", redis_server.url, prefix)


@pytest.fixture
def own(tmp_path: Path, own_redis: RedisServer, prefix: str) -> Replicas:
    live_store(tmp_path / "store")
    return Replicas(tmp_path / "store", own_redis.url, prefix)


def digest(service: Service) -> str:
    assert service.models.current is not None
    return service.models.current.catalogue.digest()


def place(service: Service) -> tuple[str, int]:
    model = service.models.current
    assert model is not None
    return model.lineage, model.revision


async def same_place(*services: Service) -> None:
    """Wait until all have read the same, and hold what they have against each other."""
    await until(lambda: len({place(service) for service in services}) == 1 and bool(place(services[0])[0]))
    assert len({digest(service) for service in services}) == 1


async def answers(service: Service) -> list[object]:
    asked = [
        RecommendRequest(history=["item-1"], k=100),
        RecommendRequest(history=["new-1", "item-2"], k=20, exclude_seen=False),
        RecommendRequest(history=["item-9"], k=10, max_per_prefix=2),
        RecommendRequest(k=30),
    ]
    found: list[object] = []
    for request in asked:
        answer = await service.recommender.recommend(request)
        rows = answer.found.rows.tolist()
        ids = [answer.model.catalogue.item_ids[row] for row in rows]
        found.append((ids, answer.found.score.tolist(), answer.model.catalogue.codes[rows].tolist()))
    return found


def a_change(random: Random) -> RawChange:
    item_id = random.choice([f"new-{random.randrange(700)}", f"item-{random.randrange(40)}"])
    if random.random() < 0.3:
        return delete_change(item_id)
    return ItemBody(title=f"title {random.randrange(50)}").change(item_id)


async def some_changes(service: Service, seed: int, count: int) -> None:
    """Append random changes, a few at a time; replicas read them as they can."""
    random = Random(seed)
    while count > 0:
        part = [a_change(random) for _ in range(min(count, random.randrange(1, 25)))]
        await service.store_client.store.catalogue.append(part)
        count -= len(part)


async def some_requests(service: Service, seed: int, count: int) -> None:
    """Put and delete random items, each acknowledged before the next."""
    random = Random(seed)
    for _ in range(count):
        item_id, kind, payload = a_change(random)
        try:
            if kind == "delete":
                await service.catalogue.delete(item_id)
                continue
            written = await service.catalogue.put(item_id, ItemBody.model_validate_json(payload))
            assert written.model.catalogue.item_ids[written.row] == item_id
        except (NotFound, CatalogueIsFull):
            continue


async def note_states(service: Service, seen: dict[tuple[str, int], str]) -> None:
    """Every state that is answered with, by its place; the same place must mean the same state, on any replica."""
    while True:
        assert seen.setdefault(place(service), digest(service)) == digest(service)
        await asyncio.sleep(0.001)


async def test_replicas_agree_at_every_revision_under_concurrent_changes(replicas: Replicas) -> None:
    seen: dict[tuple[str, int], str] = {}
    async with replicas.one() as first, replicas.one() as second:
        watching = [asyncio.create_task(note_states(each, seen)) for each in (first, second)]
        works = [some_changes(each, seed, 500) for seed, each in enumerate([first, second] * 2)]
        works += [some_requests(each, 10 + seed, 15) for seed, each in enumerate([first, second] * 2)]
        await asyncio.gather(*works)
        await same_place(first, second)
        assert place(first)[1] >= 2000
        assert first.models.current is not None
        assert len(first.models.current.catalogue) > 400
        assert await answers(first) == await answers(second)
        saved = [metric(each, "etegrec_snapshots_total", result="saved") for each in (first, second)]
        assert sum(saved) >= 2
        async with replicas.one() as third:
            await same_place(first, second, third)
            assert await answers(third) == await answers(first)
        for each in watching:
            assert not each.done()
            each.cancel()
    assert len(seen) > 10


async def test_a_replica_may_be_replaced_at_any_point(replicas: Replicas) -> None:
    async with replicas.one() as steady:
        for seed in range(5):
            changing = asyncio.create_task(some_changes(steady, seed, 100))
            async with replicas.one() as passing:
                await some_requests(passing, 100 + seed, 5)
                await changing
                await same_place(steady, passing)


async def test_an_update_and_a_deletion_show_on_the_other_replica(replicas: Replicas) -> None:
    async with replicas.one() as first, replicas.one() as second:
        written = await first.catalogue.put("new", ItemBody(title="A new one", categories=["x"]))
        assert written.row == 40
        model, row = await second.catalogue.find("new")
        assert model.catalogue.titles[row] == "A new one"
        await second.catalogue.delete("item-7")

        async def has_it(service: Service) -> bool:
            found = await service.recommender.recommend(RecommendRequest(history=["item-1"], k=100))
            return any(found.model.catalogue.item_ids[each] == "item-7" for each in found.found.rows.tolist())

        assert not await has_it(second)
        async with asyncio.timeout(30):
            while await has_it(first):
                await asyncio.sleep(0.01)
        await first.catalogue.put("item-7", ItemBody(title="Back"))
        assert await has_it(first)


async def test_a_gap_in_the_stream_is_crossed_by_the_snapshot(replicas: Replicas) -> None:
    async with replicas.one() as first, replicas.one(catalogue_poll_s=60) as late:
        await some_changes(first, 1, 300)
        await until(lambda: place(first)[1] == 300)
        assert place(late)[1] < place(first)[1]
        with Redis.from_url(replicas.url) as raw:
            raw.xtrim(redis_keys.Keys(replicas.prefix).changes, maxlen=1)
        await late.updater.step()
        await late.updater.step()
        await same_place(first, late)


async def test_everyone_agrees_after_snapshot_and_stream_were_lost(replicas: Replicas) -> None:
    async with replicas.one() as first, replicas.one() as second:
        await some_changes(first, 1, 150)
        await same_place(first, second)
        with Redis.from_url(replicas.url) as raw:
            keys = redis_keys.Keys(replicas.prefix)
            raw.delete(keys.changes, *raw.keys(f"{replicas.prefix}:catalogue:*"))
        await some_changes(second, 2, 50)
        await same_place(first, second)
        async with replicas.one() as third:
            await same_place(first, second, third)


async def test_a_redis_that_came_back_empty_gets_everything_back(own: Replicas, own_redis: RedisServer) -> None:
    async with own.one() as first, own.one() as second:
        await first.catalogue.put("new", ItemBody(title="kept", attributes={"year": 1999}))
        await first.catalogue.delete("item-3")
        await first.catalogue.put("item-4", ItemBody(title="renamed"))
        await same_place(first, second)
        before = digest(first), place(first)[1]
        with own_redis.client() as raw:
            raw.flushall()
        await until(lambda: place(first)[1] > before[1])
        await same_place(first, second)
        assert digest(first) == before[0]
        live_store(own.folder, seed=1)  # the next version knows the changes, too
        await until(lambda: all(loaded_model(each).catalogue.row("new") is not None for each in (first, second)))
        await same_place(first, second)
        model, row = await first.catalogue.find("item-3")
        assert model.catalogue.is_hidden[row]
        assert model.catalogue.titles[(await first.catalogue.find("item-4"))[1]] == "renamed"


async def test_a_new_version_applies_all_changes_anew(replicas: Replicas) -> None:
    async with replicas.one() as first, replicas.one() as second:
        old = first.models.current
        assert old is not None
        await some_changes(first, 3, 200)
        await first.catalogue.delete("item-3")
        await first.catalogue.put("late", ItemBody(title="hidden, not lost"))
        await first.catalogue.delete("late")
        codes = {each: (await first.catalogue.find(each))[1] for each in ("item-3",)}
        version = live_store(replicas.folder, seed=1)
        await until(lambda: all(loaded_model(each).version == version for each in (first, second)))
        await same_place(first, second)
        new = first.models.current
        assert new is not None
        assert new.catalogue.is_hidden[codes["item-3"]]
        before = {old.catalogue.item_ids[row] for row in range(len(old.catalogue))}
        assert before <= {new.catalogue.item_ids[row] for row in range(len(new.catalogue))}
        assert len(new.catalogue) > 60
        back = await second.catalogue.patch("late", ItemPatch(hidden=False))
        assert back.model.catalogue.titles[back.row] == "hidden, not lost"
        await some_changes(second, 4, 50)
        await same_place(first, second)
        ModelStore(replicas.folder).rollback()
        await until(lambda: all(loaded_model(each).version == old.version for each in (first, second)))
        await same_place(first, second)


async def test_writes_are_refused_while_redis_is_away_and_nothing_is_lost(
    own: Replicas, own_redis: RedisServer
) -> None:
    async with own.one() as service:
        await service.catalogue.put("before", ItemBody(title="before"))
        own_redis.kill()
        with pytest.raises(StoreError):
            await service.catalogue.put("during", ItemBody(title="during"))
        with pytest.raises(StoreError):
            await service.catalogue.delete("item-1")
        await until(lambda: not service.store_client.is_up)
        answer = await service.recommender.recommend(RecommendRequest(history=["item-1"], k=5))
        assert (len(answer.found.rows), answer.is_degraded) == (5, True)
        assert (await service.catalogue.find("before"))[1] == 40
        own_redis.start()
        await until(lambda: service.store_client.is_up)
        await service.catalogue.put("during", ItemBody(title="during"))
        async with own.one() as other:
            await same_place(service, other)
            assert (await other.catalogue.find("before"))[1] == 40


async def test_a_replica_that_begins_without_redis_serves_and_catches_up(own: Replicas, own_redis: RedisServer) -> None:
    async with own.one() as first:
        await first.catalogue.delete("item-3")
        own_redis.kill()
        async with own.one(timeout_ms=100) as second:
            assert not second.store_client.is_up
            answer = await second.recommender.recommend(RecommendRequest(history=["item-1"], k=5))
            assert (len(answer.found.rows), answer.is_degraded) == (5, True)
            own_redis.start()
            await until(lambda: second.store_client.is_up)
            await same_place(first, second)


async def test_a_version_waits_for_the_changes_that_hide_items(own: Replicas, own_redis: RedisServer) -> None:
    async with own.one() as service:
        await service.catalogue.delete("item-3")
        old = place(service)
        own_redis.kill()
        version = live_store(own.folder, seed=1)
        await until(lambda: metric(service, "etegrec_model_loads_total", result="failed") >= 1)
        assert place(service) == old
        own_redis.start()
        await until(lambda: loaded_model(service).version == version)
        model, row = await service.catalogue.find("item-3")
        assert model.catalogue.is_hidden[row]


async def test_a_snapshot_being_made_elsewhere_is_waited_for_in_bounds(replicas: Replicas) -> None:
    with Redis.from_url(replicas.url) as raw:
        version = ModelStore(replicas.folder).live()
        lock = redis_keys.Keys(replicas.prefix).lock(str(version))
        raw.set(lock, "someone else", px=600_000)
        async with replicas.one(catalogue_wait_s=0.2) as service:
            assert place(service) == ("", 0)
            assert metric(service, "etegrec_snapshots_total", result="unavailable") == 1
            raw.delete(lock)
            await until(lambda: bool(place(service)[0]))
            await until(lambda: service.store_client.is_up)


async def test_changes_of_an_unknown_kind_of_payload_stop_nobody(replicas: Replicas) -> None:
    async with replicas.one() as first, replicas.one() as second:
        await first.store_client.store.catalogue.append(
            [RawChange("odd", "put", b"[1]"), RawChange("odd", "delete", b"")]
        )
        await first.catalogue.put("fine", ItemBody(title="fine"))
        await same_place(first, second)
        assert metric(first, "etegrec_catalogue_changes_total", result="refused") == 1
        with pytest.raises(NotFound):
            await first.catalogue.find("odd")


async def test_a_damaged_entry_of_the_stream_is_crossed(replicas: Replicas) -> None:
    async with replicas.one() as first, replicas.one() as second:
        await first.catalogue.put("before", ItemBody(title="before"))
        await same_place(first, second)
        with Redis.from_url(replicas.url) as raw:
            fields = {"item": "x", "kind": "melt", "payload": ""}
            raw.xadd(redis_keys.Keys(replicas.prefix).changes, fields, id=f"{place(first)[1] + 1}-0")
        await first.catalogue.put("after", ItemBody(title="after"))
        await same_place(first, second)
        assert (await second.catalogue.find("before"))[0].catalogue.row("after") is not None


async def test_what_a_version_cannot_encode_is_refused_before_it_is_stored(replicas: Replicas) -> None:
    async with replicas.one() as service:
        with pytest.raises(InvalidFields, match="title"):
            await service.catalogue.put("new", ItemBody(title="refused"))
        with pytest.raises(InvalidFields, match="embedding"):
            await service.catalogue.put("item-1", ItemBody(embedding=[1.0]))
        assert place(service)[1] == 0


async def test_one_process_keeps_its_items_across_restarts(tmp_path: Path) -> None:
    live_store(tmp_path)
    kept: tuple[str, int] | None = None
    for start in range(4):
        app = create_app(
            fast_settings(tmp_path, compact_changes=10), store=EmbeddedStore(tmp_path / "events"), coders=hash_coder
        )
        service: Service = app.state.service
        async with running(app):
            await until(lambda: service.models.current is not None)  # noqa: B023
            while kept is not None and place(service)[1] < kept[1]:
                assert await service.updater.step()
            assert kept is None or kept == (digest(service), place(service)[1])
            await some_changes(service, start, 30)
            await some_requests(service, start, 5)
            await until(lambda: loaded_model(service).revision >= 30 * (start + 1))  # noqa: B023
            await service.updater.step()
            kept = (digest(service), place(service)[1])
    assert kept is not None
    assert kept[1] >= 120


async def test_single_changes_come_between_the_parts_of_a_bulk_upload(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager, "BULK_STEP", 5)
    lines = [Line(number, ItemBody(title=f"title {number}").change(f"bulk-{number}")) for number in range(1, 301)]
    async with replicas.one() as first, replicas.one() as second:
        uploading = asyncio.create_task(first.catalogue.put_all(lines))
        await until(lambda: place(second)[1] > 0)
        deleted = await second.catalogue.delete("item-7")
        shown = await second.recommender.recommend(RecommendRequest(history=["item-1"], k=100))
        assert shown.model.catalogue.row("item-7") not in shown.found.rows.tolist()
        single = await first.catalogue.put("single", ItemBody(title="single"))
        written = await uploading
        assert max(deleted.revision, single.revision) < written.revision
        assert (written.items, written.new) == (300, 300)
        await same_place(first, second)
        assert place(first)[1] == 302
