"""Table of open connections: their number is limited, the longest waiting make room, and probes always get in."""

from __future__ import annotations

import asyncio
import sys
from abc import ABC, abstractmethod
from collections import Counter, OrderedDict
from math import inf

from service.access.client_networks import network_of
from service.telemetry.log_sampling import SampledLog
from service.telemetry.telemetry import Telemetry

PROBE_PATHS = frozenset({b"/health/live", b"/health/ready", b"/metrics"})
"""Paths that connections above the limit may ask for."""

RESERVE = 16
"""Connections above the limit that are open at the same time. One more replaces the oldest of them."""

OTHER_FILES = 128
"""File descriptors kept free for files, Redis, threads and connections that are being refused."""

PATIENCE_S = 1.0
"""Seconds that a connection may wait for its client before it can be closed to make room for another."""

SWEEP_S = 0.5
"""Time between two looks at the deadlines of all connections."""

READ_BYTES = 65_536
"""Largest number of bytes that are read from a connection at once."""


class Connection(ABC):
    """A connection as the table sees it."""

    deadline = inf
    """Time, on the loop's clock, after which :meth:`on_deadline` is called."""

    @abstractmethod
    def drop(self) -> None:
        """Close at once, whatever is under way."""

    @abstractmethod
    def on_deadline(self, now: float) -> None:
        """Give up what takes too long, or set another deadline."""


class Connections:
    """Table of the open connections of one server.

    Args:
        limit: Largest number of connections that may ask for anything.
        per_address: Largest number of those from one address; 0: any number.
        telemetry: Shows how many are open, and counts those that were dropped.
    """

    def __init__(self, limit: int, per_address: int, telemetry: Telemetry) -> None:
        self.telemetry = telemetry
        self.log = SampledLog()
        self.buffer = bytearray(READ_BYTES)
        self._limit = limit
        self._per_address = per_address
        self._address_of: dict[Connection, str] = {}
        self._per_address_count: Counter[str] = Counter()
        self._reserved: OrderedDict[Connection, None] = OrderedDict()
        self._waiting: OrderedDict[Connection, float] = OrderedDict()  # since when, oldest first
        self._sweeper: asyncio.TimerHandle | None = None
        telemetry.connections.set_function(lambda: len(self._address_of))

    def admit(self, connection: Connection, host: str) -> bool:
        """Add a connection; return true if it may ask for anything, false if for probes only."""
        loop = asyncio.get_running_loop()
        if self._sweeper is None:
            self._sweeper = loop.call_later(SWEEP_S, self._sweep)

        address = network_of(host) if self._per_address else ""
        reason = self._why_reserved(address, loop.time())
        self._address_of[connection] = address
        self._per_address_count[address] += 1
        if not reason:
            return True

        self.count_drop(reason)
        if len(self._reserved) >= RESERVE:
            next(iter(self._reserved)).drop()
        self._reserved[connection] = None
        return False

    def remove(self, connection: Connection) -> None:
        """Forget a connection; it may be gone already."""
        if connection not in self._address_of:
            return
        address = self._address_of.pop(connection)
        self._per_address_count[address] -= 1
        if not self._per_address_count[address]:
            del self._per_address_count[address]
        self._reserved.pop(connection, None)
        self._waiting.pop(connection, None)

    def wait(self, connection: Connection, now: float) -> None:
        """Note that a connection waits for its client, again if it did already."""
        self._waiting[connection] = now
        self._waiting.move_to_end(connection)

    def work(self, connection: Connection) -> None:
        """Note that a connection waits for the service."""
        self._waiting.pop(connection, None)

    def count_drop(self, reason: str) -> None:
        """Count a connection that is not served as its client wished, and log it."""
        self.telemetry.dropped_connections.labels(reason).inc()
        self.log.warning(f"connections_{reason}", open=len(self._address_of), limit=self._limit)

    def _why_reserved(self, address: str, now: float) -> str:
        if self._per_address and self._per_address_count[address] >= self._per_address:
            return "above_address_limit"
        if len(self._address_of) - len(self._reserved) < self._limit or self._make_room(now):
            return ""
        return "above_limit"

    def _make_room(self, now: float) -> bool:
        """Drop the connection that has waited longest for its client; return whether there is one."""
        for connection, since in self._waiting.items():
            if now - since < PATIENCE_S:
                break
            if connection not in self._reserved:
                self.count_drop("made_room")
                connection.drop()
                return True
        return False

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        overdue = [connection for connection in self._address_of if connection.deadline <= now]
        for connection in overdue:
            connection.on_deadline(now)
        self._sweeper = loop.call_later(SWEEP_S, self._sweep) if self._address_of else None


def affordable_limit(wanted: int) -> int:
    """Return how many connections the process can hold open, at most ``wanted``.

    Each takes a file descriptor. The process's own limit is raised first, as far as the system lets it.
    """
    if sys.platform == "win32":
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVE + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(wanted, soft - RESERVE - OTHER_FILES)) if soft != resource.RLIM_INFINITY else wanted
