"""Processor time of ``POST /recommend`` beside the engine, with attribution and without, in turns in one run.

The service cannot switch attribution off, so the side without it is an earlier release: a checkout of the repository
that this process's packages suffice for. Both serve the same small bundle by the engine without a network, since older
releases refuse the graphs of newer ones, and nothing beside the engine depends on the network. Each has a store of its
own, inside its process.
"""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_http import check, engine_cpu_s
from benchmarks.load import Load, encode_request
from benchmarks.loop.shop import PATIENCE_MS, K
from benchmarks.loop.world import item_id, user_id
from benchmarks.service_process import WITHOUT_NETWORK, ServiceProcess
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from tests.support.bundles import bundle_files, description, small_catalogue

CONNECTIONS = {"": 16, "_alone": 1}
"""Requests in flight at the same time, by what the names of the figures end in."""

REQUESTS = 5_000
HISTORY = 20
ITEMS = 500
SETTINGS: Mapping[str, Any] = {**WITHOUT_NETWORK, "threads": 1, "deadline_ms": PATIENCE_MS, "log_level": "warning"}


def cpu_share_more(work: Path, before: Path, seconds: float, repeats: int) -> dict[str, Any]:
    """Return the processor time beside the engine of both releases, in ms a request, and by what share it grew.

    Medians of all turns. The names of the figures of a request alone in the service end in ``_alone``.

    Args:
        work: Folder for both.
        before: Checkout of an earlier release.
        seconds: Length of one turn.
        repeats: Turns of each release.
    """
    store = _publish(work / "models")
    bodies = _requests()
    earlier = {"PYTHONPATH": str(before.resolve()), "PYTHONSAFEPATH": "1"}
    sides = {
        "before": ServiceProcess(store, work / "before", variables=earlier, **SETTINGS),
        "now": ServiceProcess(store, work / "now", **SETTINGS),
    }
    found: dict[str, Any] = {}
    try:
        for service in sides.values():
            service.start()
            _cpu_ms(service, bodies, max(CONNECTIONS.values()), min(2.0, seconds))  # warms up
        for ending, connections in CONNECTIONS.items():
            compared = _compare(sides, bodies, connections, seconds, repeats)
            found |= {f"{name}{ending}": figure for name, figure in compared.items()}
    finally:
        for service in sides.values():
            service.terminate()
    return found


def _compare(
    sides: dict[str, ServiceProcess], bodies: list[bytes], connections: int, seconds: float, repeats: int
) -> dict[str, Any]:
    cpu_ms: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats):
        order = reversed(sides) if turn % 2 else iter(sides)  # so that a machine that slows down favours neither
        for name in order:
            cpu_ms[name].append(_cpu_ms(sides[name], bodies, connections, seconds))

    ratios = [now / earlier_ms for now, earlier_ms in zip(cpu_ms["now"], cpu_ms["before"], strict=True)]
    return {
        "cpu_share_more": round(statistics.median(ratios) - 1, 3),
        "spread": [round(min(ratios) - 1, 3), round(max(ratios) - 1, 3)],
        **{f"{name}_ms": round(statistics.median(each), 3) for name, each in cpu_ms.items()},
    }


def _cpu_ms(service: ServiceProcess, bodies: list[bytes], connections: int, seconds: float) -> float:
    before = service.cpu_s() - engine_cpu_s(service)
    replies = asyncio.run(Load(service.port, bodies, connections).closed_loop(seconds))
    check(replies)
    return (service.cpu_s() - engine_cpu_s(service) - before) / len(replies) * 1000


def _publish(folder: Path) -> Path:
    store = ModelStore(folder, namespace="")
    store.promote(publish(store, bundle_files(0, small_catalogue(items=ITEMS)), description()))
    return folder


def _requests() -> list[bytes]:
    rng = np.random.default_rng(0)
    asked = [
        {
            "user_id": user_id(number),
            "history": [item_id(row) for row in rng.integers(0, ITEMS, HISTORY).tolist()],
            "k": K,
        }
        for number in range(REQUESTS)
    ]
    return [encode_request("POST", "/recommend", json.dumps(each).encode()) for each in asked]
