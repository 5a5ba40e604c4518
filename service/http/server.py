"""The HTTP server with an orderly shutdown.

Uvicorn alone closes its port at the first signal, so no probe ever sees the 503, and ends by raising the signal again.
Here the first SIGTERM or SIGINT turns readiness to 503 while everything is still answered for ``shutdown_delay_s``;
then the port closes, accepted requests finish, and the process ends with exit code 0. A second signal skips the delay.

A port that closes resets every connection that the system has accepted and this process has not: its clients may have
sent requests. So new connections are turned away first, in the kernel, and the accepted ones are taken.
"""

from __future__ import annotations

import asyncio
import ctypes
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType

import structlog
import uvicorn

log = structlog.get_logger()


SETTLE_S = 0.1
"""Time for connections that are half open when new ones are turned away, longer than a round trip."""

MAX_SETTLE_S = 2.0
"""Longest time to take the connections that the system has accepted."""

_SO_ATTACH_FILTER = 26  # Linux

_DROP_SYN = (
    (0x30, 0, 0, 13),  # load the byte of the TCP flags
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # if it is SYN alone, the next, else the one after it
    (0x06, 0, 0, 0),  # drop the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # take it whole
)
"""Program of the kernel's packet filter (classic BPF): code, jump if true, jump if false, operand."""


class Server(uvicorn.Server):
    """Uvicorn's server with a delay between the first signal and the closing of its port.

    Args:
        config: Configuration of uvicorn.
        begin_drain: Called in the main thread when the first signal arrives.
        delay_s: Seconds between that signal and the closing of the port.
    """

    def __init__(self, config: uvicorn.Config, begin_drain: Callable[[], None], delay_s: float) -> None:
        super().__init__(config)
        self._begin_drain = begin_drain
        self._delay_s = delay_s
        self._close_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal. The base class would remember it and raise it again at the end."""
        if self._close_at is None:
            self._begin_drain()
            self._close_at = time.monotonic() + self._delay_s
        elif self.should_exit:
            self.force_exit = True
        else:
            self._close_at = 0.0

    async def on_tick(self, counter: int) -> bool:
        """Return true to end the server; called ten times a second."""
        if self._close_at is not None and time.monotonic() >= self._close_at:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take all connections that the system has accepted, then close the port and finish what was accepted."""
        listeners = sockets or []
        if all(turn_away(each) for each in listeners):
            await _settle(listeners)
        await super().shutdown(sockets)


def turn_away(listener: socket.socket) -> bool:
    """Have the kernel drop attempts to connect, while it finishes those under way; return whether it can (Linux).

    A client tries again after a second and finds the port closed: refused, not reset.
    """
    if sys.platform != "linux":
        return False

    program = b"".join(struct.pack("HBBI", *instruction) for instruction in _DROP_SYN)
    kept = ctypes.create_string_buffer(program, len(program))
    try:
        listener.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_DROP_SYN), ctypes.addressof(kept))
        )
    except OSError as refused:  # the sandbox of some containers has no packet filters
        log.info("backlog_not_settled", cause=str(refused))
        return False
    return True


async def _settle(listeners: Sequence[socket.socket]) -> None:
    """Wait until the event loop has taken all accepted connections."""
    poll = select.poll()
    for each in listeners:
        poll.register(each.fileno(), select.POLLIN)

    now = time.monotonic()
    earliest = now + SETTLE_S
    latest = now + MAX_SETTLE_S
    while now < earliest or (poll.poll(0) and now < latest):
        await asyncio.sleep(0.01)
        now = time.monotonic()
