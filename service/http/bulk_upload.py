"""Reading a bulk upload: JSON Lines, parsed as they come, with a report of all wrong lines.

In memory are the good lines and less than a megabyte of what was not parsed yet: a line that is too long ends the
upload as soon as it is, and once a line is wrong, good ones are no longer kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from starlette.requests import ClientDisconnect, Request

from service.access.limits import KeyUsage
from service.catalogue.manager import SHOWN_LINES, Line
from service.errors import BadJson, BodyTooLarge, BodyTooSlow, ClientGone, InvalidFields, InvalidLines, WrongContentType
from service.field_errors import FieldError
from service.http.body import content_type, parse
from service.http.limits import ITEM_BOUNDS
from service.schemas.items import BULK_ITEM, MAX_PAYLOAD_BYTES
from service.settings import Settings

MEDIA_TYPES = ("application/jsonl", "application/x-ndjson", "application/x-jsonlines", "application/json")
"""Accepted content types of a bulk upload; the first one is recommended."""

_TOO_LONG = f"must be at most {MAX_PAYLOAD_BYTES} bytes long"
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
            if len(raw) > MAX_PAYLOAD_BYTES:
                self._refuse([FieldError("", _TOO_LONG)])
            elif line:
                self._read_one(line)

    def refuse_next(self) -> None:
        """Refuse the line after those read: it is too long already."""
        self._number += 1
        self._refuse([FieldError("", f"{_TOO_LONG}; nothing after it was read")])

    def _read_one(self, line: bytes) -> None:
        try:
            change = parse(line, BULK_ITEM, ITEM_BOUNDS).bulk_change
            if not self.wrong:  # else nothing will be stored
                self.good.append(Line(self._number, change))
        except BadJson as refused:
            self._refuse([FieldError("", str(refused))])
        except InvalidFields as refused:
            self._refuse(refused.fields)

    def _refuse(self, fields: Sequence[FieldError]) -> None:
        self.wrong += 1
        self.good.clear()
        if len(self.problems) < SHOWN_LINES:
            where = str(self._number)
            self.problems += [replace(each, field=f"{where}.{each.field}" if each.field else where) for each in fields]


async def read_lines(request: Request, settings: Settings, usage: KeyUsage | None = None) -> list[Line]:
    """Read all items of a bulk upload.

    Args:
        request: The request.
        settings: Settings of the service.
        usage: Use of the request's key, which counts the bytes.

    Raises:
        RateLimited: The key has sent too many bytes lately.
        WrongContentType, BodyTooLarge, BodyTooSlow, ClientGone: As for other bodies, with limits of their own.
        InvalidLines: Lines are wrong; names line and field. Lines count from 1.
        InvalidFields: There is no line.
    """
    if content_type(request) not in MEDIA_TYPES:
        raise WrongContentType(f"send JSON Lines with the header Content-Type: {MEDIA_TYPES[0]}")

    if usage is not None:
        usage.check_bulk_bytes()
    lines = _Lines()
    is_whole = False
    try:
        async with asyncio.timeout(settings.bulk_timeout_s):
            is_whole = await _read_blocks(request, lines, settings.max_bulk_bytes, usage)
    except TimeoutError:
        raise BodyTooSlow(settings.bulk_timeout_s, "bulk_timeout_s") from None
    except ClientDisconnect:
        raise ClientGone from None

    if lines.wrong:
        raise InvalidLines(lines.wrong, lines.problems[:SHOWN_LINES], is_whole=is_whole)
    if not lines.good:
        raise InvalidFields([FieldError("", "must hold at least one line")])
    return lines.good


async def _read_blocks(request: Request, lines: _Lines, max_bytes: int, usage: KeyUsage | None) -> bool:
    """Read and parse everything; return false if a line was too long, so that the rest was not read."""
    pending: list[bytes] = []
    pending_bytes = 0
    line_bytes = 0  # of the line whose end has not come yet
    size = 0

    async for chunk in request.stream():
        size += len(chunk)
        if usage is not None:
            usage.count_bulk_bytes(len(chunk))
        if size > max_bytes:
            raise BodyTooLarge(max_bytes, "max_bulk_bytes")

        pending.append(chunk)
        pending_bytes += len(chunk)
        before, newline, after = chunk.rpartition(b"\n")
        line_bytes = len(after) if newline else line_bytes + len(after)
        if line_bytes > MAX_PAYLOAD_BYTES:
            await _refuse_long_line(lines, b"".join(pending))
            return False

        if pending_bytes >= _BLOCK and newline:
            whole_lines = b"".join([*pending[:-1], before])
            pending = [after]
            pending_bytes = len(after)
            await asyncio.to_thread(lines.read, whole_lines)

    await asyncio.to_thread(lines.read, b"".join(pending))
    return True


async def _refuse_long_line(lines: _Lines, pending: bytes) -> None:
    """Parse the whole lines before the one that is too long, and refuse that one."""
    whole_lines, newline, _ = pending.rpartition(b"\n")
    if newline:
        await asyncio.to_thread(lines.read, whole_lines)
    lines.refuse_next()
