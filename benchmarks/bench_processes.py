"""Several processes on one machine beside one process with threads (``make bench-processes``).

Both ways get the same cores: one ``etegrec-serve`` that computes with all of them, then one process a core that
computes with one. They run one after the other on the paper-size model, without the result cache; each process has a
port of its own and an equal part of the connections, so no balancer is measured.

requests_s is the rate of connections that send the next request as soon as the last one is answered. cpu_ms is the CPU
time of all processes per request, outside_engine_ms the part of it that is not the engine's ``compute``: it is nearly
all Python, of which a process runs one thread at a time. So feeds_cores, cpu_ms by outside_engine_ms, is the number of
cores that one process can keep busy before Python is what limits it. pss_mb is memory in proportion: what processes
share counts by halves (``smaps_rollup``); private_mb is what each has for itself. Linux only.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.bench_http import check, engine_cpu_s, requests
from benchmarks.load import Load, Reply
from benchmarks.served_store import open_store
from benchmarks.service_process import ServiceProcess
from tests.support.redis_server import running_redis

DEADLINE_MS = 30_000
"""Time budget of a request: none is refused because the machine is slow, so that each costs what an answer costs."""


def memory_mb(pid: int) -> dict[str, float]:
    """Return proportional and private memory of a process, in MB (Linux)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kilobytes = {name: int(value) for name, value in re.findall(r"^(\w+): +(\d+) kB", text, re.MULTILINE)}
    private = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
    return {"pss_mb": kilobytes["Pss"] * 1024 / 1e6, "private_mb": private * 1024 / 1e6}


async def load_all(
    services: Sequence[ServiceProcess], asked: list[bytes], connections: int, seconds: float
) -> list[Reply]:
    """Load all processes at the same time, each over its part of the connections; return all replies."""
    share = connections // len(services)
    parts = [asked[at :: len(services)] for at in range(len(services))]
    loads = [Load(each.port, part, share) for each, part in zip(services, parts, strict=True)]
    return [
        reply for replies in await asyncio.gather(*(load.closed_loop(seconds) for load in loads)) for reply in replies
    ]


def measure(
    services: Sequence[ServiceProcess], asked: list[bytes], connections: int, seconds: float
) -> dict[str, float]:
    """Return the figures of processes that are ready."""
    check(asyncio.run(load_all(services, asked, connections, min(2.0, seconds))))  # warms up

    cpu_s = -sum(each.cpu_s() for each in services)
    engine_s = -sum(engine_cpu_s(each) for each in services)
    replies = asyncio.run(load_all(services, asked, connections, seconds))
    cpu_s += sum(each.cpu_s() for each in services)
    engine_s += sum(engine_cpu_s(each) for each in services)
    check(replies)

    memory = [memory_mb(each.pid) for each in services]
    cpu_ms = 1000 * cpu_s / len(replies)
    outside_ms = 1000 * (cpu_s - engine_s) / len(replies)
    return {
        "processes": len(services),
        "requests_s": round(len(replies) / seconds, 1),
        "cpu_ms": round(cpu_ms, 3),
        "outside_engine_ms": round(outside_ms, 3),
        "feeds_cores": round(cpu_ms / outside_ms, 1),
        "pss_mb": round(sum(each["pss_mb"] for each in memory), 1),
        "private_mb": round(sum(each["private_mb"] for each in memory), 1),
    }


def main(
    store: Annotated[
        Path | None, typer.Option(help="Folder to keep the model in; default: build it again, which takes minutes.")
    ] = None,
    engine: Annotated[str, typer.Option()] = "onnx",
    onnx_precision: Annotated[str, typer.Option(help="As ETEGREC_ONNX_PRECISION.")] = "fp32",
    cores: Annotated[int, typer.Option(min=2)] = 2,
    connections: Annotated[int, typer.Option(min=2, help="Of all processes together.")] = 64,
    seconds: Annotated[float, typer.Option(help="Seconds of each way.")] = 10.0,
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = store or Path(temporary) / "store"
        asked = requests(open_store(folder).bundle().catalogue(), returning=0.0)
        found: dict[str, object] = {"bench": "processes", "cores": cores}
        for name, processes in (("one", 1), ("several", cores)):
            with ExitStack() as stack:
                server = stack.enter_context(running_redis(Path(temporary) / f"redis-{name}"))
                given: dict[str, Any] = {
                    "engine": engine,
                    "onnx_precision": onnx_precision,
                    "threads": cores // processes,
                }
                given |= {"redis_url": server.url, "result_cache_entries": 0, "deadline_ms": DEADLINE_MS}
                services = [
                    ServiceProcess(folder, Path(temporary) / f"{name}-{at}", **given) for at in range(processes)
                ]
                for service in services:
                    service.start()
                    stack.callback(service.terminate)
                found[name] = measure(services, asked, connections, seconds)

    found |= {"onnx_precision": onnx_precision, "seconds": seconds, "load": round(os.getloadavg()[0], 2)}
    typer.echo(json.dumps(found))


if __name__ == "__main__":
    typer.run(main)
