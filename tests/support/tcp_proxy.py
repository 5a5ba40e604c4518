"""TCP proxy in front of a server on this machine, which tests can slow down and cut."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress


class TcpProxy:
    """Proxy that forwards connections. Used from one event loop.

    Args:
        server_port: Port of the server.
        tls: Certificates of the proxy's side towards clients, if it ends TLS in front of the server.

    Attributes:
        port: Port of the proxy, the same after every :meth:`mend`.
        delay_s: Seconds by which everything that the server sends is delayed.
    """

    def __init__(self, server_port: int, tls: ssl.SSLContext | None = None) -> None:
        self.port = 0
        self.delay_s = 0.0
        self._server_port = server_port
        self._tls = tls
        self._listening: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._forwarding: set[asyncio.Task[None]] = set()

    async def mend(self) -> None:
        """Listen, for the first time or again."""
        self._listening = await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """End all connections and refuse new ones."""
        if self._listening is not None:
            self._listening.close()
        for writer in self._open:
            writer.transport.abort()
        await asyncio.gather(*self._forwarding, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # the server is down: refuse the connection as well
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
            self._open.add(server_writer)
            self._forward(reader, server_writer, is_answer=False)
            self._forward(server_reader, writer, is_answer=True)
            self._open.add(writer)
            return
        writer.transport.abort()

    def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_answer: bool) -> None:
        task = asyncio.create_task(self._copy(source, sink, is_answer=is_answer))
        self._forwarding.add(task)
        task.add_done_callback(self._forwarding.discard)

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_answer: bool) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                if is_answer and self.delay_s:
                    await asyncio.sleep(self.delay_s)
                sink.write(data)
                await sink.drain()
        sink.close()
        self._open.discard(sink)
