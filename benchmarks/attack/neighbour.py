"""Polite client in a process of its own: the latency that others see while the service is under attack.

python -m benchmarks.attack.neighbour PORT KEY
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

from benchmarks.attack.raw_client import encode
from benchmarks.load import Load, Reply, milliseconds

RATE = 50.0
"""Requests a second."""

SLICE_S = 0.5


class Neighbour:
    """The polite client, from entering to leaving.

    Attributes:
        found: After leaving: ``sent``, ``failed`` (no 200), ``p50_ms`` and ``p99_ms``.
    """

    def __init__(self, port: int, key: str) -> None:
        self._command = [sys.executable, "-m", "benchmarks.attack.neighbour", str(port), key]
        self._process: subprocess.Popen[str] | None = None
        self.found: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None) -> None:
        assert self._process is not None
        output, _nothing = self._process.communicate("")  # closes its input, which ends it
        if kind is None:
            self.found = json.loads(output)


async def be_polite(port: int, key: str) -> list[Reply]:
    """Ask for recommendations and for health in turn until standard input ends."""
    headers = (("X-API-Key", key), ("Content-Type", "application/json"))
    asked = [
        encode("POST", "/recommend", json.dumps({"history": [f"item-{n}", f"item-{n + 7}"]}).encode(), headers)
        for n in range(100)
    ]
    requests = [each for request in asked for each in (request, encode("GET", "/health/live"))]
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    load = Load(port, requests, connections=16)
    replies: list[Reply] = []
    while not ended.done():
        replies += await load.open_loop(RATE, SLICE_S, seed=len(replies))
    return replies


def main(port: int, key: str) -> None:
    replies = asyncio.run(be_polite(port, key))
    failed = sum(reply.status != 200 for reply in replies)
    found = {
        "sent": len(replies),
        "failed": failed,
        "p50_ms": milliseconds(replies, 50),
        "p99_ms": milliseconds(replies, 99),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
