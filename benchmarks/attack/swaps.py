"""Hot swaps under load: no request fails, and every answer is wholly that of the version that it names."""

from __future__ import annotations

import asyncio
import json
import time

from benchmarks.attack.findings import Findings
from benchmarks.attack.models import AttackedModels
from benchmarks.attack.raw_client import RawClient, encode
from benchmarks.service_process import ServiceProcess

CLIENTS = 6
SWAP_S = 30.0
"""Time in which a promoted version must answer."""


async def hot_swaps(service: ServiceProcess, models: AttackedModels, key: str, swaps: int, end: float) -> Findings:
    """Promote the versions in turn while clients ask.

    Args:
        service: It serves the models with a short ``reload_s``.
        models: The versions and their right answers.
        key: A key that may read.
        swaps: Number of swaps.
        end: ``time.monotonic()`` after which no more are made, but one in any case.
    """
    findings = Findings()
    is_over = asyncio.Event()
    clients = [asyncio.create_task(_ask(service.port, models, key, findings, is_over)) for _ in range(CLIENTS)]

    done = 0
    while done < swaps and (not done or time.monotonic() < end):
        version = models.versions[(done + 1) % len(models.versions)]
        await asyncio.to_thread(models.store.promote, version)
        if not await _serves(service.port, version):
            findings.add("hangs", f"version {version} does not serve {SWAP_S:.0f} s after its promotion")
            break
        done += 1

    is_over.set()
    await asyncio.gather(*clients)
    await asyncio.to_thread(models.store.promote, models.versions[0])
    findings.facts["swaps"] = done
    return findings


async def _ask(port: int, models: AttackedModels, key: str, findings: Findings, is_over: asyncio.Event) -> None:
    client = RawClient(port)
    headers = (("X-API-Key", key), ("Content-Type", "application/json"))
    number = 0
    while not is_over.is_set():
        number = (number + 1) % len(models.histories)
        body = json.dumps({"history": models.histories[number], "k": 10}).encode()
        outcome = await client.ask(encode("POST", "/recommend", body, headers))
        answer = outcome.answer
        if answer is None or answer.status != 200:
            findings.check(False, f"a request got {outcome.ending} {answer and answer.body!r}", "lost")
            continue
        found = answer.json()
        ids = [item["item_id"] for item in found["items"]]
        expected = models.answers.get(found["model_version"], [[]] * len(models.histories))[number]
        findings.check(ids == expected, f"{found['model_version']} answered {ids} instead of {expected}")
    await client.close()


async def _serves(port: int, version: str) -> bool:
    client = RawClient(port, "127.0.0.1")
    end = time.monotonic() + SWAP_S
    while time.monotonic() < end:
        outcome = await client.ask(encode("GET", "/health/ready"))
        if outcome.answer and outcome.answer.status == 200 and outcome.answer.json()["model_version"] == version:
            await client.close()
            return True
        await asyncio.sleep(0.02)
    return False
