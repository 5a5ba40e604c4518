"""Goodput, refusals and recovery under twice the load that the service can carry (``make bench-overload``).

The real ``etegrec-serve`` runs in its own process on the paper-size model, without its result cache. The peak is
the request rate of 32 connections that send the next request as soon as the last one is answered: the median of three
measurements before the overload and three after it, because a shared machine drifts. Goodput is the rate of requests
answered with 200 within the deadline while twice the first peak arrives (Poisson; no request waits for another). Twice
as many requests cost the load generator and the service twice as much outside the engine, on the same cores, so goodput
cannot quite reach the peak.

Every 200 is compared with what the model answers to the same history alone, computed in this process before: the same
items, scores within 1e-3, order free to swap within that margin. Health is probed ten times a second all the time.

recover_s is the time from the overload's last answer until requests, ten a second, are answered as before: ten in a row
with 200, within the p99 of the run at half the peak that comes before the overload.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

from benchmarks.load import Load, Reply, encode_request, milliseconds
from benchmarks.served_store import K, answer_alone, histories, open_store
from benchmarks.service_process import ServiceProcess, serving
from model_store.bundle.bundle import Bundle
from model_store.catalogue.catalogue import Catalogue
from service.engines.base import SearchResult
from service.models.loading import open_engine
from service.settings import Settings

MARGIN = 1e-3
PROBES_A_SECOND = 10
PEAK_CONNECTIONS = 32
CALM = 10
"""Requests in a row that must be answered as before the overload."""


def is_right(body: bytes, expected: SearchResult, catalogue: Catalogue) -> bool:
    """Tell whether an answer is the model's, up to swaps within the margin."""
    answer: dict[str, Any] = json.loads(body)
    rows = [catalogue.row(item["item_id"]) for item in answer["items"]]
    scores = np.array([item["score"] for item in answer["items"]])
    if answer["served_by"] != "model" or len(rows) != len(expected.rows) or len(set(rows)) != len(rows):
        return False
    if (np.abs(scores - expected.score) > MARGIN).any():
        return False
    known = dict(zip(expected.rows.tolist(), expected.score.tolist(), strict=True))
    last = float(expected.score[-1])  # an item that is not among the expected ones may only share the last place
    return all(abs(known.get(row, last) - score) <= MARGIN for row, score in zip(rows, scores.tolist(), strict=True))


def expectations(bundle: Bundle, settings: Settings, users: int) -> tuple[list[list[str]], list[SearchResult]]:
    """Return histories, and the model's answer to each alone."""
    catalogue = bundle.catalogue()
    engine = open_engine(bundle, settings)
    asked = histories(catalogue, users)
    found = [answer_alone(engine, catalogue, each, bundle.config.beam_width) for each in asked]
    engine.close()
    return asked, found


async def peak_rate(port: int, bodies: Sequence[bytes], seconds: float) -> float:
    """Return requests answered a second, at full load."""
    started = time.perf_counter()
    replies = await Load(port, bodies, PEAK_CONNECTIONS).closed_loop(seconds)
    return sum(reply.status == 200 for reply in replies) / (time.perf_counter() - started)


def measure_peaks(service: ServiceProcess, bodies: Sequence[bytes], seconds: float) -> list[float]:
    """Return the peak rates of three measurements."""
    return [asyncio.run(peak_rate(service.port, bodies, seconds)) for _ in range(3)]


async def recovery_s(port: int, bodies: Sequence[bytes], usual_s: float, longest_s: float = 60.0) -> float:
    """Return the seconds until requests are answered as before again; ``longest_s`` if they never are."""
    started = time.perf_counter()
    calm_since = 0.0
    calm = 0

    while calm < CALM and time.perf_counter() - started < longest_s:
        asked_at = time.perf_counter()
        [reply] = await Load(port, [bodies[calm]], 1).open_loop(1e6, 1e-6)
        is_calm = reply.status == 200 and reply.seconds <= usual_s
        calm_since = asked_at if is_calm and not calm else calm_since
        calm = calm + 1 if is_calm else 0
        await asyncio.sleep(max(0.0, 0.1 - reply.seconds))

    return calm_since - started if calm == CALM else longest_s


async def overload(service: ServiceProcess, bodies: Sequence[bytes], rate: float, seconds: float) -> list[list[Reply]]:
    """Return the replies to requests, and to probes of ``/health/live`` and ``/health/ready``."""
    probes = [encode_request("GET", f"/health/{name}") for name in ("live", "ready")]
    requests = Load(service.port, bodies, 4096).open_loop(rate, seconds)
    return list(await asyncio.gather(requests, Load(service.port, probes, 64).open_loop(PROBES_A_SECOND, seconds)))


class Outcome(NamedTuple):
    """What came of an overload, and of the peace before and after it."""

    peaks: list[float]  # requests a second, before and after
    peace: list[Reply]  # at half of the peak
    replies: list[Reply]  # under overload, as are the next three
    probes: list[Reply]
    took_s: float
    recovered_s: float  # until answers took no longer than in peace

    @property
    def answered(self) -> list[Reply]:
        """The replies of the overload that are answers."""
        return [reply for reply in self.replies if reply.status == 200]

    def document(self, deadline_ms: float, seconds: float) -> dict[str, Any]:
        """Return their part of the line."""
        peak = statistics.median(self.peaks)
        answered = self.answered
        refused = [reply for reply in self.replies if reply.status == 429]
        in_time = sum(reply.seconds <= deadline_ms / 1000 for reply in answered)
        return {
            "peak_req_s": round(peak, 1),
            "peak_spread": [round(min(self.peaks), 1), round(max(self.peaks), 1)],
            "offered_req_s": round(len(self.replies) / seconds, 1),
            "goodput_req_s": round(in_time / self.took_s, 1),
            "goodput_of_peak": round(in_time / self.took_s / peak, 3),
            "answered": len(answered),
            "p50_ms": milliseconds(answered, 50),
            "p99_ms": milliseconds(answered, 99),
            "deadline_ms": deadline_ms,
            "refused": len(refused),
            "refused_p99_ms": milliseconds(refused, 99),
            "late": sum(reply.status == 504 for reply in self.replies),
            "other": sum(reply.status not in (200, 429, 504) for reply in self.replies),
            "probes": len(self.probes),
            "probes_failed": sum(probe.status != 200 for probe in self.probes),
            "probe_p99_ms": milliseconds(self.probes, 99),
            "peace_p99_ms": milliseconds(self.peace, 99),
            "recover_s": round(self.recovered_s, 2),
        }


def measure(
    service: ServiceProcess, bodies: Sequence[bytes], factor: float, seconds: float, peak_seconds: float
) -> Outcome:
    """Measure the peak, half of it, ``factor`` times as much, the recovery from that, and the peak again."""
    peaks = measure_peaks(service, bodies, peak_seconds)
    peak = statistics.median(peaks)
    peace = asyncio.run(Load(service.port, bodies, 256).open_loop(peak / 2, peak_seconds))

    started = time.perf_counter()
    replies, probes = asyncio.run(overload(service, bodies, factor * peak, seconds))
    took_s = time.perf_counter() - started

    recovered_s = asyncio.run(recovery_s(service.port, bodies, (milliseconds(peace, 99) or 0) / 1000))
    return Outcome([*peaks, *measure_peaks(service, bodies, peak_seconds)], peace, replies, probes, took_s, recovered_s)


def main(
    store: Annotated[
        Path | None, typer.Option(help="Folder to keep the model in; default: build it again, which takes minutes.")
    ] = None,
    engine: Annotated[str, typer.Option()] = "onnx",
    threads: Annotated[int, typer.Option(min=0)] = Settings.model_fields["threads"].default,
    searches: Annotated[int, typer.Option(min=1)] = Settings.model_fields["searches"].default,
    deadline_ms: Annotated[float, typer.Option()] = Settings.model_fields["deadline_ms"].default,
    seconds: Annotated[float, typer.Option(help="Seconds of overload.")] = 60.0,
    peak_seconds: Annotated[float, typer.Option(help="Seconds of each measurement of the peak.")] = 8.0,
    factor: Annotated[float, typer.Option(help="Offered load, as a multiple of the peak.")] = 2.0,
    users: Annotated[int, typer.Option(min=CALM, help="Different requests.")] = 500,
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        bundle = open_store(store or Path(temporary)).bundle()
        settings = Settings.load(engine=engine, threads=threads, searches=searches, deadline_ms=deadline_ms)
        asked, expected = expectations(bundle, settings, users)
        bodies = [
            encode_request("POST", "/recommend", json.dumps({"history": each, "k": K}).encode()) for each in asked
        ]
        catalogue = bundle.catalogue()
        given = {"engine": engine, "threads": threads, "searches": searches, "deadline_ms": deadline_ms}

        # cached answers would make the few different requests cheap
        with serving(store or Path(temporary), **given, result_cache_entries=0) as service:
            outcome = measure(service, bodies, factor, seconds, peak_seconds)

    line = {"bench": "overload", **outcome.document(deadline_ms, seconds)}
    line["wrong"] = sum(not is_right(reply.body, expected[reply.request], catalogue) for reply in outcome.answered)
    line |= {"seconds": seconds, "threads": threads, "searches": searches, "load": round(os.getloadavg()[0], 2)}
    typer.echo(json.dumps(line))


if __name__ == "__main__":
    typer.run(main)
