"""Attack on the real service in a process of its own, bounded in time and seeded (``make attack``).

The parts run one after another, each with its share of the time:

    fuzz      20,000 spoiled requests, 2,000 with damaged bytes, and what the OpenAPI description leads to
    sockets   forbidden heads and framings, floods that never end, clients that drip bytes, at 1,024 descriptors
    damage    1,000 damaged or forged copies of a bundle; three that are made live behind the back of the checks
    swaps     200 promotions under load, every tenth tried in a process of its own before
    kills     the service, then its Redis, killed at random moments while clients write
    ends      50 times SIGTERM under load
    trouble   a full disk, a clock that jumps, one of two replicas cut off from Redis

fivexx counts answers that say that the service failed. hangs counts requests without an answer and connections that
nobody closed. lost counts acknowledged writes that are gone, and accepted requests without an answer. wrong counts
answers and states that differ from what is promised. rss_growth_mb is the growth of the service's resident memory over
the parts fuzz and sockets. neighbour_p99_ratio is the worst p99 latency of a polite client during those parts, divided
by its p99 before them; neighbour_failed counts its requests without a 200: where nobody set a limit of connections
per address, a burst of new ones can shut others out for about a second. ``parts`` has what each part found, with
examples that name the seed of a failure.

The exit code is 1 if anything was lost, wrong, hung or failed.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.attack.crashes import kills, orderly_ends
from benchmarks.attack.damage import damage_bundles, serve_damaged
from benchmarks.attack.findings import KINDS, Findings, total
from benchmarks.attack.fuzz import fuzz_bytes, fuzz_description, fuzz_values, ready_at, run_fuzz
from benchmarks.attack.models import AttackedModels, attacked_models
from benchmarks.attack.neighbour import Neighbour
from benchmarks.attack.sockets import drip, flood, try_oddities
from benchmarks.attack.swaps import hot_swaps
from benchmarks.attack.trouble import fill_disk, jump_clock, partition_replica
from benchmarks.redis_faults import Network
from benchmarks.service_process import ServiceDied, ServiceProcess
from tests.support.redis_server import running_redis

PARTS = ("fuzz", "sockets", "damage", "swaps", "kills", "ends", "trouble")
SHARES = {"fuzz": 0.3, "sockets": 0.15, "damage": 0.1, "swaps": 0.15, "kills": 0.1, "ends": 0.15, "trouble": 0.05}
"""Share of the time that each part may take."""

DESCRIPTORS = 1024
SLOWEST_FUZZ = 50.0
"""Requests a second, also of a short attack."""

DRIPPING = 1100
ENDING = 5
"""Services that are ended side by side."""

PEACE_S = 10.0


@dataclass
class Attack:
    """One run: what is attacked, and how hard.

    Attributes:
        models: The model store.
        work: Folder for everything that the run writes.
        seed: Seed of the whole run.
        scale: Number of cases as a share of the usual number.
        minutes: Time for all parts.
    """

    models: AttackedModels
    work: Path
    seed: int
    scale: float
    minutes: float

    def __post_init__(self) -> None:
        self.key = secrets.token_hex(16)

    def end(self, part: str) -> float:
        """Return when a part that starts now must make no new cases, ``time.monotonic()``."""
        return time.monotonic() + 60 * self.minutes * SHARES[part]

    def count(self, usual: int) -> int:
        """Return the number of cases of which there are usually so many."""
        return max(1, round(usual * self.scale))

    def service(self, name: str, **settings: Any) -> ServiceProcess:
        """Return a service, not started, with a key that may do everything."""
        given = {
            "threads": 1,
            "write_keys": self.key,
            "trusted_keys_file": self.models.trusted_keys,
            "log_level": "warning",
            "bulk_timeout_s": 10,
            "load_trial": False,
            **settings,
        }
        return ServiceProcess(self.models.folder, self.work / name, **given)

    @contextmanager
    def serving(self, name: str, **settings: Any) -> Iterator[ServiceProcess]:
        """Run such a service."""
        service = self.service(name, **settings)
        service.start()
        try:
            yield service
        finally:
            if service.is_running:
                service.terminate()


def attack_clients(attack: Attack, chosen: set[str]) -> tuple[dict[str, Findings], dict[str, float]]:
    """Run the parts that come over HTTP to one service; return findings by part, and memory and latency."""
    parts: dict[str, Findings] = {}
    with attack.serving("clients", descriptors=DESCRIPTORS) as service:
        with Neighbour(service.port, attack.key) as peace:
            time.sleep(PEACE_S * min(1.0, attack.scale * 10))
        before_mb = service.memory_mb()

        worst_ms = 0.0
        failed = 0
        for part in ("fuzz", "sockets"):
            if part in chosen:
                with Neighbour(service.port, attack.key) as neighbour:
                    parts[part] = _fuzz(attack, service) if part == "fuzz" else _sockets(attack, service)
                parts[part].facts["neighbour"] = neighbour.found
                worst_ms = max(worst_ms, neighbour.found["p99_ms"] or 0.0)
                failed += neighbour.found["failed"]

        figures = {
            "rss_growth_mb": round(service.memory_mb() - before_mb, 1),
            "neighbour_p99_ratio": round(worst_ms / peace.found["p99_ms"], 2),
            "neighbour_peace_p99_ms": peace.found["p99_ms"],
            "neighbour_failed": failed,
        }
    return parts, figures


def attack_bundles(attack: Attack) -> Findings:
    """Damage and forge bundles."""
    version = attack.models.versions[1]
    end = attack.end("damage")
    found = damage_bundles(attack.models.store, version, attack.work / "damage", attack.count(1000), attack.seed, end)
    with attack.serving("damaged", reload_s=0.1, load_trial=True) as service:
        served = serve_damaged(service, attack.models.store, version, attack.seed)
    return found.absorb(served)


def attack_swaps(attack: Attack) -> Findings:
    """Swap versions under load: some of them as the service does by itself, the others without the trial's seconds."""
    started = time.monotonic()
    end = attack.end("swaps")
    usual = {"reload_s": 0.05, "result_cache_entries": 0, "deadline_ms": 20_000}
    with attack.serving("swaps", **usual, load_trial=True) as service:
        tried = asyncio.run(hot_swaps(service, attack.models, attack.key, attack.count(20), (started + end) / 2))
    with attack.serving("quick-swaps", **usual) as service:
        quick = asyncio.run(hot_swaps(service, attack.models, attack.key, attack.count(180), end))

    done = tried.facts["swaps"] + quick.facts["swaps"]
    found = tried.absorb(quick)
    found.facts["swaps"] = done
    return found


def attack_processes(attack: Attack) -> Findings:
    """Kill the service, then Redis behind another one."""
    half_s = (attack.end("kills") - time.monotonic()) / 2
    with attack.serving("killed", history_cap=5000) as service:

        def crash_service() -> None:
            service.kill()
            service.start()

        embedded = asyncio.run(
            kills(service, crash_service, attack.key, attack.count(10), attack.seed, time.monotonic() + half_s)
        )

    with (
        running_redis(attack.work / "killed-redis") as server,
        attack.serving("killed-over-redis", redis_url=server.url, history_cap=5000) as service,
    ):

        def crash_redis() -> None:
            server.kill()
            server.start()

        shared = asyncio.run(
            kills(service, crash_redis, attack.key, attack.count(10), attack.seed, time.monotonic() + half_s)
        )
    embedded.facts = {"service": embedded.facts, "redis": shared.facts}
    shared.facts = {}
    return embedded.absorb(shared)


def attack_ends(attack: Attack) -> Findings:
    """End services in order, again and again, a few side by side: most of the time they start and wait."""
    end = attack.end("ends")
    lanes = min(ENDING, attack.count(50))
    times = max(1, attack.count(50) // lanes)

    async def run_lanes() -> list[Findings]:
        services = [attack.service(f"ends-{lane}", shutdown_delay_s=0.2) for lane in range(lanes)]
        ending = (orderly_ends(each, attack.key, times, attack.seed + lane, end) for lane, each in enumerate(services))
        return await asyncio.gather(*ending)

    parts = asyncio.run(run_lanes())
    whole = parts[0]
    for part in parts[1:]:
        done = whole.facts["sigterms"] + part.facts["sigterms"]
        whole.absorb(part)
        whole.facts["sigterms"] = done
    return whole


def attack_machine(attack: Attack) -> Findings:
    """Fill the disk, move the clock, cut a replica off."""
    disk = attack.work / "disk"
    disk.mkdir()
    found = fill_disk(disk, lambda folder: attack.service("full", events_folder=folder), attack.key)

    clock = attack.work / "clock"
    clock.write_text("0")
    moved = {"PYTHONPATH": str(Path(__file__).parent / "attack" / "clock"), "ATTACK_CLOCK_FILE": str(clock)}
    with attack.serving("moved-clock", variables=moved) as service:
        found.absorb(jump_clock(service, clock, attack.key))

    with running_redis(attack.work / "parted-redis") as server:
        network = Network(server.port)
        far_url = server.url.replace(str(server.port), str(network.proxy.port))
        try:
            with (
                attack.serving("near", redis_url=server.url) as near,
                attack.serving("far", redis_url=far_url) as far,
            ):
                found.absorb(partition_replica(near, far, network.cut, network.mend, attack.key))
        finally:
            network.close()
    return found


def run(attack: Attack, chosen: set[str]) -> dict[str, Any]:
    """Run the chosen parts and return the report."""
    started = time.monotonic()
    parts: dict[str, Findings] = {}
    figures: dict[str, float] = {}

    if chosen & {"fuzz", "sockets"}:
        parts, figures = attack_clients(attack, chosen)
    others = {
        "damage": attack_bundles,
        "swaps": attack_swaps,
        "kills": attack_processes,
        "ends": attack_ends,
        "trouble": attack_machine,
    }
    for name, attack_part in others.items():
        if name in chosen:
            typer.echo(f"{time.monotonic() - started:.0f} s: {name}", err=True)
            parts[name] = _attack_one(attack_part, attack)

    whole = total(parts)
    refused = parts["damage"].facts["refused_bundles"] if "damage" in parts else [0, 0]
    return {
        "bench": "attack",
        **whole.counts(),
        "refused_bundles": refused,
        **figures,
        "seconds": round(time.monotonic() - started, 1),
        "seed": attack.seed,
        "load": round(os.getloadavg()[0], 2),
        "parts": {name: part.report() for name, part in parts.items()},
    }


def main(
    store: Annotated[Path, typer.Option(help="Folder to keep the attacked models and their keys in.")] = Path(
        "build/attack"
    ),
    minutes: Annotated[float, typer.Option(min=0.1, help="Time for all parts.")] = 5.0,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    scale: Annotated[
        float | None, typer.Option(min=0.001, help="Number of cases, as a share of the usual number.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help=f"Parts to run: {', '.join(PARTS)}.")] = None,
) -> None:
    chosen = set(only or PARTS)
    if unknown := chosen - set(PARTS):
        raise typer.BadParameter(f"no such part: {min(unknown)}")

    models = attacked_models(store)
    with tempfile.TemporaryDirectory() as work:
        report = run(Attack(models, Path(work), seed, scale or max(1.0, minutes / 5), minutes), chosen)
    typer.echo(json.dumps(report))
    if any(report[kind] for kind in KINDS):
        sys.exit(1)


def _attack_one(attack_part: Callable[[Attack], Findings], attack: Attack) -> Findings:
    """Run one part; a service that does not start again ends it, and is a finding."""
    try:
        return attack_part(attack)
    except ServiceDied as died:
        findings = Findings()
        findings.check(False, str(died)[-380:])
        return findings


def _fuzz(attack: Attack, service: ServiceProcess) -> Findings:
    cases = attack.count(20_000)
    common = service.port, attack.key
    # The attacker's own work must not take the processor from those whose latency is measured.
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=os.nice, initargs=(10,)) as attacker:
        started = attacker.submit(ready_at).result()
        seconds = attack.end("fuzz") - started
        rate = max(SLOWEST_FUZZ, cases / (0.6 * seconds))
        values = attacker.submit(
            run_fuzz, fuzz_values, *common, cases, attack.seed, rate, started + 0.75 * seconds
        ).result()
        damaged = attacker.submit(
            run_fuzz, fuzz_bytes, *common, attack.count(2_000), attack.seed, started + 0.85 * seconds
        ).result()
        described = attacker.submit(
            fuzz_description, *common, attack.count(20), attack.seed, started + seconds
        ).result()
    facts = {"values": values.cases, "bytes": damaged.cases, "description": described.cases}
    found = values.absorb(damaged).absorb(described)
    found.facts |= facts
    return found


def _sockets(attack: Attack, service: ServiceProcess) -> Findings:
    found = asyncio.run(try_oddities(service.port, attack.key))
    found.absorb(asyncio.run(flood(service, 6 * min(1.0, attack.scale * 5))))
    return found.absorb(asyncio.run(drip(service, min(DRIPPING, attack.count(DRIPPING)))))


if __name__ == "__main__":
    typer.run(main)
