"""Requests and writes while all replicas are replaced, one by one (``make bench-rolling``).

Several ``etegrec-serve`` share one Redis behind HAProxy, which asks each for its readiness. As a Deployment with
``maxSurge: 1`` and ``maxUnavailable: 0`` does it, a new replica starts, gets requests once it is ready, and only then
is an old one asked to end (SIGTERM). Meanwhile requests arrive independently (Poisson), half with their history, half
with a user id, and a client writes events.

non_200 counts all requests without the answer 200, connections that broke included. An answer is wrong unless it is
what the model answers to that history alone. A write is lost if it was acknowledged and is not in the user's history
afterwards. ``repeated`` is how often the balancer sent a request again because a connection was refused or closed
before a byte of an answer came.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.balancer import Balancer, balancing
from benchmarks.bench_faults import Clients
from benchmarks.bench_overload import expectations
from benchmarks.load import Reply, milliseconds
from benchmarks.served_store import open_store
from benchmarks.service_process import ServiceProcess, free_port
from service.settings import Settings
from tests.support.redis_server import running_redis

CHUNK_S = 2.0
"""Length of one piece of the load: it goes on for as long as replicas are being replaced."""

MOST_EVENTS = 5000
"""Written events that a history keeps, so that none is missing for lack of room."""


@dataclass
class Fleet:
    """Replicas on ports of a fixed list, one of which is free for the next.

    Args:
        store: Folder of the model store.
        folder: Where replicas have their logs.
        ports: One more than replicas.
        settings: Of each replica.
    """

    store: Path
    folder: Path
    ports: list[int]
    settings: dict[str, Any]
    running: list[ServiceProcess] = field(default_factory=list)
    ends_s: list[float] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)
    _started: int = 0

    def start_one(self) -> ServiceProcess:
        """Start a replica on the free port and wait until it is ready."""
        port = next(port for port in self.ports if port not in {each.port for each in self.running})
        self._started += 1
        service = ServiceProcess(self.store, self.folder / str(self._started), port=port, **self.settings)
        self.running.append(service)
        service.start()
        return service

    def end_oldest(self) -> None:
        """Ask the oldest replica to end, and wait until it has."""
        oldest = self.running[0]
        started = time.perf_counter()
        self.exit_codes.append(oldest.terminate())
        self.ends_s.append(time.perf_counter() - started)
        self.running.remove(oldest)

    def replace_all(self, balancer: Balancer) -> None:
        """Replace every replica by a new one."""
        for _ in range(len(self.running)):
            self.start_one()
            balancer.wait_for({each.port for each in self.running})
            self.end_oldest()

    def end(self) -> None:
        """End all replicas."""
        while self.running:
            self.end_oldest()


async def load_until(clients: Clients, done: asyncio.Event) -> list[Reply]:
    """Send requests and events until all is done; return the replies to the requests."""
    replies: list[Reply] = []
    while not done.is_set():
        sent, _ = await asyncio.gather(clients.load(CHUNK_S), clients.write(CHUNK_S))
        replies += sent
    return replies


async def measure(clients: Clients, fleet: Fleet, balancer: Balancer) -> tuple[list[Reply], list[Reply]]:
    """Return the replies of a calm time, and those of the time in which all replicas were replaced."""
    await clients.store_histories()
    await clients.load(CHUNK_S)  # warms up
    calm = await clients.load(2 * CHUNK_S)

    done = asyncio.Event()
    load = asyncio.create_task(load_until(clients, done))
    try:
        await asyncio.to_thread(fleet.replace_all, balancer)
    finally:
        done.set()
    return calm, await load


def main(
    store: Annotated[
        Path | None, typer.Option(help="Folder to keep the model in; default: build it again, which takes minutes.")
    ] = None,
    engine: Annotated[str, typer.Option()] = "onnx",
    threads: Annotated[int, typer.Option(min=0)] = 1,
    replicas: Annotated[int, typer.Option(min=1)] = 3,
    rate: Annotated[float, typer.Option(help="Requests a second.")] = 20.0,
    delay_s: Annotated[float, typer.Option(help="ETEGREC_SHUTDOWN_DELAY_S of the replicas.")] = 2.0,
    users: Annotated[int, typer.Option(min=2, help="Different histories.")] = 100,
    repeats: Annotated[bool, typer.Option(help="Whether the balancer sends unanswered requests again.")] = True,
) -> None:
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        bundle = open_store(store or folder / "store").bundle()
        histories, expected = expectations(bundle, Settings.load(engine=engine, threads=threads), users)

        server = stack.enter_context(running_redis(folder / "redis"))
        given = {"engine": engine, "threads": threads, "redis_url": server.url, "result_cache_entries": 0}
        ports = [free_port() for _ in range(replicas + 1)]
        limits = {"shutdown_delay_s": delay_s, "history_cap": MOST_EVENTS}
        fleet = Fleet(store or folder / "store", folder, ports, given | limits)
        stack.callback(fleet.end)
        for _ in range(replicas):
            fleet.start_one()

        balancer = stack.enter_context(balancing(folder / "balancer", ports, repeats=repeats))
        balancer.wait_for({each.port for each in fleet.running})
        clients = Clients(balancer.port, bundle.catalogue(), histories, expected, rate)
        started = time.perf_counter()
        calm, replies = asyncio.run(measure(clients, fleet, balancer))
        seconds = time.perf_counter() - started

        found = {
            "bench": "rolling",
            "replicas": replicas,
            "replaced": len(fleet.exit_codes),
            "requests": len(calm) + len(replies),
            "non_200": sum(reply.status != 200 for reply in (*calm, *replies)),
            "wrong": clients.wrong([*calm, *replies], has_histories=True),
            "writes": clients.written,
            "writes_refused": clients.refused + clients.unexpected,
            "writes_lost": asyncio.run(clients.lost()),
            "repeated": balancer.repeated(),
            "exit_codes": sorted(set(fleet.exit_codes)),
            "longest_end_s": round(max(fleet.ends_s), 2),
            "p99_ms": milliseconds(replies, 99),
            "p99_calm_ms": milliseconds(calm, 99),
            "rate": rate,
            "seconds": round(seconds, 1),
            "threads": threads,
            "load": round(os.getloadavg()[0], 2),
        }
    typer.echo(json.dumps(found))


if __name__ == "__main__":
    typer.run(main)
