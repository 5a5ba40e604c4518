"""Connections when the server shuts down: requests under way are answered, and nobody waits longer than needed."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from service.http import protocol
from tests.support.counting_app import CountingApp
from tests.support.raw_http import RawServer, get, read_answer, split_answers
from tests.support.service_harness import until

pytestmark = pytest.mark.anyio


class TestShutdown:
    async def test_an_idle_connection_is_told_to_close_by_its_next_answer(
        self, server: RawServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(protocol, "DRAIN_IDLE_S", 3600.0)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(get(b"/"))
        first = await read_answer(reader)
        (connection,) = server.state.connections
        connection.shutdown()
        writer.write(get(b"/"))
        last = await read_answer(reader)
        assert ("connection" in first.headers, last.headers["connection"]) == (False, "close")
        assert await reader.read() == b""
        writer.close()

    async def test_a_request_under_way_is_answered_and_what_was_sent_ahead_is_not(self, server: RawServer) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(get(b"/slow") + get(b"/"))
        await until(lambda: len(server.state.tasks) == 1)
        (connection,) = server.state.connections
        connection.shutdown()
        (answer,) = split_answers(await reader.read())
        assert (answer.body, answer.headers["connection"]) == (b"answered /slow", "close")
        writer.close()

    async def test_an_idle_connection_ends_soon(self, server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 3600.0)
        monkeypatch.setattr(protocol, "DRAIN_IDLE_S", 0.05)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        await until(lambda: len(server.state.connections) == 1)
        (connection,) = server.state.connections
        connection.shutdown()
        async with asyncio.timeout(30):
            assert await reader.read() == b""
        writer.close()

    async def test_a_request_that_takes_too_long_gets_an_answer_all_the_same(
        self, server: RawServer, counting: CountingApp
    ) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(get(b"/slow"))
        await until(lambda: counting.running == 1)
        (task,) = server.state.tasks
        task.cancel()
        (answer,) = split_answers(await reader.read())
        assert (answer.status, orjson.loads(answer.body)["detail"]) == (503, "the service is shutting down")
        writer.close()
