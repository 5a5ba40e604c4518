"""HTTP connections with bounded request heads: uvicorn accepts heads of any size and never times out."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class BoundedHttp(HttpToolsProtocol):
    """Uvicorn's protocol, which drops connections whose head (request line and headers) is too large or too slow.

    Bytes that share a read with the end of the previous request are not counted: a read is itself bounded.
    """

    max_head_bytes = 65_536
    """Size of the largest head."""

    head_timeout_s = 10.0
    """Longest time from the first byte of a head to its end, or from the connection to the end of its first head."""

    _in_head = True
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer: a client that connects must also send a request."""
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer, which would keep the closed connection in memory until it fires."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count the bytes that come while a head is incomplete."""
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)

        if self._in_head and self._head_bytes > self.max_head_bytes and not self.transport.is_closing():
            self.send_400_response("The request head is too large.")

    def on_message_begin(self) -> None:
        """Start the timer at the first byte of a request."""
        super().on_message_begin()
        self._start_timer()

    def on_headers_complete(self) -> None:
        """Stop the timer: from here on, the limits of bodies apply."""
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Expect another request; until its first byte comes, the keep-alive timeout applies."""
        self._in_head = True
        self._head_bytes = 0
        super().on_message_complete()

    def _start_timer(self) -> None:
        self._stop_timer()
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._give_up)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._start_timer()  # the previous request is still being answered on this connection
        elif not self.transport.is_closing():
            self.transport.close()
