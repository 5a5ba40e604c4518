"""Raw HTTP on real sockets: an app behind our protocol, bytes sent as they are, answers taken apart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from service.http.connections import Connections
from service.http.protocol import BoundedHttp
from service.telemetry.telemetry import Telemetry

HOST = b"Host: t\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST


def get(path: bytes, headers: bytes = HOST, version: bytes = b"1.1") -> bytes:
    """Return a request without a body."""
    return b"GET " + path + b" HTTP/" + version + b"\r\n" + headers + b"\r\n"


def post(path: bytes, headers: bytes) -> bytes:
    """Return the head of a request with a body."""
    return b"POST " + path + b" HTTP/1.1\r\n" + HOST + headers + b"\r\n"


class RawAnswer(NamedTuple):
    """One answer of the server."""

    status: int
    headers: dict[str, str]
    body: bytes


class RawServer(NamedTuple):
    """An app behind our protocol, in this process."""

    port: int
    state: ServerState
    telemetry: Telemetry

    def metric(self, name: str, **labels: str) -> float:
        """Return the value of a metric, 0 while it has none."""
        return self.telemetry.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def raw_server(app: ASGIApp, limit: int = 1000, per_address: int = 0) -> AsyncIterator[RawServer]:
    """Serve an app on a free port; its connections are cut at the end."""
    config = uvicorn.Config(app, log_config=None, lifespan="off", timeout_keep_alive=1)
    config.load()
    state = ServerState()
    telemetry = Telemetry()
    table = Connections(limit, per_address, telemetry)
    server = await asyncio.get_running_loop().create_server(
        partial(BoundedHttp, table, config, state, {}), "127.0.0.1", 0
    )
    try:
        yield RawServer(server.sockets[0].getsockname()[1], state, telemetry)
    finally:
        for connection in tuple(state.connections):
            cast(BoundedHttp, connection).drop()
        for task in tuple(state.tasks):
            task.cancel()
        await asyncio.gather(*state.tasks, return_exceptions=True)
        server.close()
        await server.wait_closed()


async def send_all(port: int, *pieces: bytes, pause_s: float = 0.0) -> list[RawAnswer]:
    """Send the pieces, then read until the server closes the connection; return its answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)
        async with asyncio.timeout(30):
            return split_answers(await reader.read())
    finally:
        writer.close()


async def read_answer(reader: asyncio.StreamReader) -> RawAnswer:
    """Read one answer with a Content-Length."""
    async with asyncio.timeout(30):
        head = await reader.readuntil(b"\r\n\r\n")
        status, headers = _read_head(head)
        return RawAnswer(status, headers, await reader.readexactly(int(headers["content-length"])))


def split_answers(data: bytes) -> list[RawAnswer]:
    """Take apart answers that follow each other, each with a Content-Length; those to HEAD are not told apart."""
    answers = []
    while data:
        head, found, data = data.partition(b"\r\n\r\n")
        assert found, head
        status, headers = _read_head(head)
        if status == 100:
            continue
        size = int(headers["content-length"])
        answers.append(RawAnswer(status, headers, data[:size]))
        data = data[size:]
    return answers


def _read_head(head: bytes) -> tuple[int, dict[str, str]]:
    line, *headers = head.decode("latin-1").strip().split("\r\n")
    pairs = (header.split(": ", 1) for header in headers)
    return int(line.split(" ")[1]), {name.lower(): value for name, value in pairs}
