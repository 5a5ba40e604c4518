"""A TCP proxy in front of a server of this machine: the network between the two, to be slowed down and cut."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class TcpProxy:
    """Passes connections on. Used from one event loop.

    Attributes:
        port: Where it listens, the same after every :meth:`mend`.
        delay_s: How long everything that the server says is held back, in seconds.
    """

    def __init__(self, server_port: int) -> None:
        self.port = 0
        self.delay_s = 0.0
        self._server_port = server_port
        self._listening: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._passing: set[asyncio.Task[None]] = set()

    async def mend(self) -> None:
        """Listen, from now on or again."""
        self._listening = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """End all connections and refuse new ones."""
        if self._listening is not None:
            self._listening.close()
        for writer in self._open:
            writer.transport.abort()
        await asyncio.gather(*self._passing, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # the server is away: so is whoever connects through here
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
            self._open.add(server_writer)
            self._pass(reader, server_writer, is_answer=False)
            self._pass(server_reader, writer, is_answer=True)
            self._open.add(writer)
            return
        writer.transport.abort()

    def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_answer: bool) -> None:
        task = asyncio.create_task(self._copied(source, sink, is_answer=is_answer))
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)

    async def _copied(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_answer: bool) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                if is_answer and self.delay_s:
                    await asyncio.sleep(self.delay_s)
                sink.write(data)
                await sink.drain()
        sink.close()
        self._open.discard(sink)
