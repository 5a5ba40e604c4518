"""Reading a bulk upload: JSON Lines, parsed as they come, with a report of all wrong lines."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.requests import ClientDisconnect, Request

from service.catalogue.manager import SHOWN_LINES, Line
from service.errors import (
    BadJson,
    BodyTooLarge,
    BodyTooSlow,
    ClientGone,
    FieldError,
    InvalidFields,
    InvalidLines,
    WrongContentType,
)
from service.http.body import content_type, parse
from service.schemas.items import BULK_ITEM, MAX_PAYLOAD_BYTES
from service.settings import Settings

MEDIA_TYPES = ("application/jsonl", "application/x-ndjson", "application/x-jsonlines", "application/json")
"""Accepted content types of a bulk upload; the first one is recommended."""

_BLOCK = 262_144  # bytes parsed together, in a thread


class _Lines:
    """The lines read so far: good ones as changes, wrong ones counted and the first of them described."""

    def __init__(self) -> None:
        self.good: list[Line] = []
        self.wrong = 0
        self.problems: list[FieldError] = []
        self._number = 0

    def read(self, block: bytes) -> None:
        """Parse whole lines; skip empty ones."""
        for raw in block.split(b"\n"):
            self._number += 1
            line = raw.strip()
            if line:
                self._read_one(line)

    def _read_one(self, line: bytes) -> None:
        if len(line) > MAX_PAYLOAD_BYTES:
            self._refuse([FieldError("", f"must be at most {MAX_PAYLOAD_BYTES} bytes long")])
            return

        try:
            self.good.append(Line(self._number, parse(line, BULK_ITEM).bulk_change))
        except BadJson as refused:
            self._refuse([FieldError("", str(refused))])
        except InvalidFields as refused:
            self._refuse(refused.fields)

    def _refuse(self, fields: Sequence[FieldError]) -> None:
        self.wrong += 1
        if len(self.problems) < SHOWN_LINES:
            where = str(self._number)
            self.problems += [
                FieldError(f"{where}.{each.field}" if each.field else where, each.message) for each in fields
            ]


async def read_lines(request: Request, settings: Settings) -> list[Line]:
    """Read all items of a bulk upload.

    Raises:
        WrongContentType, BodyTooLarge, BodyTooSlow, ClientGone: As for other bodies, with limits of their own.
        InvalidLines: Lines are wrong; names line and field. Lines count from 1.
        InvalidFields: There is no line.
    """
    if content_type(request) not in MEDIA_TYPES:
        raise WrongContentType(f"send JSON Lines with the header Content-Type: {MEDIA_TYPES[0]}")

    lines = _Lines()
    try:
        async with asyncio.timeout(settings.bulk_timeout_s):
            await _read_blocks(request, lines, settings.max_bulk_bytes)
    except TimeoutError:
        raise BodyTooSlow(settings.bulk_timeout_s, "bulk_timeout_s") from None
    except ClientDisconnect:
        raise ClientGone from None

    if lines.wrong:
        raise InvalidLines(lines.wrong, lines.problems[:SHOWN_LINES])
    if not lines.good:
        raise InvalidFields([FieldError("", "must hold at least one line")])
    return lines.good


async def _read_blocks(request: Request, lines: _Lines, max_bytes: int) -> None:
    pending: list[bytes] = []
    pending_bytes = 0
    size = 0

    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise BodyTooLarge(max_bytes, "max_bulk_bytes")

        pending.append(chunk)
        pending_bytes += len(chunk)
        if pending_bytes >= _BLOCK and b"\n" in chunk:
            whole_lines, _, rest = b"".join(pending).rpartition(b"\n")
            pending = [rest]
            pending_bytes = len(rest)
            await asyncio.to_thread(lines.read, whole_lines)

    await asyncio.to_thread(lines.read, b"".join(pending))
