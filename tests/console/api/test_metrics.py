"""Figures read from the service's real metrics, and rates between two readings by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from console.api.metrics import Reading, rates_between, read_metrics
from tests.support.service_harness import live_store, serving


@pytest.mark.anyio
async def test_figures_of_a_real_service(tmp_path: Path) -> None:
    live_store(tmp_path)
    async with serving(tmp_path) as (client, _):
        histories: list[list[str]] = [["item-1"], ["item-2"], []]
        for history in histories:
            assert (await client.post("/recommend", json={"history": history})).status_code == 200
        await client.post("/recommend", json={"k": 0})
        await client.post("/events", json={"user_id": "u", "item_id": "item-1"})
        reading = read_metrics((await client.get("/metrics")).text, at=1.0)

    assert (reading.requests, reading.failures, reading.events) == (4, 0, 1)
    assert reading.buckets[float("inf")] == 4
    assert reading.answers == {"model": 2, "cache": 0, "popular": 1}
    assert reading.popular["no_history"] == 1
    assert reading.refusals == {"invalid-fields": 1}
    assert (reading.waiting_limit, reading.catalogue_lag, reading.degraded) == (1_000_000, 0, 0)


def test_rates_are_those_between_the_readings() -> None:
    older = Reading(
        at=10, requests=100, events=40, buckets={0.01: 90, 0.1: 100, float("inf"): 100}, answers={"model": 9}
    )
    newer = Reading(
        at=15, requests=120, events=50, buckets={0.01: 100, 0.1: 118, float("inf"): 120}, answers={"model": 29}
    )
    rates = rates_between(older, newer)
    assert (rates.seconds, rates.requests_per_s, rates.events_per_s) == (5, 4, 2)
    assert rates.answers == {"model": 20}
    assert rates.median_ms == pytest.approx(10)  # half of the 20 took up to 10 ms
    assert rates.p95_ms == pytest.approx(10 + 90 * 9 / 8, abs=12)  # the 19th of them is in the last bucket with a bound
    assert rates.p95_ms is not None
    assert rates.p95_ms <= 100.001


@pytest.mark.parametrize("older", [None, Reading(at=20, requests=5), Reading(at=5, requests=1000)])
def test_without_an_older_reading_of_the_same_process_there_is_no_rate(older: Reading | None) -> None:
    newer = Reading(at=15, requests=120, buckets={0.01: 60, float("inf"): 120})
    rates = rates_between(older, newer)
    assert (rates.seconds, rates.requests_per_s) == (0, 0)
    assert rates.median_ms == pytest.approx(10)
    assert rates.p95_ms == pytest.approx(10)  # slower than the last bound: at least that


def test_nobody_asked() -> None:
    quiet = Reading(at=1, buckets={0.01: 7, float("inf"): 7}, requests=7)
    rates = rates_between(quiet, replace(quiet, at=6))
    assert (rates.requests_per_s, rates.median_ms, rates.p95_ms) == (0, None, None)
