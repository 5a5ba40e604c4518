"""Ends of the service at random moments: SIGKILL loses nothing acknowledged, SIGTERM answers everything accepted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random

from benchmarks.attack.findings import Findings
from benchmarks.attack.models import new_item
from benchmarks.attack.raw_client import Answer, RawClient, encode
from benchmarks.attack.spoiled_requests import Sample
from benchmarks.service_process import ServiceProcess

WRITERS = 4
SHOWN_S = 30.0
"""Time after a start in which everything acknowledged must be seen."""


@dataclass
class Writers:
    """Clients that write, and what was acknowledged: new items by id, hidden ones, and events by user."""

    key: str
    shown: set[str] = field(default_factory=set)
    hidden: set[str] = field(default_factory=set)
    events: dict[str, set[str]] = field(default_factory=dict)
    number: int = 0

    @property
    def acknowledged(self) -> int:
        """Number of acknowledged writes."""
        return len(self.shown) + len(self.hidden) + sum(map(len, self.events.values()))

    async def write_until_cut(self, port: int, random: Random) -> None:
        """Write one thing after another until the connection breaks or the service refuses."""
        client = RawClient(port)
        while await self._write_one(client, random):
            pass
        await client.close()

    async def _write_one(self, client: RawClient, random: Random) -> bool:
        self.number += 1
        number = self.number
        user = f"writer-{number % 20}"

        way = random.random()
        if way < 0.6:
            item = f"item-{number % 500}"
            event = {"event_id": f"written-{number}", "user_id": user, "item_id": item, "timestamp": 1_790_000_000}
            return await self._is_done(
                client, Sample("POST", "/events", event), self.events.setdefault(user, set()), item
            )

        item = f"written-{number % 60}"
        if way < 0.85:
            self.hidden.discard(item)  # while it is under way, either state is right
            done = await self._is_done(client, Sample("PUT", f"/items/{item}", new_item(number)), self.shown, item)
        else:
            self.shown.discard(item)
            done = await self._is_done(client, Sample("DELETE", f"/items/{item}"), self.hidden, item, refusals=(404,))
        return done

    async def _is_done(
        self, client: RawClient, sample: Sample, acknowledged: set[str], name: str, refusals: tuple[int, ...] = ()
    ) -> bool:
        outcome = await client.ask(sample.encode(self.key), method=sample.method)
        if outcome.answer is None:
            return False
        if outcome.answer.status == 200:
            acknowledged.add(name)
        return outcome.answer.status == 200 or outcome.answer.status in refusals

    async def check(self, port: int, findings: Findings) -> None:
        """Look for everything acknowledged."""
        client = RawClient(port, "127.0.0.1")
        for item in sorted(self.shown | self.hidden):
            is_hidden = item in self.hidden
            seen = await self._until(client, f"/items/{item}", partial(_shows_item, is_hidden=is_hidden))
            findings.check(seen, f"{item} is not {'hidden' if is_hidden else 'shown'} after the crash", "lost")
        for user, items in self.events.items():
            seen = await self._until(client, f"/users/{user}", partial(_shows_events, items=items))
            findings.check(seen, f"the history of {user} lacks acknowledged events", "lost")
        await client.close()

    async def _until(self, client: RawClient, path: str, is_right: Callable[[Answer], bool]) -> bool:
        end = time.monotonic() + SHOWN_S
        while time.monotonic() < end:
            outcome = await client.ask(encode("GET", path, headers=[("X-API-Key", self.key)]))
            if outcome.answer and outcome.answer.status == 200 and is_right(outcome.answer):
                return True
            await asyncio.sleep(0.05)
        return False


async def kills(
    service: ServiceProcess, crash: Callable[[], None], key: str, times: int, seed: int, end: float
) -> Findings:
    """Crash the service, or the Redis behind it, while clients write; start it again and look for every write.

    Args:
        service: A running service that forgets nothing of one user among its histories' cap.
        crash: Ends what is to be crashed and starts it again; returns when the service is ready.
        key: A key that may write.
        times: Number of crashes.
        seed: Seed of the moments.
        end: ``time.monotonic()`` after which no more are made, but one in any case.
    """
    findings = Findings()
    writers = Writers(key)
    random = Random(f"{seed}-kills")

    done = 0
    while done < times and (not done or time.monotonic() < end):
        writing = [asyncio.create_task(writers.write_until_cut(service.port, random)) for _ in range(WRITERS)]
        await asyncio.sleep(random.uniform(0.05, 1.0))
        await asyncio.to_thread(crash)

        for task in writing:
            await task
        await writers.check(service.port, findings)
        done += 1

    findings.facts |= {"crashes": done, "acknowledged": writers.acknowledged}
    return findings


async def orderly_ends(service: ServiceProcess, key: str, times: int, seed: int, end: float) -> Findings:
    """End the service with SIGTERM under load; whatever was accepted must be answered, and the exit code be 0."""
    findings = Findings()
    random = Random(f"{seed}-ends")

    done = 0
    while done < times and (not done or time.monotonic() < end):
        await asyncio.to_thread(service.start)
        clients = [
            asyncio.create_task(_ask_until_refused(service.port, key, findings, is_kept=number % 2 == 0))
            for number in range(8)
        ]

        await asyncio.sleep(random.uniform(0.05, 0.4))
        code = await asyncio.to_thread(service.terminate)
        await asyncio.gather(*clients)
        findings.check(code == 0, f"the exit code was {code}")
        done += 1

    findings.facts["sigterms"] = done
    return findings


async def _ask_until_refused(port: int, key: str, findings: Findings, *, is_kept: bool) -> None:
    """Ask again and again, on one kept connection or on new ones, until the port is closed."""
    client = RawClient(port)
    headers = (("X-API-Key", key), ("Content-Type", "application/json"))
    data = encode("POST", "/recommend", b'{"history": ["item-1", "item-2"]}', headers)

    while True:
        try:
            await client.send(b"")
        except OSError:
            return  # the port is closed: nothing was accepted

        outcome = await client.ask(data)
        is_answered = outcome.answer is not None and outcome.answer.status in (200, 503)
        findings.check(
            is_answered, f"a request on a {'kept' if is_kept else 'new'} connection was {outcome.ending}", "lost"
        )
        if not is_kept:
            await client.close()


def _shows_item(answer: Answer, *, is_hidden: bool) -> bool:
    return bool(answer.json()["hidden"] == is_hidden)


def _shows_events(answer: Answer, *, items: set[str]) -> bool:
    return items <= set(answer.json()["history"])
