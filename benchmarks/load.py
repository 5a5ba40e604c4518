"""Load generator that sends encoded requests over raw keep-alive connections, in a closed or an open loop.

It shares the machine with the server under test, so it costs some twenty microseconds a request: no client library, no
task a request. Latencies of the open loop count from the moment a request was due, not from when it could be sent: a
server that stalls cannot hide how long requests waited.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np


@dataclass(frozen=True)
class Reply:
    """One reply, or a broken connection."""

    request: int  # index of the load's request
    status: int  # 0: the connection broke
    seconds: float  # since it was due
    body: bytes


def encode_request(method: str, path: str, body: bytes = b"") -> bytes:
    """Return the bytes of an HTTP request."""
    head = f"{method} {path} HTTP/1.1\r\nHost: bench\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on its way."""

    def __init__(self, done: Callable[[Connection, Reply], None]) -> None:
        self._done = done
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._request = -1
        self._due = 0.0

    @property
    def is_open(self) -> bool:
        """True while another request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._request >= 0:
            self._finish(0, b"")

    def send(self, request: int, data: bytes, due: float) -> None:
        """Send a request that was due at a time of ``time.perf_counter()``."""
        self._request = request
        self._due = due
        if self._transport is None:
            self._finish(0, b"")
        else:
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return

        head = bytes(self._received[:end]).lower()
        _, found, rest = head.partition(b"content-length:")
        size = int(rest.split(b"\r\n", 1)[0]) if found else 0
        if len(self._received) < end + 4 + size:
            return

        body = bytes(self._received[end + 4 : end + 4 + size])
        self._received.clear()
        self._finish(int(head[9:12]), body)

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def _finish(self, status: int, body: bytes) -> None:
        request = self._request
        self._request = -1
        self._done(self, Reply(request, status, time.perf_counter() - self._due, body))


class Load:
    """Sends requests to one server and collects the replies.

    Args:
        port: Of the server on this machine.
        requests: Encoded requests, sent in turn again and again.
        connections: Most connections open at the same time.
    """

    def __init__(self, port: int, requests: Sequence[bytes], connections: int) -> None:
        self._port = port
        self._requests = requests
        self._limit = connections
        self._sent = 0

    async def closed_loop(self, seconds: float) -> list[Reply]:
        """Let each connection send its next request as soon as the last one is answered; return the replies."""
        replies: list[Reply] = []
        end = time.perf_counter() + seconds
        running: set[Connection] = set()
        all_done = asyncio.get_running_loop().create_future()

        def done(connection: Connection, reply: Reply) -> None:
            replies.append(reply)
            if time.perf_counter() < end and connection.is_open:
                self._send(connection, time.perf_counter())
                return
            running.discard(connection)
            connection.close()
            if not running:
                all_done.set_result(None)

        running.update([await self._connect(done) for _ in range(self._limit)])
        for connection in tuple(running):
            self._send(connection, time.perf_counter())
        await all_done
        return replies

    async def open_loop(self, rate: float, seconds: float, seed: int = 0) -> list[Reply]:
        """Send requests independently of each other, ``rate`` a second on average (Poisson); return the replies."""
        gaps = np.random.default_rng(seed).exponential(1 / rate, max(1, round(rate * seconds)))
        replies: list[Reply] = []
        idle: list[Connection] = []
        overdue: deque[float] = deque()
        connections: set[Connection] = set()
        all_done = asyncio.get_running_loop().create_future()

        def done(connection: Connection, reply: Reply) -> None:
            replies.append(reply)
            if len(replies) == len(gaps):
                all_done.set_result(None)
            elif not connection.is_open:
                connections.discard(connection)
            elif overdue:
                self._send(connection, overdue.popleft())
            else:
                idle.append(connection)

        for moment in (np.cumsum(gaps) + time.perf_counter()).tolist():
            await asyncio.sleep(max(0.0, moment - time.perf_counter()))
            while idle and not idle[-1].is_open:  # the server hung up on it, as it may after a while
                connections.discard(idle.pop())
            if not idle and len(connections) < self._limit:
                idle.append(await self._connect(done))
                connections.add(idle[-1])
            if idle:
                self._send(idle.pop(), moment)
            else:
                overdue.append(moment)
        await all_done
        for connection in connections:
            connection.close()
        return replies

    def _send(self, connection: Connection, due: float) -> None:
        request = self._sent % len(self._requests)
        self._sent += 1
        connection.send(request, self._requests[request], due)

    async def _connect(self, done: Callable[[Connection, Reply], None]) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(done), "127.0.0.1", self._port)
        return connection


def milliseconds(replies: Sequence[Reply], percent: float) -> float | None:
    """Return a percentile of the latencies in milliseconds, rounded; ``None`` without replies."""
    if not replies:
        return None
    return round(float(np.percentile([reply.seconds for reply in replies], percent)) * 1000, 2)
