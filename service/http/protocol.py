"""HTTP/1.1 connections, bounded in bytes and time: one request after another, whatever a client sends ahead.

Uvicorn's own protocol reads on while requests are queued, merges trailers into headers, takes heads of any size and
keeps connections whose body never ends. Its server is used as it is; it creates one :class:`BoundedHttp` a connection.
"""

from __future__ import annotations

import asyncio
import select
import sys
from math import inf
from typing import Any, cast
from urllib.parse import unquote_to_bytes

import uvicorn
from starlette.types import ASGIApp, Scope
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from service.errors import RequestError, TooManyConnections
from service.http.connections import PROBE_PATHS, Connection, Connections
from service.http.exchange import Exchange, encode_head
from service.http.problems import new_request_id, problem_of
from service.http.request_parser import Head, RequestParser

HEAD_TIMEOUT_S = 10.0
"""Longest time from the first byte of a head to its end. A new connection may be silent for as long before."""

PROBE_TIMEOUT_S = 1.0
"""The same for connections above the limit."""

UNREAD_TIMEOUT_S = 30.0
"""Longest time for a client to take an answer."""

LINGER_S = 2.0
"""Time for a client to read the last answer and close. Meanwhile what it sends is read and dropped: to close at once
would reset the connection, which can destroy an answer on its way."""

LINGER_BYTES = 2_097_152
"""Bytes that are read and dropped in that time."""

DRAIN_IDLE_S = 1.0
"""At shutdown, after the port closed: how long an idle connection is kept for a request that is on its way."""

PROGRESS_BYTES = 16_384
"""Bytes of a body after which its connection counts as one that waits anew: a body that drips does not."""


class BoundedHttp(asyncio.BufferedProtocol, Connection):
    """One connection.

    The client's bytes are parsed up to the end of a request. What follows, at most one read, stays unparsed, and
    nothing more is read, until that request is answered.

    Args:
        connections: Table of all connections.
        config: Names the app, and how long an idle connection is kept.
        server_state: Uvicorn's: open connections, running tasks, headers of every answer.
        app_state: State that the app's lifespan gives to requests.
    """

    def __init__(
        self,
        connections: Connections,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.is_write_paused = False
        self._table = connections
        self._app: ASGIApp = config.loaded_app
        self._idle_s = config.timeout_keep_alive
        self._server = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._parser = RequestParser(self._begin, self._add_body)

        self._exchange: Exchange | None = None
        self._rest = b""  # behind the current request, not parsed yet
        self._unnoted_bytes = 0  # of a body, since the connection was noted as one that waits
        self._is_waiting_noted = False
        self._is_read_paused = False
        self._writable: asyncio.Event | None = None
        self._is_draining = False
        self._closing_since = inf
        self._dropped_bytes = 0

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of every answer, as the server keeps them current."""
        return self._server.default_headers

    @property
    def may_stay_open(self) -> bool:
        """False if the connection must close after the current answer."""
        parser = self._parser
        return parser.is_complete and parser.keep_alive and self._may_ask_anything and not self._is_draining

    @property
    def _is_closing(self) -> bool:
        return self._closing_since < inf

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Enter the table; a client that connects must also send a request."""
        self._transport = cast(asyncio.Transport, transport)
        self._server_address = get_local_addr(self._transport)
        self._client_address = get_remote_addr(self._transport)
        self._server.connections.add(self)  # type: ignore[arg-type]  # uvicorn names its own protocols only

        host = self._client_address[0] if self._client_address else ""
        self._may_ask_anything = self._table.admit(self, host)
        self._expect_head(HEAD_TIMEOUT_S if self._may_ask_anything else PROBE_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the table, and tell the app."""
        self._server.connections.discard(self)
        self._table.remove(self)
        self._closing_since = min(self._closing_since, self._loop.time())
        self._end_exchange()
        self.resume_writing()
        self._rest = b""
        self._parser.close()

    def get_buffer(self, sizehint: int) -> bytearray:
        """Return the buffer that all connections share: what came is parsed or copied before the next read."""
        return self._table.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes of the client."""
        if self._is_closing:
            self._dropped_bytes += nbytes
            if self._dropped_bytes > LINGER_BYTES:
                self.drop()
        elif self._parser.is_complete:
            self._keep_rest(self._table.buffer, 0, nbytes)
        else:
            self._take(self._table.buffer, 0, nbytes)

    def eof_received(self) -> None:
        """Count the client as gone: the loop closes the connection once what was written is sent."""
        self._closing_since = min(self._closing_since, self._loop.time())
        self.deadline = self._loop.time() + LINGER_S

    def pause_writing(self) -> None:
        """Wait for the client, which does not take its answer, but not for ever."""
        self.is_write_paused = True
        if not self._is_closing:
            self.deadline = self._loop.time() + UNREAD_TIMEOUT_S

    def resume_writing(self) -> None:
        """Go on with the answer."""
        self.is_write_paused = False
        if self._writable is not None:
            self._writable.set()
        if self._exchange is not None and not self._is_closing:
            self.deadline = inf

    # Called by the server and its table of connections.

    def shutdown(self) -> None:
        """Close after the current answer. An idle connection stays a moment: a request may be on its way."""
        self._is_draining = True
        if self._exchange is None and not self._is_closing:
            self.deadline = min(self.deadline, self._loop.time() + DRAIN_IDLE_S)

    def drop(self) -> None:
        """Close at once."""
        self._table.remove(self)
        self._closing_since = min(self._closing_since, self._loop.time())
        self._end_exchange()
        self._transport.abort()

    def on_deadline(self, now: float) -> None:
        """Give up a client that is too slow, or has been idle for long enough."""
        if self._is_closing:
            if self._transport.get_write_buffer_size() and now < self._closing_since + UNREAD_TIMEOUT_S:
                self.deadline = now + LINGER_S
            else:
                self.drop()
        elif self._exchange is not None:
            self._table.count_drop("answer_unread")
            self.drop()
        elif self._parser.has_begun:
            self._table.count_drop("head_too_slow")
            self._close()
        elif _can_read(self._transport):
            self.deadline = now  # a request came at the last moment; it is read before the next look
        else:
            self._close()

    # Called by the exchange.

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self._transport.write(data)

    async def until_writable(self) -> None:
        """Wait until the client has taken enough of what was written."""
        while self.is_write_paused:
            if self._writable is None:
                self._writable = asyncio.Event()
            self._writable.clear()
            await self._writable.wait()

    def take_body(self) -> None:
        """Read on, once the app has taken what had come."""
        self._set_reading()

    def answered(self, *, stays_open: bool) -> None:
        """Close, or turn to the next request. It begins in a later round of the loop, so that others get their turn."""
        self._server.total_requests += 1
        self._exchange = None
        if not stays_open or self._is_closing:
            self._close()
            return

        self._parser.begin_next()
        self._expect_head(DRAIN_IDLE_S if self._is_draining else self._idle_s)
        if self._rest:
            self._loop.call_soon(self._take_rest)

    def refuse(self, error: RequestError) -> None:
        """Answer with a problem, if no answer has begun, and close."""
        if self._is_closing:
            return
        problem = problem_of(error)
        self._table.telemetry.rejected.labels(problem.slug).inc()
        self._table.log.warning("request_refused", problem=problem.slug, detail=problem.detail)

        has_started = self._exchange is not None and self._exchange.has_started
        self._end_exchange()
        if not has_started:
            request_id = new_request_id()
            response = problem.response(request_id)
            headers = [*self.default_headers, *response.raw_headers, (b"x-request-id", request_id.encode())]
            self.write(encode_head(problem.status, headers) + bytes(response.body))
        self._close()

    # Reading.

    def _take(self, data: bytes | bytearray, at: int, end: int) -> None:
        """Parse up to the end of the request, and keep the rest."""
        try:
            at = self._parser.feed(data, at, end)
        except RequestError as refused:
            self.refuse(refused)
            return

        if self._parser.is_complete:
            self._end_request()
            if at < end and self._parser.keep_alive:
                self._keep_rest(data, at, end)
        elif not self._is_waiting_noted or self._unnoted_bytes > PROGRESS_BYTES:
            self._note_waiting()

    def _keep_rest(self, data: bytes | bytearray, at: int, end: int) -> None:
        self._rest = bytes(memoryview(data)[at:end])
        self._set_reading()

    def _take_rest(self) -> None:
        if self._is_closing:
            return
        rest = self._rest
        self._rest = b""
        self._take(rest, 0, len(rest))
        self._set_reading()

    def _begin(self, head: Head) -> None:
        """Start the app on a request whose head has come."""
        if not self._may_ask_anything and head.path not in PROBE_PATHS:
            raise TooManyConnections

        self._is_waiting_noted = False
        self._exchange = Exchange(self, self._scope(head), head.expects_continue)
        task = self._loop.create_task(self._exchange.run(self._app))
        self._server.tasks.add(task)
        task.add_done_callback(self._server.tasks.discard)

    def _scope(self, head: Head) -> Scope:
        path = head.path
        if b"%" in path:
            path = unquote_to_bytes(path)
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": head.version,
            "server": self._server_address,
            "client": self._client_address,
            "scheme": "http",
            "method": head.method,
            "root_path": "",
            "path": path.decode(errors="replace"),
            "raw_path": head.path,
            "query_string": head.query,
            "headers": head.headers,
            "state": self._app_state.copy(),
        }

    def _add_body(self, chunk: bytes) -> None:
        if self._exchange is not None:
            self._unnoted_bytes += len(chunk)
            self._exchange.add_body(chunk)
            self._set_reading()

    def _end_request(self) -> None:
        if self._exchange is not None:
            self._exchange.end_body()
        self._table.work(self)
        self._wait_for_app()

    def _expect_head(self, seconds: float) -> None:
        now = self._loop.time()
        self._is_waiting_noted = False
        self.deadline = now + seconds
        self._table.wait(self, now)

    def _note_waiting(self) -> None:
        """Let the time of a head run from its first byte, and note that a body goes on."""
        now = self._loop.time()
        self._is_waiting_noted = True
        self._unnoted_bytes = 0
        self._table.wait(self, now)
        if self._parser.in_head:
            self.deadline = now + (HEAD_TIMEOUT_S if self._may_ask_anything else PROBE_TIMEOUT_S)
        else:
            self._wait_for_app()

    def _wait_for_app(self) -> None:
        """Set no deadline: the app limits how long bodies and answers take. A client that takes no answer keeps its."""
        if not self.is_write_paused:
            self.deadline = inf

    def _set_reading(self) -> None:
        """Stop reading while bytes wait to be parsed or taken by the app; go on afterwards."""
        must_pause = not self._is_closing and (
            len(self._rest) > 0 or (self._exchange is not None and self._exchange.is_full)
        )
        if must_pause == self._is_read_paused or self._transport.is_closing():
            return
        self._is_read_paused = must_pause
        if must_pause:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # Ending.

    def _end_exchange(self) -> None:
        if self._exchange is not None:
            self._exchange.disconnect()
            self._exchange = None

    def _close(self) -> None:
        """Send what was written, then the end; drop what the client still sends, until it closes as well."""
        if self._is_closing:
            return
        now = self._loop.time()
        self._closing_since = now
        self.deadline = now + LINGER_S
        self._table.wait(self, now)
        self._rest = b""
        self._set_reading()
        if not self._transport.is_closing():
            self._transport.write_eof()


def _can_read(transport: asyncio.Transport) -> bool:
    """Return whether the system has bytes of the client that were not read yet."""
    if sys.platform == "win32":
        return False
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))
