"""Cost of HTTP around the engine, and latency below capacity (``make bench-http``).

The real ``etegrec-serve`` runs in its own process on the paper-size model and a catalogue of 12,000 items; this process
generates the load over keep-alive connections, on the same cores.

engine_req_s: the engine alone in this process, before the service starts, in batches of the largest size, with the same
threads and as many batches at the same time as the service computes.

http_req_s: the rate of many connections that send the next request as soon as the last one is answered; median over
the repeats. Each user asks once, so the result cache does not help unless ``--returning`` sets the share of requests
that repeat a recent one.

server_cpu_ms_outside_engine: CPU time of the service's process per request during the same repeats, user and system,
less that of the engine's ``compute``, which the service counts by the CPU clocks of the threads that do it
(``etegrec_stage_cpu_seconds_total``). The load generator is another process and never counted.

p50_ms, p99_ms: latency of requests that arrive independently (Poisson), counted from the moment each was due, at 70 %
of the rate that the same repeat reached just before, because a shared machine drifts; medians over the repeats.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

from benchmarks.load import Load, Reply, encode_request, milliseconds
from benchmarks.served_store import HISTORY, K, histories, open_store
from benchmarks.service_process import ServiceProcess, serving
from model_store.bundle.bundle import Bundle
from model_store.catalogue.catalogue import Catalogue
from service.engines.base import SearchRequest
from service.models.loading import open_engine
from service.settings import Settings

BODIES = 20_000


def requests(catalogue: Catalogue, returning: float, seed: int = 0) -> list[bytes]:
    """Return encoded requests, each of another user; a share of them repeats one of the last thousand."""
    rng = np.random.default_rng(seed)
    fresh = iter(histories(catalogue, BODIES, seed))
    asked: list[list[str]] = []
    for _ in range(BODIES):
        is_again = len(asked) > 0 and rng.random() < returning
        asked.append(asked[-1 - int(rng.integers(min(len(asked), 1000)))] if is_again else next(fresh))
    return [encode_request("POST", "/recommend", json.dumps({"history": each, "k": K}).encode()) for each in asked]


def engine_rate(bundle: Bundle, settings: Settings, seconds: float) -> float:
    """Return requests a second of the engine alone, preparing and finishing included."""
    engine = open_engine(bundle, settings)
    catalogue = bundle.catalogue()
    counts = [0] * engine.searches
    size = settings.max_batch or engine.largest_batch

    def batch(seed: int) -> list[SearchRequest]:
        rows = np.random.default_rng(seed).integers(0, len(catalogue), (size, HISTORY))
        return [SearchRequest(each, K, 20, catalogue.trie.everything, each, catalogue) for each in rows]

    def work(place: int, end: float) -> None:
        while time.perf_counter() < end:
            asked = batch(counts[place])
            engine.answer(asked, catalogue)
            counts[place] += len(asked)

    # the first run warms up
    for run_s in (min(1.0, seconds), seconds):
        counts[:] = [0] * engine.searches
        started = time.perf_counter()
        threads = [threading.Thread(target=work, args=(at, started + run_s)) for at in range(engine.searches)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    rate = sum(counts) / (time.perf_counter() - started)
    engine.close()
    return rate


def engine_cpu_s(service: ServiceProcess) -> float:
    """Return the CPU seconds that the service spent in the engine's ``compute``."""
    return service.metric('etegrec_stage_cpu_seconds_total{stage="compute"}')


def percentiles(timed: list[list[Reply]], percent: float) -> list[float]:
    """Return a percentile of the latencies of each run, in milliseconds."""
    return [milliseconds(replies, percent) or 0.0 for replies in timed]


def check(replies: list[Reply]) -> None:
    """Refuse figures of a run in which something other than answers came back.

    Raises:
        SystemExit: A reply failed, or there is none.
    """
    failed = sorted({reply.status for reply in replies} - {200})
    if failed or not replies:
        raise SystemExit(f"{len(replies)} replies, some with status {failed}: the figures would mean nothing")


class Figures(NamedTuple):
    """Figures of all repeats, and of the batches of the whole run."""

    rates: list[float]  # requests a second, one a repeat
    cpu_ms: list[float]  # of the server for each request, outside the engine
    timed: list[list[Reply]]  # at 70 % of the rate
    batches: float
    computed: float  # requests in them

    def document(self) -> dict[str, Any]:
        """Return their part of the line."""
        rate = statistics.median(self.rates)
        p50_ms, p99_ms = (percentiles(self.timed, percent) for percent in (50, 99))
        return {
            "http_req_s": round(rate, 1),
            "http_spread": [round(min(self.rates), 1), round(max(self.rates), 1)],
            "server_cpu_ms_outside_engine": round(statistics.median(self.cpu_ms), 3),
            "cpu_spread": [round(min(self.cpu_ms), 3), round(max(self.cpu_ms), 3)],
            "p50_ms": statistics.median(p50_ms),
            "p99_ms": statistics.median(p99_ms),
            "p99_spread": [min(p99_ms), max(p99_ms)],
            "offered_req_s": round(0.7 * rate, 1),
            "mean_batch": round(self.computed / max(1.0, self.batches), 1),
        }


def measure(
    service: ServiceProcess,
    bodies: list[bytes],
    connections: int,
    seconds: float,
    repeats: int,
    latency_seconds: float,
) -> Figures:
    """Measure rate and processor time in a closed loop, then latency in an open one; so many times."""
    load = Load(service.port, bodies, connections)
    arriving = Load(service.port, bodies[::-1], 256)
    check(asyncio.run(load.closed_loop(min(3.0, seconds))))

    rates: list[float] = []
    cpu_ms: list[float] = []
    timed: list[list[Reply]] = []
    for _ in range(repeats):
        before = service.cpu_s() - engine_cpu_s(service)
        started = time.perf_counter()
        replies = asyncio.run(load.closed_loop(seconds))
        rates.append(len(replies) / (time.perf_counter() - started))
        cpu_ms.append((service.cpu_s() - engine_cpu_s(service) - before) / len(replies) * 1000)
        check(replies)

        timed.append(asyncio.run(arriving.open_loop(0.7 * rates[-1], latency_seconds)))
        check(timed[-1])

    batches, computed = (service.metric(f"etegrec_batch_size_{part}") for part in ("count", "sum"))
    return Figures(rates, cpu_ms, timed, batches, computed)


def main(
    store: Annotated[
        Path | None, typer.Option(help="Folder to keep the model in; default: build it again, which takes minutes.")
    ] = None,
    engine: Annotated[str, typer.Option()] = "onnx",
    threads: Annotated[int, typer.Option(min=0, help="As ETEGREC_THREADS.")] = Settings.model_fields["threads"].default,
    searches: Annotated[int, typer.Option(min=1, help="As ETEGREC_SEARCHES.")] = Settings.model_fields[
        "searches"
    ].default,
    max_batch: Annotated[int | None, typer.Option(min=1, help="As ETEGREC_MAX_BATCH.")] = Settings.model_fields[
        "max_batch"
    ].default,
    onnx_precision: Annotated[str, typer.Option(help="As ETEGREC_ONNX_PRECISION.")] = Settings.model_fields[
        "onnx_precision"
    ].default,
    connections: Annotated[int, typer.Option(min=1)] = 64,
    seconds: Annotated[float, typer.Option(help="Seconds of each repeat.")] = 8.0,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    latency_seconds: Annotated[
        float, typer.Option(help="Seconds of each repeat at 70% of the rate it reached.")
    ] = 12.0,
    returning: Annotated[float, typer.Option(min=0, max=1, help="Share of requests that repeat a recent one.")] = 0.0,
    cache: Annotated[int, typer.Option(min=0, help="As ETEGREC_RESULT_CACHE_ENTRIES.")] = 0,
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = store or Path(temporary)
        bundle = open_store(folder).bundle()
        given = {"engine": engine, "threads": threads, "searches": searches, "max_batch": max_batch}
        given["onnx_precision"] = onnx_precision

        alone = engine_rate(bundle, Settings.load(**given), seconds)
        bodies = requests(bundle.catalogue(), returning)
        slack = {"deadline_ms": 30_000, "result_cache_entries": cache}
        with serving(folder, **given, **slack) as service:
            figures = measure(service, bodies, connections, seconds, repeats, latency_seconds)
            hits = service.metric('etegrec_result_cache_lookups_total{result="hit"}') if cache else 0.0

    line = {"bench": "http", "engine_req_s": round(alone, 1), **figures.document()}
    line |= {name: given[name] for name in ("threads", "searches", "max_batch", "onnx_precision")}
    line |= {"returning": returning, "cache_hits": int(hits), "load": round(os.getloadavg()[0], 2), "repeats": repeats}
    typer.echo(json.dumps(line))


if __name__ == "__main__":
    typer.run(main)
