"""Placements and what was shown, on replicas that share a Redis: within a second, and through its trouble."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from anyio.to_thread import run_sync

from service.store.documents import POLL_S
from tests.support.batch_runs import answers, batch, write_users
from tests.support.redis_server import RedisServer
from tests.support.replica import Replica, open_replica
from tests.support.service_harness import Json, live_store, until

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


def revisions(replica: Replica) -> dict[str, int]:
    return {each.name: each.revision for each in replica.service.placements.all()}


async def put(replica: Replica, name: str, **rules: Any) -> Json:
    return await replica.accepted("PUT", f"/placements/{name}", rules)


def ids(answer: Json) -> set[str]:
    return {item["item_id"] for item in answer["items"]}


async def test_every_replica_has_a_write_within_a_second(tmp_path: Path, own_redis: RedisServer) -> None:
    assert POLL_S <= 0.5
    live_store(tmp_path)
    async with open_replica(tmp_path, own_redis.url) as one, open_replica(tmp_path, own_redis.url) as other:
        await until(lambda: revisions(other) == {})
        await put(one, "home", k=3)
        assert len(ids(await other.recommended(placement="home"))) == 3  # unknown there: the store is asked at once
        await put(one, "home", k=4)
        await until(lambda: revisions(other) == {"home": 2})
        await put(other, "cart", k=1)
        await one.accepted("DELETE", "/placements/home")
        await until(lambda: revisions(other) == revisions(one) == {"cart": 3})
        assert (await other.client.post("/recommend", json={"placement": "home"})).status_code == 404


async def test_redis_down_leaves_the_last_placements(tmp_path: Path, own_redis: RedisServer) -> None:
    live_store(tmp_path)
    async with open_replica(tmp_path, own_redis.url) as old:
        await put(old, "home", k=3)
        own_redis.kill()
        await old.until_degraded(True)
        answer = await old.recommended(placement="home")
        assert (len(answer["items"]), answer["placement"]["name"]) == (3, "home")
        await old.refused("PUT", "/placements/home", {"k": 4})
        await old.refused("DELETE", "/placements/home")

        async with open_replica(tmp_path, own_redis.url) as fresh:
            for response in (
                await fresh.client.post("/recommend", json={"placement": "home"}),
                await fresh.client.get("/placements"),
            ):
                assert response.status_code == 503
                assert response.json()["type"] == "urn:etegrec:problem:placements-not-read"
            assert len((await fresh.recommended(k=5))["items"]) == 5
            own_redis.start()
            await old.until_degraded(False)
            await until(lambda: fresh.service.placements.revision == 1)
            assert len((await fresh.recommended(placement="home"))["items"]) == 3


async def test_a_redis_that_comes_back_empty_gets_them_back(tmp_path: Path, own_redis: RedisServer) -> None:
    live_store(tmp_path)
    async with open_replica(tmp_path, own_redis.url) as replica:
        await put(replica, "home", k=3)
        await put(replica, "cart", k=2)
        with own_redis.client() as raw:
            raw.flushall()
        await put(replica, "new", k=1)  # refused until the others are back
        assert revisions(replica) == {"home": 1, "cart": 2, "new": 3}
        async with open_replica(tmp_path, own_redis.url) as fresh:
            await until(lambda: fresh.service.placements.revision == 3)
            assert revisions(fresh) == revisions(replica)


async def test_pages_on_two_replicas_do_not_repeat(tmp_path: Path, own_redis: RedisServer) -> None:
    live_store(tmp_path)
    async with open_replica(tmp_path, own_redis.url) as one, open_replica(tmp_path, own_redis.url) as other:
        asked = {"user_id": "u", "k": 10, "exclude_shown": {"hours": 24}}
        first = ids(await one.recommended(**asked))
        second = ids(await one.recommended(**asked))
        assert not first & second
        await one.service.shown.write()  # the other replica may not know of it for a moment
        third = ids(await other.recommended(**asked))
        assert len(third) == 10
        assert not third & (first | second)

        await one.accepted("DELETE", "/users/u")
        await other.service.shown.write()
        await one.accepted("DELETE", "/users/u")
        with own_redis.client() as raw:
            assert raw.keys("*:shown:*") == []


async def test_redis_down_answers_without_lists_and_says_so(tmp_path: Path, own_redis: RedisServer) -> None:
    live_store(tmp_path)
    async with open_replica(tmp_path, own_redis.url) as replica:
        asked = {"session_id": "s", "k": 10, "exclude_shown": {"answers": 5}}
        first = await replica.recommended(**asked)
        assert not first["degraded"]
        await replica.service.shown.write()
        own_redis.kill()
        second = await replica.recommended(**asked)
        third = await replica.recommended(**asked)
        assert second["degraded"]
        assert not ids(second) & ids(third)
        own_redis.start()
        await replica.until_degraded(False)
        await until(lambda: not replica.service.shown._waiting)
        fourth = await replica.recommended(**asked)
        assert not ids(fourth) & (ids(first) | ids(second) | ids(third))


async def test_batch_runs_take_a_placement(
    tmp_path: Path, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "models"
    live_store(store)
    async with open_replica(store, own_redis.url) as replica:
        rules = {"k": 4, "exclude_shown": {"hours": 1}, "filter": {"not": {"categories": ["category-0"]}}}
        await put(replica, "mail", **rules)
        histories = {"a": ["item-1", "item-2"], "b": ["item-7"]}
        online = {
            user: await replica.recommended(history=history, placement="mail", exclude_shown=None)
            for user, history in histories.items()
        }
    users = write_users(tmp_path / "users.parquet", histories)
    monkeypatch.setenv("ETEGREC_REDIS_URL", own_redis.url)
    monkeypatch.setenv("ETEGREC_ENGINE", "fake")

    def run(out: str, *options: str) -> int:
        return batch("recommend", store, tmp_path / out, "--users", str(users), *options)

    assert await run_sync(lambda: run("placed", "--placement", "mail")) == 0
    said = capsys.readouterr()
    assert "placement mail at revision 1" in said.err + said.out
    assert "exclude_shown does not hold here" in said.err + said.out
    found = {row["user"]: row["items"] for row in answers(tmp_path / "placed")}
    assert found == {user: [item["item_id"] for item in answer["items"]] for user, answer in online.items()}

    assert await run_sync(lambda: run("short", "--placement", "mail", "--k", "2")) == 0
    assert [len(row["items"]) for row in answers(tmp_path / "short")] == [2, 2]
    assert await run_sync(lambda: run("wrong", "--placement", "nowhere")) != 0
    assert "there is no placement nowhere" in capsys.readouterr().err
