"""Steady load for an hour or more, with changes, swaps and retraining: what grows (``make soak MINUTES=60``).

The real service runs in its own process, with a real Redis. Clients ask for recommendations and record events of a
fixed set of users; items are replaced, hidden and shown again all the time; every ``retrain_minutes`` the real command
drains the events, trains on them and promotes the result if it is not worse; in between, the two newest versions take
turns (there are two from the start, alike but for their names).

Nothing may grow for ever under such a load. Each of these figures is a pair: the median of the second quarter of the
time, after warming up, and of the last quarter. ``event_ids_mb`` is expected to grow: ids of events are kept for two
days, so that a repeated event counts once; ``redis_mb`` is without them. failed counts requests without a 200, by
status; 0 stands for no answer.
A retraining that is under way when the time is up is ended, and counted as unfinished.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer

from benchmarks.attack.raw_client import RawClient, encode
from benchmarks.load import Reply, milliseconds
from benchmarks.service_process import ServiceProcess
from model_store.bundle.manifest import Description
from model_store.bundle.publish import publish
from model_store.bundle.registry import ModelStore
from model_store.replication.redis_keys import Keys
from tests.support.redis_server import RedisServer, running_redis
from tests.support.tiny import ITEMS, set_options, write_cycle

USERS = 200
CLIENTS = 4
PAUSE_S = 0.05
EVENT_SHARE = 0.2
"""Share of the answers after which the user does something."""

FEW_EPOCHS = ["sasrec.epochs=2", "joint.epochs=2", "joint.alignment_from=1", "finetune.epochs=1"]
"""Events pile up, and every pass trains on all of them."""

SAMPLE_S = 5.0
SWAP_S = 20.0
KEEP = "3"


@dataclass
class Soak:
    """Everything that runs at the same time, and what it has counted."""

    service: ServiceProcess
    server: RedisServer
    models: ModelStore
    work: Path
    end: float
    replies: list[Reply] = field(default_factory=list)
    samples: list[dict[str, float]] = field(default_factory=list)
    changes: int = 0
    swaps: int = 0
    exit_codes: list[int] = field(default_factory=list)
    """Exit codes of the retrainings that ended by themselves."""
    unfinished: int = 0
    is_training: bool = False

    @property
    def is_over(self) -> bool:
        """True once the time is up."""
        return time.monotonic() >= self.end

    async def ask(self, seed: int) -> None:
        """Ask for recommendations, and record what the user does with them."""
        client = RawClient(self.service.port)
        random = Random(seed)
        number = 0
        while not self.is_over:
            number += 1
            user = f"user-{random.randrange(USERS)}"
            await self._send(client, "POST", "/recommend", {"user_id": user, "k": 5})
            if random.random() < EVENT_SHARE:
                event = {
                    "event_id": f"{seed}-{number}-{time.time_ns()}",
                    "user_id": user,
                    "item_id": f"i{random.randrange(ITEMS)}",
                    "timestamp": int(time.time()),
                }
                await self._send(client, "POST", "/events", event)
            await asyncio.sleep(PAUSE_S)
        await client.close()

    async def change(self) -> None:
        """Replace, hide and show items."""
        client = RawClient(self.service.port)
        random = Random(1)
        while not self.is_over:
            item = f"i{random.randrange(ITEMS)}"
            await self._send(client, "DELETE", f"/items/{item}")
            await self._send(client, "PUT", f"/items/{item}", {"title": f"Title {random.random()}"})
            self.changes += 2
            await asyncio.sleep(4 * PAUSE_S)
        await client.close()

    async def swap(self) -> None:
        """Promote the two newest versions in turn, while no pass compares its candidate with the live one."""
        while not self.is_over:
            await asyncio.sleep(min(SWAP_S, max(0.0, self.end - time.monotonic())))
            versions = await asyncio.to_thread(self.models.versions)
            live = await asyncio.to_thread(self.models.live)
            others = [version for version in versions[-2:] if version != live]
            if others and not self.is_training:
                await asyncio.to_thread(self.models.promote, others[-1])
                self.swaps += 1

    async def retrain(self, every_s: float) -> None:
        """Run the command again and again, as a schedule would, and remove old versions."""
        while not self.is_over:
            started = time.monotonic()
            self.is_training = True
            code = await asyncio.to_thread(train, self.work, self.models, self.server.url, self.end)
            self.is_training = False
            if code is None:
                self.unfinished += 1
            else:
                self.exit_codes.append(code)
            await asyncio.sleep(max(0.0, min(started + every_s, self.end) - time.monotonic()))

    async def watch(self) -> None:
        """Take samples of everything that could grow."""
        while not self.is_over:
            self.samples.append(await asyncio.to_thread(self._sample))
            await asyncio.sleep(SAMPLE_S)

    def pair(self, name: str) -> list[float]:
        """Return the medians of a figure in the second and in the last quarter."""
        values = [sample[name] for sample in self.samples]
        quarter = max(1, len(values) // 4)
        halves = values[quarter : 2 * quarter] or values, values[-quarter:]
        return [round(statistics.median(each), 1) for each in halves]

    async def _send(self, client: RawClient, method: str, path: str, body: object = None) -> None:
        data = None if body is None else json.dumps(body).encode()
        media = () if data is None else (("Content-Type", "application/json"),)
        outcome = await client.ask(encode(method, path, data, media), method=method)
        status = outcome.answer.status if outcome.answer else 0
        self.replies.append(Reply(0, status, outcome.seconds, b""))

    def _sample(self) -> dict[str, float]:
        with self.server.client() as redis:
            seen_mb = (redis.memory_usage(Keys().seen, samples=100) or 0) / 1e6
            return {
                "memory_mb": self.service.memory_mb(),
                "open_files": self.service.open_files(),
                "redis_keys": redis.dbsize(),
                "redis_mb": redis.info("memory")["used_memory"] / 1e6 - seen_mb,
                "event_ids_mb": seen_mb,
            }


def train(work: Path, models: ModelStore, redis_url: str, end: float = inf) -> int | None:
    """Run one pass of retraining at low priority; return the exit code, ``None`` if the time was up before.

    Args:
        work: Folder of the data, the runs and the log.
        models: The model store, of which old versions are removed afterwards.
        redis_url: Redis with the events.
        end: ``time.monotonic()`` at which the pass is ended.
    """
    command = ["nice", "-n", "10", sys.executable, "-m", "training", "retrain", "--data", str(work / "cycle.txt")]
    command += ["--preset", "demo", "--store", models.url, "--work", str(work / "runs"), "--force"]
    command += set_options(FEW_EPOCHS)
    environment = {**os.environ, "ETEGREC_REDIS_URL": redis_url, "OMP_NUM_THREADS": "1"}

    with (work / "training.log").open("ab") as log:
        try:
            timeout_s = None if end == inf else max(0.0, end - time.monotonic())
            done = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return None
        clean = [sys.executable, "-m", "model_store", "gc", "--store", models.url, "--keep", KEEP]
        subprocess.run(clean, stdout=log, stderr=log, check=True)
    return done.returncode


def publish_again(models: ModelStore) -> None:
    """Publish the live version once more, under another name."""
    live = models.bundle()
    manifest = live.manifest
    files = {name: live.read(name) for name in manifest.files}
    about = Description.model_validate(manifest.model_dump(include=set(Description.model_fields)))
    publish(models, files, about)


async def soak(soak: Soak, retrain_s: float) -> None:
    """Run everything until the time is up."""
    clients = [soak.ask(seed) for seed in range(CLIENTS)]
    await asyncio.gather(*clients, soak.change(), soak.swap(), soak.retrain(retrain_s), soak.watch())


def main(
    minutes: Annotated[float, typer.Option(min=0.1)] = 60.0,
    retrain_minutes: Annotated[float, typer.Option(min=0.0, help="Time from one retraining to the next.")] = 10.0,
) -> None:
    with tempfile.TemporaryDirectory() as temporary, running_redis(Path(temporary) / "redis") as server:
        work = Path(temporary)
        write_cycle(work / "cycle.txt")
        models = ModelStore(str(work / "models"))
        if code := train(work, models, server.url):
            raise RuntimeError(f"the first training ended with {code}:\n{(work / 'training.log').read_text()[-2000:]}")

        publish_again(models)

        given: dict[str, Any] = {
            "threads": 1,
            "redis_url": server.url,
            "reload_s": 1,
            "compact_changes": 500,
            "log_level": "warning",
        }
        service = ServiceProcess(work / "models", work / "service", **given)
        service.start()
        run = Soak(service, server, models, work, time.monotonic() + 60 * minutes)
        try:
            asyncio.run(soak(run, 60 * retrain_minutes))
        finally:
            code = service.terminate()
        typer.echo(json.dumps(report(run, minutes, code)))


def report(soak: Soak, minutes: float, exit_code: int) -> dict[str, Any]:
    """Return what grew and what was counted."""
    answered = [reply for reply in soak.replies if reply.status == 200]
    failed = Counter(str(reply.status) for reply in soak.replies if reply.status != 200)
    return {
        "bench": "soak",
        "minutes": minutes,
        "requests": len(soak.replies),
        "failed": dict(failed),
        "p99_ms": milliseconds(answered, 99),
        "changes": soak.changes,
        "swaps": soak.swaps,
        "retrained": soak.exit_codes.count(0),
        "retraining_failed": sum(code != 0 for code in soak.exit_codes),
        "retraining_unfinished": soak.unfinished,
        **{name: soak.pair(name) for name in ("memory_mb", "open_files", "redis_keys", "redis_mb", "event_ids_mb")},
        "exit_code": exit_code,
        "load": round(os.getloadavg()[0], 2),
    }


if __name__ == "__main__":
    typer.run(main)
