"""Clients that ask without a pause while a server shuts down, and note what happened to each request."""

from __future__ import annotations

import asyncio
from collections import Counter

REQUEST = b"POST /recommend HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: 22\r\n"
BODY = b'{"history":["item-1"]}'


class ShutdownLoad:
    """Clients of one port, until it refuses connections.

    Attributes:
        outcomes: Number of requests by what came of them: ``answered``; ``refused`` (no connection was accepted, so
            nothing was sent); ``reset`` or ``closed`` (sent, and no byte of an answer came).
    """

    def __init__(self, port: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self._port = port

    async def run(self, keeping: int, fresh: int) -> None:
        """Run clients that keep their connection until an answer says close, and clients that take a new one each."""
        await asyncio.gather(*(self._ask_on_and_on(b"") for _ in range(keeping)),
                             *(self._ask_on_and_on(b"Connection: close\r\n") for _ in range(fresh)))  # fmt: skip

    async def _ask_on_and_on(self, headers: bytes) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except ConnectionRefusedError:
                self.outcomes["refused"] += 1
                return
            while await self._ask(reader, writer, headers):
                pass
            writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, headers: bytes) -> bool:
        """Send one request; return whether another may follow on its connection."""
        try:
            writer.write(REQUEST + headers + b"\r\n" + BODY)
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            await reader.readexactly(size)
        except asyncio.IncompleteReadError:
            self.outcomes["closed"] += 1
            return False
        except ConnectionError:
            self.outcomes["reset"] += 1
            return False
        self.outcomes["answered"] += 1
        return b"connection: close" not in head.lower()
