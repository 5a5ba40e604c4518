"""The number of connections is limited, those that wait longest make room, and probes are always answered."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from service.http import connections
from service.http.connections import OTHER_FILES, PROBE_PATHS, RESERVE, Connection, Connections, affordable_limit
from service.http.status_routes import ENDPOINTS
from service.telemetry.telemetry import Telemetry
from tests.support.raw_http import HOST, RawServer, raw_server, read_answer, send_all
from tests.support.service_harness import until

pytestmark = pytest.mark.anyio

CLOSE = b"Connection: close\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\n" + HOST
OTHER = b"GET /model HTTP/1.1\r\n" + HOST


class Idle(Connection):
    """Connection that only notes that it was dropped."""

    def __init__(self, table: Connections) -> None:
        self._table = table
        self.is_dropped = False

    def drop(self) -> None:
        self.is_dropped = True
        self._table.remove(self)

    def on_deadline(self, now: float) -> None:
        raise AssertionError


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("answered")(scope, receive, send)


@asynccontextmanager
async def held(server: RawServer, count: int, sent: bytes = b"") -> AsyncIterator[list[asyncio.StreamReader]]:
    """Keep connections open that have sent so much."""
    pairs = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(count)]
    for _, writer in pairs:
        writer.write(sent)
    await until(lambda: server.metric("etegrec_connections") >= min(count, len(server.state.connections)))
    try:
        yield [reader for reader, _ in pairs]
    finally:
        for _, writer in pairs:
            writer.close()


async def test_above_the_limit_probes_are_answered_and_everything_else_is_refused() -> None:
    async with raw_server(_app, limit=3) as server, held(server, 3):
        (probe,) = await send_all(server.port, LIVE + b"\r\n")
        (head,) = await send_all(server.port, LIVE.replace(b"GET", b"HEAD") + b"\r\n")
        (refused,) = await send_all(server.port, OTHER + b"\r\n")
        assert (probe.status, probe.headers["connection"]) == (200, "close")
        assert head.status == 200
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert b"too-many-connections" in refused.body
        assert server.metric("etegrec_connections_dropped_total", reason="above_limit") == 3
        assert server.metric("etegrec_rejected_total", slug="too-many-connections") == 1


async def test_the_one_that_waits_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "PATIENCE_S", 0.0)
    dripping = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 100\r\n\r\nx"
    for sent in (b"", LIVE, b"\r\n", dripping):
        async with raw_server(_app, limit=3) as server, held(server, 1, sent), held(server, 2):
            (answer,) = await send_all(server.port, OTHER + CLOSE + b"\r\n")
            assert answer.status == 200
            assert server.metric("etegrec_connections_dropped_total", reason="above_limit") == 0


async def test_a_connection_that_is_being_answered_is_never_closed_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "PATIENCE_S", 0.0)
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            await gate.wait()
        await _app(scope, receive, send)

    async with raw_server(app, limit=2) as server, held(server, 2, b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\n") as slow:
        await until(lambda: len(server.state.tasks) == 2)
        (refused,) = await send_all(server.port, OTHER + b"\r\n")
        assert refused.status == 503
        gate.set()
        assert [(await read_answer(reader)).status for reader in slow] == [200, 200]


async def test_an_address_has_a_limit_of_its_own() -> None:
    async with raw_server(_app, limit=100, per_address=2) as server, held(server, 2):
        (refused,) = await send_all(server.port, OTHER + b"\r\n")
        assert refused.status == 503
        assert server.metric("etegrec_connections_dropped_total", reason="above_address_limit") == 1
    async with raw_server(_app, limit=100, per_address=2) as server:
        for _ in range(4):  # one after the other
            (answer,) = await send_all(server.port, OTHER + CLOSE + b"\r\n")
            assert answer.status == 200
            await until(lambda: not server.state.connections)


async def test_in_the_reserve_the_newest_wins_and_silence_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SWEEP_S", 0.02)
    monkeypatch.setattr(connections, "PATIENCE_S", 60.0)
    async with raw_server(_app, limit=1) as server, held(server, 1), held(server, RESERVE + 5):
        assert server.metric("etegrec_connections") == 1 + RESERVE
        (probe,) = await send_all(server.port, LIVE + b"\r\n")
        assert probe.status == 200
        await until(
            lambda: server.metric("etegrec_connections") == 1
        )  # those of the reserve are given up after a second


async def test_removing_twice_counts_once() -> None:
    table = Connections(2, 1, Telemetry())
    first = Idle(table)
    assert table.admit(first, "a")
    assert not table.admit(Idle(table), "a")
    table.remove(first)
    table.remove(first)
    second = Idle(table)
    assert not table.admit(second, "a")  # the one of the reserve is still there


def test_probes_are_the_open_endpoints_of_operators() -> None:
    assert {each.path.encode() for each in ENDPOINTS if each.access == "open"} == PROBE_PATHS


def test_the_limit_of_open_files_bounds_the_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"now": (256, 1024)}
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _, given: limits.update(now=given))
    assert affordable_limit(100) == 100
    assert limits["now"] == (256, 1024)
    assert affordable_limit(500) == 500
    assert limits["now"] == (500 + RESERVE + OTHER_FILES, 1024)
    assert affordable_limit(10_000) == 1024 - RESERVE - OTHER_FILES
    limits["now"] = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert affordable_limit(10_000) == 10_000
