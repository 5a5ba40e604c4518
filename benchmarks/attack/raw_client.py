"""Client that sends any bytes and reads answers strictly: whatever breaks HTTP in an answer is noticed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import h11

ATTACKER = "127.0.0.2"
"""Address of hostile clients; polite ones come from 127.0.0.1."""

ANSWER_S = 20.0
"""Time in which each request must be answered, or its connection closed: the service waits 10 s for its bytes."""

_READ_BYTES = 65_536


@dataclass(frozen=True)
class Answer:
    """One HTTP answer."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def is_problem(self) -> bool:
        """True if the body is a problem document."""
        return self.headers.get("content-type") == "application/problem+json"

    @property
    def slug(self) -> str:
        """Last part of the problem's type; empty if the body is none."""
        return str(self.json()["type"]).rpartition(":")[2] if self.is_problem else ""

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Outcome:
    """Answers to what was sent, and how it ended: all came, or the server closed, was silent or broke HTTP."""

    ending: Literal["answered", "closed", "silent", "broken"]
    answers: tuple[Answer, ...] = ()
    seconds: float = 0.0

    @property
    def answer(self) -> Answer | None:
        """The last answer."""
        return self.answers[-1] if self.answers else None


def encode(method: str, path: str, body: bytes | None = None, headers: Sequence[tuple[str, str]] = ()) -> bytes:
    """Return a well-formed request, as far as its parts are; text is encoded as Latin-1."""
    lines = [f"{method} {path} HTTP/1.1", "Host: attacked", *(f"{name}: {value}" for name, value in headers)]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + (body or b"")


class RawClient:
    """One connection at a time to the service; it connects again when the server has closed."""

    def __init__(self, port: int, source: str = ATTACKER) -> None:
        self._port = port
        self._source = source
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._left_over = b""

    async def ask(self, data: bytes, *, answers: int = 1, method: str = "GET", timeout_s: float = ANSWER_S) -> Outcome:
        """Send bytes and read as many answers as given, or until the connection ends; connect first if need be."""
        started = time.monotonic()
        found: list[Answer] = []
        try:
            async with asyncio.timeout(timeout_s):
                await self.send(data)
                while len(found) < answers:
                    found.append(await self._read_answer(method))
            ending: Literal["answered", "closed", "silent", "broken"] = "answered"
        except TimeoutError:
            ending = "silent"
        except h11.RemoteProtocolError:
            ending = "broken"
        except (OSError, EOFError):
            ending = "closed"

        if ending != "answered" or found[-1].headers.get("connection") == "close":
            await self.close()
        return Outcome(ending, tuple(found), time.monotonic() - started)

    async def send(self, data: bytes) -> None:
        """Send bytes only; connect first if there is no connection, or the server has ended it meanwhile."""
        if self._reader is not None and self._reader.at_eof():
            await self.close()
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(
                "127.0.0.1", self._port, local_addr=(self._source, 0)
            )
            self._left_over = b""
        self._writer.write(data)
        await self._writer.drain()

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if self._writer is not None:
            self._writer.close()
            with suppress(OSError):
                await self._writer.wait_closed()
        self._reader = None
        self._writer = None

    async def _read_answer(self, method: str) -> Answer:
        """Read one answer.

        Raises:
            EOFError: The connection ended before it.
            h11.RemoteProtocolError: The server sent something else than an answer.
        """
        assert self._reader is not None
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=method, target="/", headers=[("Host", "attacked")]))
        parser.send(h11.EndOfMessage())
        if self._left_over:
            parser.receive_data(self._left_over)

        status = 0
        headers: dict[str, str] = {}
        body = bytearray()
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                data = await self._reader.read(_READ_BYTES)
                if not data and not status:
                    raise EOFError
                parser.receive_data(data)
            elif isinstance(event, h11.Response):
                status = event.status_code
                headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                break

        self._left_over = bytes(parser.trailing_data[0])
        return Answer(status, headers, bytes(body))
