"""Answers, latency and lost writes while Redis has trouble (``make bench-faults``).

The real ``etegrec-serve`` runs in its own process on the paper-size model, without its result cache, with a Redis that
it reaches through a proxy. Requests arrive independently (Poisson): every other one brings its history, the rest a user
id whose history Redis holds. A client writes events all the time. Before each fault the same load runs without one.

answered is the share of requests that got 200. An answer is wrong unless it is what the model answers to that history
alone, computed in this process before; by user id, popular items are right too while the history cannot be read.
A write is lost if it was acknowledged and is gone after the fault; what a server that restarts empty had held is not
counted. p99_extra_ms is p99 during the worst fault minus p99 of all the load between faults. recover_s is the longest
time from the end of a fault until answers are not degraded and a write is accepted. ``faults`` has each.

``primary_killed`` has a service of its own, whose Redis is the primary that three sentinels name: it is killed, and the
time to recover counts from then on. So has ``cluster_node_killed``, with a Redis Cluster of three primaries, one of
which has a replica and is killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.bench_overload import expectations, is_right
from benchmarks.load import Load, Reply, encode_request, milliseconds
from benchmarks.redis_faults import Fault, failover, faults, node_loss, redis_and_network, user_of_first_node
from benchmarks.served_store import K, open_store
from benchmarks.service_process import serving
from model_store.catalogue.catalogue import Catalogue
from service.engines.base import SearchResult
from service.settings import Settings
from tests.support.redis_cluster import running_cluster
from tests.support.sentinels import running_sentinels

CONNECTIONS = 256
WRITES_A_SECOND = 4
WRITER = "writer"
LONGEST_RECOVERY_S = 60.0


@dataclass
class Clients:
    """The load on the service, its right answers, and the writes that were acknowledged."""

    port: int
    catalogue: Catalogue
    histories: list[list[str]]
    expected: list[SearchResult]
    rate: float
    writer: str = WRITER
    written: int = 0
    acknowledged: set[str] = field(default_factory=set)
    refused: int = 0
    unexpected: int = 0
    peace: list[Reply] = field(default_factory=list)

    @property
    def users(self) -> list[str]:
        """Ids of the users."""
        return [f"user-{number}" for number in range(len(self.histories))]

    async def load(self, seconds: float) -> list[Reply]:
        """Send requests and return the replies: those of even numbers bring the history, the others the user id."""
        requests = chain.from_iterable(
            ({"history": history, "k": K}, {"user_id": user, "k": K})
            for history, user in zip(self.histories, self.users, strict=True)
        )
        bodies = [encode_request("POST", "/recommend", json.dumps(each).encode()) for each in requests]
        return await Load(self.port, bodies, CONNECTIONS).open_loop(self.rate, seconds, seed=self.written)

    async def write(self, seconds: float) -> None:
        """Write events of one user, one after another."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            await self.write_one()
            await asyncio.sleep(1 / WRITES_A_SECOND)

    async def write_one(self) -> bool:
        """Write one event; tell whether it was acknowledged."""
        item_id = f"written-{self.written}"
        self.written += 1
        status = (await self.ask("POST", "/events", [_event(self.writer, item_id, self.written)])).status
        if status == 200:
            self.acknowledged.add(item_id)
        self.refused += status == 503
        self.unexpected += status not in (200, 503)
        return status == 200

    async def store_histories(self) -> None:
        """Record what each user saw, in Redis."""
        for user, history in zip(self.users, self.histories, strict=True):
            events = [_event(user, item_id, number) for number, item_id in enumerate(history)]
            while (await self.ask("POST", "/events", events)).status != 200:
                await asyncio.sleep(0.05)

    async def lost(self) -> int:
        """Count acknowledged events that the writer's history lacks."""
        kept = json.loads((await self.ask("GET", f"/users/{self.writer}")).body)["history"]
        return len(self.acknowledged - set(kept))

    async def recovery_s(self) -> float:
        """Return the seconds until answers are not degraded and a write is accepted."""
        started = time.perf_counter()
        while (now := time.perf_counter() - started) < LONGEST_RECOVERY_S:
            reply = await self.ask("POST", "/recommend", {"history": self.histories[0], "k": K})
            if reply.status == 200 and not json.loads(reply.body)["degraded"] and await self.write_one():
                break
            await asyncio.sleep(0.05)
        return now

    async def ask(self, method: str, path: str, body: object = None) -> Reply:
        """Send one request on a connection of its own."""
        data = encode_request(method, path, b"" if body is None else json.dumps(body).encode())
        [reply] = await Load(self.port, [data], 1).open_loop(1e6, 1e-6)
        return reply

    def wrong(self, replies: Sequence[Reply], *, has_histories: bool) -> int:
        """Count wrong answers; without histories, popular items are right even if the answer is not degraded."""
        return sum(not self._is_right(reply, has_histories) for reply in replies if reply.status == 200)

    def _is_right(self, reply: Reply, has_histories: bool) -> bool:
        answer = json.loads(reply.body)
        is_by_user = reply.request % 2 == 1
        if is_by_user and answer["served_by"] == "popular":
            return len(answer["items"]) == K and (answer["degraded"] or not has_histories)
        return is_right(reply.body, self.expected[reply.request // 2], self.catalogue)


async def measure_fault(clients: Clients, fault: Fault, before_s: float, seconds: float) -> dict[str, Any]:
    """Measure one fault, from the load before it until the service has recovered."""
    before, _ = await asyncio.gather(clients.load(before_s), clients.write(before_s))
    refused = clients.refused
    unexpected = clients.unexpected

    healing = _until_healed(clients, fault)
    during, _, healed_s = await asyncio.gather(clients.load(seconds), clients.write(seconds), healing)

    after = asyncio.create_task(clients.load(before_s))
    await asyncio.to_thread(fault.end)
    if fault.loses_data:
        clients.acknowledged.clear()
    recover_s = await clients.recovery_s() if healed_s is None else healed_s

    replies = [*during, *await after]
    answered = sum(reply.status == 200 for reply in (*before, *replies))
    clients.peace += before

    found = {
        "requests": len(before) + len(replies),
        "unanswered": len(before) + len(replies) - answered,
        "wrong": clients.wrong(before, has_histories=True) + clients.wrong(replies, has_histories=not fault.loses_data),
        "degraded": sum(json.loads(reply.body).get("degraded", False) for reply in during if reply.status == 200),
        "p99_ms": milliseconds(during, 99),
        "recover_s": round(recover_s, 2),
        "writes_refused": clients.refused - refused,
        "writes_failed": clients.unexpected - unexpected,
        "writes_lost": await clients.lost(),
    }

    if fault.loses_data:
        await clients.store_histories()
    return found


async def _until_healed(clients: Clients, fault: Fault) -> float | None:
    """Begin a fault; return the seconds until service is back if it must come back by itself."""
    await asyncio.to_thread(fault.begin)
    return await clients.recovery_s() if fault.heals_itself else None


async def measure_faults(
    clients: Clients, kinds: dict[str, Fault], before_s: float, seconds: float
) -> dict[str, dict[str, Any]]:
    """Measure all faults, one after another."""
    await clients.store_histories()
    await clients.load(before_s)  # warms up
    return {name: await measure_fault(clients, fault, before_s, seconds) for name, fault in kinds.items()}


def main(
    store: Annotated[
        Path | None, typer.Option(help="Folder to keep the model in; default: build it again, which takes minutes.")
    ] = None,
    engine: Annotated[str, typer.Option()] = "onnx",
    threads: Annotated[int, typer.Option(min=0)] = Settings.model_fields["threads"].default,
    rate: Annotated[float, typer.Option(help="Requests a second.")] = 20.0,
    before_s: Annotated[float, typer.Option(help="Seconds of load before each fault.")] = 3.0,
    seconds: Annotated[float, typer.Option(help="Seconds of each fault.")] = 5.0,
    users: Annotated[int, typer.Option(min=2, help="Different histories.")] = 100,
) -> None:
    peace: list[Reply] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = store or Path(temporary) / "store"
        bundle = open_store(folder).bundle()
        histories, expected = expectations(bundle, Settings.load(engine=engine, threads=threads), users)

        def measure(
            url: str, kinds_of: Callable[[Sequence[str]], dict[str, Fault]], writer: str = WRITER
        ) -> dict[str, dict[str, Any]]:
            given = {"engine": engine, "threads": threads, "redis_url": url, "result_cache_entries": 0}
            with serving(folder, **given) as service:
                clients = Clients(service.port, bundle.catalogue(), histories, expected, rate, writer, peace=peace)
                return asyncio.run(measure_faults(clients, kinds_of(clients.users), before_s, seconds))

        with redis_and_network(Path(temporary) / "redis") as (server, network):
            url = f"redis://:{server.password}@127.0.0.1:{network.proxy.port}/0"
            found = measure(url, lambda names: faults(server, network, names, seconds))
        with running_sentinels(Path(temporary) / "sentinels") as group:
            found |= measure(group.url, lambda _: failover(group))
        with running_cluster(Path(temporary) / "cluster", replicas=1) as cluster:
            found |= measure(cluster.url, lambda _: node_loss(cluster), user_of_first_node(cluster))

    peace_ms = milliseconds(peace, 99) or 0.0
    requests = sum(each["requests"] for each in found.values())
    unanswered = sum(each["unanswered"] for each in found.values())

    typer.echo(
        json.dumps(
            {
                "bench": "faults",
                "answered": round(1 - unanswered / requests, 5),
                "wrong": sum(each["wrong"] for each in found.values()),
                "p99_extra_ms": round(max(each["p99_ms"] for each in found.values()) - peace_ms, 2),
                "recover_s": max(each["recover_s"] for each in found.values()),
                "p99_peace_ms": peace_ms,
                "writes_lost": sum(each["writes_lost"] for each in found.values()),
                "requests": requests,
                "rate": rate,
                "seconds": seconds,
                "faults": found,
                "threads": threads,
                "load": round(os.getloadavg()[0], 2),
            }
        )
    )


def _event(user: str, item_id: str, number: int) -> dict[str, object]:
    """Return a purchase: what was bought is left out of answers, as the items of a request's own history are."""
    event_id = f"{user}-{number}-{time.time_ns()}"
    now = int(time.time())
    return {"event_id": event_id, "user_id": user, "item_id": item_id, "type": "purchase", "timestamp": now}


if __name__ == "__main__":
    typer.run(main)
